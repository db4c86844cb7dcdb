"""Attributions and selections as output rows: by the ids of the rows instead of their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from airrep_infer.encode import check_same_space
from airrep_infer.progress import Progress
from airrep_infer.rows import AttributionRow, PredictedNats, RowId, ScoredRow, SelectedRow
from airrep_infer.score.attribution import Attributions, Influence, attribute
from airrep_infer.score.groups import Groups
from airrep_infer.score.left_out import LeftOut, attribute_without
from airrep_infer.score.nats import Predictions, calibration_for
from airrep_infer.score.plan import Scan, ScoreDtype
from airrep_infer.score.scan import scan
from airrep_infer.score.selection import Strategy, select
from airrep_infer.score.selection_limits import Limits
from airrep_infer.store import EmbeddedRows, EmbeddingStore


def attribution_rows(
    train: EmbeddingStore,
    queries: EmbeddedRows,
    *,
    k: int,
    groups: Groups | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    scan_with: Scan = scan,
    dtype: ScoreDtype | None = None,
    left_out: LeftOut | None = None,
) -> Iterator[AttributionRow]:
    """Attribute every query to the training store; one output row each, see `attribute`.

    Args:
        left_out: rows that each query leaves out, see `attribute_without`.

    Raises:
        InputError: the two are of different models, or the groups do not fit.
    """
    check_same_space(train.space, queries.space, str(train.path), queries.source)
    attribute_all = attribute if left_out is None else partial(attribute_without, left_out=left_out)
    result = attribute_all(
        queries.vectors,
        train,
        k=k,
        pooling_scale=train.pooling_scale,
        groups=groups,
        threads=threads,
        progress=progress,
        scan_with=scan_with,
        dtype=dtype,
    )
    return output_rows(train, queries, result)


def output_rows(
    train: EmbeddingStore, queries: EmbeddedRows, result: Attributions
) -> Iterator[AttributionRow]:
    """The output row of every query, with the ids of the training rows.

    Where it is known what influence meant in nats, rows and groups say what is expected of them, see
    `calibration_for`.
    """
    names = names_of(train, result.proponent_rows, result.opponent_rows)
    nats, calibration = None, calibration_for(train, queries)
    if calibration is not None:
        nats = Predictions.of(calibration, result, len(train), train.pooling_scale)
    for number, (query, attribution) in enumerate(zip(queries.rows, result, strict=True)):
        errors = result.group_influence_error
        rows: int | None = len(train) if result.compared is None else int(result.compared[number])
        if errors is not None:  # a search may have missed rows that rank between those it found
            rows = None
        yield AttributionRow(
            query_id=query.id,
            group_influence=attribution.group_influence,
            proponents=_scored_rows(
                attribution.proponents,
                names,
                rows,
                nats.of_proponents(number) if nats else None,
                lowest=False,
            ),
            opponents=_scored_rows(
                attribution.opponents, names, rows, nats.of_opponents(number) if nats else None, lowest=True
            ),
            groups=attribution.groups,
            group_influence_error=None if errors is None else float(errors[number]),
            group_nats=nats.of_groups([number], result.group_names) if nats else None,
        )


def _scored_rows(
    influences: tuple[Influence, ...],
    names: Mapping[int, RowName],
    rows: int | None,
    nats: Sequence[PredictedNats] | None,
    *,
    lowest: bool,
) -> tuple[ScoredRow, ...]:
    """The rows of one end; `rows` is how many the query was compared with, None if ranks are not known."""
    return tuple(
        ScoredRow(
            names[influence.row].id,
            influence.score,
            percentile=None if rows is None else percentile(rank, rows, lowest),
            predicted_nats=None if nats is None else nats[rank],
            sha=names[influence.row].sha,
        )
        for rank, influence in enumerate(influences)
    )


def selection_rows(
    train: EmbeddingStore,
    queries: EmbeddedRows,
    n: int | None,
    *,
    strategy: Strategy = "cover",
    limits: Limits | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[SelectedRow]:
    """Select training rows for a query set, best first, see `select`.

    Raises:
        InputError: the two are of different models, or there are fewer rows than are asked for.
    """
    check_same_space(train.space, queries.space, str(train.path), queries.source)
    chosen = select(
        queries.vectors,
        train,
        n,
        strategy=strategy,
        limits=limits,
        pooling_scale=train.pooling_scale,
        threads=threads,
        progress=progress,
    )
    ids = train.ids(chosen.rows)
    chosen_for = (queries.rows[query].id for query in chosen.served.tolist())
    return [
        SelectedRow(rank, name, score, reason)
        for rank, (name, score, reason) in enumerate(
            zip(ids, chosen.scores.tolist(), chosen_for, strict=True), 1
        )
    ]


def percentile(rank: int, rows: int, lowest: bool) -> float:
    """Percent of the other rows below the row at a rank, from 0, from the top or (`lowest`) the bottom."""
    if rows == 1:
        return 100.0
    return round(100 * (rank if lowest else rows - 1 - rank) / (rows - 1), 4)


@dataclass(frozen=True, slots=True)
class RowName:
    """What an output row says of which training row it means."""

    id: RowId
    sha: str | None


def names_of(store: EmbeddingStore, *rows: NDArray[np.int64]) -> dict[int, RowName]:
    """The names of all rows that are mentioned, by row number; each is looked up once.

    They have no sha where hashes of the store may be those of version 1, which are not of the whole text.
    """
    distinct = np.unique(np.concatenate([numbers[numbers >= 0] for numbers in rows]))
    known = store.ids_and_shas(distinct)
    return {
        number: RowName(name, None if store.former_hashes else sha)
        for number, (name, sha) in zip(distinct.tolist(), known, strict=True)
    }
