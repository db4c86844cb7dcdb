"""Mutated files for every reader: read, or refused in one line."""

from __future__ import annotations

import gzip
import json
import os
import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soak.counts import Counts

from airrep_infer.errors import InputError
from airrep_infer.json_reader import parse_json, read_json, read_objects, read_toml
from airrep_infer.rows import ExampleReader

_JSON = b'{"id": 7, "prompt": "caf\xc3\xa9", "response": "\\ud83d\\ude42", "n": 1.5e3, "x": [true, null]}\n'
_TURNS = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
_ARRAY = b'[{"prompt": "a", "response": "b"},\n {"prompt": "c", "response": {"text": ["d"]}}]\n'
_CSV = b'id,prompt,response\r\n1,"a ""quoted"" question",yes\r\n2,"two\nlines",no\r\n'
_TSV = b"id\tprompt\tresponse\n1\tcaf\xc3\xa9\tyes\n"
_TOML = b'a = 1\n[b]\nc = ["x", 2.5]\n[b.d]\ne = 1979-05-27T07:32:00Z\n'
_GZIP = gzip.compress(_TURNS * 5, mtime=0)
_BRACKETS = (b"[" * 3000, b'{"a":' * 400, b"a.b." * 300, b"{}", b"[]")
_NUMBERS = (b"9" * 5000, b"1e999", b"-", b"NaN", b"true")
_CHARACTERS = (b"\\ud800", b"\\u0000", b"\0", b"\xff", b"\xef\xbb\xbf", b'"', b"\\", b'"id": 7, ')
_LINES = (b"\n", b"\r\n", b"\t", b",", b'"\r\n"')
_PIECES = _BRACKETS + _NUMBERS + _CHARACTERS + _LINES


def _rows(path: Path) -> object:
    return list(ExampleReader([path]))


def _rows_of(suffix: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        renamed = path.with_suffix(suffix)
        path.replace(renamed)
        return _rows(renamed)

    return read


_CASES: tuple[tuple[Callable[[Path], Any], tuple[bytes, ...]], ...] = (
    (read_json, (_JSON, _TURNS)),
    (read_toml, (_TOML,)),
    (lambda path: list(read_objects(path)), (_JSON, _JSON + _TURNS)),
    (_rows, (_JSON, _TURNS, _ARRAY, _GZIP)),
    (_rows_of(".csv"), (_CSV,)),
    (_rows_of(".tsv"), (_TSV,)),
)


def fuzz(folder: Path, count: int, seed: int = 0) -> Counts:
    """Mutated JSON, JSONL, TOML, CSV and TSV, gzip among them."""
    counts = Counts("fuzzed rows and settings")
    draw = random.Random(seed)
    folder.mkdir(exist_ok=True)
    file = folder / "fuzz"
    for number in range(count):
        reader, seeds = _CASES[number % len(_CASES)]
        content = bytearray(draw.choice(seeds))
        for _ in range(draw.randrange(1, 4)):
            place = draw.randrange(len(content) + 1)
            cut = place + draw.choice((0, 0, 1, 5, 30))
            content[place:cut] = draw.choice((*_PIECES, bytes([draw.randrange(256)])))
        file.write_bytes(content)
        with counts.attempt(f"number {number} of seed {seed}"):
            _read(counts, reader, file)
    return counts


def fuzz_tables(folder: Path, count: int, seed: int = 0) -> Counts:
    """Mutated Parquet and Arrow files; each hundred in a child, whose crash is a wrong outcome."""
    import pyarrow as pa
    from pyarrow import parquet

    counts = Counts("fuzzed Parquet and Arrow")
    folder.mkdir(exist_ok=True)
    rows = pa.Table.from_pylist([{"id": str(n), "prompt": "p" * n, "response": f"r {n}"} for n in range(30)])
    parquet.write_table(rows, folder / "seed.parquet")
    with pa.ipc.new_file(folder / "seed.arrow", rows.schema) as writer:
        writer.write_table(rows)
    seeds = [(folder / f"seed{suffix}").read_bytes() for suffix in (".parquet", ".arrow")]
    for first in range(0, count, 100):
        child = os.fork()
        if child == 0:
            try:
                status = _some_tables(folder, seeds, range(first, min(first + 100, count)), seed)
            except BaseException:
                traceback.print_exc()
                status = 255
            os._exit(status)
        status = os.waitpid(child, 0)[1]
        counts.attempts += min(100, count - first)
        counts.refused += (
            os.waitstatus_to_exitcode(status) if 0 <= status >> 8 <= 100 and not status & 255 else 0
        )
        if status & 255 or status >> 8 > 100:
            last = (folder / "number").read_text()
            counts.wrong.append(f"{counts.campaign}, number {last} of seed {seed}: wait status {status}")
    return counts


def _some_tables(folder: Path, seeds: list[bytes], numbers: range, seed: int) -> int:
    """How many of these were refused; a wrong outcome raises."""
    counts = Counts("tables")
    for number in numbers:
        (folder / "number").write_text(str(number))
        draw = random.Random(f"{seed} {number}")
        content = bytearray(seeds[number % 2])
        for _ in range(draw.randrange(1, 6)):
            content[draw.randrange(4, len(content))] = draw.randrange(256)
        file = folder / f"fuzz-{number}{'.arrow' if number % 2 else '.parquet'}"  # it may stay mapped
        file.write_bytes(content)
        _read(counts, _rows, file)
        file.unlink()
    return counts.refused


def _read(counts: Counts, reader: Callable[[Path], Any], file: Path) -> None:
    try:
        value = reader(file)
    except InputError as error:
        assert "\n" not in str(error), str(error)
        counts.refused += 1
    else:
        if reader is read_json:  # what was read can be written and read again
            assert json.dumps(parse_json(json.dumps(value).encode())) == json.dumps(value)
