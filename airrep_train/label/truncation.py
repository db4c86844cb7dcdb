"""What the token limit does to the rows of a label run, known before a target is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from airrep_infer.errors import InputError
from airrep_infer.rows import CutCounts, Example, OnTruncate, refuse_cuts
from airrep_train.label.subsets import SubsetPlan
from airrep_train.target import FineTuneOptions, tokenize_rows


def check_lengths(
    examples: Sequence[Example],
    plan: SubsetPlan,
    target: str,
    options: FineTuneOptions,
    on_truncate: OnTruncate = "cut",
) -> CutCounts:
    """Count the rows of a plan that the token limit cuts, and see that every subset trains on something.

    Args:
        examples: what the plan's line numbers refer to.
        target: its tokenizer is loaded, its weights are not.
        options: with the token limit and the template.
        on_truncate: "error" refuses any row that is cut; "skip" leaves training rows out that have no
            response token within the limit, which are an error otherwise.

    Raises:
        InputError: a row is refused (the message names it), or a subset has no row to train on.
    """
    training = np.unique(np.concatenate([subset.select for subset in plan.subsets]))
    lines = np.unique(np.concatenate([training, *plan.dev.values()]))
    chosen = [examples[line] for line in lines]
    rows = tokenize_rows(target, chosen, options)
    cuts = np.array([row.cut for row in rows], np.uint8)
    if on_truncate == "error":
        refuse_cuts(chosen, cuts)
    empty = {int(line) for line, row in zip(lines, rows, strict=True) if row.start >= len(row.ids)}
    unusable = [line for line in training.tolist() if line in empty]
    if unusable and on_truncate != "skip":
        raise InputError(
            f"row {examples[unusable[0]].id!r} has no response token within max_length {options.max_length} "
            f"({len(unusable)} such rows to train on); raise --max-length, or leave them out with "
            "--on-truncate skip"
        )
    for subset in plan.subsets:
        if len(subset.select) and all(line in empty for line in subset.select.tolist()):
            raise InputError(
                f"subset {subset.id!r} would train on nothing: none of its rows has a response token within "
                f"max_length {options.max_length}; raise --max-length"
            )
    return CutCounts.of(cuts)
