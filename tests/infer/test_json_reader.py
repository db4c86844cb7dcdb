"""One guard for all JSON and TOML: whatever a file holds, the error is one line that says where."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airrep_infer.errors import InputError
from airrep_infer.json_reader import (
    MAX_DEPTH,
    MAX_DIGITS,
    check_length,
    parse_json,
    parse_object,
    read_json,
    read_lines,
    read_objects,
    read_toml,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_writes_is_read(value: object) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value
    assert parse_json(json.dumps(value).encode()) == value


@given(
    st.binary(max_size=60)
    | st.text(alphabet='{}[]",:0123456789eE+-.\\u dtrfalsn', max_size=60).map(str.encode)
)
@example(b'{"a":' * 5000)
@example(b"[" * 1_000_000)
@example(b'"\\ud83d"')
def test_anything_else_is_a_value_error_of_one_line(raw: bytes) -> None:
    try:
        parse_json(raw)
    except ValueError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 200


BAD = {
    "not UTF-8": (b'{"a": "\xff"}', "not UTF-8: byte 0xff at byte 8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8: byte 0xff at byte 1"),
    "empty": (b"", "not valid JSON: Expecting value at character 1"),
    "cut": (b'{"a": 1', "not valid JSON: Expecting ',' delimiter at character 8"),
    "two values": (b"{} {}", "not valid JSON: Extra data at character 4"),
    "zeros": (b"\0" * 50, "not valid JSON: Expecting value at character 1"),
    "deep": (b'{"a": ' + b"[" * 100_000, "not valid JSON: nested too deeply"),
    "a little too deep": (
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        "nested too deeply (over 200 levels)",
    ),
    "deep in objects": (b'{"a":' * 300 + b"1" + b"}" * 300, "nested too deeply (over 200 levels)"),
    "duplicate": (b'{"b": {"id": 1, "x": 2, "id": 3}}', "the key 'id' is in an object twice"),
    "digits": (b'{"n": -' + b"1" * 301 + b"}", "an integer of 302 digits, expected at most 300"),
    "many digits": (b'{"n": ' + b"1" * 5000 + b"}", "an integer of 5000 digits, expected at most 300"),
    "surrogate": (b'{"a": ["x\\uD800y"]}', "a string holds half a surrogate pair"),
    "surrogate key": (b'{"\\udfff": 1}', "a string holds half a surrogate pair"),
    "array": (b"[1]", "expected a JSON object, got an array"),
}


@pytest.mark.parametrize(("raw", "reason"), BAD.values(), ids=BAD)
def test_the_guard_names_what_is_wrong(tmp_path: Path, raw: bytes, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_object(raw)
    assert reason in str(caught.value)

    path = tmp_path / "x.json"
    path.write_bytes(raw)
    with pytest.raises(InputError) as whole:
        read_json(path)
    assert str(whole.value) == f"{path}: {caught.value}; make this file again"

    path.write_bytes(b"{}\n\n" + raw + b"\n{}\n")
    if raw.strip():
        rows = read_objects(path)
        assert next(rows) == (1, {})
        with pytest.raises(InputError) as line:
            next(rows)
        assert str(line.value).startswith(f"{path}:3: ")
        assert reason.split(" at character")[0] in str(line.value)


def test_what_is_unusual_but_right_is_read() -> None:
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]
    assert parse_json(b'"\\ud83d\\ude42"') == "🙂"
    assert parse_json(b"9" * MAX_DIGITS) == int("9" * MAX_DIGITS)
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert parse_json(b'"' + b"[" * 10_000 + b'"') == "[" * 10_000  # a text, not nesting
    assert parse_object(b'{"a": {"id": 1}, "id": 2}') == {"a": {"id": 1}, "id": 2}


def test_a_nul_is_text_in_a_row_and_an_error_in_settings(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"file": ["a\\u0000b"]}')
    assert list(read_objects(path)) == [(1, {"file": ["a\0b"]})]
    assert read_json(path, nul=True) == {"file": ["a\0b"]}
    with pytest.raises(InputError, match=r"x.json: a NUL character in 'a\\x00b'; make this file again"):
        read_json(path)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    for read in (read_json, read_toml, lambda path: list(read_objects(path))):
        with pytest.raises(InputError, match="nothing: cannot read: No such file"):
            read(tmp_path / "nothing")
        with pytest.raises(InputError, match="cannot read: Is a directory"):
            read(tmp_path)


def test_an_unfinished_last_line_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": ')
    with pytest.raises(
        InputError, match=r"x.jsonl:2: not valid JSON.*\(the last line has no line end: is the file tr"
    ):
        list(read_objects(path))
    path.write_bytes(b'{"a": 1}\n{"a": 2}')
    assert list(read_objects(path)) == [(1, {"a": 1}), (2, {"a": 2})]


def test_a_line_over_the_limit_costs_no_memory_and_the_next_is_read() -> None:
    class Stream(io.BytesIO):
        longest = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            line = super().readline(size)
            self.longest = max(self.longest, len(line))
            return line

    stream = Stream(b"x" * (5 << 20) + b"\n{}\n" + b"y" * 1001)
    lines = dict(read_lines(stream, "x", limit=1000))
    assert {number: len(raw) for number, raw in lines.items()} == {1: 1001, 2: 3, 3: 1001}
    assert stream.longest <= 1 << 20
    for number in (1, 3):
        with pytest.raises(ValueError, match="the line is longer than"):
            check_length(lines[number], 1000)
    check_length(lines[2], 1000)


def test_the_limit_counts_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": "' + "é" * 20 + '"}\n{}\n')
    rows = read_objects(path, limit=40)
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(InputError, match=r"x.jsonl:2: the line is longer than"):
        next(rows)
    assert len(list(read_objects(path, limit=50))) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a = ", "not valid TOML: Invalid value"),
        (b"a = '\xff'", "not valid TOML: not UTF-8 at byte 6"),
        (b"a = " + b"[" * 100_000, "not valid TOML: nested too deeply"),
        (b"a" + b".a" * 5000 + b" = 1", "not valid TOML: nested too deeply"),
        (b"a = " + b"1" * 5000, "not valid TOML: Exceeds the limit"),
        (b"a = " + b"1" * 400, "not valid TOML: an integer of more than 300 digits"),
        (b'a = "x\\u0000"', "not valid TOML: a NUL character in"),
        (b"a = 1\na = 2", "not valid TOML: Cannot overwrite a value"),
    ],
)
def test_toml_has_the_same_guard(tmp_path: Path, text: bytes, reason: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


def test_toml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('a = "é"\n[b]\nc = [1, 2.5, true]\n', encoding="utf-8")
    assert read_toml(path) == {"a": "é", "b": {"c": [1, 2.5, True]}}
