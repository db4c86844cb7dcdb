"""Selection by coverage: facility location over the queries, by lazy greedy on their scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.score.plan import NON_FINITE, Array, Corpus, ScanPlan, ScoreDtype
from airrep_infer.score.scan import scan
from airrep_infer.score.top_k import TopK

# Scores that are held at once: 128 MB of float32. Corpora with no more of them lose no candidate.
_HELD_SCORES = 1 << 25
_LONGEST_FIRST_LIST = 256
_BROAD_ROWS = 4096
_TAKEN_AT_ONCE = 1 << 14
_FIRST_BATCH = 64


@dataclass(frozen=True, eq=False)
class Covering:
    """Rows (n,) in the order in which greedy took them, the gain of each, and the query that gains most."""

    rows: NDArray[np.int64]
    gains: NDArray[np.float64]
    served: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Rows (C,), ascending, that greedy chooses from, and `values` (C, Q), what each is worth to a query.

    `listed` (Q, L) are the positions of each query's best candidates; None where no row was left out.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float32]
    listed: NDArray[np.intp] | None


def cover(
    queries: NDArray[np.float64],
    corpus: Corpus,
    n: int,
    *,
    block_rows: int | None = None,
    threads: int | None = None,
    dtype: ScoreDtype | None = None,
    report: Callable[[int], object] | None = None,
    held_scores: int = _HELD_SCORES,
) -> Covering:
    """The n rows that greedy takes to cover queries (Q, D), n <= the rows of the corpus.

    What row i is worth to query j is w_ij = (s_ij - mean_j) / (best_j - mean_j): 1 for the query's best row,
    0 for an average one, so that every query counts the same. Greedy takes the row that raises
    sum_j max(0, max over taken rows of w_ij) most (Krause and Golovin, "Submodular function maximization",
    2014: at least 1 - 1/e of the best possible sum). When no row raises it, each query has its best row, and
    a new round covers the queries again with the rows that are left. Rows that are below average for all
    queries come last, by their highest w_ij.

    Where Q times the rows of the corpus exceeds `held_scores`, greedy chooses among the best rows of each
    query and the best by the mean over the queries. No query runs out of its own best rows, but a row that
    is in none of the lists may have added more to many queries at once: there the choice is approximate.
    """
    if len(queries) * len(corpus) <= held_scores:
        everything = np.arange(len(corpus))
        scores = _scores(queries, corpus, everything)
        if report:
            report(len(corpus))
        return _greedy(
            _Candidates(everything, _worth(scores, scores.mean(axis=0, dtype=np.float64)), None), n
        )
    length = max(16, 2 * -(-n // len(queries)))
    length = max(length, min(_LONGEST_FIRST_LIST, held_scores // len(queries) ** 2))
    while True:
        # A list of n rows cannot run out: a query's best row that is left is always in it.
        length = min(length, n, len(corpus))
        candidates = _cut(queries, corpus, length, block_rows, threads, dtype, report)
        if len(candidates.rows) >= n:
            covering = _greedy(candidates, n)
            if length == min(n, len(corpus)) or not _runs_out(candidates, covering):
                return covering
        length *= 2
        report = None


class _Seen:
    """The best rows of each query, the best by the mean over the queries, and the sum of a query's scores."""

    def __init__(self, queries: int, length: int, broad: int) -> None:
        self.best = TopK(queries, length)
        self.broad = TopK(1, broad)
        self.totals = np.zeros(queries)
        self._row_sums: NDArray[np.float64] = np.empty(0)

    def update(self, scores: Array, rows: NDArray[np.int64], queries: slice) -> None:
        self.best.update(scores, rows, queries)
        self.totals[queries] += scores.sum(axis=1, dtype=np.float64)
        # The queries of some rows come in order: the first slice starts the sums, the last one ends them.
        sums = scores.sum(axis=0, dtype=np.float64)
        self._row_sums = self._row_sums + sums if queries.start else sums
        if queries.stop == len(self.totals):
            self.broad.update(self._row_sums[None], rows, slice(0, 1))

    def merge(self, other: _Seen) -> None:
        self.best.merge(other.best)
        self.broad.merge(other.broad)
        self.totals += other.totals


