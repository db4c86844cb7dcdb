"""Attribution: for each query the proponents, the opponents and the influence of groups of examples.

One streaming pass over the corpus; every score block is seen once by all of it. Peak memory depends on
the queries, k, the groups and the block size, not on the size of the corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError
from airrep_infer.score.onnx_scan import Reduced
from airrep_infer.score.pooling import PooledPartial, check_pooling_scale
from airrep_infer.score.scan import (
    Array,
    Corpus,
    Scan,
    ScoreDtype,
    as_corpus,
    check_at_least_one,
    check_queries,
    scan,
    score_dtype,
)
from airrep_infer.score.top_k import SLACK, BothEnds, rank, rescore


@dataclass(frozen=True, eq=False)
class Groups:
    """Named groups of corpus rows: a partition (`codes`), or sets that may overlap (`members`).

    `codes` has for every row the position of its group in `names` (negative: in no group), as
    `EmbeddingStore.groups(field)` gives it; `members` has for every name an array of row numbers.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int32] | None = None
    members: tuple[NDArray[np.int64], ...] | None = None

    @classmethod
    def from_codes(cls, names: Sequence[str], codes: ArrayLike) -> Groups:
        """A partition: names, and for every row the position of its name (negative: none)."""
        return cls(tuple(names), codes=np.asarray(codes, np.int32))

    @classmethod
    def from_members(cls, members: Mapping[str, ArrayLike]) -> Groups:
        """Groups that may overlap: row numbers by name."""
        rows = tuple(np.sort(np.asarray(numbers, np.int64).reshape(-1)) for numbers in members.values())
        return cls(tuple(members), members=rows)

    @cached_property
    def places(self) -> NDArray[np.int32]:
        """`codes` with the rows of no group in one more, the last."""
        assert self.codes is not None
        return np.where(self.codes < 0, np.int32(len(self.names)), self.codes)

    @cached_property
    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row number, position of the group's name) of every membership, in row order."""
        members = self.members or ()
        rows = np.concatenate(members)
        codes = np.repeat(np.arange(len(members)), [len(numbers) for numbers in members])
        order = np.argsort(rows, kind="stable")
        return rows[order], codes[order]

    def order(self, first: int, count: int) -> NDArray[np.intp] | None:
        """The order of a block's rows that makes every group of a partition contiguous; None: as it is."""
        if self.codes is None:
            return None
        codes = self.places[first : first + count]
        return np.argsort(codes, kind="stable") if np.any(codes[1:] < codes[:-1]) else None

    def check(self, rows: int) -> None:
        """Raises InputError unless every group has at least one row, all exist, and none is twice in one."""
        if len(set(self.names)) != len(self.names) or not self.names:
            raise InputError(f"groups need distinct names, at least one; got {len(self.names)}")
        if self.codes is not None:
            if self.codes.shape != (rows,):
                raise InputError(
                    f"groups cover {self.codes.size} rows, the corpus has {rows}; give one a row"
                )
            if self.codes.max() >= len(self.names):
                raise InputError(
                    f"a row is in group {self.codes.max()}, but there are {len(self.names)} names"
                )
            sizes = np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))
            if not sizes.all():
                raise InputError(f"group {self.names[int(np.argmin(sizes))]!r} has no rows; leave it out")
            return
        if self.members is None or len(self.members) != len(self.names):
            raise InputError("groups need either codes, one a row, or members, one array a name")
        for name, numbers in zip(self.names, self.members, strict=True):
            if not len(numbers):
                raise InputError(f"group {name!r} has no rows; leave it out")
            ordered = np.sort(numbers)
            if ordered[0] < 0 or ordered[-1] >= rows:
                wrong = int(ordered[0] if ordered[0] < 0 else ordered[-1])
                raise InputError(f"group {name!r} names row {wrong}; the corpus has rows 0 to {rows - 1}")
            if (ordered[1:] == ordered[:-1]).any():
                twice = int(ordered[1:][ordered[1:] == ordered[:-1]][0])
                raise InputError(f"group {name!r} names row {twice} twice; name each row once")


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
    whole corpus; `groups`: (Q, G), f of each group of `group_names`. Scores and influences are float64.
    """

    group_influence: NDArray[np.float64]
    proponent_rows: NDArray[np.int64]
    proponent_scores: NDArray[np.float64]
    opponent_rows: NDArray[np.int64]
    opponent_scores: NDArray[np.float64]
    group_names: tuple[str, ...] = ()
    groups: NDArray[np.float64] | None = None

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
            tuple(map(Influence, self.proponent_rows[query].tolist(), self.proponent_scores[query].tolist())),
            tuple(map(Influence, self.opponent_rows[query].tolist(), self.opponent_scores[query].tolist())),
            groups,
        )

    def __iter__(self) -> Iterator[Attribution]:
        return (self[query] for query in range(len(self)))


class _Pass:
    """What one pass collects: both ends, the whole corpus pooled, the groups pooled."""

    def __init__(self, queries: int, kept: int, beta: float, groups: Groups | None) -> None:
        self.ends = BothEnds(queries, kept)
        self.kept, self.beta = kept, beta
        self.groups = groups
        self.wants_scores = groups is not None
        # The groups of a partition, with the rows of no group as one more, make up the whole.
        self.partition = groups is not None and groups.codes is not None
        self.whole = PooledPartial(queries, len(groups.names) + 1 if groups and self.partition else 1, beta)
        self.sets = PooledPartial(queries, len(groups.names), beta) if groups and not self.partition else None
        self._scratch: Array = np.empty(0, np.float32)

    def update(self, scores: Array, rows: NDArray[np.int64], queries: slice) -> None:
        if self._scratch.size < scores.size or self._scratch.dtype != scores.dtype:
            self._scratch = np.empty(scores.size, scores.dtype)
        magnitudes = np.abs(scores.T, out=self._scratch[: scores.size].reshape(scores.T.shape))
        self.ends.update(scores, rows, queries, magnitudes)
        places = self.groups.places[rows] if self.groups and self.partition else None
        self.whole.update(scores, places, queries, magnitudes=magnitudes)
        self._update_sets(scores, rows, queries)

    def update_reduced(self, reduced: Reduced, rows: NDArray[np.int64], queries: slice) -> None:
        """Add what `onnx_scan` has left of the scores of the rows `rows` (n,), in row order."""
        high, low = (
            (reduced.high_scores, rows[reduced.high_rows]),
            (reduced.low_scores, rows[reduced.low_rows]),
        )
        self.ends.add(*high, *low, queries)
        if self.groups and self.partition and reduced.scores is not None:
            self.whole.update(reduced.scores, self.groups.places[rows], queries)
            return
        self.whole.add(reduced.top, reduced.weight, reduced.weighted, queries)
        if reduced.scores is not None:
            self._update_sets(reduced.scores, rows, queries)

    def _update_sets(self, scores: Array, rows: NDArray[np.int64], queries: slice) -> None:
        if self.sets is None or self.groups is None:
            return
        # One column per (row, group) pair, as many at a time as the tile has columns.
        members, codes = self.groups.pairs
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
        """The whole corpus as one group, and the groups; of a partition, with the rows of no group last."""
        return (self.whole.together(), self.whole) if self.partition else (self.whole, self.sets)

    def __getstate__(self) -> dict[str, object]:
        # A pass that returns from another machine is merged, not updated: the groups need not travel back.
        return {**self.__dict__, "groups": None, "_scratch": np.empty(0, np.float32)}


def attribute(
    queries: ArrayLike,
    corpus: Corpus | Array,
    *,
    k: int = 10,
    pooling_scale: float = 1.0,
    groups: Groups | None = None,
    block_rows: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
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
        progress: told the number of rows done, block by block, from worker threads, one call at a time.
        dtype: "float64" scores large problems in float64 too, at less than half the speed.
        scan_with: what makes the pass; `scan` makes it on the threads of this process.

    Raises:
        InputError: queries or options that cannot be used, groups that do not fit the corpus, or a
            corpus that holds NaN or infinity.
    """
    corpus = as_corpus(corpus)
    beta = check_pooling_scale(pooling_scale)
    check_at_least_one(k, "k")
    vectors = check_queries(queries, corpus)
    if groups is not None:
        groups.check(len(corpus))
    kept = min(k + SLACK, len(corpus))
    seen = scan_with(
        vectors,
        corpus,
        lambda: _Pass(len(vectors), kept, beta, groups),
        order=groups.order if groups else None,
        block_rows=block_rows,
        threads=threads,
        progress=progress,
        dtype=dtype,
    )
    rows, rough = seen.ends.result()
    scores = rescore(vectors, corpus, rows, threads)
    high, low = slice(rows.shape[1] // 2), slice(rows.shape[1] // 2, None)
    whole, sets = seen.pooled()
    if score_dtype(vectors, corpus, dtype) == np.float32:
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
    )
