"""What a store writes of a row besides its vector: one line of JSON, with the fields that are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError, refuse_single
from airrep_infer.json_reader import parse_object
from airrep_infer.rows import (
    PUBLISHED,
    Example,
    ExampleReader,
    OnError,
    Reading,
    RowId,
    Template,
    group_of,
    has_field,
    is_row_id,
    known_hashes,
)

_FIELDS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class StoreRow:
    """What a store knows of one row besides its vector; `sha` is one of the row's `known_hashes`.

    `former` is another one of a row that is embedded now: a store of an earlier version may know it by that.
    """

    id: RowId
    sha: str
    fields: Mapping[str, Any]
    former: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What says that another row is the same: its id as text, and its hashes."""
        return (str(self.id), self.sha) if self.former is None else (str(self.id), self.sha, self.former)

    @classmethod
    def of_example(cls, example: Example, template: Template) -> StoreRow:
        """A row that is embedded now, by an encoder with this template."""
        sha, *others = known_hashes(example, former=template == PUBLISHED)
        return cls(example.id, sha, example.fields, next((other for other in others if other != sha), None))

    @classmethod
    def of_line(cls, line: bytes) -> StoreRow:
        """The row of a line that `row_line` made; a ValueError, KeyError or TypeError says that it is not."""
        fields = parse_object(line, surrogates=True)
        name, sha = fields.pop("id"), fields.pop("sha")
        if not is_row_id(name) or len(sha) != 16:
            raise ValueError("id or sha is not what the store wrote")
        int(sha, 16)
        return cls(name, sha, fields)


def kept_fields(example: Example, keep: Collection[str] | None) -> dict[str, Any]:
    """The fields of a row that a store carries along; `keep` None: all."""
    return {
        key: value
        for key, value in example.fields.items()
        if key not in ("id", "sha") and (keep is None or key in keep)
    }


def row_line(name: RowId, sha: str, fields: Mapping[str, Any]) -> bytes:
    """The line of a row in a part's rows file."""
    row = {"id": name, "sha": sha, **fields}
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair in a field: only an escape can hold it
        return json.dumps(row).encode() + b"\n"


def fields_hash(name: RowId, fields: Mapping[str, Any]) -> int:
    """64 bits of a hash of a row's fields, whatever their order, and of whether its id is a number."""
    content = json.dumps([isinstance(name, int), dict(fields)], sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def group_codes(
    rows: Iterable[Mapping[str, Any]], count: int, field: str, place: str
) -> tuple[list[str], NDArray[np.int32]]:
    """The sorted groups that a field makes, and for every row (n,) which one it is in; see `group_of`.

    Args:
        rows: the fields of `count` rows.
        place: what messages call them.

    Raises:
        InputError: no row has the field.
    """
    codes = np.empty(count, np.int32)
    seen: dict[str, int] = {}
    fields: dict[str, None] = {}
    known = False
    for number, row in enumerate(rows):
        known = known or has_field(row, field)
        if not known and len(fields) < _FIELDS_SHOWN:
            fields.update(dict.fromkeys(row))
        codes[number] = seen.setdefault(group_of(row, field), len(seen))
    if seen and not known:
        raise _no_such_field(field, place, fields)
    names = sorted(seen)
    rank = np.empty(len(names), np.int32)
    rank[[seen[name] for name in names]] = np.arange(len(names), dtype=np.int32)
    return names, rank[codes]


def check_stored_field(rows: Iterable[Mapping[str, Any]], field: str, place: str) -> None:
    """Look for a field that rows will be grouped by, as far as the first row that has it.

    Args:
        rows, place: as for `group_codes`.

    Raises:
        InputError: no row has the field.
    """
    fields: dict[str, None] = {}
    for row in rows:
        if has_field(row, field):
            return
        if len(fields) < _FIELDS_SHOWN:
            fields.update(dict.fromkeys(row))
    raise _no_such_field(field, place, fields)


def _no_such_field(field: str, place: str, fields: Iterable[str]) -> InputError:
    return InputError(
        f"{place}: no row has the field {field!r}; fields: {', '.join(fields) or 'none'}; group by one "
        "of them, or embed again with --keep for a long one"
    )


class WantedFields:
    """Fields that a user names; a name that no row has is a mistake.

    Args:
        names: the fields.
        option: how messages call what named them.
    """

    def __init__(self, names: Collection[str], option: str) -> None:
        refuse_single(names, option)
        self._missing, self._option = set(names), option
        self._fields: dict[str, None] = {}

    def see(self, rows: Iterable[Example]) -> None:
        """Look for the fields in some rows, as far as the last of them."""
        for example in rows:
            if not self._missing:
                return
            self._missing = {name for name in self._missing if not has_field(example.fields, name)}
            self._fields.update(dict.fromkeys(example.fields))

    def check(self, rows: Iterable[Example]) -> None:
        """Look for the fields in the last rows.

        Raises:
            InputError: no row had one of them.
        """
        self.see(rows)
        if self._missing:
            have = ", ".join(list(self._fields)[:_FIELDS_SHOWN]) or "none"
            raise InputError(
                f"{self._option} {min(self._missing)}: no row has this field; the rows have: {have}"
            )


def check_fields(
    paths: Sequence[str | Path],
    names: Collection[str],
    *,
    option: str,
    reading: Reading,
    on_error: OnError = "raise",
) -> None:
    """Look for fields that a user names in an input, before any work; not on standard input.

    Raises:
        InputError: no row has one of them, or a bad row before all were found.
    """
    reader = ExampleReader(paths, on_error=on_error, reading=reading.keeping(*names))
    if names and reader.replayable:
        WantedFields(names, option).check(reader)
