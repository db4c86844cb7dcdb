"""Attribution: for each query the proponents, the opponents and the influence of groups of examples.

One streaming pass over the corpus; every score block is seen once by all of it. Peak memory depends on
the queries, k, the groups and the block size, not on the size of the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.progress import Progress, begin
from airrep_infer.resources import threads_within_memory
from airrep_infer.score.groups import Groups
from airrep_infer.score.plan import (
    Array,
    BlockSummary,
    Corpus,
    Scan,
    ScanPlan,
    ScoreDtype,
    as_corpus,
    check_at_least_one,
    check_queries,
)
from airrep_infer.score.pooling import PooledPartial, check_pooling_scale
from airrep_infer.score.scan import scan, scratch_bytes
from airrep_infer.score.top_k import SLACK, BothEnds, list_bytes, rank, rescore


@dataclass(frozen=True)
class Influence:
    """One row of the corpus and its score s = q . z for a query."""

    row: int
    score: float


@dataclass(frozen=True)
class Attribution:
    """The attribution of one query; `groups` has f(q, S) by group name."""

    query: int
    group_influence: float
    proponents: tuple[Influence, ...]
    opponents: tuple[Influence, ...]
    groups: Mapping[str, float] | None = None


@dataclass(frozen=True, eq=False)
class Attributions:
    """The attributions of Q queries as arrays; indexing and iteration give one `Attribution` a query.

    `proponent_rows`, `proponent_scores`: (Q, m), highest score first; `opponent_rows`,
    `opponent_scores`: (Q, m), lowest first, m = min(k, corpus rows); `group_influence`: (Q,), f of the
    whole corpus, off by at most `group_influence_error` (Q,), which is None where it is exact; `groups`:
    (Q, G), f of each group of `group_names`. Scores and influences are float64.

    `log_weight` (Q,) and `group_log_weight` (Q, G) are log sum_i exp(beta |s_i|), what attention divides by,
    of the whole corpus and of each group, which has `group_rows` (Q, G) rows. `compared` (Q,) is how many
    rows each query was compared with, None where it was with all; a query of fewer than m rows has row -1 and
    score NaN in the places beyond them.
    """

    group_influence: NDArray[np.float64]
    proponent_rows: NDArray[np.int64]
    proponent_scores: NDArray[np.float64]
    opponent_rows: NDArray[np.int64]
    opponent_scores: NDArray[np.float64]
    group_names: tuple[str, ...] = ()
    groups: NDArray[np.float64] | None = None
    group_influence_error: NDArray[np.float64] | None = None
    log_weight: NDArray[np.float64] | None = None
    group_log_weight: NDArray[np.float64] | None = None
    group_rows: NDArray[np.int64] | None = None
    compared: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.group_influence)

    def __getitem__(self, query: int) -> Attribution:
        query = range(len(self))[query]
        groups = None
        if self.groups is not None:
            groups = dict(zip(self.group_names, self.groups[query].tolist(), strict=True))
        return Attribution(
            query,
            float(self.group_influence[query]),
            _listed(self.proponent_rows[query], self.proponent_scores[query]),
            _listed(self.opponent_rows[query], self.opponent_scores[query]),
            groups,
        )

    def __iter__(self) -> Iterator[Attribution]:
        return (self[query] for query in range(len(self)))


def _listed(rows: NDArray[np.int64], scores: NDArray[np.float64]) -> tuple[Influence, ...]:
    there = rows >= 0
    return tuple(map(Influence, rows[there].tolist(), scores[there].tolist()))


class _Pass:
    """What one pass collects: both ends, the whole corpus pooled, the groups pooled.

    `places` has the code of every row's group where the groups are disjoint: they and the rows of no group,
    as one group more, then make up the whole. It is None where a row can be in several groups.
    """

    def __init__(
        self, queries: int, kept: int, beta: float, groups: Groups | None, places: NDArray[np.int32] | None
    ) -> None:
        self.ends = BothEnds(queries, kept)
        self.kept, self.beta = kept, beta
        self.wants_scores = groups is not None
        self._places = places
        self._overlapping = groups if places is None else None
        count = len(groups.names) if groups else 0
        self.whole = PooledPartial(queries, 1 if places is None else count + 1, beta)
        self.sets = PooledPartial(queries, count, beta) if self._overlapping else None
        self._scratch: Array = np.empty(0, np.float32)

    def update(self, scores: Array, rows: NDArray[np.int64], queries: slice) -> None:
        if self._scratch.size < scores.size or self._scratch.dtype != scores.dtype:
            self._scratch = np.empty(scores.size, scores.dtype)
        magnitudes = np.abs(scores.T, out=self._scratch[: scores.size].reshape(scores.T.shape))
        self.ends.update(scores, rows, queries, magnitudes)
        places = None if self._places is None else self._places[rows]
        self.whole.update(scores, places, queries, magnitudes=magnitudes)
        self._update_sets(scores, rows, queries)

    def update_summary(self, summary: BlockSummary, rows: NDArray[np.int64], queries: slice) -> None:
        """Add the summary of the rows `rows` (n,), which are in row order."""
        high, low = (
            (summary.high_scores, rows[summary.high_rows]),
            (summary.low_scores, rows[summary.low_rows]),
        )
        self.ends.add(*high, *low, queries)
        if self._places is not None and summary.scores is not None:
            self.whole.update(summary.scores, self._places[rows], queries)
            return
        self.whole.add(summary.top, summary.weight, summary.weighted, queries)
        if summary.scores is not None:
            self._update_sets(summary.scores, rows, queries)

    def _update_sets(self, scores: Array, rows: NDArray[np.int64], queries: slice) -> None:
        if self.sets is None or self._overlapping is None:
            return
        # One column per membership, as many at a time as the tile has columns.
        members, codes = self._overlapping.rows, self._overlapping.codes
        begin, end = np.searchsorted(members, [rows[0], rows[-1] + 1])
        by_group = begin + np.argsort(codes[begin:end], kind="stable")
        for start in range(0, len(by_group), len(rows)):
            part = by_group[start : start + len(rows)]
            self.sets.update(scores.T[members[part] - rows[0]].T, codes[part], queries)

    def merge(self, other: _Pass) -> None:
        self.ends.merge(other.ends)
        self.whole.merge(other.whole)
        if self.sets is not None and other.sets is not None:
            self.sets.merge(other.sets)

    def pooled(self) -> tuple[PooledPartial, PooledPartial | None]:
        """The whole corpus as one group, and the groups; disjoint ones with the rows of no group last."""
        return (self.whole, self.sets) if self._places is None else (self.whole.together(), self.whole)

    def __getstate__(self) -> dict[str, object]:
        # A pass that returns from another machine is merged, not updated: the groups need not travel back.
        left_behind = {"_places": None, "_overlapping": None, "_scratch": np.empty(0, np.float32)}
        return {**self.__dict__, **left_behind}


def _order_by_group(places: NDArray[np.int32], first: int, count: int) -> NDArray[np.intp] | None:
    """The order of a block's rows that makes every group contiguous; None: as it is."""
    codes = places[first : first + count]
    return np.argsort(codes, kind="stable") if np.any(codes[1:] < codes[:-1]) else None


