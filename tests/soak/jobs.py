"""The jobs that campaigns interrupt; each says what must hold at any moment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from soak.disk import content_of

from airrep_infer.encode import EmbeddedWindow, EmbeddingSpace
from airrep_infer.files import write_json
from airrep_infer.folders import whole_folder
from airrep_infer.json_reader import read_json
from airrep_infer.rows import SHARED, Example
from airrep_infer.store import embed_files
from airrep_infer.store.compact import compact_store
from airrep_infer.store.listing import is_store
from airrep_infer.store.merge import merge_stores
from airrep_infer.store.store import EmbeddingStore
from airrep_infer.store.writer import StoreWriter

SPACE = EmbeddingSpace("ab" * 32, "fp32", 4)


@dataclass(frozen=True)
class Job:
    """`prepare` makes the state before, `work` is interrupted and run again, `check` must always hold.

    Attributes:
        content: name -> bytes of a folder, equal for equal results.
        sizes: how long files may become where writes are to fail.
        threads: `work` starts threads of libraries, so that it needs a process of its own.
    """

    name: str
    prepare: Callable[[Path], object]
    work: Callable[[Path], object]
    check: Callable[[Path], object]
    content: Callable[[Path], dict[str, bytes]] = content_of
    sizes: Sequence[int] = range(0, 3000, 7)
    threads: bool = False


def write_store(path: Path, count: int, first: int = 0, part_rows: int = 5) -> None:
    """A store of `count` rows; a row is the same in whatever call it is made."""
    examples = [Example(f"row-{n}", None, f"text of row {n}", {"n": n}) for n in range(first, first + count)]
    vectors = np.array([[n, 1, 2, 3] for n in range(first, first + count)], np.float32)
    with StoreWriter(path, SPACE, pooling_scale=1.0, part_rows=part_rows) as writer:
        writer.append(examples, vectors, skip_stored=True)


def check_stores(folder: Path) -> None:
    """Every store opens, and holds what its listing says, rows from its first on without a gap."""
    for path in folder.iterdir():
        if is_store(path) and not path.name.startswith("."):  # what was exchanged, and is being removed
            store = EmbeddingStore.open(path)
            store.verify()
            ids = [int(row.id.removeprefix("row-")) for row in store.rows()]
            assert ids == list(range(len(ids))) or path.name == "b"
            np.testing.assert_array_equal(store.take(range(len(ids)))[:, 0], ids)


def _two_stores(folder: Path) -> None:
    write_store(folder / "a", 7)
    write_store(folder / "b", 6, first=7)


def _many_parts(folder: Path) -> None:
    for count in (3, 6, 8):
        write_store(folder / "s", count)


def _old_folder(folder: Path) -> None:
    with whole_folder(folder / "bundle") as new:
        _fill(new, "old")


def _new_folder(folder: Path) -> None:
    with whole_folder(folder / "bundle", overwrite=True) as new:
        _fill(new, "new")


def _fill(folder: Path, content: str) -> None:
    for name in ("airrep.json", "encoder.onnx", "tokenizer.json"):
        (folder / name).write_text(f"{content} {name}")  # as other libraries write: without an fsync


def _check_folder(folder: Path) -> None:
    whole = {name: (folder / "bundle" / name).read_text() for name in ("airrep.json", "encoder.onnx")}
    assert {text.split()[0] for text in whole.values()} in ({"old"}, {"new"})


def _write_json(folder: Path, number: int) -> None:
    write_json(folder / "x.json", {"n": number})


def _check_json(folder: Path) -> None:
    if (folder / "x.json").exists():
        assert read_json(folder / "x.json")["n"] in (1, 2)


class _Encoder:
    """Gives every text its length as a vector."""

    space = SPACE
    bundle: Any = SimpleNamespace(pooling_scale=1.0, template=SHARED, calibration=None)
    placement = "here"

    def embed_windows(self, windows: Iterable[list[Any]]) -> Iterator[EmbeddedWindow[Any]]:
        for window in windows:
            vectors = np.array([[len(row.text), 1, 2, 3] for row in window], np.float32)
            yield EmbeddedWindow(window, vectors, np.zeros(len(window), np.uint8))


_BEFORE = {f"row-{n}": "x" * (n + 1) for n in range(8)}
# A row on top, one removed, one replaced, one with another id, and another order.
_AFTER = {"new": "y" * 30} | {f"row-{n}": _BEFORE[f"row-{n}"] for n in (0, 1, 5, 2, 7)}
_AFTER |= {"row-3": "z" * 40, "renamed": _BEFORE["row-4"]}


def _old_store(folder: Path) -> None:
    _embed(folder, _BEFORE)
    _write_rows(folder, _AFTER)


def _embed(folder: Path, rows: Mapping[str, str]) -> None:
    _write_rows(folder, rows)
    embed_files([folder / "rows.jsonl"], _Encoder(), folder / "s", part_rows=3, prune=True)


def _write_rows(folder: Path, rows: Mapping[str, str]) -> None:
    lines = (json.dumps({"id": name, "text": text}) for name, text in rows.items())
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _check_followed(folder: Path) -> None:
    """At any moment a row is there once, as it was or as it is, with the vector of that text."""
    store = EmbeddingStore.open(folder / "s")
    store.verify()
    rows, lengths = list(store.rows()), store.take(range(len(store)))[:, 0]
    assert len({row.id for row in rows}) == len(rows)
    for row, length in zip(rows, lengths, strict=True):
        texts = [texts[str(row.id)] for texts in (_BEFORE, _AFTER) if row.id in texts]
        assert (row.sha, length) in [(Example("", None, text).sha, len(text)) for text in texts]
    assert {row.id for row in rows} >= _BEFORE.keys() & _AFTER.keys()


JOBS = (
    Job("write a file", lambda f: _write_json(f, 1), lambda f: _write_json(f, 2), _check_json),
    Job("embed", lambda f: None, lambda f: write_store(f / "s", 12), check_stores),
    Job("append", lambda f: write_store(f / "s", 7), lambda f: write_store(f / "s", 13), check_stores),
    Job("merge", _two_stores, lambda f: merge_stores([f / "a", f / "b"], f / "s"), check_stores),
    Job(
        "embed a changed file",
        _old_store,
        lambda f: embed_files([f / "rows.jsonl"], _Encoder(), f / "s", part_rows=3, prune=True),
        _check_followed,
        lambda f: content_of(f / "s"),
    ),
    Job("compact", _many_parts, lambda f: compact_store(f / "s"), check_stores),
    Job("export --overwrite", _old_folder, _new_folder, _check_folder),
)
