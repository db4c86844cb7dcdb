"""Which rows a verify run is about: read from attributions, a selection, or a list of ids."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from airrep_infer.errors import InputError
from airrep_infer.json_reader import parse_object
from airrep_infer.rows import (
    TABLE_SUFFIX,
    AttributionRow,
    Example,
    RowId,
    ScoredRow,
    groups_file,
    id_lines,
    is_row_id,
    read_rows,
    refuse_other_texts,
    shas_of,
)
from airrep_infer.score import list_strengths

DEFAULT_ROWS = 20
"""Rows taken from attributions where neither a number nor a share is asked for."""


def read_named_rows(
    path: Path,
    pool_size: int,
    *,
    k: int | None = None,
    share: float | None = None,
    examples: Iterable[Example] = (),
) -> list[str]:
    """The ids of rows, strongest first.

    Args:
        path: what `airrep-infer attribute` wrote (its proponents, see `merge_attributions`), rows with an
            `id` (what `airrep-infer select` wrote, or examples), both as JSONL or Parquet, or a text file
            with an id a line.
        pool_size: rows that `share` is a share of.
        k: the first k of them; default: 20 of attributions, all of a list.
        share: the first so many of `pool_size`.
        examples: the training rows, whose texts are compared with those that were attributed.

    Raises:
        InputError: unreadable, no rows, an id twice, fewer than `k`, both `k` and `share`, or a row whose
            text is not what was attributed.
    """
    if path.suffix == TABLE_SUFFIX:
        return _of_table(path, pool_size, k, share, examples)
    lines = id_lines(path, "attributions, rows with an id, or ids")
    is_json = bool(lines) and lines[0][1].startswith(b"{")
    objects = [(line, _object(path, line, raw)) for line, raw in lines] if is_json else []
    if objects and "query_id" in objects[0][1] and "id" not in objects[0][1]:
        attributions = [_attribution(path, line, value) for line, value in objects]
        return _proponents(path, attributions, count_of(k, share, pool_size), examples)
    ids = [_id(value, path, line) for line, value in objects] or [raw.decode() for _, raw in lines]
    return _first(ids, path, pool_size, k, share)


def _proponents(
    path: Path, attributions: Sequence[AttributionRow], count: int, examples: Iterable[Example]
) -> list[str]:
    """See `merge_attributions`; each has the text that was attributed, where the file says which."""
    names = merge_attributions(attributions, count, str(path))
    shas = shas_of(attributions)
    named = {name: shas[name] for name in names if name in shas}
    refuse_other_texts(examples, named, str(path), done="attributed")
    return names


def _of_table(
    path: Path, pool_size: int, k: int | None, share: float | None, examples: Iterable[Example]
) -> list[str]:
    """The same of Parquet: a row for each training row, in which `row_id` is the id of one without texts."""
    rows = [(row.line, row.value) for row in read_rows(str(path))]
    if not rows or not _has_queries(rows[0][1]):
        ids = [_id({"id": value.get("row_id", value.get("id"))}, path, line) for line, value in rows]
        return _first(ids, path, pool_size, k, share)
    _check_columns(path, rows[0][1])
    proponents: dict[RowId, list[ScoredRow]] = defaultdict(list)
    for line, value in rows:
        try:
            _check_hit(value)
        except ValueError as error:
            raise InputError(f"{path}:{line}: {error}; attribute again") from error
        if value["side"] == "proponent":
            proponents[value["query_id"]].append(
                ScoredRow(
                    value["row_id"], value["score"], strength=value.get("strength"), sha=value.get("sha")
                )
            )
    # The influence of the store is in the table beside this one, and does not matter here.
    attributions = [AttributionRow(query, math.nan, tuple(hits), ()) for query, hits in proponents.items()]
    return _proponents(path, attributions, count_of(k, share, pool_size), examples)


def _has_queries(columns: Collection[str]) -> bool:
    """Whether `attribute` wrote a table, of rows or of groups; a pool may have a `query_id` of its own."""
    names_row = not {"id", "row_id"}.isdisjoint(columns)
    return "query_id" in columns and "id" not in columns and ("side" in columns or not names_row)


def _check_columns(path: Path, columns: Collection[str]) -> None:
    """Refuse a table with queries that is not the one of attributed rows.

    Raises:
        InputError: it is not; where it is the second table of `attribute`, the message names the first.
    """
    missing = [name for name in ("side", "row_id", "score") if name not in columns]
    if not missing:
        return
    if "group" in columns:
        first = path.with_name(path.name.removesuffix(f".groups{TABLE_SUFFIX}") + TABLE_SUFFIX)
        other = first if groups_file(first) == path else "the other table that `attribute` wrote"
        raise InputError(f"{path}: the influence of groups, which names no rows; give {other}")
    raise InputError(
        f"{path}: no column {missing[0]!r}; expected a table of `airrep-infer attribute` or `select`, or "
        "rows with an id"
    )


def _check_hit(value: Mapping[str, Any]) -> None:
    """Refuse a row of a table with a value that `attribute` does not write; a `ValueError` says which."""
    for name in ("query_id", "row_id"):
        if not is_row_id(value[name]) or value[name] == "":
            raise ValueError(f"{name} is {value[name]!r}, expected an id")
    if value["side"] not in ("proponent", "opponent"):
        raise ValueError(f"side is {value['side']!r}, expected proponent or opponent")
    if not isinstance(value.get("sha", ""), str | None):  # earlier versions wrote none
        raise ValueError(f"sha is {value['sha']!r}, expected a string")
    for name in ("score", "strength"):
        number = value.get(name)
        if number is None and name == "strength":  # of queries that were not pooled
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{name} is {number!r}, expected a finite number")


def _first(ids: list[str], path: Path, pool_size: int, k: int | None, share: float | None) -> list[str]:
    """As many ids as are asked for, each of which may be there once."""
    if not ids:
        raise InputError(f"{path}: no rows in it")
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise InputError(f"{path}: id {name!r} is there twice; keep one of them")
        seen.add(name)
    count = len(ids) if k is None and share is None else count_of(k, share, pool_size)
    if count > len(ids):
        raise InputError(f"{path}: {count} rows were asked for, and it has {len(ids)}; ask for fewer")
    return ids[:count]


def count_of(k: int | None, share: float | None, pool_size: int) -> int:
    """How many rows are asked for: `k`, or a share of `pool_size` (at least one), or 20.

    Raises:
        InputError: both are given.
    """
    if k is not None and share is not None:
        raise InputError("a number of rows and a share of them exclude each other; give one")
    if share is not None:
        return max(1, round(share * pool_size))
    return DEFAULT_ROWS if k is None else k


def merge_attributions(rows: Iterable[AttributionRow], count: int, source: str) -> list[str]:
    """The rows that several queries have as proponents, merged into one list.

    A row's place is decided by the sum over the queries of its strength, see `list_strengths`, the rule that
    `attribute --pool-queries` ranks by too; attributions of pooled queries have the strengths already.

    Args:
        rows: of the queries.
        count: rows to return.
        source: where they come from, for messages.

    Raises:
        InputError: fewer than `count` rows have a positive score.
    """
    total: dict[str, float] = defaultdict(float)
    for row in rows:
        strengths = list_strengths([hit.score for hit in row.proponents])
        for hit, strength in zip(row.proponents, strengths.tolist(), strict=True):
            worth = strength if hit.strength is None else hit.strength
            if hit.score > 0 or worth > 0:
                total[str(hit.id)] += worth
    if len(total) < count:
        raise InputError(
            f"{source}: {count} rows were asked for, and {len(total)} have a positive score for a "
            "query; ask for "
            "fewer, or attribute with a larger -k"
        )
    return sorted(total, key=lambda name: (-total[name], name))[:count]


def _id(value: dict[str, Any], path: Path, line: int) -> str:
    name = value.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise InputError(f"{path}:{line}: no id; expected attributions, rows with an id, or one id a line")
    return str(name)


def _attribution(path: Path, line: int, value: dict[str, Any]) -> AttributionRow:
    try:
        return AttributionRow.from_json(value)
    except ValueError as error:
        raise InputError(f"{path}:{line}: {error}") from error


def _object(path: Path, line: int, raw: bytes) -> dict[str, Any]:
    try:
        return parse_object(raw)
    except ValueError as error:
        raise InputError(f"{path}:{line}: {error}") from error
