"""Attributions and selections as Parquet, for who asks them with SQL or data frames (needs pyarrow).

One row for each training row that is named, with its metadata as columns. The influence of the whole store
and of groups stands in a second table, `<name>.groups.parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write
from airrep_infer.rows.example import RowId
from airrep_infer.rows.output import AttributionRow, SelectedRow, nats_columns
from airrep_infer.rows.readers import import_pyarrow
from airrep_infer.rows.suffixes import check_suffix
from airrep_infer.rows.values import group_text

_NUMBERS = (
    *("score", "percentile", "strength", "share", "attention", "influence", "influence_error"),
    *("predicted_nats", "nats_low", "nats_high"),
)
TABLE_SUFFIX = ".parquet"


class FieldsOf(Protocol):
    """Looks up the metadata of training rows."""

    def __call__(self, ids: Collection[RowId]) -> Mapping[RowId, Mapping[str, Any]]:
        """id -> fields, of the rows with these ids."""
        ...


def check_rows_file(output: str | Path) -> None:
    """Refuse a name that says another format than JSONL, or than Parquet where the suffix asks for that.

    Raises:
        InputError: it does.
    """
    written = "Parquet" if str(output).endswith(TABLE_SUFFIX) else "JSONL"
    check_suffix(output, written, ".jsonl", TABLE_SUFFIX)


def groups_file(output: Path) -> Path:
    """The second table of attributions."""
    return output.with_name(f"{output.name.removesuffix(TABLE_SUFFIX)}.groups{TABLE_SUFFIX}")


def write_attribution_tables(rows: Sequence[AttributionRow], output: Path, fields_of: FieldsOf) -> None:
    """Write attributions as two Parquet files, each whole or not at all.

    `output` has the columns `query_id`, `side` ("proponent" or "opponent"), `rank` (from 1), `row_id`,
    `score`, what else an output row says of the row (evidence as JSON), and the fields of the rows.
    `groups_file` has `query_id`, `group` (null is the whole store), `influence` and `influence_error` (null
    where it is exact), and the predicted nats of a group where they are known. A field that has the name of a
    column is called `field.NAME`.

    Raises:
        InputError: pyarrow is not installed.
        StorageError: a file cannot be written.
    """
    named: list[dict[str, Any]] = [
        {
            "query_id": row.query_id,
            "side": side,
            "rank": rank,
            "row_id": scored.id,
            "score": scored.score,
            **scored.numbers(),
            **({} if scored.sha is None else {"sha": scored.sha}),
            **({} if scored.evidence is None else {"evidence": json.dumps(scored.evidence.to_json())}),
        }
        for row in rows
        for side, ends in (("proponent", row.proponents), ("opponent", row.opponents))
        for rank, scored in enumerate(ends, 1)
    ]
    influences: list[dict[str, Any]] = []
    for row in rows:
        influences.append(
            {
                "query_id": row.query_id,
                "group": None,
                "influence": row.group_influence,
                "influence_error": row.group_influence_error,
            }
        )
        influences += (
            {
                "query_id": row.query_id,
                "group": name,
                "influence": influence,
                "influence_error": None,
                **nats_columns((row.group_nats or {}).get(name)),
            }
            for name, influence in (row.groups or {}).items()
        )
    _write(named, output, fields_of({row["row_id"] for row in named}))
    _write(influences, groups_file(output), {})


def write_selection_table(rows: Sequence[SelectedRow], output: Path, fields_of: FieldsOf) -> None:
    """Write a selection as Parquet, `rank`, `row_id`, `score`, `reason` and the fields of the rows."""
    named: list[dict[str, Any]] = [
        {"rank": row.rank, "row_id": row.id, "score": row.score, "reason": row.reason} for row in rows
    ]
    _write(named, output, fields_of({row["row_id"] for row in named}))


def write_examples_table(rows: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Write rows in full as Parquet: a column for every key, null where a row lacks it.

    Raises:
        InputError: pyarrow is not installed, or a key holds values of types that no column holds together.
        StorageError: the file cannot be written.
    """
    pa, parquet = import_parquet(output)
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(
                f"{output}: the values of {name!r} do not fit into one column of a table; write .jsonl"
            ) from error
    with atomic_write(output) as stream:
        parquet.write_table(pa.table(columns), stream)


def _write(
    rows: Sequence[Mapping[str, Any]], output: Path, fields: Mapping[RowId, Mapping[str, Any]]
) -> None:
    pa, parquet = import_parquet(output)
    numbers = {"rank": pa.int64(), **dict.fromkeys(_NUMBERS, pa.float64())}
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column(pa, [row.get(name) for row in rows], numbers.get(name)) for name in names}
    for name in dict.fromkeys(name for values in fields.values() for name in values):
        values = [fields.get(row["row_id"], {}).get(name) for row in rows]
        columns[f"field.{name}" if name in columns else name] = _array(pa, values)
    with atomic_write(output) as stream:
        parquet.write_table(pa.table(columns), stream)


def import_parquet(output: Path) -> tuple[Any, Any]:
    """The package pyarrow and its module for Parquet.

    Raises:
        InputError: it is not installed.
    """
    pa = import_pyarrow(output, "writing Parquet")
    from pyarrow import parquet

    return pa, parquet


def _column(pa: Any, values: list[Any], number: Any) -> Any:
    if number is not None:
        return pa.array(values, number)
    # Ids are integers where all of them are.
    return _array(pa, values) if any(value is not None for value in values) else pa.array(values, pa.string())


def _array(pa: Any, values: list[Any]) -> Any:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):  # numbers and texts, or integers beyond 64 bits
        return pa.array([None if value is None else group_text(value) for value in values])
