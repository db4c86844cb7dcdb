"""Suspects of many queries at once: the rows that are strong for all of them together, or for each group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.bundle import Calibration
from airrep_infer.encode import check_same_space
from airrep_infer.rows import AttributionRow, PredictedNats, RowId, ScoredRow
from airrep_infer.score.attribution import Attributions, attribute
from airrep_infer.score.by_id import ids_of, percentile
from airrep_infer.score.nats import Predictions, predict, shifts_of_rows
from airrep_infer.store import EmbeddedRows, EmbeddingStore

ALL_QUERIES = "all queries"


def pooled_rows(
    train: EmbeddingStore,
    queries: EmbeddedRows,
    *,
    field: str | None = None,
    **how: Any,
) -> Iterator[AttributionRow]:
    """One output row for all queries, or for each value of a field of theirs.

    Rows are ranked by their mean score over the queries. Beside it each has `share`, the share of the queries
    that have it among their own k at the same end, and `attention`, the mean over the queries of
    softmax_i(beta |s_i|). The influences, of the whole store and of groups, are means over the queries, and
    so are `predicted_nats`, where the store knows what influence meant.

    Args:
        field: whose values group the queries; such a row's `query_id` is `FIELD=VALUE`, that of all is
            "all queries".
        how: further options of `attribute`.

    Raises:
        InputError: the two are of different models, or no query has the field.
    """
    check_same_space(train.space, queries.space, str(train.path), queries.source)
    members = _members(queries, field)
    means = [queries.vectors[numbers].mean(axis=0, dtype=np.float64) for numbers in members.values()]
    both = np.vstack([queries.vectors, means])
    # A score is linear in the query, so the mean of the queries has the mean of their scores.
    result = attribute(both, train, pooling_scale=train.pooling_scale, **how)
    ids = ids_of(train, result.proponent_rows[len(queries) :], result.opponent_rows[len(queries) :])
    calibration = None if queries.contrasted else train.calibration
    nats = None
    if calibration is not None:
        nats = Predictions.of(calibration, result, len(train), train.pooling_scale)
    for place, (name, numbers) in enumerate(members.items(), len(queries)):
        of_queries = _Described(train, ids, queries.vectors[numbers], result, numbers, calibration)
        groups = None
        if result.groups is not None:
            groups = dict(zip(result.group_names, result.groups[numbers].mean(axis=0).tolist(), strict=True))
        yield AttributionRow(
            query_id=name,
            group_influence=float(result.group_influence[numbers].mean()),
            proponents=of_queries.hits(result.proponent_rows, result.proponent_scores, place),
            opponents=of_queries.hits(result.opponent_rows, result.opponent_scores, place, lowest=True),
            groups=groups,
            group_nats=nats.of_groups(numbers, result.group_names) if nats else None,
        )


@dataclass(frozen=True, eq=False)
class _Described:
    """What rows are to some queries, by their (q,) numbers and (q, D) vectors."""

    train: EmbeddingStore
    ids: dict[int, RowId]
    vectors: NDArray[np.float32]
    result: Attributions
    numbers: NDArray[np.int64]
    calibration: Calibration | None

    def hits(
        self, rows: NDArray[np.int64], means: NDArray[np.float64], place: int, *, lowest: bool = False
    ) -> tuple[ScoredRow, ...]:
        """The rows (Q + G, k) at one end of the mean query `place`."""
        assert self.result.log_weight is not None
        listed = rows[place]
        scores = self.vectors.astype(np.float64) @ self.train.take(listed).astype(np.float64).T
        log_weight = self.result.log_weight[self.numbers]
        attention = np.exp(self.train.pooling_scale * np.abs(scores) - log_weight[:, None]).mean(axis=0)
        share = [(rows[self.numbers] == row).any(axis=1).mean() for row in listed]
        nats = self._nats(scores)
        return tuple(
            ScoredRow(
                self.ids[int(row)],
                float(means[place, rank]),
                percentile=percentile(rank, len(self.train), lowest),
                share=float(share[rank]),
                attention=float(attention[rank]),
                predicted_nats=None if nats is None else nats[rank],
            )
            for rank, row in enumerate(listed)
        )

    def _nats(self, scores: NDArray[np.float64]) -> list[PredictedNats] | None:
        """The mean over the queries of the nats that rows with scores (q, m) are expected to bring."""
        calibration, result, numbers = self.calibration, self.result, self.numbers
        if calibration is None:
            return None
        assert result.log_weight is not None
        shifts = shifts_of_rows(
            scores,
            result.group_influence[numbers],
            result.log_weight[numbers],
            len(self.train),
            self.train.pooling_scale,
            calibration.subset_rows,
        )
        return [predict(calibration, shift) for shift in shifts.mean(axis=0).tolist()]


def _members(queries: EmbeddedRows, field: str | None) -> dict[str, NDArray[np.int64]]:
    """The numbers of the queries of each group, by its name."""
    if field is None:
        return {ALL_QUERIES: np.arange(len(queries))}
    members: dict[str, list[int]] = defaultdict(list)
    for number, value in enumerate(queries.groups(field)):
        members[f"{field}={value}"].append(number)
    return {name: np.array(members[name]) for name in sorted(members)}
