"""Selection by one number a row: its scores for the queries, pooled, averaged, or the highest."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from airrep_infer.score.plan import Array, Corpus
from airrep_infer.score.pooling import PooledPartial, attention_pool
from airrep_infer.score.selection_limits import Admission
from airrep_infer.score.selection_pass import Passes, row_scores
from airrep_infer.score.top_k import SLACK, TopK, rank

RankedBy = Literal["pooled", "mean", "max"]


class _RankedRows:
    """The best rows by one number a row."""

    def __init__(self, queries: int, kept: int, ranked_by: RankedBy, beta: float) -> None:
        self.best = TopK(1, kept)
        self._queries = queries
        self._ranked_by = ranked_by
        self._beta = 0.0 if ranked_by == "mean" else beta
        self._partial = PooledPartial(0)
        self._highest: NDArray[np.float64] = np.empty(0)

    def update(self, scores: Array, rows: NDArray[np.int64], queries: slice) -> None:
        # The queries of some rows come in order: the first slice starts it, the last one ends it.
        if self._ranked_by == "max":
            highest = scores.max(axis=0).astype(np.float64)
            self._highest = np.maximum(self._highest, highest) if queries.start else highest
            combined = self._highest
        else:
            if queries.start == 0:
                self._partial = PooledPartial(len(rows), 1, self._beta)
            # Here a "group" is the query set and what is pooled for, a row.
            self._partial.update(scores.T)
            combined = self._partial.result()[:, 0]
        if queries.stop == self._queries:
            self.best.update(combined[None], rows, slice(0, 1))

    def merge(self, other: _RankedRows) -> None:
        self.best.merge(other.best)


def select_ranked(
    passes: Passes, admission: Admission, ranked_by: RankedBy, beta: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The rows (m,) that are admitted, in the order of their number, and the number of each, float64.

    Where too many rows are refused, another pass keeps twice as many.
    """
    wanted = admission.expected
    while True:
        kept = min(wanted + max(SLACK, wanted // 16), len(passes.corpus))
        seen = passes(partial(_RankedRows, len(passes.queries), kept, ranked_by, beta), kept)
        candidates = np.sort(seen.best.result()[0][0])
        combined = _combine(passes.queries, passes.corpus, candidates, ranked_by, beta)
        # Those at the end of the list may stand before rows that float32 left out.
        rows, numbers = rank(combined, candidates, kept if kept == len(passes.corpus) else wanted)
        admission.restart()
        admitted = []
        for place, row in enumerate(rows.tolist()):
            if admission.is_full():
                break
            if admission.admit(row):
                admitted.append(place)
        if admission.is_full() or kept == len(passes.corpus):
            return rows[admitted], numbers[admitted]
        wanted *= 2


def _combine(
    queries: NDArray[np.float64],
    corpus: Corpus,
    rows: NDArray[np.int64],
    ranked_by: RankedBy,
    beta: float,
) -> NDArray[np.float64]:
    """The number of each row (m,), from scores in float64."""
    combined = np.empty(len(rows))
    for part, by_query in row_scores(queries, corpus, rows):
        if ranked_by == "max":
            combined[part] = by_query.max(axis=1)
        else:
            combined[part] = attention_pool(by_query, 0.0 if ranked_by == "mean" else beta)
    return combined
