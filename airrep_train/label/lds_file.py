"""LDS ground truth: a pool, queries, and what subsets of the pool do to the queries' losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from airrep_infer.errors import InputError
from airrep_train.label.records import Losses, get_indices, get_losses, read_rows, row_errors
from airrep_train.label.subsets import Indices


@dataclass(frozen=True)
class LdsTruth:
    """LDS ground truth: K subsets of a pool (line numbers) and the (K, Q) query losses after each."""

    subsets: tuple[Indices, ...]
    losses: Losses


def read_lds(path: Path, pool_size: int, queries: int) -> LdsTruth:
    """Read LDS ground truth: `{"train_subset": [...], "test_loss": [...]}` a line.

    Args:
        path: the file.
        pool_size: training examples that `train_subset` numbers, from 0.
        queries: length that every `test_loss` must have.

    Raises:
        InputError: `file:line: reason` for a row that does not fit, or fewer than two rows.
    """
    subsets: list[Indices] = []
    losses: list[Losses] = []
    for line, row in read_rows(path):
        with row_errors(path, line):
            subsets.append(get_indices(row, "train_subset", pool_size))
            losses.append(get_losses(row, "test_loss"))
            if len(losses[-1]) != queries:
                raise ValueError(f"{len(losses[-1])} losses in test_loss, but there are {queries} queries")
    if len(subsets) < 2:
        raise InputError(
            f"{path}: LDS ranks subsets, so it needs at least 2 rows; the file has {len(subsets)}"
        )
    return LdsTruth(tuple(subsets), np.stack(losses))
