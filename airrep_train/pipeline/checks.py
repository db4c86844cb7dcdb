"""What a pipeline's stages would refuse after hours of work: found before any of them begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airrep_infer.errors import InputError, about
from airrep_infer.rows import SHARED, Example, refuse_cuts
from airrep_infer.store import is_store
from airrep_train.evaluate import GRADIENT_QUERIES, is_bundle, parse_spec
from airrep_train.fit import choose_roles
from airrep_train.gradients import check_shared
from airrep_train.label import SubsetPlan, check_repeat
from airrep_train.model import load_checkpoint, tokenize
from airrep_train.pipeline.evaluation import evaluated_splits
from airrep_train.pipeline.places import encoders_compared, named_baselines
from airrep_train.pipeline.toml_file import Pipeline
from airrep_train.target import FineTuneOptions, pick_device, tokenize_rows


@dataclass(frozen=True)
class Base:
    """What the checks look at of the encoder that training starts from; its model is let go.

    Attributes:
        tokenizer: a `transformers` fast tokenizer.
        max_tokens: its token limit.
        trained, improved: see `Checkpoint`.
    """

    tokenizer: Any
    max_tokens: int
    trained: bool
    improved: bool


def check_models(pipeline: Pipeline) -> None:
    """Refuse targets and baselines that are not there, and devices that this machine lacks.

    Of a target the tokenizer is loaded; for the base see `load_base`.

    Raises:
        InputError: with the section and the key.
    """
    if pipeline.label:
        with about("[label] target"):
            tokenize_rows(pipeline.label.target, [], FineTuneOptions())
        if pipeline.label.engine == "local":
            with about("[label] device"):
                pick_device(pipeline.label.device)
    if pipeline.source:
        with about("[gradients] target"):
            tokenize_rows(pipeline.source.target, [], FineTuneOptions())
        with about("[gradients] device"):
            pick_device(pipeline.source.device)
    for name in encoders_compared(pipeline):
        if not (name == pipeline.base.base or is_store(name) or is_bundle(name)):
            with about("[evaluate] baselines"):
                load_checkpoint(name)


def load_base(pipeline: Pipeline) -> Base:
    """The encoder that training starts from.

    Raises:
        InputError: with the section and the key.
    """
    with about("[fit] base"):
        loaded = load_checkpoint(pipeline.base.base, max_tokens=pipeline.base.max_tokens)
    return Base(loaded.tokenizer, loaded.model.config.max_tokens, loaded.trained, loaded.improved)


def check_lengths(pipeline: Pipeline, examples: Sequence[Example], base: Base) -> None:
    """Refuse rows that exceed the token limit of the base, where [fit] says that none may.

    Raises:
        InputError: with the key, and the first such row.
    """
    if pipeline.fit.on_truncate == "error":
        _refuse_long(examples, base, "[fit] on_truncate")


def check_drawing(pipeline: Pipeline, rows: int) -> None:
    """Refuse, before any subset is drawn, what is already known of the splits, and of the rows to teach.

    Args:
        rows: how many examples there are.

    Raises:
        InputError: with the section and the key.
    """
    if (sample := pipeline.sample) is not None:
        _check_splits(pipeline, dict.fromkeys(range(sample.splits), sample.subsets))
    _check_taught(pipeline, rows)
    if any(parse_spec(text).name == GRADIENT_QUERIES for text in named_baselines(pipeline)):
        check_shared(rows, f"[evaluate] baselines: {GRADIENT_QUERIES}: the gradients and the examples")


def check_plan(pipeline: Pipeline, plan: SubsetPlan, examples: Sequence[Example], base: Base) -> None:
    """The same once the subsets are there, given in a file or drawn; and that no row to evaluate is too long,
    where [evaluate] says that none may be cut.

    Raises:
        InputError: with the section and the key.
    """
    subsets = {dev_id: len(plan.split(dev_id)) for dev_id in plan.dev}
    _check_splits(pipeline, subsets)
    held = (*pipeline.fit.validation, *pipeline.fit.test)
    _check_taught(pipeline, len(examples) - len(plan.dev_lines(held)))
    if pipeline.evaluate and pipeline.evaluate.on_truncate == "error":
        splits = evaluated_splits(pipeline, subsets)
        taken = plan.dev_lines(splits).union(*(s.select.tolist() for s in plan.subsets if s.dev_id in splits))
        rows = [examples[line] for line in sorted(taken)]
        _refuse_long(rows, base, "[evaluate] on_truncate")


def _refuse_long(examples: Sequence[Example], base: Base, key: str) -> None:
    with about(key):
        refuse_cuts(examples, tokenize(examples, base.tokenizer, base.max_tokens, SHARED).cuts)


def _check_splits(pipeline: Pipeline, subsets: Mapping[int, int]) -> None:
    """Refuse splits that do not fit, and more repeats than a split has subsets.

    Args:
        subsets: dev_id -> how many subsets the split has.
    """
    training, there = pipeline.fit, f"there are {list(subsets)}"
    for key, named in (("validation", training.validation), ("test", training.test)):
        for dev_id in named:
            if dev_id not in subsets:
                raise InputError(f"[fit] {key}: no split {dev_id}; {there}")
    if pipeline.labelled:
        with about("[fit]"):
            choose_roles(subsets, training.validation, training.test)
    for dev_id in pipeline.evaluate.splits if pipeline.evaluate else ():
        if dev_id not in subsets:
            raise InputError(f"[evaluate] splits: no split {dev_id}; {there}")
    if pipeline.label:
        with about("[label]"):
            check_repeat(pipeline.label.repeat, subsets)


def _check_taught(pipeline: Pipeline, rows: int) -> None:
    """Refuse more rows to validate teaching on than so many leave to teach."""
    if pipeline.teach is None:
        return
    with about("[teach]"):
        pipeline.teach.validating(rows)