def attribute(
    queries: ArrayLike,
    corpus: Corpus | Array,
    *,
    k: int = 10,
    pooling_scale: float = 1.0,
    groups: Groups | None = None,
    block_rows: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    dtype: ScoreDtype | None = None,
    scan_with: Scan = scan,
) -> Attributions:
    """Exact attribution of queries (Q, D) to a corpus: an `EmbeddingStore` or an array (n, D).

    The score of row i is s_i = q . z_i. Proponents are the k highest scores and opponents the k lowest,
    whatever their sign (where fewer than k scores are negative, the last opponents are not opponents in
    the strict sense); k > n gives n of each; ties go to the lower row. Influence of a set S of rows is
    f(q, S) = sum_i a_i s_i with a = softmax_i(`pooling_scale` * |s_i|), for the whole corpus and for
    each group.

    The pass scores in float32, small problems in float64; the scores of the returned rows are recomputed
    in float64, and the influence of the whole corpus is corrected by them. A group's influence then
    carries the rounding of float32 products: about 1e-7 b (1 + beta b) with b the largest |q| |z|, which
    is far below 1e-5 for vectors of length about 1 and is not for long ones; `dtype="float64"` removes it.

    Args:
        block_rows: rows that a worker reads, and with groups sorts, at a time. They are scored in tiles
            that stay in a core's cache.
        threads: workers; default, the cores this process may use.
        progress: told of the stage "attribute", in rows.
        dtype: "float64" scores large problems in float64 too, at less than half the speed.
        scan_with: what makes the pass; `scan` makes it on the threads of this process, and see
            `engines.Engine.scan`.

    Raises:
        InputError: queries or options that cannot be used, groups that do not fit the corpus, or a
            corpus that holds NaN or infinity.
    """
    corpus = as_corpus(corpus)
    beta = check_pooling_scale(pooling_scale)
    check_at_least_one(k, "k")
    check_at_least_one(threads, "threads")
    vectors = check_queries(queries, corpus)
    if groups is not None:
        groups.check(len(corpus))
    places = groups.places(len(corpus)) if groups and groups.disjoint else None
    kept = min(k + SLACK, len(corpus))
    ends = 2 * len(vectors) * kept  # entries of both ends, of all queries
    grouped = len(groups.names) + 1 if groups else 1
    pooled = 3 * 8 * len(vectors) * grouped
    each = list_bytes(ends) + pooled + scratch_bytes(*vectors.shape)
    # Rows and scores, twice while they are ranked, and what they are sorted by; partials that are merged.
    shared = 8 * 6 * ends + 3 * pooled
    fitting = threads_within_memory(
        threads,
        each=each,
        shared=shared,
        what=f"k = {k} of {len(vectors)} queries" + (f" and {grouped - 1} groups" if groups else ""),
        fix="ask for a lower k, fewer groups, or fewer queries at a time",
    )
    scanned = scan_with(
        ScanPlan(
            vectors,
            corpus,
            partial(_Pass, len(vectors), kept, beta, groups, places),
            order=None if places is None else partial(_order_by_group, places),
            block_rows=block_rows,
            threads=threads,  # on a cluster None is each node's own cores
            thread_bytes=each,
            shared_bytes=shared,
            dtype=dtype,
            report=begin(progress, "attribute", len(corpus)),
        )
    )
    seen = scanned.seen
    rows, rough = seen.ends.result()
    scores = rescore(vectors, corpus, rows, fitting)
    high, low = slice(rows.shape[1] // 2), slice(rows.shape[1] // 2, None)
    whole, sets = seen.pooled()
    if scanned.dtype == "float32":
        # The rows that carry most of the softmax are known exactly now. Where the two ends share rows
        # (few rows in all), the sign of the score says which end brings it.
        foreign = np.hstack([rough[:, high] <= 0, rough[:, low] >= 0])
        whole.replace(np.where(foreign, np.nan, rough), np.where(foreign, np.nan, scores))
    return Attributions(
        whole.result()[:, 0],
        *rank(scores[:, high], rows[:, high], k),
        *rank(scores[:, low], rows[:, low], k, lowest=True),
        groups.names if groups else (),
        sets.result()[:, : len(groups.names)] if groups and sets else None,
        log_weight=whole.log_weight()[:, 0],
        group_log_weight=sets.log_weight()[:, : len(groups.names)] if groups and sets else None,
        group_rows=np.broadcast_to(groups.sizes(), (len(vectors), len(groups.names))) if groups else None,
    )
