"""Selection: the rows of a corpus to train on for a set of queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError
from airrep_infer.progress import Progress, begin
from airrep_infer.score.plan import (
    Array,
    Corpus,
    ScanPlan,
    ScoreDtype,
    as_corpus,
    check_at_least_one,
    check_queries,
)
from airrep_infer.score.pooling import PooledPartial, attention_pool, check_pooling_scale
from airrep_infer.score.scan import scan
from airrep_infer.score.selection_cover import cover
from airrep_infer.score.top_k import SLACK, TopK, rank, rescore

Strategy = Literal["cover", "pooled", "mean", "max", "round-robin"]
_RESCORED = 1 << 20
_FIRST_LIST = 32


@dataclass(frozen=True, eq=False)
class Selection:
    """Selected rows (n,) in rank order, the score (n,), float64, that chose each, and whom it serves.

    `served` (n,) is the query that a row was chosen for: the one it adds most to ("cover"), whose turn it
    was ("round-robin"), else the one with the row's highest score.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    served: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


class _RankedRows:
    """The best rows by one number a row: the scores of all queries, pooled, averaged or the highest."""

    def __init__(self, queries: int, kept: int, strategy: Strategy, beta: float) -> None:
        self.best = TopK(1, kept)
        self._queries = queries
        self._strategy = strategy
        self._beta = 0.0 if strategy == "mean" else beta
        self._partial = PooledPartial(0)
        self._highest: NDArray[np.float64] = np.empty(0)

    def update(self, scores: Array, rows: NDArray[np.int64], queries: slice) -> None:
        # The queries of some rows come in order: the first slice starts it, the last one ends it.
        if self._strategy == "max":
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


def select(
    queries: ArrayLike,
    corpus: Corpus | Array,
    n: int,
    *,
    strategy: Strategy = "cover",
    pooling_scale: float = 1.0,
    block_rows: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    dtype: ScoreDtype | None = None,
) -> Selection:
    """The n rows of a corpus that serve a set of queries (Q, D) best, best first.

    With s_ij the score of row i for query j, the strategies rank rows by

    - "cover": what a row adds to the rows before it, so that every query is served; see `cover`. Exact greedy
      up to 2^25 scores, beyond that among the best rows of each query and of all
    - "pooled": sum_j a_ij s_ij with a_ij = softmax_j(`pooling_scale` * |s_ij|), attention over the queries
    - "mean": mean_j s_ij
    - "max": max_j s_ij
    - "round-robin": queries take turns, in order, each taking the row with its highest score that is
      not taken yet; the score is that query's.

    All but "cover" are exact for any size. Ties go to the lower row. The scores that choose are float64,
    those of "cover" rounded to float32.

    Args:
        block_rows, threads, dtype: as for `attribute`.
        progress: told of the stage "select", in rows; of round-robin, which may take more passes than one,
            of the first.

    Raises:
        InputError: queries, n or options that cannot be used, or a corpus that holds NaN or infinity.
    """
    corpus = as_corpus(corpus)
    if strategy not in get_args(Strategy):
        raise InputError(f"unknown strategy {strategy!r}; choose one of {', '.join(get_args(Strategy))}")
    beta = check_pooling_scale(pooling_scale)
    check_at_least_one(n, "the number of rows to select")
    if n > len(corpus):
        raise InputError(f"cannot select {n} rows: the corpus has {len(corpus)}; choose at most that many")
    vectors = check_queries(queries, corpus)
    report = begin(progress, "select", len(corpus))
    if strategy == "cover":
        chosen = cover(vectors, corpus, n, block_rows=block_rows, threads=threads, dtype=dtype, report=report)
        return Selection(chosen.rows, chosen.gains, chosen.served)
    if strategy == "round-robin":
        return _take_turns(vectors, corpus, n, block_rows, threads, report, dtype)
    kept = min(n + max(SLACK, n // 16), len(corpus))
    plan = ScanPlan(
        vectors,
        corpus,
        partial(_RankedRows, len(vectors), kept, strategy, beta),
        block_rows=block_rows,
        threads=threads,
        dtype=dtype,
        report=report,
    )
    seen = scan(plan).seen
    candidates = np.sort(seen.best.result()[0][0])
    combined = np.empty(kept)
    step = max(1, _RESCORED // max(vectors.shape))
    for start in range(0, kept, step):
        part = candidates[start : start + step]
        by_query = corpus.take(part).astype(np.float64) @ vectors.T
        if strategy == "max":
            combined[start : start + step] = by_query.max(axis=1)
        else:
            combined[start : start + step] = attention_pool(by_query, 0.0 if strategy == "mean" else beta)
    rows, scores = rank(combined, candidates, n)
    return Selection(rows, scores, _best_served(vectors, corpus, rows))


def _best_served(queries: NDArray[np.float64], corpus: Corpus, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The query (m,) for which each of some rows has its highest score."""
    served = np.empty(len(rows), np.int64)
    step = max(1, _RESCORED // max(queries.shape))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        served[part] = (corpus.take(rows[part]).astype(np.float64) @ queries.T).argmax(axis=1)
    return served


def _take_turns(
    queries: NDArray[np.float64],
    corpus: Corpus,
    n: int,
    block_rows: int | None,
    threads: int | None,
    report: Callable[[int], object] | None,
    dtype: ScoreDtype | None,
) -> Selection:
    """Round-robin from the queries' top lists; when a list runs out too early, from lists twice as long."""
    length = max(_FIRST_LIST, 2 * -(-n // len(queries)))
    while True:
        # A query's list of n rows cannot run out: at most n - 1 of them are taken before its turn.
        length = min(length, n)
        kept = min(length + SLACK, len(corpus))
        plan = ScanPlan(
            queries,
            corpus,
            partial(TopK, len(queries), kept),
            block_rows=block_rows,
            threads=threads,
            dtype=dtype,
            report=report,
        )
        best = scan(plan).seen
        rows, _ = best.result()
        listed, scores = rank(rescore(queries, corpus, rows, threads), rows, length)
        taken: dict[int, float] = {}
        following = [0] * len(queries)
        for turn in range(n):
            query = turn % len(queries)
            while following[query] < length and int(listed[query, following[query]]) in taken:
                following[query] += 1
            if following[query] == length:
                break
            place = following[query]
            taken[int(listed[query, place])] = float(scores[query, place])
        else:
            turns = np.arange(n) % len(queries)
            return Selection(np.array(list(taken), np.int64), np.array(list(taken.values())), turns)
        length *= 2
        report = None
