"""What people really feed in: every spelling of a row, and every way a file can be wrong."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer import ids
from airrep_infer.errors import InputError
from airrep_infer.ids import SeenIds
from airrep_infer.rows.examples import (
    MAX_FIELD_CHARS,
    ExampleReader,
    Rejected,
    read_examples,
    update_rejects,
)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def error_of(*paths: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        read_examples(*paths)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    return message


# Ids and fields


def test_ids(tmp_path: Path) -> None:
    path = write(
        tmp_path / "train.v2.jsonl", {"text": "a"}, {"id": 7, "text": "b"}, {"id": None, "text": "c"}
    )
    assert [example.id for example in read_examples(path)] == ["train.v2:1", 7, "train.v2:3"]
    for name in ("train.jsonl.gz", "train.json.gz"):
        with gzip.open(tmp_path / name, "wt") as stream:
            stream.write('{"text": "a"}\n')
        assert [example.id for example in read_examples(tmp_path / name)] == ["train:1"]


# Files


def test_non_ascii_crlf_and_bom(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = ['{"text": "café"}', '{"text": "\\ud83d\\ude42 🙂"}', '{"text": "a\u2028b\u0085c"}']
    path.write_bytes("\ufeff".encode() + "\r\n".join(rows).encode() + b"\r\n")
    assert [example.text for example in read_examples(path)] == ["café", "🙂 🙂", "a\u2028b\u0085c"]
    path.write_bytes(b'\n\xef\xbb\xbf{"text": "a"}')
    assert error_of(path) == f"{path}:1: the line is empty"  # a BOM is one only at the start


def test_gz_reads_as_plain(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"café {n}"} for n in range(50)]
    plain = write(tmp_path / "a.jsonl", *rows)
    packed = tmp_path / "b.jsonl.gz"
    # Two members, as `cat a.gz b.gz` makes.
    half = plain.read_bytes().index(b"\n") + 1
    packed.write_bytes(gzip.compress(plain.read_bytes()[:half]) + gzip.compress(plain.read_bytes()[half:]))
    assert read_examples(packed) == read_examples(plain)


READ_STDIN = (
    "import sys; from airrep_infer.rows.examples import read_examples\n"
    "for example in read_examples(*sys.argv[1:]): print(ascii((example.id, example.text)))"
)


def run_stdin(data: bytes, *paths: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", READ_STDIN, *paths]
    return subprocess.run(command, input=data, capture_output=True, env=environment, check=False)


def test_stdin_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    done = run_stdin('{"text": "café"}\r\n{"text": "🙂"}'.encode(), "-")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == [ascii(("stdin:1", "café")), ascii(("stdin:2", "🙂"))]
    done = run_stdin(b'{"id": "1", "text": "a"}\n{"id": "1", "text": "b"}\n', "-")
    assert b"InputError: <stdin>:2: duplicate id '1', first at an earlier line of <stdin>; " in done.stderr
    first = write(tmp_path / "first.jsonl", {"id": "1", "text": "a"})
    done = run_stdin(b'{"id": "1", "text": "b"}\n', str(first), "-")
    assert f"InputError: <stdin>:1: duplicate id '1', first at {first}:1; ".encode() in done.stderr
    done = run_stdin(b"", "-")
    assert b"InputError: <stdin>: the file has no rows" in done.stderr
    done = run_stdin(b"", "-", "-")
    assert b"InputError: standard input (-) can be read only once" in done.stderr


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b'{"text": "a"}\n{"text": "b"}\n'))
    writer.start()
    assert [example.text for example in read_examples(pipe)] == ["a", "b"]
    writer.join()


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert error_of(tmp_path / "no.jsonl") == f"{tmp_path / 'no.jsonl'}: no such file"
    assert (
        error_of(tmp_path)
        == f"{tmp_path}: the folder holds no Parquet or Arrow files, and is no saved dataset"
    )
    assert "name at least one file" in error_of()


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n", b"  \n"])
def test_a_file_without_rows(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert error_of(path) == f"{path}: the file has no rows"
    with pytest.raises(InputError, match="no rows"):
        list(ExampleReader([path], on_error="skip"))


def test_blank_lines_are_harmless_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "b"}\n\n  \r\n\n')
    assert [example.id for example in read_examples(path)] == ["a:1", "a:2"]
    path.write_bytes(b'{"text": "a"}\n \n\n{"text": "b"}\n')
    assert error_of(path) == f"{path}:2: the line is empty"
    reader = ExampleReader([path], on_error="skip")
    assert [example.id for example in reader] == ["a:1", "a:4"]
    assert [(reject.line, reject.reason) for reject in reader.rejected] == [(2, "the line is empty")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "b', "not valid JSON: Unterminated string starting at character 10"),
        (b"{'text': 'b'}", "not valid JSON: Expecting property name enclosed in double quotes"),
        (b'{"text": "caf\xe9"}', "not UTF-8: byte 0xe9 at byte 14"),
        ('{"text": "b"}'.encode("utf-16"), "not UTF-8: byte 0xff at byte 1"),
        (b'{"text": "b\\ud800"}', "a string holds half a surrogate pair (\\ud800-\\udfff), not text"),
        (b"[" * 100_000, "not valid JSON: nested too deeply"),
        (b'{"text": "b", "n": ' + b"1" * 5000 + b"}", "an integer of 5000 digits, expected at most 300"),
        (b"{}", "no response found; keys: none; expected one of: "),
    ],
)
def test_bad_lines_name_file_line_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + line + b'\n{"text": "c"}\n')
    message = error_of(path)
    assert message.startswith(f"{path}:2: {reason}")
    assert "truncated" not in message
    reader = ExampleReader([path], on_error="skip")
    assert [example.id for example in reader] == ["a:1", "a:3"]
    assert [(reject.file, reject.line) for reject in reader.rejected] == [(str(path), 2)]


@pytest.mark.parametrize("line", [b'{"text": "caf', '{"text": "café'.encode()[:-1]])
def test_a_truncated_last_line_is_called_that(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + line)
    message = error_of(path)
    assert message.startswith(f"{path}:2: not ")
    assert message.endswith("(the last line has no line end: is the file truncated?)")
    path.write_bytes(b'{"text": "a"}\n{"text": "b"}')  # complete, only without its line end
    assert len(read_examples(path)) == 2


def test_damaged_gz(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(2000)))
    path.write_bytes(whole[: len(whole) // 2])
    message = error_of(path)
    assert message.startswith(f"{path}:")
    assert "cannot read: Compressed file ended before" in message
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    assert "cannot read: " in error_of(path)
    # An unreadable file is an error in any mode: what is missing cannot be skipped.
    with pytest.raises(InputError):
        list(ExampleReader([path], on_error="skip"))


def test_examples_before_the_bad_row_are_yielded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "a"}, {"no": 1})
    rows = iter(ExampleReader([path]))
    assert next(rows).text == "a"
    with pytest.raises(InputError, match=r"a\.jsonl:2: "):
        next(rows)


# Duplicate ids


def test_duplicates_name_both_places(tmp_path: Path) -> None:
    one = write(
        tmp_path / "one.jsonl", {"id": "a", "text": "1"}, {"id": "b", "text": "2"}, {"id": "a", "text": "3"}
    )
    assert error_of(one).startswith(f"{one}:3: duplicate id 'a', first at {one}:1; ")
    two = write(tmp_path / "two.jsonl", {"id": 5, "text": "1"})
    three = write(tmp_path / "three.jsonl", {"text": "x"}, {"id": "5", "text": "1"})
    assert error_of(two, three).startswith(f"{three}:2: duplicate id '5', first at {two}:1; ")
    # A default id can meet a given one, and two files of one stem meet each other.
    clash = write(tmp_path / "clash.jsonl", {"id": "three:1", "text": "1"})
    assert error_of(clash, three).startswith(f"{three}:1: duplicate id 'three:1', first at {clash}:1; ")
    (tmp_path / "sub").mkdir()
    other = write(tmp_path / "sub" / "three.jsonl", {"text": "y"})
    assert error_of(three, other).startswith(f"{other}:1: duplicate id 'three:1', first at {three}:1; ")


def test_one_file_twice_is_a_duplicate(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"id": "a", "text": "1"}, {"text": "2"})
    assert error_of(path, path).startswith(f"{path}:1: duplicate id 'a', first at {path}:1; ")


def test_duplicates_are_skipped_with_the_other_bad_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"no": 1}, {"id": "a\nb", "text": "1"}, {"id": "a\nb", "text": "2"})
    reader = ExampleReader([path], on_error="skip")
    assert [example.text for example in reader] == ["1"]
    assert [reject.line for reject in reader.rejected] == [1, 3]
    assert reader.rejected[1].reason == "duplicate id 'a\\nb'"


def test_a_duplicate_is_found_across_sorted_runs(tmp_path: Path) -> None:
    count = (1 << 16) + 20_000
    path = tmp_path / "a.jsonl"
    lines = [b'{"id": "row-%d", "text": "x"}\n' % n for n in range(count)]
    path.write_bytes(b"".join(lines))
    assert sum(1 for _ in ExampleReader([path])) == count
    path.write_bytes(b"".join([*lines, lines[123]]))
    assert error_of(path).startswith(f"{path}:{count + 1}: duplicate id 'row-123', first at {path}:124; ")


def test_seen_ids_equal_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_RECENT", 8)
    seen, plain = SeenIds(), set[str]()
    for n in range(3000):
        name = str(n * n % 2003)
        assert seen.add(name) == (name not in plain)
        plain.add(name)
    sizes = [run.shape[1] for run in seen._runs._runs]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) <= 10  # merged, not one run per 8 ids


@pytest.mark.parametrize("recent", [1, 1000])
def test_a_hash_collision_is_not_a_duplicate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    monkeypatch.setattr(ids, "_RECENT", recent)
    monkeypatch.setattr(ids, "_hash", lambda name: (1 << 64) - 1)
    path = write(tmp_path / "a.jsonl", *({"id": str(n), "text": "x"} for n in range(5)))
    assert [example.id for example in read_examples(path)] == list("01234")
    write(path, *({"id": str(n % 3), "text": "x"} for n in range(5)))
    assert error_of(path).startswith(f"{path}:4: duplicate id '0', first at {path}:1; ")


# Skipping


def test_skip_collects_rejects_and_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "a"}\r\n{"body": "caf\xc3\xa9"}\r\n\xff\xfe\r\n{"text": ""}\r\n{"text": "b"}\r\n{"te'
    )
    reader = ExampleReader([path], on_error="skip")
    for _ in range(2):  # a second pass starts afresh
        assert [example.id for example in reader] == ["a:1", "a:5"]
        assert [reject.line for reject in reader.rejected] == [2, 3, 4, 6]
    assert reader.rejected[0].row == '{"body": "café"}'
    assert reader.rejected[1].row == "\\xff\\xfe"
    out = tmp_path / "a.rejects.jsonl"
    update_rejects(out, reader.paths, reader.rejected)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [Rejected(**row) for row in rows] == reader.rejected
    assert [list(row) for row in rows] == [["file", "line", "reason", "row"]] * 4
    # What was rejected can be fixed and read again: the rows are as they were.
    assert json.loads(rows[0]["row"]) == {"body": "café"}


# Any text at all

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SHORT = TEXT.filter(lambda text: len(text) <= MAX_FIELD_CHARS)  # a longer field would be content
SCALARS = (
    SHORT | st.integers(-(2**63), 2**63) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
)
SOLID = TEXT.filter(lambda text: bool(text.strip()))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(TEXT, SOLID, st.dictionaries(st.sampled_from("abc"), SCALARS)), min_size=1, max_size=5
    ),
    ascii_only=st.booleans(),
    packed=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_text_round_trips(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, dict[str, Any]]],
    ascii_only: bool,
    packed: bool,
    end: str,
) -> None:
    path = tmp_path_factory.mktemp("any") / ("a.jsonl.gz" if packed else "a.jsonl")
    objects = [{"prompt": prompt, "response": response, **fields} for prompt, response, fields in rows]
    data = "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in objects).encode(
        errors="surrogatepass"
    )
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    examples = read_examples(path)
    assert [(example.prompt, example.response, example.fields) for example in examples] == rows
    for example in examples:
        assert example.text == f"Question: {example.prompt}\nAnswer: {example.response}"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_rows_or_one_line_of_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    path.write_bytes(data)
    try:
        read_examples(path)
    except InputError as error:
        assert str(error).startswith(f"{path}:")
        assert len(str(error).splitlines()) == 1
