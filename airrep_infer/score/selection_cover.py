"""Selection by coverage: facility location over the queries, by lazy greedy on their scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.resources import check_memory
from airrep_infer.score.plan import NON_FINITE, Array, Corpus
from airrep_infer.score.rows_of import RowsOf
from airrep_infer.score.selection_limits import Admission
from airrep_infer.score.selection_pass import Passes, row_scores
from airrep_infer.score.top_k import SLACK, TopK

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


def cover(passes: Passes, admission: Admission, *, held_scores: int = _HELD_SCORES) -> Covering:
    """The rows that greedy takes to cover queries (Q, D), as far as they are admitted.

    What row i is worth to query j is w_ij = (s_ij - mean_j) / (best_j - mean_j): 1 for the query's best row,
    0 for an average one, so that every query counts the same. Greedy takes the row that raises
    sum_j max(0, max over taken rows of w_ij) most (Krause and Golovin, "Submodular function maximization",
    2014: at least 1 - 1/e of the best possible sum). When no row raises it, each query has its best row, and
    a new round covers the queries again with the rows that are left. Rows that are below average for all
    queries come last, by their highest w_ij. A row that is not admitted is passed over.

    Where Q times the rows of the corpus exceeds `held_scores`, greedy chooses among the best rows of each
    query, the best by the mean over the queries, and the best of each value that has a floor. No query runs
    out of its own best rows, but a row that is in none of the lists may have added more to many queries at
    once: there the choice is approximate.

    Raises:
        InputError: a score is not finite, or the limits refuse so many rows that the scores of those to
            choose from do not fit into memory.
    """
    queries, corpus = passes.queries, passes.corpus
    if len(queries) * len(corpus) <= held_scores:
        everything = np.arange(len(corpus))
        scores = _scores(queries, corpus, everything)
        if passes.report:
            passes.report(len(corpus))
        values = _worth(scores, scores.mean(axis=0, dtype=np.float64))
        return _greedy(_Candidates(everything, values, None), admission)[0]
    length = max(16, 2 * -(-admission.expected // len(queries)))
    length = max(length, min(_LONGEST_FIRST_LIST, held_scores // len(queries) ** 2))
    # Without limits a list of as many rows as are wanted cannot run out: a query's best row left is in it.
    longest = len(corpus) if admission.limited else min(admission.places, len(corpus))
    while True:
        length = min(length, longest)
        candidates = _cut(passes, admission, length)
        if len(candidates.rows) >= min(admission.expected, len(corpus)):
            covering, used = _greedy(candidates, admission)
            if length == longest or (admission.is_full() and not _runs_out(candidates, used)):
                return covering
        length *= 2


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


def _cut(passes: Passes, admission: Admission, length: int) -> _Candidates:
    """The candidates of a corpus whose scores are too many to hold, by one pass over it."""
    queries, corpus = passes.queries, passes.corpus
    broad = min(_BROAD_ROWS, len(corpus))
    seen = passes(partial(_Seen, len(queries), length, broad), len(queries) * length + broad)
    best = seen.best.result()[0]
    listed = [best.ravel(), seen.broad.result()[0][0]]
    for numbers, least in admission.floors():
        of_value = RowsOf(corpus, numbers)
        kept = min(max(length, least + SLACK), len(of_value))
        rows = passes(partial(TopK, len(queries), kept), len(queries) * kept, of_value).result()[0]
        listed.append(numbers[rows.ravel()])
    rows = np.unique(np.concatenate(listed))
    check_memory(
        2 * 4 * len(rows) * len(queries),
        f"the scores of {len(rows)} candidates for {len(queries)} queries",
        "loosen the limits, select fewer rows, or take the strategy mean",
    )
    values = _worth(_scores(queries, corpus, rows), seen.totals / len(corpus))
    return _Candidates(rows, values, np.searchsorted(rows, best))


def _scores(queries: NDArray[np.float64], corpus: Corpus, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The scores (m, Q) of rows, computed in float64 and held in float32.

    Raises:
        InputError: a score is not finite.
    """
    scores = np.empty((len(rows), len(queries)), np.float32)
    for part, of_part in row_scores(queries, corpus, rows):
        scores[part] = of_part
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


def _greedy(candidates: _Candidates, admission: Admission) -> tuple[Covering, NDArray[np.bool_]]:
    """Candidates by lazy greedy, and which (C,) are used up: taken, or refused; ties go to the lower row.

    A row that is refused because all places are kept for other values is not used up: so is every row of its
    value, whether it is a candidate or not.

    A row's gain only falls as others are taken, so what it was at an earlier step is an upper bound of what
    it is (Minoux, 1978): the row with the highest bound is taken once its bound was computed at this step.
    """
    values = candidates.values
    admission.restart()
    left = np.ones(len(values), bool)
    first_gains = _gains(values, np.zeros(values.shape[1], np.float32))
    used = np.zeros(len(values), bool)
    closings = 0
    taken: list[int] = []
    gains: list[float] = []
    served: list[int] = []
    while not admission.is_full() and left.any():
        covered = np.zeros(values.shape[1], np.float32)
        bounds = np.where(left, first_gains, -1.0)
        taken_before = len(taken)
        while not admission.is_full():
            if admission.closings > closings:
                closings = admission.closings
                used |= admission.closed_by_ceiling(candidates.rows)
                left &= ~(used | admission.closed_by_floor(candidates.rows))
                bounds[~left] = -1.0
            row = _best_row(values, covered, bounds)
            if bounds[row] <= 0:
                break
            gain, left[row], bounds[row] = float(bounds[row]), False, -1.0
            used[row] = True
            if not admission.admit(int(candidates.rows[row])):
                continue
            taken.append(row)
            gains.append(gain)
            served.append(int(np.argmax(values[row] - covered)))
            np.maximum(covered, values[row], out=covered)
        if len(taken) == taken_before:
            rest = np.flatnonzero(left)
            for row in rest[np.argsort(-values[rest].max(axis=1, initial=-np.inf), kind="stable")].tolist():
                if admission.is_full():
                    break
                left[row], used[row] = False, True
                if admission.admit(int(candidates.rows[row])):
                    taken.append(row)
                    gains.append(0.0)
                    served.append(int(values[row].argmax()))
    return Covering(candidates.rows[taken], np.array(gains), np.array(served, np.int64)), used


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


def _runs_out(candidates: _Candidates, used: NDArray[np.bool_]) -> bool:
    """Whether all of a query's listed rows are used up: rows that are not listed may be its best then."""
    return candidates.listed is not None and bool(used[candidates.listed].all(axis=1).any())
