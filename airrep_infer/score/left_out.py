"""Attribution in which each query leaves some rows out: itself, or all that share a field's value with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import NO_GROUP, RowId
from airrep_infer.score.apart import Ends, restrict_groups, score_apart
from airrep_infer.score.attribution import Attributions, attribute
from airrep_infer.score.groups import Groups
from airrep_infer.score.plan import Array, Corpus, as_corpus, check_queries
from airrep_infer.score.rows_of import RowsOf
from airrep_infer.store import EmbeddedRows, EmbeddingStore, StoreRow

# Of one batch of queries: rows that are scored apart from the pass, in float64, and those times the queries.
_ROWS_APART = 1 << 16
_SCORES_APART = 1 << 24


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Which rows of a corpus of N rows each of Q queries leaves out.

    Attributes:
        by_query: for each query, the (m,) rows that it leaves out.
        codes: (N,) the value of each row; None leaves no value out.
        values: (Q,) the value whose rows each query leaves out, -1 for none.
        names: (Q) the ids of the queries, for messages.
    """

    by_query: Sequence[NDArray[np.int64]]
    codes: NDArray[np.int32] | None = None
    values: NDArray[np.int32] | None = None
    names: Sequence[RowId] = ()

    def batches(self, values: NDArray[np.int32]) -> Iterator[NDArray[np.int64]]:
        """The numbers of queries that one pass over the corpus is made for, few enough to score rows apart.

        What all queries of a batch leave out is not in its pass. Other rows that one of them leaves out are
        scored apart.
        """
        sizes = (
            np.zeros(1, np.int64)
            if self.codes is None
            else np.bincount(self.codes, minlength=values.max() + 1)
        )
        batch: list[int] = []
        apart, of_values = 0, 0
        for query in np.argsort(values, kind="stable").tolist():
            new_value = not batch or values[query] != values[batch[-1]]
            more = len(self.by_query[query])
            more_of_values = int(sizes[values[query]]) if new_value and values[query] >= 0 else 0
            mixed = batch and values[query] != values[batch[0]]
            rows = apart + more + (of_values + more_of_values if mixed else 0)
            if batch and (rows > _ROWS_APART or rows * (len(batch) + 1) > _SCORES_APART):
                yield np.array(batch)
                batch, apart, of_values = [], 0, 0
                more_of_values = int(sizes[values[query]]) if values[query] >= 0 else 0
            batch.append(query)
            apart, of_values = apart + more, of_values + more_of_values
        yield np.array(batch)

    def of_batch(
        self, batch: NDArray[np.int64], values: NDArray[np.int32], corpus_rows: int
    ) -> tuple[NDArray[np.bool_], list[NDArray[np.int64]]]:
        """Which rows (N,) not all queries of a batch leave out, and for each query those of them it does."""
        kept = np.ones(corpus_rows, bool)
        without = [self.by_query[query] for query in batch.tolist()]
        if self.codes is not None and (values[batch] == values[batch[0]]).all():
            kept = self.codes != values[batch[0]]
        elif self.codes is not None:
            of_values = [self._rows_of_value(value) for value in values[batch].tolist()]
            without = [np.union1d(*both) for both in zip(without, of_values, strict=True)]
        return kept, [rows[kept[rows]] for rows in without]

    def mask(self, first: int, count: int) -> NDArray[np.bool_]:
        """Which of the rows from `first` on each query leaves out, (Q, count)."""
        masked = np.zeros((len(self.by_query), count), bool)
        if self.codes is not None and self.values is not None:
            masked |= self.codes[first : first + count] == self.values[:, None]
        for query, rows in enumerate(self.by_query):
            begin, end = np.searchsorted(rows, [first, first + count])
            masked[query, rows[begin:end] - first] = True
        return masked

    @cached_property
    def _by_value(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The row numbers sorted by value, and the sorted values."""
        assert self.codes is not None
        order = np.argsort(self.codes, kind="stable")
        return order, self.codes[order]

    def _rows_of_value(self, value: int) -> NDArray[np.int64]:
        order, sorted_codes = self._by_value
        first, last = np.searchsorted(sorted_codes, [value, value + 1])
        return order[first:last]

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
        by_query: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(queries)
        if itself:
            named = list(zip(queries.rows, *([also] if also else []), strict=True))
            wanted = {name for rows in named for row in rows for name in row.names}
            places: dict[str, list[int]] = defaultdict(list)
            for number, row in enumerate(train.rows()):
                for name in wanted.intersection(row.names):
                    places[name].append(number)
            by_query = [
                np.unique(
                    np.array(
                        [n for row in rows for name in row.names for n in places.get(name, ())],
                        np.int64,
                    )
                )
                for rows in named
            ]
        if field is None:
            return cls(by_query, names=ids)
        names, codes = train.groups(field)
        code_of = {name: code for code, name in enumerate(names)}
        # A row without the field has no value to share.
        values = [-1 if value == NO_GROUP else code_of.get(value, -1) for value in queries.groups(field)]
        return cls(by_query, codes, np.array(values, np.int32), ids)


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

    Queries share passes over the rows that none of them leaves out. The rows that some of them leave out are
    scored apart, and added to each query that does not leave them out.

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
    values = np.full(len(vectors), -1, np.int32) if left_out.values is None else left_out.values
    batches = list(left_out.batches(values))
    report = begin(progress, "attribute", len(vectors)) if len(batches) > 1 else None
    ends = np.empty((4, len(vectors), k))
    pooled = np.empty((2, len(vectors), 1 + (len(groups.names) if groups else 0)))
    compared = np.empty(len(vectors), np.int64)
    group_rows = np.empty((len(vectors), len(groups.names) if groups else 0), np.int64)
    for batch in batches:
        kept, without = left_out.of_batch(batch, values, len(corpus))
        compared[batch] = kept.sum() - np.array([len(rows) for rows in without])
        if not compared[batch].all():
            query = int(batch[np.argmin(compared[batch])])
            name = repr(left_out.names[query]) if left_out.names else query
            raise InputError(f"query {name} leaves all {len(corpus)} rows out; leave out less")
        if groups:
            shared_rows = groups.sizes_among(np.flatnonzero(kept))
            group_rows[batch] = [shared_rows - groups.sizes_among(rows) for rows in without]
        aside = np.unique(np.concatenate(without))
        kept[aside] = False
        result = Ends.none(len(batch), k, pooled.shape[2])
        if kept.any():
            numbers = np.flatnonzero(kept)
            restricted, codes = restrict_groups(groups, numbers)
            shared = attribute(
                vectors[batch],
                RowsOf(corpus, numbers),
                k=k,
                pooling_scale=pooling_scale,
                groups=restricted,
                progress=None if report else progress,
                **how,
            )
            result = Ends.of(shared, numbers, codes, k, pooled.shape[2])
        if len(aside):
            result = result.merge(
                score_apart(vectors[batch], corpus, aside, without, k, pooling_scale, groups)
            )
        ends[:, batch] = result.ends
        pooled[:, batch] = result.influence, result.weight
        if report:
            report(len(batch))
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
        group_log_weight=weight[:, 1:] if groups else None,
        group_rows=group_rows if groups else None,
        compared=compared,
    )
