"""A string or a path alone where training expects several: Python would take a string for its letters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from airrep_export import Reduced

from airrep_infer.errors import InputError
from airrep_infer.rows import Example
from airrep_train.evaluate import EvaluateOptions, Truth, evaluate, truth_from_labels
from airrep_train.gradients import join_gradients, take_gradients
from airrep_train.label import LabelledSplit, LabelOptions
from airrep_train.model import tokenize
from airrep_train.target import TargetOptions
from airrep_train.verify import VerifyOptions, VerifyRows, verify

ROWS = [Example("a", "q", "r"), Example("b", "q", "s")]
TRUTH = Truth(
    ROWS, [LabelledSplit(0, np.array([1]), [], np.zeros((0, 1)), np.array([], np.int64), np.zeros((0, 1)))]
)


def compare(**compared: Any) -> object:
    return evaluate("bundle", TRUTH, **compared)


CALLS: dict[str, Callable[[Any], object]] = {
    "evaluate baselines": lambda one: compare(baselines=one),
    "evaluate gradients": lambda one: compare(gradients=one),
    "evaluate scores": lambda one: compare(scores=one),
    "EvaluateOptions": lambda one: EvaluateOptions(baselines=one),
    "truth_from_labels": lambda one: truth_from_labels("train.jsonl", Path("s"), one),
    "take_gradients": lambda one: take_gradients(one, TargetOptions("target"), Path("out")),
    "join_gradients": lambda one: join_gradients(one, Path("out")),
    "verify": lambda one: verify(VerifyRows(ROWS, ROWS, one), LabelOptions("target"), Path("out")),
    "verify pool": lambda one: verify(
        VerifyRows(ROWS, ROWS, ["a"], pool=one), LabelOptions("target"), Path("out")
    ),
    "VerifyOptions": lambda one: VerifyOptions(against=one),
    "tokenize": lambda one: tokenize(one, None, 8),
    "Reduced": lambda one: Reduced(one),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_one_is_not_taken_for_several(call: Callable[[Any], object]) -> None:
    with pytest.raises(InputError, match=r"expected a list, got 'bm25' alone; put it into a list$"):
        call("bm25")
