"""Examples from files, in order, every row checked."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write
from airrep_infer.ids import SeenIds
from airrep_infer.rows.example import Example, Scalar
from airrep_infer.rows.parse import AS_WRITTEN, parse_row
from airrep_infer.rows.spellings import Reading
from airrep_infer.rows.values import MAX_FIELD_CHARS

__all__ = [
    "MAX_FIELD_CHARS",
    "Example",
    "ExampleReader",
    "OnError",
    "Reading",
    "Rejected",
    "Scalar",
    "parse_row",
    "read_examples",
    "write_rejects",
]

OnError = Literal["raise", "skip"]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not be read: where it stands, why, and its line (undecodable bytes escaped)."""

    file: str
    line: int
    reason: str
    row: str


class ExampleReader:
    """Reads examples from JSONL files in order, checking every row.

    Iterating raises `InputError` with `file:line` at the first bad row, or, with
    `on_error="skip"`, collects bad rows in `rejected` and goes on. `-` is standard input;
    names that end in `.gz` are decompressed. A second iteration starts again from the first file.

    Args:
        paths: files, read one after the other.
        on_error: what to do with a row that is not an example, or has the id of one before it. An
            unreadable file and a file without any row are errors always.
        reading: which columns are what, where the keys of the rows do not say it.
    """

    def __init__(
        self, paths: Iterable[str | Path], *, on_error: OnError = "raise", reading: Reading = AS_WRITTEN
    ) -> None:
        self.paths = [str(path) for path in paths]
        if not self.paths:
            raise InputError("no examples: name at least one JSONL file, or - for standard input")
        if self.paths.count("-") > 1:
            raise InputError("standard input (-) can be read only once")
        for path in self.paths:
            # Not is_file(): a named pipe, as the shell's <(command) makes, can be read.
            if path != "-" and (Path(path).is_dir() or not Path(path).exists()):
                what = "is a folder, not a JSONL file" if Path(path).is_dir() else "no such file"
                raise InputError(f"{path}: {what}")
        self.on_error = on_error
        self.reading = reading
        self.rejected: list[Rejected] = []

    @property
    def replayable(self) -> bool:
        """Whether the input can be read twice: files can, standard input and pipes cannot."""
        return all(path != "-" and Path(path).is_file() for path in self.paths)

    def __iter__(self) -> Iterator[Example]:
        self.rejected = []
        seen = SeenIds()
        for position, path in enumerate(self.paths):
            for line, example in self._read(path):
                if not seen.add(example.id):
                    if self.on_error == "skip":  # there may be many: no look for the first one
                        self._reject(path, line, f"duplicate id {example.id!r}", b"")
                        continue
                    first = self._first_place(example.id, position, line)
                    if first is not None:
                        raise InputError(
                            f"{_name(path)}:{line}: duplicate id {example.id!r}, first at {first}; give "
                            'every row its own "id" (a row without one is <file stem>:<line number>)'
                        )
                yield example

    def _read(self, path: str) -> Iterator[tuple[int, Example]]:
        """The good rows of one file with their line numbers, from 1."""
        stem = "stdin" if path == "-" else Path(path.removesuffix(".gz")).stem
        rows = 0
        blank: int | None = None
        for line, raw in _lines(path):
            if not raw.strip():
                blank = blank or line
                continue
            if blank is not None:
                # Blank lines at the end of a file are harmless; inside they would shift line numbers.
                self._reject(path, blank, "the line is empty", b"")
                blank = None
            rows += 1
            try:
                example = parse_row(_decode(raw), f"{stem}:{line}", self.reading)
            except ValueError as error:
                self._reject(path, line, str(error), raw)
            else:
                yield line, example
        if not rows:
            raise InputError(f"{_name(path)}: the file has no rows")

    def _reject(self, path: str, line: int, reason: str, raw: bytes) -> None:
        if self.on_error == "raise":
            raise InputError(f"{_name(path)}:{line}: {reason}")
        row = raw.rstrip(b"\r\n").decode(errors="backslashreplace")
        self.rejected.append(Rejected(_name(path), line, reason, row))

    def _first_place(self, name: str, position: int, line: int) -> str | None:
        """Where `name` was read first, None if nowhere (a hash collision); only errors pay for this pass."""
        again = ExampleReader(self.paths, on_error="skip", reading=self.reading)
        once = None
        for number, path in enumerate(self.paths[: position + 1]):
            if path == "-" or not Path(path).is_file():  # a stream: gone, so it cannot be ruled out
                once = once or f"an earlier line of {_name(path)}"
                continue
            for at, example in again._read(path):
                if (number, at) == (position, line):
                    break
                if example.id == name:
                    return f"{_name(path)}:{at}"
        return once


def read_examples(*paths: str | Path, reading: Reading = AS_WRITTEN) -> list[Example]:
    """All examples of some JSONL files, in order.

    Args:
        reading: which columns are what, where the keys of the rows do not say it.

    Raises:
        InputError: a file cannot be read or a row is not an example (`file:line: reason`).
    """
    return list(ExampleReader(paths, reading=reading))


def write_rejects(path: Path, rejected: Sequence[Rejected]) -> None:
    """Write rejected rows as JSONL `{"file", "line", "reason", "row"}`, atomically."""
    with atomic_write(path) as stream:
        for reject in rejected:
            row = {"file": reject.file, "line": reject.line, "reason": reject.reason, "row": reject.row}
            stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _name(path: str) -> str:
    return "<stdin>" if path == "-" else path


@contextlib.contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdin.buffer
    elif path.endswith(".gz"):
        with gzip.open(path, "rb") as unzipped:
            yield unzipped  # type: ignore[misc]  # GzipFile is a binary stream
    else:
        with Path(path).open("rb") as stream:
            yield stream


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    line = 0
    try:
        with _open(path) as stream:
            for line, raw in enumerate(stream, 1):  # the error below names the line
                yield line, raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw
    except (OSError, EOFError, zlib.error) as error:
        # gzip reports a truncated or damaged file as any of the three.
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{_name(path)}:{line + 1}: cannot read: {reason}") from error


def _decode(raw: bytes) -> object:
    cut = "" if raw.endswith(b"\n") else " (the last line has no line end: is the file truncated?)"
    try:
        return json.loads(raw.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        byte = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1}"
        raise ValueError(f"not UTF-8: {byte}{cut}") from error
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        raise ValueError(f"not valid JSON: {what} at character {error.pos + 1}{cut}") from error
    except RecursionError as error:
        raise ValueError("not valid JSON: nested too deeply") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise ValueError(f"not valid JSON: {str(error).split(';')[0]}") from error
