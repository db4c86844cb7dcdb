"""Examples from files, in order, every row checked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from airrep_infer.errors import STDIN, InputError, name_of, refuse_single
from airrep_infer.files import atomic_write
from airrep_infer.ids import SeenIds
from airrep_infer.json_reader import read_objects
from airrep_infer.rows.example import Example, RowId
from airrep_infer.rows.parse import AS_WRITTEN, parse_row
from airrep_infer.rows.readers import TABLE_SUFFIXES, Row, file_stem, files_of, read_rows
from airrep_infer.rows.spellings import Reading
from airrep_infer.rows.values import MAX_FIELD_CHARS

__all__ = [
    "MAX_FIELD_CHARS",
    "Example",
    "ExampleReader",
    "OnError",
    "Reading",
    "Rejected",
    "parse_row",
    "read_examples",
    "update_rejects",
]

OnError = Literal["raise", "skip"]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not be read: where it stands, why, and the row itself (undecodable bytes escaped)."""

    file: str
    line: int
    reason: str
    row: str


class ExampleReader:
    """Reads examples from files and folders in order, checking every row.

    JSONL, a JSON array, CSV, TSV, Parquet, Arrow, folders of the latter two and saved datasets are read, the
    first four also compressed (docs/rows.md). Iterating raises `InputError` with `file:row` at the first
    bad row, or, with `on_error="skip"`, collects bad rows in `rejected` and continues. `-` is standard input.
    A second iteration starts again from the first file.

    Args:
        paths: files and folders, read one after the other.
        on_error: what to do with a row that is not an example, or has the id of one before it. An
            unreadable file and a file without any row are errors always.
        reading: which columns are what, where the keys of the rows do not say it.
    """

    def __init__(
        self, paths: Iterable[str | Path], *, on_error: OnError = "raise", reading: Reading = AS_WRITTEN
    ) -> None:
        refuse_single(paths, "examples")
        self.paths = [str(path) for path in paths]
        if not self.paths:
            raise InputError("no examples: name at least one file, or - for standard input")
        if self.paths.count("-") > 1:
            raise InputError("standard input (-) can be read only once")
        for path in self.paths:
            # Not is_file(): a named pipe, as the shell's <(command) makes, can be read.
            if path != "-" and not Path(path).exists():
                raise InputError(f"{path}: no such file")
        self.on_error = on_error
        self.reading = reading
        self.rejected: list[Rejected] = []

    @property
    def replayable(self) -> bool:
        """Whether the input can be read twice: files can, standard input and pipes cannot."""
        return all(map(_is_stored, self.paths))

    def __iter__(self) -> Iterator[Example]:
        return (example for _, example in self.with_rows())

    def with_rows(self) -> Iterator[tuple[Row, Example]]:
        """Every example with the row that it was read from, checked in the same way."""
        self.rejected = []
        seen = SeenIds()
        for position, path in enumerate(self.paths):
            for row, example in self._read(path):
                if not seen.add(str(example.id)):
                    if self.on_error == "skip":  # there may be many: no look for the first one
                        self._reject(row, f"duplicate id {example.id!r}")
                        continue
                    first = self._first_place(example.id, position, row)
                    if first is not None:
                        raise InputError(
                            f"{row.file}:{row.line}: duplicate id {example.id!r}, first at {first}; give "
                            'every row its own "id" (a row without one is <file stem>:<row number>)'
                        )
                yield row, example

    def _read(self, path: str) -> Iterator[tuple[Row, Example]]:
        """The good rows of one path, and where they stand."""
        stem = file_stem(path)
        count = 0
        for count, row in enumerate(read_rows(path), 1):
            reason = row.reason
            if not reason:
                # The rows of a folder's files are numbered through.
                number = row.line if row.file == name_of(path) else count
                try:
                    yield row, parse_row(row.value, f"{stem}:{number}", self.reading)
                    continue
                except ValueError as error:
                    reason = str(error)
            self._reject(row, reason)
        if not count:
            raise InputError(f"{name_of(path)}: the file has no rows")

    def _reject(self, row: Row, reason: str) -> None:
        if self.on_error == "raise":
            raise InputError(f"{row.file}:{row.line}: {reason}")
        raw = row.raw.rstrip(b"\r\n").decode(errors="backslashreplace")
        if not raw and row.value is not None:
            raw = json.dumps(row.value, ensure_ascii=False, default=str)
        self.rejected.append(Rejected(row.file, row.line, reason, raw))

    def _first_place(self, name: RowId, position: int, duplicate: Row) -> str | None:
        """Where `name` was read first, None if nowhere (a hash collision); only errors pay for this pass."""
        again = ExampleReader(self.paths, on_error="skip", reading=self.reading)
        first = None
        for number, path in enumerate(self.paths[: position + 1]):
            if not _is_stored(path):  # a stream: gone, so it cannot be ruled out
                first = first or f"an earlier line of {name_of(path)}"
                continue
            for row, example in again._read(path):
                if number == position and (row.file, row.line) == (duplicate.file, duplicate.line):
                    break
                if str(example.id) == str(name):
                    return f"{row.file}:{row.line}"
        return first


def _is_stored(path: str) -> bool:
    return path != "-" and (Path(path).is_file() or Path(path).is_dir())


def read_examples(*paths: str | Path, reading: Reading = AS_WRITTEN) -> list[Example]:
    """All examples of some files, in order.

    Args:
        reading: which columns are what, where the keys of the rows do not say it.

    Raises:
        InputError: a file cannot be read or a row is not an example (`file:line: reason`).
    """
    return list(ExampleReader(paths, reading=reading))


def update_rejects(path: Path, read: Sequence[str], rejected: Sequence[Rejected]) -> None:
    """Write rejected rows as JSONL `{"file", "line", "reason", "row"}`, atomically.

    They replace what earlier runs rejected of the same files, however they were spelled, and of those that
    the folders have no longer; what was rejected of other files stays.

    Args:
        read: the files and folders that were read.

    Raises:
        InputError: the file is there and holds something else.
    """
    rejected = [*_of_other_inputs(path, read), *rejected]
    with atomic_write(path) as stream:
        for reject in rejected:
            row = {"file": reject.file, "line": reject.line, "reason": reject.reason, "row": reject.row}
            stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _of_other_inputs(path: Path, read: Sequence[str]) -> list[Rejected]:
    if not path.is_file():
        return []
    files = {_place(file) for source in read for file in ([source] if source == "-" else files_of(source))}
    folders = {os.path.realpath(source) for source in read if source != "-" and Path(source).is_dir()}
    kept = []
    is_read: dict[str, bool] = {}  # a file may have many rejects
    for line, row in read_objects(path):
        try:
            reject = Rejected(**row)
            if reject.file not in is_read:
                is_read[reject.file] = _is_of(reject.file, files, folders)
        except (TypeError, ValueError) as error:  # other keys, or a file that is no name
            raise InputError(f"{path}:{line}: no rejected row; move this file away") from error
        if not is_read[reject.file]:
            kept.append(reject)
    return kept


def _is_of(name: str, files: set[str], folders: set[str]) -> bool:
    """Whether a reject's file is one of `files`, or was one of the `folders` and is gone."""
    if not files.isdisjoint((name, os.path.realpath(name))):
        return True
    gone = name.endswith(TABLE_SUFFIXES) and not Path(name).exists()
    return gone and not folders.isdisjoint(map(os.path.realpath, Path(name).absolute().parents))


def _place(path: str) -> str:
    """Where a path leads, links followed; standard input is no file of the working folder."""
    return STDIN if path == "-" else os.path.realpath(path)
