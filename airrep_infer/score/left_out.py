"""Attribution in which each query leaves some rows out: itself, or all that share a field's value with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import NO_GROUP, RowId
from airrep_infer.score.attribution import Attributions, attribute
from airrep_infer.score.groups import Groups
from airrep_infer.score.plan import Array, Corpus, as_corpus, check_queries
from airrep_infer.score.pooling import attention_pool
from airrep_infer.score.rows_of import RowsOf
from airrep_infer.score.top_k import rank
from airrep_infer.store import EmbeddedRows, EmbeddingStore, StoreRow

_SCORES_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Which rows of a corpus of N rows each of Q queries leaves out.

    Attributes:
        own: for each query, the (m,) rows that it leaves out.
        codes: (N,) the value of each row; None leaves no value out.
        values: (Q,) the value whose rows each query leaves out, -1 for none.
        names: (Q) the ids of the queries, for messages.
    """

    own: Sequence[NDArray[np.int64]]
    codes: NDArray[np.int32] | None = None
    values: NDArray[np.int32] | None = None
    names: Sequence[RowId] = ()

    @classmethod
    def of(
        cls,
        train: EmbeddingStore,
        queries: EmbeddedRows,
        *,
        itself: bool = False,
        field: str | None = None,
        also: Sequence[StoreRow] | None = None,
    ) -> LeftOut:
        """What queries leave out of a store.

        Args:
            itself: the rows with the id or the text of the query.
            field: the rows that have the query's value of this field.
            also: for each query another row whose id and text count as its own.

        Raises:
            InputError: no row, or no query, has the field.
        """
        ids = [row.id for row in queries.rows]
        own: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(queries)
        if itself:
            named = list(zip(queries.rows, *([also] if also else []), strict=True))
            wanted = {name for rows in named for row in rows for name in (str(row.id), row.sha)}
            places: dict[str, list[int]] = defaultdict(list)
            for number, row in enumerate(train.rows()):
                for name in {str(row.id), row.sha} & wanted:
                    places[name].append(number)
            own = [
                np.unique(
                    np.array(
                        [n for row in rows for name in (str(row.id), row.sha) for n in places.get(name, ())],
                        np.int64,
                    )
                )
                for rows in named
            ]
        if field is None:
            return cls(own, names=ids)
        names, codes = train.groups(field)
        code_of = {name: code for code, name in enumerate(names)}
        # A row without the field has no value to share.
        values = [-1 if value == NO_GROUP else code_of.get(value, -1) for value in queries.groups(field)]
        return cls(own, codes, np.array(values, np.int32), ids)


def attribute_without(
    queries: ArrayLike,
    corpus: Corpus | Array,
    left_out: LeftOut,
    *,
    k: int = 10,
    pooling_scale: float = 1.0,
    groups: Groups | None = None,
    progress: Progress | None = None,
    **how: Any,
) -> Attributions:
    """`attribute`, each query without the rows that it leaves out: they are in no list and in no influence.

    A query with fewer than k rows left has row -1 and score NaN in the other places. The influence of a
    group of which no row is left is 0.

    Queries that leave out the same value share a pass over the other rows. The rows that queries leave out as
    their own are few: they are not in that pass, and are added for each query that does not leave them out.

    Args:
        progress: told of the stage "attribute": in rows of one pass, or in queries of several.
        how: further options of `attribute`.

    Raises:
        InputError: see `attribute`; or a query that leaves out all rows.
    """
    corpus = as_corpus(corpus)
    vectors = check_queries(queries, corpus)
    if groups is not None:
        groups.check(len(corpus))
    values = np.full(len(vectors), -1) if left_out.values is None else left_out.values
    distinct = np.unique(values)
    report = begin(progress, "attribute", len(vectors)) if len(distinct) > 1 else None
    ends = np.empty((4, len(vectors), k))
    pooled = np.empty((2, len(vectors), 1 + (len(groups.names) if groups else 0)))
    compared = np.empty(len(vectors), np.int64)
    for value in distinct:
        chosen = np.flatnonzero(values == value)
        kept = np.ones(len(corpus), bool)
        if left_out.codes is not None and value >= 0:
            kept = left_out.codes != value
        own = [left_out.own[query] for query in chosen.tolist()]
        compared[chosen] = kept.sum() - np.array([kept[rows].sum() for rows in own])
        if not compared[chosen].all():
            query = int(chosen[np.argmin(compared[chosen])])
            name = repr(left_out.names[query]) if left_out.names else query
            raise InputError(f"query {name} leaves all {len(corpus)} rows out; leave out less")
        aside = np.unique(np.concatenate(own))
        aside = aside[kept[aside]]
        kept[aside] = False
        found = _Found.none(len(chosen), k, pooled.shape[2])
        if kept.any():
            numbers = np.flatnonzero(kept)
            restricted, codes = _restrict(groups, numbers)
            result = attribute(
                vectors[chosen],
                RowsOf(corpus, numbers),
                k=k,
                pooling_scale=pooling_scale,
                groups=restricted,
                progress=None if report else progress,
                **how,
            )
            found = _Found.of(result, numbers, codes, k, pooled.shape[2])
        if len(aside):
            found = found.merge(_apart(vectors[chosen], corpus, aside, own, k, pooling_scale, groups))
        ends[:, chosen] = found.ends
        pooled[:, chosen] = found.influence, found.weight
        if report:
            report(len(chosen))
    ends[1::2][np.isinf(ends[1::2])] = np.nan
    influence, weight = pooled
    return Attributions(
        influence[:, 0],
        ends[0].astype(np.int64),
        ends[1],
        ends[2].astype(np.int64),
        ends[3],
        groups.names if groups else (),
        influence[:, 1:] if groups else None,
        log_weight=weight[:, 0],
        compared=compared,
    )


