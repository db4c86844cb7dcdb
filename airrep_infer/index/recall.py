"""How many of the true top k an index finds, and the smallest `ef` that finds enough of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.index.ann_index import AnnIndex
from airrep_infer.index.folder import EndRecall, Measurement, RecallTarget
from airrep_infer.index.search import Searcher
from airrep_infer.progress import Progress, renamed
from airrep_infer.score import attribute, check_queries
from airrep_infer.store import EmbeddingStore

SAMPLE = 1000
STORE_ROWS = "rows of the store"
# Float64 dot products of one pair in different shapes differ by far less than this share of the largest.
_ROUNDING = 1e-10
_ONE_SIDED_95 = 1.645
_REFINEMENTS = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Truth:
    """The exact answer for a sample of queries (Q, D).

    `itself` (Q,): the row that a query is itself and that does not count, or -1; `k`: rows that count;
    `last` (Q,) of each end: the k-th score, which any row must reach to be right (so ties are all right).
    """

    queries: Floats
    itself: NDArray[np.int64]
    k: int
    last_proponent: Floats
    last_opponent: Floats
    rounding: float
    source: str


def exact_ends(
    store: EmbeddingStore,
    k: int,
    queries: ArrayLike | None,
    *,
    source: str = "queries",
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Truth:
    """Scan the store exactly for a sample of the queries (Q, D), or of the store's rows where None.

    Raises:
        InputError: queries that cannot be used.
    """
    rng = np.random.default_rng(seed)
    if queries is None:
        itself = np.sort(rng.choice(len(store), min(SAMPLE, len(store)), replace=False))
        chosen, source = store.take(itself).astype(np.float64), STORE_ROWS
    else:
        checked = check_queries(queries, store)
        chosen = checked[np.sort(rng.choice(len(checked), min(SAMPLE, len(checked)), replace=False))]
        itself = np.full(len(chosen), -1)
    if len(store) == 1:
        itself[:] = -1
    k = min(k, len(store) - int(itself.max() >= 0))
    exact = attribute(chosen, store, k=k + 1, threads=threads, progress=renamed(progress, "measure"))
    lasts = []
    for rows, scores in (
        (exact.proponent_rows, exact.proponent_scores),
        (exact.opponent_rows, exact.opponent_scores),
    ):
        among = (rows[:, :k] == itself[:, None]).any(axis=1)
        last = np.minimum(k - 1 + among, rows.shape[1] - 1)
        lasts.append(np.take_along_axis(scores, last[:, None], axis=1)[:, 0])
    largest = max(np.abs(exact.proponent_scores).max(), np.abs(exact.opponent_scores).max())
    return Truth(chosen, itself, k, lasts[0], lasts[1], _ROUNDING * float(largest), source)


def measure_end(
    searcher: Searcher, truth: Truth, ef: int, *, lowest: bool, threads: int | None = None
) -> EndRecall:
    """recall@k of one end at `ef`."""
    extra = int(truth.itself.max() >= 0)
    hits = searcher.search(truth.queries, truth.k + extra, ef, lowest=lowest, threads=threads)
    counted = hits.rows != truth.itself[:, None]
    counted &= np.cumsum(counted, axis=1) <= truth.k
    if lowest:
        right = hits.scores <= truth.last_opponent[:, None] + truth.rounding
    else:
        right = hits.scores >= truth.last_proponent[:, None] - truth.rounding
    shares = (right & counted).sum(axis=1) / truth.k
    error = shares.std(ddof=1) / np.sqrt(len(shares)) if len(shares) > 1 else 0.0
    mean = float(shares.mean())
    return EndRecall(ef, round(mean, 6), round(max(0.0, mean - _ONE_SIDED_95 * float(error)), 6))


def choose_ef(
    searcher: Searcher, truth: Truth, target: RecallTarget, *, lowest: bool, threads: int | None = None
) -> EndRecall:
    """The smallest `ef` (within a few percent) whose recall is at least the target with 95% confidence.

    Where even the largest that is allowed falls short, that one.
    """
    graph = searcher.opponent_graph if lowest else searcher.graph
    largest = max(truth.k, min(target.max_ef, graph.vertices))

    def measured(ef: int) -> EndRecall:
        return measure_end(searcher, truth, ef, lowest=lowest, threads=threads)

    below = truth.k
    best = measured(below)
    while best.low < target.recall and best.ef < largest:
        below = best.ef
        best = measured(min(2 * below, largest))
    if best.low < target.recall:
        return best
    for _ in range(_REFINEMENTS):
        between = round((below * best.ef) ** 0.5)
        if not below < between < best.ef:
            break
        tried = measured(between)
        if tried.low >= target.recall:
            best = tried
        else:
            below = between
    return best


def measure(
    searcher: Searcher, truth: Truth, target: RecallTarget, threads: int | None = None
) -> Measurement:
    """Choose the `ef` of both ends."""
    return _measurement(
        target,
        truth,
        proponents=choose_ef(searcher, truth, target, lowest=False, threads=threads),
        opponents=choose_ef(searcher, truth, target, lowest=True, threads=threads),
    )


def measure_again(
    index: AnnIndex,
    queries: ArrayLike | None = None,
    *,
    source: str = "queries",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """The recall at the recorded `ef`s, with other rows of the store (or with `queries`)."""
    before = index.manifest.measured
    truth = exact_ends(
        index.store, before.k, queries, source=source, seed=1, threads=threads, progress=progress
    )

    def again(end: EndRecall, lowest: bool) -> EndRecall:
        return measure_end(index.searcher, truth, end.ef, lowest=lowest, threads=threads)

    return _measurement(
        replace(before.asked, k=truth.k),
        truth,
        proponents=again(before.proponents, lowest=False),
        opponents=again(before.opponents, lowest=True),
    )


def _measurement(
    target: RecallTarget, truth: Truth, *, proponents: EndRecall, opponents: EndRecall
) -> Measurement:
    return Measurement(
        k=target.k,
        target=target.recall,
        max_ef=target.max_ef,
        queries=len(truth.queries),
        source=truth.source,
        proponents=proponents,
        opponents=opponents,
    )
