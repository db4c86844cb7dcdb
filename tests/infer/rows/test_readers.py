"""Every form of data gives the same rows, ids and errors."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from airrep_infer.errors import InputError
from airrep_infer.rows.examples import Example, ExampleReader, read_examples
from airrep_infer.rows.readers import base, json_rows
from airrep_infer.rows.spellings import Reading
from airrep_infer.rows.tables import write_examples_table
from airrep_infer.store import store_to_parquet

ROWS = [
    {"id": f"row {n}", "prompt": f'say "{n}",\n ünd [dann] {{x}} \\', "response": f"{n} ✓", "task": "t"}
    for n in range(700)  # more than one batch
]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def zstd(data: bytes) -> bytes:
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(data)
    return bytes(packed.getvalue())


def arrow(rows: list[dict[str, Any]], *, stream: bool) -> bytes:
    table, sink = pa.Table.from_pylist(rows), pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)
    return bytes(sink.getvalue())


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink, row_group_size=200)
    return bytes(sink.getvalue())


def delimited(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "data.jsonl": lines,
    "data.jsonl.gz": lambda rows: gzip.compress(lines(rows)),
    "data.jsonl.bz2": lambda rows: bz2.compress(lines(rows)),
    "data.jsonl.xz": lambda rows: lzma.compress(lines(rows)),
    "data.jsonl.zst": lambda rows: zstd(lines(rows)),
    "data.json": lambda rows: json.dumps(rows).encode(),
    "data.array.zst": lambda rows: zstd(json.dumps(rows, indent=2, ensure_ascii=False).encode()),
    "data.csv": delimited,
    "data.tsv": lambda rows: delimited(rows, "\t"),
    "data.csv.gz": lambda rows: gzip.compress(b"\xef\xbb\xbf" + delimited(rows)),
    "data.parquet": parquet_bytes,
    "data.arrow": lambda rows: arrow(rows, stream=False),
    "data.stream.arrow": lambda rows: arrow(rows, stream=True),
}


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    path.write_bytes(FORMS[name](rows))
    return path


def without_ids(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "id"} for row in rows]


def error_of(path: Path, **how: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(ExampleReader([path], **how))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", FORMS)
def test_a_form_gives_the_rows_of_jsonl(tmp_path: Path, name: str) -> None:
    expected = read_examples(write(tmp_path, "data.jsonl", ROWS))
    assert read_examples(write(tmp_path, name, ROWS)) == expected
    ids = [example.id for example in read_examples(write(tmp_path, name, without_ids(ROWS[:3])))]
    stem = name.removesuffix(".gz").removesuffix(".zst").removesuffix(".bz2").removesuffix(".xz")
    assert ids == [f"{stem.rsplit('.', 1)[0]}:{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("name", FORMS)
def test_a_form_names_its_bad_rows_and_maps_its_columns(tmp_path: Path, name: str) -> None:
    rows = [{"id": f"{n}", "Q": "q", "A": "" if n == 400 else "a", "task": "t"} for n in range(500)]
    path = write(tmp_path, name, rows)
    reading = Reading.of(["prompt=Q", "response=A"])
    assert error_of(path, reading=reading) == f"{path}:401: the response is empty"
    reader = ExampleReader([path], on_error="skip", reading=reading)
    assert len(list(reader)) == 499
    (rejected,) = reader.rejected
    assert (
        ((rejected.file, rejected.line) == (str(path), 401) and '"Q"' in rejected.row)
        or "csv" in name
        or "tsv" in name
    )
    rows[400]["id"] = "7"
    rows[400]["A"] = "a"
    path = write(tmp_path, name, rows)
    assert error_of(path, reading=reading).startswith(f"{path}:401: duplicate id '7', first at {path}:8; ")


@pytest.mark.parametrize(
    "name", [name for name in FORMS if name not in ("data.csv", "data.tsv", "data.csv.gz")]
)
def test_standard_input_is_read_by_its_content(tmp_path: Path, name: str) -> None:
    command = (
        "import sys; from airrep_infer.rows.examples import read_examples; print(len(read_examples('-')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], input=FORMS[name](ROWS), capture_output=True, check=False
    )
    if name in ("data.parquet", "data.arrow"):
        assert b"<stdin>: " in done.stderr and b"unpack it and name the file" in done.stderr
    else:
        assert done.stdout == b"700\n", done.stderr


def test_the_name_does_not_matter_for_compression(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(lines(ROWS))
    assert len(read_examples(path)) == 700
    path.write_bytes(zstd(lines(ROWS[:9])) + zstd(lines(ROWS[9:])))  # two frames, as `cat a.zst b.zst` makes
    assert len(read_examples(path)) == 700


@pytest.mark.parametrize(
    "name", ["data.jsonl.gz", "data.jsonl.bz2", "data.jsonl.xz", "data.jsonl.zst", "data.parquet"]
)
def test_a_cut_file_is_an_error(tmp_path: Path, name: str) -> None:
    whole = FORMS[name](ROWS)
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert ": cannot read: " in error_of(path)
    assert ": cannot read: " in error_of(path, on_error="skip")


def test_folders(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "README.md").write_text("about")
    for number, part in enumerate((ROWS[:5], ROWS[5:9])):
        (folder / f"train-0000{number}-of-00002.parquet").write_bytes(parquet_bytes(without_ids(part)))
    assert [example.id for example in read_examples(folder)] == [f"many:{n}" for n in range(1, 10)]
    assert [e.response for e in read_examples(folder)] == [row["response"] for row in ROWS[:9]]
    assert ExampleReader([folder]).replayable
    (folder / "test-00000-of-00001.parquet").write_bytes(parquet_bytes(ROWS[:2]))
    assert "holds the splits test, train; name the files of one" in error_of(folder)
    (folder / "x.arrow").write_bytes(arrow(ROWS[:2], stream=True))
    assert "holds Parquet and Arrow files" in error_of(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no Parquet or Arrow files" in error_of(empty)


def saved_dataset(folder: Path, rows: list[dict[str, Any]], **state: Any) -> Path:
    """What `datasets.save_to_disk` of datasets 4.4 writes."""
    folder.mkdir()
    files = []
    for number in range(2):
        name = f"data-0000{number}-of-00002.arrow"
        files.append({"filename": name})
        part = rows[: len(rows) // 2] if number == 0 else rows[len(rows) // 2 :]
        (folder / name).write_bytes(arrow(part, stream=True))
    settings = {"_data_files": files, "_fingerprint": "x", "_format_columns": None, "_split": None}
    (folder / "state.json").write_text(json.dumps({**settings, **state}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


def test_saved_datasets(tmp_path: Path) -> None:
    assert read_examples(saved_dataset(tmp_path / "one", ROWS)) == read_examples(
        write(tmp_path, "data.jsonl", ROWS)
    )
    ids = [example.id for example in read_examples(saved_dataset(tmp_path / "set", without_ids(ROWS)))]
    assert ids == [f"set:{n}" for n in range(1, 701)]
    fewer = saved_dataset(tmp_path / "two", ROWS, _format_columns=["prompt", "response"])
    assert read_examples(fewer)[0] == Example("two:1", ROWS[0]["prompt"], ROWS[0]["response"])
    selected = saved_dataset(tmp_path / "three", ROWS, _indices_data_files=[{"filename": "i.arrow"}])
    assert "flatten_indices()" in error_of(selected)
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert error_of(splits).endswith(f"name one of them: {splits}/train, {splits}/test")


def test_nested_columns_are_conversations(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    path = write(tmp_path, "data.parquet", [row, {"messages": [*row["messages"][1:]]}])
    assert [(e.prompt, e.response) for e in read_examples(path)] == [("q", "a"), ("", "a")]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "a.xlsx",
            b"PK\x03\x04....",
            "a ZIP archive or an Excel workbook is not read; save the rows as JSONL",
        ),
        ("a.db", b"SQLite format 3\0...", "an SQLite database is not read"),
        ("a.npy", b"\x93NUMPY....", "a NumPy array is not read"),
        ("a.txt", b"once upon a time", "plain text is not read"),
        ("a.yaml", b"- prompt: x", "YAML is not read"),
        (
            "a.json",
            b'{\n  "prompt": "x"\n}\n',
            "an object over several lines is not read: write one row a line",
        ),
        ("a.json", b'[{"text": "a"}, {"text": "b"}', ":2: the array is not closed"),
        ("a.json", b'[{"text": "a"}] {"text": "b"}', "something follows the array"),
        ("a.json", b'[{"text": "a"}, ]', ":2: not valid JSON"),
        ("a.json", b'[{"text": "a", "text": "b"}]', ":1: the key 'text' is in an object twice"),
        ("a.jsonl", b'{"text": "a", "text": "b"}\n', ":1: the key 'text' is in an object twice"),
        ("a.json", b"[]", "the file has no rows"),
        ("a.csv", b"prompt,response\n", "the file has no rows"),
        ("a.csv", b"prompt,response\nq,a\nq\n", ":2: the row has 1 values, expected 2"),
        ("a.csv", b"text,text\na,b\n", "two columns are named 'text'"),
        ("a.csv", b"text,\na,b\n", "a column has no name"),
        ("a.csv", b'text\n"a\n', "not valid CSV"),
        ("a.csv", b"text\ncaf\xe9\n", "not UTF-8"),
        ("a.parquet", b"PAR1 nonsense PAR1", "cannot read"),
        ("a.arrow", b"ARROW1\0\0nonsense", "cannot read"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = error_of(path)
    assert message.startswith(str(path)) and reason in message


def test_a_row_that_is_too_long_is_an_error_and_can_be_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (base, json_rows):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 1 << 20)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "' + b"x" * (2 << 20) + b'"}\n{"text": "b"}\n')
    assert error_of(path).startswith(f"{path}:2: the line is longer than 1 MiB; ")
    assert [example.id for example in ExampleReader([path], on_error="skip")] == ["a:1", "a:3"]
    path.write_bytes(b'[{"text": "a"}, {"text": "' + b"x" * (3 << 20) + b'"}]')
    assert error_of(path).startswith(f"{path}:2: the row is longer than 1 MiB; ")


def test_an_arrow_file_with_false_offsets_is_refused(tmp_path: Path) -> None:
    """pyarrow takes them as they are, and reads what lies beyond the file."""
    texts = [f"text {n}" for n in range(40)]
    content = bytearray(arrow([{"text": text} for text in texts], stream=False))
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 6, 12, 18))
    place = content.index(offsets)
    content[place + 6 : place + 8] = b"\xff\x7f"
    (tmp_path / "x.arrow").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.arrow: cannot read: "):
        read_examples(tmp_path / "x.arrow")


def test_pyarrow_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name, form in (("data.parquet", "Parquet"), ("data.jsonl.zst", "Zstandard")):
        path = tmp_path / name
        path.write_bytes(PACKED[name])
        assert error_of(path) == f"{path}: reading {form} needs pyarrow: pip install 'airrep[data]'"
    store: Any = None  # pyarrow is asked for first
    out = tmp_path / "out.parquet"
    for write in (lambda: store_to_parquet(store, out), lambda: write_examples_table([], out)):
        with pytest.raises(InputError) as caught:
            write()
        assert str(caught.value) == f"{out}: writing Parquet needs pyarrow: pip install 'airrep[data]'"


PACKED = {name: FORMS[name](ROWS[:3]) for name in ("data.parquet", "data.jsonl.zst")}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('ab\\"[]{},', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]))
def test_arrays_are_split_as_json_has_it(values: list[Any], chunk: int, indent: int | None) -> None:
    before, json_rows._CHUNK = json_rows._CHUNK, chunk
    try:
        stream = io.BytesIO(json.dumps(values, indent=indent).encode())
        assert [row.value for row in json_rows.read_json_array(stream, "x")] == values
    finally:
        json_rows._CHUNK = before
