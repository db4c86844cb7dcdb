"""Training without the rows that exceed the token limit (`--on-truncate skip`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.rows import Example, OnTruncate, refuse_cuts
from airrep_train.label import LabelledSplit


def lines_to_skip(
    examples: Sequence[Example], cuts: NDArray[np.uint8], on_truncate: OnTruncate
) -> NDArray[np.int64]:
    """The line numbers of examples that are left out, given what the token limit cut of each, (n,) `Cut`.

    Raises:
        InputError: one is cut, and that is to be an error.
    """
    if on_truncate == "error":
        refuse_cuts(examples, cuts)
    return np.flatnonzero(cuts) if on_truncate == "skip" else np.empty(0, np.int64)


def without_lines(splits: Sequence[LabelledSplit], lines: NDArray[np.int64]) -> list[LabelledSplit]:
    """Label runs without some examples: no query, and in no subset. The losses of the others stay.

    Raises:
        InputError: a split is left without queries, or a subset without rows.
    """
    return [_without(split, lines) for split in splits] if len(lines) else list(splits)


def _without(split: LabelledSplit, lines: NDArray[np.int64]) -> LabelledSplit:
    dev = ~np.isin(split.dev, lines)
    subsets = tuple(
        replace(subset, select=subset.select[~np.isin(subset.select, lines)]) for subset in split.subsets
    )
    empty = [f"subset {subset.id}" for subset in subsets if not len(subset.select)]
    if not dev.any():
        empty.insert(0, f"the dev set of split {split.dev_id}")
    if empty:
        raise InputError(
            f"all rows of {empty[0]} exceed the token limit; raise --max-tokens, or cut them with "
            "--on-truncate cut"
        )
    return replace(
        split,
        dev=split.dev[dev],
        subsets=subsets,
        losses=split.losses[:, dev],
        repeat_losses=split.repeat_losses[:, dev],
        base=None if split.base is None else split.base[dev],
    )