def _cut(
    queries: NDArray[np.float64],
    corpus: Corpus,
    length: int,
    block_rows: int | None,
    threads: int | None,
    dtype: ScoreDtype | None,
    report: Callable[[int], object] | None,
) -> _Candidates:
    """The candidates of a corpus whose scores are too many to hold, by one pass over it."""
    plan = ScanPlan(
        queries,
        corpus,
        partial(_Seen, len(queries), length, min(_BROAD_ROWS, len(corpus))),
        block_rows=block_rows,
        threads=threads,
        dtype=dtype,
        report=report,
    )
    seen = scan(plan).seen
    best = seen.best.result()[0]
    rows = np.unique(np.concatenate([best.ravel(), seen.broad.result()[0][0]]))
    values = _worth(_scores(queries, corpus, rows), seen.totals / len(corpus))
    return _Candidates(rows, values, np.searchsorted(rows, best))


def _scores(queries: NDArray[np.float64], corpus: Corpus, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The scores (m, Q) of rows, computed in float64 and held in float32.

    Raises:
        InputError: a score is not finite.
    """
    scores = np.empty((len(rows), len(queries)), np.float32)
    for start in range(0, len(rows), _TAKEN_AT_ONCE):
        part = slice(start, start + _TAKEN_AT_ONCE)
        scores[part] = corpus.take(rows[part]).astype(np.float64) @ queries.T
    if not np.isfinite(scores).all():
        raise InputError(NON_FINITE)
    return scores


def _worth(scores: NDArray[np.float32], mean: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """w (m, Q), made of the scores in place."""
    scale = scores.max(axis=0) - mean
    scores -= mean.astype(np.float32)
    # A query that scores all rows the same prefers none.
    scores /= np.where(scale > 0, scale, 1).astype(np.float32)
    return scores


def _greedy(candidates: _Candidates, n: int) -> Covering:
    """n candidates by lazy greedy; ties go to the lower row.

    A row's gain only falls as others are taken, so what it was at an earlier step is an upper bound of what
    it is (Minoux, 1978): the row with the highest bound is taken once its bound was computed at this step.
    """
    values = candidates.values
    left = np.ones(len(values), bool)
    first_gains = _gains(values, np.zeros(values.shape[1], np.float32))
    taken: list[int] = []
    gains: list[float] = []
    served: list[int] = []
    while len(taken) < n:
        covered = np.zeros(values.shape[1], np.float32)
        bounds = np.where(left, first_gains, -1.0)
        taken_before = len(taken)
        while len(taken) < n:
            row = _best_row(values, covered, bounds)
            if bounds[row] <= 0:
                break
            taken.append(row)
            gains.append(float(bounds[row]))
            served.append(int(np.argmax(values[row] - covered)))
            np.maximum(covered, values[row], out=covered)
            left[row], bounds[row] = False, -1.0
        if len(taken) == taken_before:
            rest = np.flatnonzero(left)
            highest = values[rest].max(axis=1)
            rest = rest[np.argsort(-highest, kind="stable")][: n - len(taken)]
            taken += rest.tolist()
            gains += [0.0] * len(rest)
            served += values[rest].argmax(axis=1).tolist()
    return Covering(candidates.rows[taken], np.array(gains), np.array(served, np.int64))


def _best_row(values: NDArray[np.float32], covered: NDArray[np.float32], bounds: NDArray[np.float64]) -> int:
    """The row with the highest gain, the lower one of a tie; `bounds` of the rows looked at become gains."""
    fresh = np.zeros(len(bounds), bool)
    batch = _FIRST_BATCH
    while True:
        row = int(np.argmax(bounds))
        if fresh[row] or bounds[row] <= 0:
            return row
        highest = np.arange(len(bounds))
        if batch < len(bounds):
            highest = np.append(np.argpartition(-bounds, batch)[:batch], row)
        stale = highest[~fresh[highest] & (bounds[highest] > 0)]
        bounds[stale] = _gains(values[stale], covered)
        fresh[stale] = True
        batch *= 2


def _gains(values: NDArray[np.float32], covered: NDArray[np.float32]) -> NDArray[np.float64]:
    """What each row (m, Q) would add to what is covered (Q,)."""
    gains = np.empty(len(values))
    for start in range(0, len(values), _TAKEN_AT_ONCE):
        part = slice(start, start + _TAKEN_AT_ONCE)
        gains[part] = np.maximum(values[part] - covered, 0).sum(axis=1, dtype=np.float64)
    return gains


def _runs_out(candidates: _Candidates, covering: Covering) -> bool:
    """Whether all of a query's listed rows were taken: rows that are not listed may be its best then."""
    if candidates.listed is None:
        return False
    taken = np.isin(candidates.rows, covering.rows)
    return bool(taken[candidates.listed].all(axis=1).any())
