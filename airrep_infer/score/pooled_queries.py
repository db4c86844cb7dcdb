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
from airrep_infer.rows import AttributionRow, PredictedNats, ScoredRow
from airrep_infer.score.attribution import Attributions, attribute
from airrep_infer.score.by_id import RowName, names_of, percentile
from airrep_infer.score.nats import Predictions, calibration_for, predict, shifts_of_rows
from airrep_infer.score.strength import list_strengths
from airrep_infer.store import EmbeddedRows, EmbeddingStore

ALL_QUERIES = "all queries"
_BLOCK = 8192


def pooled_rows(
    train: EmbeddingStore,
    queries: EmbeddedRows,
    *,
    field: str | None = None,
    **how: Any,
) -> Iterator[AttributionRow]:
    """One output row for all queries, or for each value of a field of theirs.

    Rows are ranked by `strength`, the mean over the queries of `list_strengths` of their own lists of k (of
    opponents with the opposite sign), then by their mean score, which is their `score`. Each has `share`, the
    share of the queries that have it among their own k at the same end, and `attention`, the mean over the
    queries of softmax_i(beta |s_i|). The influences, of the whole store and of groups, are means over the
    queries, and so are `predicted_nats`, where the store knows what influence meant.

    Args:
        field: whose values group the queries; such a row's `query_id` is `FIELD=VALUE`, that of all is
            "all queries".
        how: further options of `attribute`.

    Raises:
        InputError: the two are of different models, or no query has the field.
    """
    check_same_space(train.space, queries.space, str(train.path), queries.source)
    members = _members(queries, field)
    result = attribute(queries.vectors, train, pooling_scale=train.pooling_scale, **how)
    calibration = calibration_for(train, queries)
    nats = None
    if calibration is not None:
        nats = Predictions.of(calibration, result, len(train), train.pooling_scale)
    described = [
        _Described(train, queries.vectors[numbers], result, numbers, calibration)
        for numbers in members.values()
    ]
    high = [group.ranked(result.proponent_rows, result.proponent_scores) for group in described]
    low = [group.ranked(result.opponent_rows, -result.opponent_scores, -1) for group in described]
    names = names_of(train, *(ranked.rows for ranked in (*high, *low)))
    for name, group, proponents, opponents in zip(members, described, high, low, strict=True):
        groups = None
        if result.groups is not None:
            means = result.groups[group.numbers].mean(axis=0).tolist()
            groups = dict(zip(result.group_names, means, strict=True))
        yield AttributionRow(
            query_id=name,
            group_influence=float(result.group_influence[group.numbers].mean()),
            proponents=group.hits(proponents, result.proponent_rows, names),
            opponents=group.hits(opponents, result.opponent_rows, names, lowest=True),
            groups=groups,
            group_nats=nats.of_groups(group.numbers, result.group_names) if nats else None,
        )


@dataclass(frozen=True, eq=False)
class _Ranked:
    """The numbers of the strongest rows of some queries at one end, (m,), best first, and their strengths."""

    rows: NDArray[np.int64]
    strengths: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Described:
    """What rows are to some queries, by their (q,) numbers and (q, D) vectors."""

    train: EmbeddingStore
    vectors: NDArray[np.float32]
    result: Attributions
    numbers: NDArray[np.int64]
    calibration: Calibration | None

    def ranked(self, rows: NDArray[np.int64], scores: NDArray[np.float64], sign: int = 1) -> _Ranked:
        """The rows (Q, k) that the queries list, as one list of k.

        Args:
            scores: (Q, k), turned around with `sign` -1, so that high ones are strong.
        """
        listed, places = np.unique(rows[self.numbers], return_inverse=True)
        strengths = np.concatenate([list_strengths(scores[number]) for number in self.numbers.tolist()])
        total = np.bincount(places.reshape(-1), strengths, len(listed)) / len(self.numbers)
        # A score is linear in the query, so the mean of the queries has the mean of their scores.
        mean = self.vectors.mean(axis=0, dtype=np.float64)
        blocks = [listed[first : first + _BLOCK] for first in range(0, len(listed), _BLOCK)]
        means = np.concatenate([self.train.take(block).astype(np.float64) @ mean for block in blocks])
        order = np.lexsort((listed, -sign * means, -total))[: rows.shape[1]]
        return _Ranked(listed[order], total[order])

    def hits(
        self, ranked: _Ranked, rows: NDArray[np.int64], names: dict[int, RowName], *, lowest: bool = False
    ) -> tuple[ScoredRow, ...]:
        """The ranked rows of one end, at which the queries list the rows (Q, k)."""
        assert self.result.log_weight is not None
        scores = self.vectors.astype(np.float64) @ self.train.take(ranked.rows).astype(np.float64).T
        log_weight = self.result.log_weight[self.numbers]
        attention = np.exp(self.train.pooling_scale * np.abs(scores) - log_weight[:, None]).mean(axis=0)
        means = scores.mean(axis=0)
        lists = rows[self.numbers]
        nats = self._nats(scores)
        return tuple(
            ScoredRow(
                names[int(row)].id,
                float(means[rank]),
                percentile=percentile(rank, len(self.train), lowest),
                strength=float(ranked.strengths[rank]),
                share=float((lists == row).any(axis=1).mean()),
                attention=float(attention[rank]),
                predicted_nats=None if nats is None else nats[rank],
                sha=names[int(row)].sha,
            )
            for rank, row in enumerate(ranked.rows)
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
