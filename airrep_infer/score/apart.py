"""Rows that are scored apart from a pass, and how what they are to a query joins what the pass has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airrep_infer.score.attribution import Attributions
from airrep_infer.score.groups import Groups
from airrep_infer.score.plan import Corpus
from airrep_infer.score.top_k import rank

_SCORES_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class Ends:
    """What some rows are to q queries, mergeable with what other rows are.

    Attributes:
        ends: (4, q, k): rows and scores of the highest, rows and scores of the lowest; row -1 and an infinite
            score where there are fewer.
        influence: (q, 1 + G), of all rows and of each group; 0 of none.
        weight: (q, 1 + G), the logarithm of the sum of exp(beta |s|).
    """

    ends: NDArray[np.float64]
    influence: NDArray[np.float64]
    weight: NDArray[np.float64]

    @classmethod
    def none(cls, queries: int, k: int, sets: int) -> Ends:
        """Nothing."""
        ends = np.full((4, queries, k), -1.0)
        ends[1], ends[3] = -np.inf, np.inf
        return cls(ends, np.zeros((queries, sets)), np.full((queries, sets), -np.inf))

    @classmethod
    def of(
        cls, result: Attributions, numbers: NDArray[np.int64], codes: NDArray[np.int64], k: int, sets: int
    ) -> Ends:
        """An attribution to the rows `numbers`, whose groups are the groups `codes` of the whole."""
        made = cls.none(len(result), k, sets)
        length = result.proponent_rows.shape[1]
        made.ends[0, :, :length] = numbers[result.proponent_rows]
        made.ends[1, :, :length] = result.proponent_scores
        made.ends[2, :, :length] = numbers[result.opponent_rows]
        made.ends[3, :, :length] = result.opponent_scores
        made.influence[:, 0], made.weight[:, 0] = result.group_influence, result.log_weight
        if result.groups is not None:
            made.influence[:, 1 + codes], made.weight[:, 1 + codes] = result.groups, result.group_log_weight
        return made

    def merge(self, other: Ends) -> Ends:
        """Of the rows of both."""
        k = self.ends.shape[2]
        both = np.concatenate([self.ends, other.ends], axis=2)
        high = rank(both[1], both[0].astype(np.int64), k)
        low = rank(both[3], both[2].astype(np.int64), k, lowest=True)
        weight = np.logaddexp(self.weight, other.weight)
        # No weight at all: -inf - -inf.
        top = np.where(np.isneginf(weight), 0.0, weight)
        influence = self.influence * np.exp(self.weight - top) + other.influence * np.exp(other.weight - top)
        return Ends(np.stack([*high, *low]), influence, weight)


def score_apart(
    vectors: NDArray[np.float64],
    corpus: Corpus,
    aside: NDArray[np.int64],
    without: Sequence[NDArray[np.int64]],
    k: int,
    beta: float,
    groups: Groups | None,
) -> Ends:
    """What the rows `aside` (m,) are to queries (q, D), to each but those that it leaves out."""
    restricted, codes = restrict_groups(groups, aside)
    # Every row is in set 0, which is all of them, and in its groups.
    rows_of_sets, sets = np.arange(len(aside)), np.zeros(len(aside), np.int64)
    if restricted is not None:
        rows_of_sets = np.concatenate([rows_of_sets, restricted.rows])
        sets = np.concatenate([sets, 1 + codes[restricted.codes]])
    made = Ends.none(len(vectors), k, 1 + (len(groups.names) if groups else 0))
    stored = np.asarray(corpus.take(aside), np.float64)
    together = max(1, _SCORES_AT_ONCE // len(aside))
    for query, rows in enumerate(without):
        if query % together == 0:
            block = vectors[query : query + together] @ stored.T
        scores = block[query % together]
        left = np.ones(len(aside), bool)
        left[np.searchsorted(aside, rows)] = False
        made.ends[:2, query] = _highest(scores, left, aside, k)
        rows_low, turned = _highest(-scores, left, aside, k)
        made.ends[2:, query] = rows_low, -turned
        counts = left[rows_of_sets]
        _pool(scores[rows_of_sets[counts]], sets[counts], beta, made.influence[query], made.weight[query])
    return made


def _highest(
    scores: NDArray[np.float64], left: NDArray[np.bool_], rows: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """(2, k): the rows with the highest scores among those that are left, and the scores; -1, -inf beyond."""
    scores, rows = scores[left], rows[left]
    if len(scores) > k:
        at_least = np.partition(scores, len(scores) - k)[len(scores) - k]
        near = scores >= at_least
        scores, rows = scores[near], rows[near]
    best = np.full((2, k), -1.0)
    best[1] = -np.inf
    ranked = rank(scores, rows, k)
    best[:, : len(ranked[0])] = ranked
    return best


def _pool(
    scores: NDArray[np.float64],
    sets: NDArray[np.int64],
    beta: float,
    influence: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> None:
    """Attention pooling of scores (n,) by set, into (1 + G,) influences and logarithms of weights."""
    exponents = beta * np.abs(scores)
    np.maximum.at(weight, sets, exponents)
    top = np.where(np.isneginf(weight), 0.0, weight)
    attention = np.exp(exponents - top[sets])
    total = np.bincount(sets, attention, len(weight))
    some = total > 0
    influence[some] = np.bincount(sets, attention * scores, len(weight))[some] / total[some]
    weight[some] = top[some] + np.log(total[some])


def restrict_groups(
    groups: Groups | None, numbers: NDArray[np.int64]
) -> tuple[Groups | None, NDArray[np.int64]]:
    """Groups of the rows `numbers` alone, by their places there, and the codes that these groups had."""
    if groups is None:
        return None, np.empty(0, np.int64)
    places = np.minimum(np.searchsorted(numbers, groups.rows), len(numbers) - 1)
    inside = numbers[places] == groups.rows
    codes, renumbered = np.unique(groups.codes[inside], return_inverse=True)
    if not len(codes):
        return None, codes
    names = tuple(groups.names[code] for code in codes)
    return Groups(names, places[inside], renumbered.astype(np.int32), len(numbers)), codes
