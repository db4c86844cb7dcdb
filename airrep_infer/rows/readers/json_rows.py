"""Rows as JSON: one a line (JSONL), or one array that is the whole file."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import IO

from airrep_infer.errors import InputError, name_of
from airrep_infer.json_reader import check_length, parse_json, read_lines, unfinished
from airrep_infer.rows.readers.base import DAMAGE, MAX_ROW_BYTES, Row, cannot_read, reading

_CHUNK = 1 << 20
_OUTSIDE_STRINGS = re.compile(rb'["\[\]{},]')
_INSIDE_STRINGS = re.compile(rb'["\\]')
_SPACE = b" \t\r\n"


def is_array(head: bytes) -> bool:
    """Whether a file that begins so is one array."""
    return head.removeprefix(codecs.BOM_UTF8).lstrip(_SPACE).startswith(b"[")


def read_json_lines(stream: IO[bytes], path: str) -> Iterator[Row]:
    """The rows of JSONL. Blank lines at its end are left out; inside they would shift line numbers."""
    name = name_of(path)
    blank: int | None = None
    line = 0
    try:
        for line, raw in read_lines(stream, name, MAX_ROW_BYTES):
            if line == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if not raw.strip():
                blank = blank or line
                continue
            if blank is not None:
                yield Row(name, blank, None, "the line is empty")
                blank = None
            yield _decode(name, line, raw)
    except DAMAGE as error:
        raise cannot_read(path, line + 1, error) from error


def read_json_array(stream: IO[bytes], path: str) -> Iterator[Row]:
    """The rows of one array, decoded one at a time.

    Raises:
        InputError: the array is not closed, or is followed by something.
    """
    name = name_of(path)
    for number, raw in enumerate(_elements(stream, path), 1):
        yield _decode(name, number, raw + b"\n")


def _decode(name: str, line: int, raw: bytes) -> Row:
    try:
        check_length(raw, MAX_ROW_BYTES)
        return Row(name, line, parse_json(raw.rstrip(b"\r\n")), raw=raw)
    except ValueError as error:
        hint = unfinished(raw)
        if line == 1 and raw.strip() == b"{":
            hint = "; an object over several lines is not read: write one row a line, or an array of rows"
        return Row(name, line, None, f"{error}{hint}", raw[: 1 << 20])


def _elements(stream: IO[bytes], path: str) -> Iterator[bytes]:
    """The elements of an array as they stand in the file."""
    name = name_of(path)
    buffer = bytearray()
    position = depth = number = 0
    in_string = False
    while True:
        with reading(path, number + 1):
            chunk = stream.read(_CHUNK)
        if not chunk:
            raise InputError(f"{name}:{number + 1}: the array is not closed: is the file truncated?")
        buffer += chunk
        while match := (_INSIDE_STRINGS if in_string else _OUTSIDE_STRINGS).search(buffer, position):
            position, mark = match.end(), match.group()
            if mark == b"\\":
                position += 1  # the escaped character; it may be in the next chunk
            elif mark == b'"':
                in_string = not in_string
            elif mark in b"[{":
                depth += 1
                if depth == 1:
                    del buffer[:position]
                    position = 0
            elif mark in b"]}":
                depth -= 1
            if (depth == 1 and mark == b",") or depth == 0:
                element = bytes(buffer[: position - 1]).strip(_SPACE)
                del buffer[:position]
                position = 0
                if element or depth == 1 or number:
                    number += 1
                    yield element
            if depth == 0:
                _check_end(bytes(buffer), stream, path, number)
                return
        position = max(position, len(buffer))
        if len(buffer) > MAX_ROW_BYTES:
            size = MAX_ROW_BYTES >> 20
            raise InputError(
                f"{name}:{number + 1}: the row is longer than {size} MiB; split it, or leave it out"
            )


def _check_end(rest: bytes, stream: IO[bytes], path: str, number: int) -> None:
    with reading(path, number + 1):
        while rest and not rest.strip(_SPACE):
            rest = stream.read(_CHUNK)
    if rest.strip(_SPACE):
        raise InputError(
            f"{name_of(path)}: something follows the array; write one array of rows, or one row a line"
        )
