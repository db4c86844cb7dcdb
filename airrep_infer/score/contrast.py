"""Attribution of the difference between two answers: q+ - q- as one query."""

from __future__ import annotations

from dataclasses import dataclass, replace

from airrep_infer.encode import check_same_space
from airrep_infer.errors import InputError
from airrep_infer.store import EmbeddedRows, StoreRow, check_same_map


@dataclass(frozen=True, eq=False)
class Contrast:
    """Queries whose vectors are differences, and for each the row that it was contrasted with."""

    queries: EmbeddedRows
    against: tuple[StoreRow, ...]


def contrast_queries(queries: EmbeddedRows, against: EmbeddedRows) -> Contrast:
    """Each query's vector (D,) minus that of its counterpart.

    A score is linear in the query, so the score of a row for the difference is s(q+) - s(q-): how much more
    the row speaks for one answer than for the other. The influence of a group pools these differences.

    Counterparts have the same id, if all ids of one side are those of the other; else the n-th of one side
    belongs to the n-th of the other.

    Raises:
        InputError: the two are of different models; neither rule pairs all rows of both.
    """
    check_same_space(queries.space, against.space, queries.source, against.source)
    check_same_map(queries.query_map, against.query_map, queries.source, against.source)
    place = {str(row.id): number for number, row in enumerate(against.rows)}
    shared = [row.id for row in queries.rows if str(row.id) in place]
    if len(queries) != len(against):
        raise InputError(
            f"{queries.source} has {len(queries)} rows and {against.source} has {len(against)}; a contrast "
            "needs a counterpart for each"
        )
    order = list(range(len(queries)))
    if len(shared) == len(queries):
        order = [place[str(row.id)] for row in queries.rows]
    elif shared:
        alone = next(row.id for row in queries.rows if str(row.id) not in place)
        raise InputError(
            f"{against.source}: has no row with id {alone!r}, but has {shared[0]!r}; give all "
            "counterparts the ids of their queries, or none"
        )
    difference = replace(queries, vectors=queries.vectors - against.vectors[order], contrasted=True)
    return Contrast(difference, tuple(against.rows[number] for number in order))
