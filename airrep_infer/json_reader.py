"""The one reader of JSON, JSONL and TOML: what strangers may write in a file, and one guard for all of it.

Every document that AirRep reads passes `parse_json` or `read_toml`. Nesting, integers, duplicate keys, line
lengths and characters that are not text end in one line that says where, never in a traceback.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from airrep_infer.errors import InputError, name_of

MAX_DEPTH = 200
"""Objects and arrays inside each other; what walks a value after it was read recurses as deep."""
MAX_DIGITS = 300
"""Digits of an integer: with more of them it is no float any longer (1e308)."""
LINE_LIMIT = 1 << 30
"""Bytes of a line where the caller sets no limit."""

_KINDS = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def parse_json(raw: bytes, *, surrogates: bool = False) -> Any:
    """Decode one JSON value (a whole file or one line of JSONL).

    Python's NaN and Infinity are read: published label files hold them.

    Args:
        surrogates: whether a string may hold half a surrogate pair, as fields in a store may.

    Raises:
        ValueError: not UTF-8 or not JSON, a key that is in an object twice, half a surrogate pair, an integer
            of more than `MAX_DIGITS` digits, or nested deeper than `MAX_DEPTH`. The caller says where.
    """
    try:
        text = raw.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1}") from None
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        raise ValueError(f"not valid JSON: {what} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("not valid JSON: nested too deeply") from None
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        _check_depth(value, "JSON")
    if not surrogates and (b"\\ud" in raw or b"\\uD" in raw):
        _check_surrogates(value)
    return value


def parse_object(raw: bytes, *, surrogates: bool = False) -> dict[str, Any]:
    """Decode one JSON object; see `parse_json`.

    Raises:
        ValueError: what `parse_json` refuses, or another kind of value.
    """
    value = parse_json(raw, surrogates=surrogates)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {kind_of(value)}")
    return value


def read_lines(stream: IO[bytes], name: str, limit: int = LINE_LIMIT) -> Iterator[tuple[int, bytes]]:
    """The lines of an open file with their numbers, from 1, line ends included.

    Of a line that is longer than `limit` bytes only the first `limit` + 1 are kept, so that memory stays
    bounded; `check_length` refuses it.

    Raises:
        InputError: reading fails (`name:line`).
    """
    number = 0
    try:
        while raw := stream.readline(limit + 1):
            number += 1
            if len(raw) > limit and not raw.endswith(b"\n"):
                _skip_line(stream)
            yield number, raw
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name}:{number + 1}: cannot read: {reason}") from error


def check_length(raw: bytes, limit: int = LINE_LIMIT) -> None:
    """Refuse a line that `read_lines` cut.

    Raises:
        ValueError: it is longer than `limit` bytes.
    """
    if len(raw) > limit:
        raise ValueError(f"the line is longer than {limit / (1 << 20):g} MiB; split the row, or leave it out")


def read_objects(
    path: str | Path, *, limit: int = LINE_LIMIT, cut: str = "is the file truncated?"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with their line numbers, from 1; blank lines are passed over.

    Args:
        path: `-` is standard input.
        limit: bytes that a line may have.
        cut: what to say of a bad last line that has no line end.

    Raises:
        InputError: the file cannot be read, or `file:line: reason` for a line that is not a JSON object.
    """
    name = name_of(path)
    try:
        stream = sys.stdin.buffer if str(path) == "-" else Path(path).open("rb")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{name}: cannot read: {error.strerror}") from error
    # Standard input is left open for who reads it next.
    with contextlib.nullcontext() if str(path) == "-" else stream:
        for number, raw in read_lines(stream, name, limit):
            if not raw.strip():
                continue
            try:
                check_length(raw, limit)
                yield number, parse_object(raw)
            except ValueError as error:
                raise InputError(f"{name}:{number}: {error}{unfinished(raw, cut)}") from error


def unfinished(raw: bytes, cut: str = "is the file truncated?") -> str:
    """What to add to the error of a bad line: without its line end it is very often a cut file's last."""
    return "" if raw.endswith(b"\n") else f" (the last line has no line end: {cut})"


def read_json(path: Path, *, nul: bool = False) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        nul: whether strings may hold a NUL character, which no name of a file and no setting can.

    Raises:
        InputError: the file cannot be read, is not an object, or holds what `parse_json` refuses.
    """
    try:
        value = parse_object(path.read_bytes())
        _check_settings(value, nul)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}; make this file again") from error
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: the file cannot be read, is not UTF-8 or TOML, is nested deeper than `MAX_DEPTH`, or
            holds a NUL or an integer of more than `MAX_DIGITS` digits.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid TOML: not UTF-8 at byte {error.start + 1}") from error
    try:
        value = tomllib.loads(text)
        _check_depth(value, "TOML")
        _check_settings(value, nul=False)
    except RecursionError:
        raise InputError(f"{path}: not valid TOML: nested too deeply") from None
    except ValueError as error:
        reason = str(error).split(";")[0]  # Python's advice on its limit of digits is not for the user
        raise InputError(f"{path}: not valid TOML: {reason.removeprefix('not valid TOML: ')}") from error
    return value


def kind_of(value: object) -> str:
    """What JSON calls a value, for a message; of what only tables have, the name of its type."""
    return _KINDS.get(type(value), type(value).__name__)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} is in an object twice")
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits, expected at most {MAX_DIGITS}")
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_int=_integer)


def _check_depth(value: Any, what: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [inner for inner in level if isinstance(inner, dict | list)]
        if not containers:
            return
        level = [
            inner for outer in containers for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    raise ValueError(f"not valid {what}: nested too deeply (over {MAX_DEPTH} levels)")


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a string holds half a surrogate pair (\\ud800-\\udfff), not text") from None


def _check_settings(value: Any, nul: bool) -> None:
    if isinstance(value, str):
        if "\0" in value and not nul:
            raise ValueError(f"a NUL character in {value[:40]!r}")
    elif isinstance(value, dict | list):
        for child in (*value, *value.values()) if isinstance(value, dict) else value:
            _check_settings(child, nul)
    elif isinstance(value, int) and not -(10**MAX_DIGITS) < value < 10**MAX_DIGITS:
        raise ValueError(f"an integer of more than {MAX_DIGITS} digits")


def _skip_line(stream: IO[bytes]) -> None:
    while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass
