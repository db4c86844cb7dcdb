"""How far label noise lets any predictor come: the reliability of labels, and the ceiling of LDS.

Some subsets are labelled twice, under another seed (`label --repeat`). With few of them a Spearman
correlation is too small (of three subsets 0.37 where of many it is 0.48), so each loss is graded against
all the other subsets of its split instead: a grade is the share of them that it exceeds, minus 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airrep_train.label import LabelledSplit

_LEAST = 3  # fewer may all lie in the middle, where grades say little


@dataclass(frozen=True)
class Reliability:
    """What subsets that were labelled twice say.

    Attributes:
        correlation: of the two measurements' grades, over subsets and queries.
        ceiling: LDS of a perfect predictor of the expected loss, at most: the root of the correlation,
            since noise is in one side of LDS only, times the share of queries that have a ranking. Where
            queries differ in noise, that predictor stays below (the root of a mean exceeds the mean root).
        subsets: how many were labelled twice.
    """

    correlation: float
    ceiling: float
    subsets: int


def measure_reliability(splits: Sequence[LabelledSplit]) -> Reliability | None:
    """Compare the repeated labels of splits with the first ones; None where no split has at least 3."""
    product = square_first = square_second = 0.0
    subsets = ranked = queries = 0
    for split in splits:
        repeated, rows = np.unique(split.repeated, return_index=True)
        if len(repeated) < _LEAST:
            continue
        known = np.isfinite(split.losses)
        highest = np.where(known, split.losses, -np.inf).max(axis=0)
        chosen = highest > np.where(known, split.losses, np.inf).min(axis=0)
        subsets, ranked, queries = subsets + len(repeated), ranked + int(chosen.sum()), queries + len(chosen)
        losses, again = split.losses[:, chosen], split.repeat_losses[:, chosen]
        for k, n in zip(repeated, rows, strict=True):
            others = np.delete(losses, k, axis=0)
            both = np.isfinite(losses[k]) & np.isfinite(again[n])
            first, second = (np.where(both, grades(x, others), 0.0) for x in (losses[k], again[n]))
            product += float(first @ second)
            square_first += float(first @ first)
            square_second += float(second @ second)
    if not subsets:
        return None
    scale = np.sqrt(square_first * square_second)
    correlation = product / scale if scale else 0.0
    return Reliability(correlation, ranked / queries * float(np.sqrt(max(0.0, correlation))), subsets)


def grades(losses: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """The share of the others that each loss exceeds (ties count half), minus 1/2.

    Args:
        losses: (Q,) of one subset.
        others: (K, Q) of other subsets; NaN where unknown.

    Returns:
        (Q,) in [-1/2, 1/2]; 0 where no other is known.
    """
    below = (others < losses).sum(axis=0) + 0.5 * (others == losses).sum(axis=0)
    count = np.isfinite(others).sum(axis=0)
    return np.where(count > 0, below / np.maximum(count, 1) - 0.5, 0.0)
