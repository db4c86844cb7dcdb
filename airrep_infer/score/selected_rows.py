"""A selection as rows that can be trained on, and the record of what was asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airrep_infer.errors import InputError
from airrep_infer.files import sha256_file, write_json
from airrep_infer.rows import (
    AS_WRITTEN,
    TABLE_SUFFIX,
    ExcludedRow,
    FieldsOf,
    OutputRow,
    Reading,
    SelectedRow,
    embedded_examples,
    write_examples_table,
    write_rows,
    write_selection_table,
)
from airrep_infer.score.selection_plan import SelectionPlan, count_values
from airrep_infer.store import EmbeddedRows, EmbeddingStore

_ADDED = ("rank", "score", "reason")


@dataclass(frozen=True, slots=True)
class SelectedExample:
    """A selected row as its file has it, and why it was selected."""

    row: Mapping[str, Any]
    selected: SelectedRow

    def to_json(self) -> dict[str, Any]:
        """The row's own keys, its id where it has none, then rank, score and reason."""
        value = dict(self.row)
        if value.get("id") is None:
            value["id"] = self.selected.id
        added = self.selected.to_json()
        return value | {key: added[key] for key in _ADDED}


def selected_examples(
    selected: Sequence[SelectedRow],
    store: EmbeddingStore,
    examples: Sequence[str | Path],
    reading: Reading = AS_WRITTEN,
) -> list[SelectedExample]:
    """Selected rows of a store as the files of examples have them, in rank order.

    Raises:
        InputError: a file is no examples, they lack a row, a row has another text than was embedded, or
            it has a key that is to be added.
    """
    by_id = {str(row.id): row for row in selected}
    shas = {str(row.id): row.sha for row in store.rows() if str(row.id) in by_id}
    rows: dict[str, SelectedExample] = {}
    for row, example in embedded_examples(examples, shas, reading, former=store.former_hashes):
        name = str(example.id)
        taken = [key for key in _ADDED if key in row.value]
        if row.value.get("id") is not None and str(row.value["id"]) != name:
            taken.append("id")  # another column was named as the id
        if taken:
            raise InputError(
                f"{row.file}:{row.line}: the row has its own key {taken[0]!r}, where the selection's would "
                "stand; rename it, or give --ids"
            )
        rows[name] = SelectedExample(row.value, by_id[name])
    return [rows[str(row.id)] for row in selected]


def write_selection(
    selected: Sequence[SelectedRow],
    examples: Sequence[SelectedExample] | None,
    output: str,
    fields_of: FieldsOf,
) -> None:
    """Write selected rows in full, or their ids, as JSONL or (`.parquet`) as a table.

    Args:
        examples: the rows in full; None writes their ids, in a table with the rows' metadata.
        output: a file, or `-`.
        fields_of: looks up the metadata.

    Raises:
        InputError: the rows do not fit into a table, or pyarrow is not installed.
        StorageError: the file cannot be written.
    """
    if not output.endswith(TABLE_SUFFIX):
        for example in examples or ():
            _check_json(example)
        written: Sequence[OutputRow] = selected if examples is None else examples
        write_rows(written, output)
    elif examples is None:
        write_selection_table(selected, Path(output), fields_of)
    else:
        write_examples_table([row.to_json() for row in examples], Path(output))


def _check_json(example: SelectedExample) -> None:
    try:
        json.dumps(example.to_json(), allow_nan=False)
    except (TypeError, ValueError) as error:  # a date or bytes of a Parquet file; NaN
        raise InputError(
            f"row {example.selected.id!r} holds what JSON cannot ({error}); write .parquet, or give --ids"
        ) from error


def record_file(output: str | Path) -> Path:
    """The record beside a selection: selected.json of selected.jsonl or selected.parquet."""
    return _beside(output, ".json")


def excluded_file(output: str | Path) -> Path:
    """The list of excluded rows beside a selection: selected.excluded.jsonl of selected.jsonl."""
    return _beside(output, ".excluded.jsonl")


def _beside(output: str | Path, suffix: str) -> Path:
    path = Path(output)
    stem = path.stem if path.suffix in (".jsonl", TABLE_SUFFIX) else path.name
    return path.with_name(stem + suffix)


def write_record(
    output: Path,
    store: EmbeddingStore,
    queries: EmbeddedRows,
    asked: Mapping[str, Any],
    plan: SelectionPlan,
    selected: Sequence[SelectedRow],
) -> None:
    """Write what was asked of a selection, of what, what came of it, and the sha256 of the file of rows.

    The rows that were excluded are listed in `excluded_file`; one of an earlier selection is removed.

    Args:
        asked: the command, and the values of its options.

    Raises:
        StorageError: a file cannot be written.
    """
    if plan.excluded:
        write_rows(plan.excluded, excluded_file(output))
    else:
        excluded_file(output).unlink(missing_ok=True)
    names = [row.id for row in selected]
    counts: dict[str, Any] = {"rows": len(selected)}
    if plan.limits.tokens is not None:
        wanted = set(names)
        chosen = [number for number, row in enumerate(store.rows()) if row.id in wanted]
        counts["tokens"] = int(plan.limits.tokens[chosen].sum())
    if plan.fields:
        counts["values"] = count_values(store, plan.fields, names)
    record = {
        "asked": {name: str(value) if isinstance(value, Path) else value for name, value in asked.items()},
        "selected": counts,
        "excluded": dict(Counter(row.reason for row in plan.excluded)),
        "pool": {"rows": len(store), "content": store.fingerprint, "model": store.space.fingerprint},
        "queries": {"rows": len(queries), "content": {row.id: row.sha for row in queries.rows}},
        "output": {"file": output.name, "sha256": sha256_file(output)},
    }
    write_json(record_file(output), record)


def count_reasons(excluded: Sequence[ExcludedRow]) -> str:
    """How many rows are excluded, and why: `7 rows: 5 near copy, 2 shared words`."""
    reasons = Counter(row.reason for row in excluded)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"{len(excluded)} rows: {counts}" if excluded else "0 rows"