@dataclass(frozen=True, eq=False)
class _Found:
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
    def none(cls, queries: int, k: int, sets: int) -> _Found:
        """Nothing."""
        ends = np.full((4, queries, k), -1.0)
        ends[1], ends[3] = -np.inf, np.inf
        return cls(ends, np.zeros((queries, sets)), np.full((queries, sets), -np.inf))

    @classmethod
    def of(
        cls, result: Attributions, numbers: NDArray[np.int64], codes: NDArray[np.int64], k: int, sets: int
    ) -> _Found:
        """An attribution to the rows `numbers`, whose groups are the groups `codes` of the whole."""
        found = cls.none(len(result), k, sets)
        length = result.proponent_rows.shape[1]
        found.ends[0, :, :length], found.ends[1, :, :length] = (
            numbers[result.proponent_rows],
            result.proponent_scores,
        )
        found.ends[2, :, :length], found.ends[3, :, :length] = (
            numbers[result.opponent_rows],
            result.opponent_scores,
        )
        found.influence[:, 0], found.weight[:, 0] = result.group_influence, result.log_weight
        if result.groups is not None:
            found.influence[:, 1 + codes], found.weight[:, 1 + codes] = result.groups, result.group_log_weight
        return found

    def merge(self, other: _Found) -> _Found:
        """Of the rows of both."""
        k = self.ends.shape[2]
        both = np.concatenate([self.ends, other.ends], axis=2)
        high = rank(both[1], both[0].astype(np.int64), k)
        low = rank(both[3], both[2].astype(np.int64), k, lowest=True)
        weight = np.logaddexp(self.weight, other.weight)
        # No weight at all: -inf - -inf.
        top = np.where(np.isneginf(weight), 0.0, weight)
        influence = self.influence * np.exp(self.weight - top) + other.influence * np.exp(other.weight - top)
        return _Found(np.stack([*high, *low]), influence, weight)


def _apart(
    vectors: NDArray[np.float64],
    corpus: Corpus,
    aside: NDArray[np.int64],
    own: Sequence[NDArray[np.int64]],
    k: int,
    beta: float,
    groups: Groups | None,
) -> _Found:
    """What the rows `aside` (m,) are to queries (q, D), to each without those of its own."""
    members = np.ones((1 + (len(groups.names) if groups else 0), len(aside)), bool)
    if groups is not None:
        for code in range(len(groups.names)):
            members[1 + code] = np.isin(aside, groups.rows[groups.codes == code])
    found = _Found.none(len(vectors), k, len(members))
    stored = np.asarray(corpus.take(aside), np.float64)
    together = max(1, _SCORES_AT_ONCE // len(aside))
    for query, rows in enumerate(own):
        if query % together == 0:
            block = vectors[query : query + together] @ stored.T
        left = ~np.isin(aside, rows)
        scores, numbers = block[query % together, left], aside[left]
        high, low = rank(scores, numbers, k), rank(scores, numbers, k, lowest=True)
        found.ends[:, query, : len(high[0])] = *high, *low
        for place, of_set in enumerate(members[:, left]):
            if of_set.any():
                found.influence[query, place] = attention_pool(scores[of_set], beta)
                found.weight[query, place] = np.logaddexp.reduce(beta * np.abs(scores[of_set]))
    return found


def _restrict(groups: Groups | None, numbers: NDArray[np.int64]) -> tuple[Groups | None, NDArray[np.int64]]:
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
