"""Writing the rows of a store anew, in another order or with some replaced, to take its place in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from airrep_infer.files import open_locked
from airrep_infer.folders import whole_folder
from airrep_infer.json_reader import parse_object
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import CutCounts
from airrep_infer.store.listing import Part, write_listing
from airrep_infer.store.part import link_part, write_part
from airrep_infer.store.store import EmbeddingStore

_BLOCK = 8192

Rows = NDArray[np.int64]


def staged_fields(line: bytes, cut: int) -> dict[str, str | int]:
    """The fields of a row that waits to be written: its line, and the `Cut` of its vector."""
    return {"line": line.decode().rstrip("\n"), "cut": cut}


def staged_line(line: bytes) -> bytes:
    """The line that a row which waited is written with."""
    return parse_object(line, surrogates=True)["line"].encode() + b"\n"  # type: ignore[no-any-return]


def rewrite_store(
    store: EmbeddingStore,
    order: Rows,
    changed: EmbeddingStore | None,
    *,
    part_rows: int,
    cut: CutCounts | None,
    progress: Progress | None,
) -> None:
    """Put a store of other rows in the place of `store`, whose lock the caller holds.

    Until it is complete the old one stays as it is, so there must be room for both; parts that stay what they
    are become links.

    Args:
        order: the rows, (n,): numbers of `store`, and from len(store) on those of `changed`.
        changed: what is not in `store`, as `staged_fields` has it.
        part_rows: rows of a part.
        cut: of the new rows.
        progress: told of the stage "update", in rows.

    Raises:
        InputError: a part is damaged.
        StorageError: there is no room, or the folder cannot be written.
    """
    add = begin(progress, "update", len(order))
    with whole_folder(store.path, overwrite=True) as folder, ExitStack() as stack:
        rows = _RowSource(store, changed, stack)
        parts = []
        for place, first in enumerate(range(0, len(order), part_rows)):
            numbers = order[first : first + part_rows]
            parts.append(rows.linked(numbers, folder, place) or rows.written(numbers, folder, place))
            add(len(numbers))
        write_listing(folder, replace(store.listing, parts=tuple(parts), cut=cut))
        open_locked(folder / ".lock", f"{store.path}: another process is writing this store").close()


def with_absent(given: Rows, count: int) -> Rows:
    """The order of `count` rows: that of the input, and what it lacks behind the row that it followed."""
    rank = np.full(count, -1)
    rank[given] = np.arange(len(given))
    numbers = np.arange(count)
    behind = np.maximum.accumulate(np.where(rank >= 0, numbers, -1))
    return np.argsort(np.where(behind >= 0, rank[behind], -1), kind="stable")


class _RowSource:
    """The rows of a store and of what is to be changed in it, numbered through, in any order."""

    def __init__(self, store: EmbeddingStore, changed: EmbeddingStore | None, stack: ExitStack) -> None:
        self._store, self._changed = store, changed
        self._lines = [_Lines(each, stack) for each in (store, changed) if each is not None]
        self._verified: set[Path] = set()

    def linked(self, numbers: Rows, folder: Path, place: int) -> Part | None:
        """The part that holds exactly these rows, given to the new store; None: there is no such part."""
        first = 0
        for part in self._store.parts:
            if first == numbers[0]:
                whole = len(numbers) == part.count and (numbers == np.arange(first, first + part.count)).all()
                return link_part(part, self._store.path, folder, place) if whole else None
            first += part.count
        return None

    def written(self, numbers: Rows, folder: Path, place: int) -> Part:
        """A new part of these rows."""
        store = self._store
        for each in (store, self._changed):
            if each is not None and each.path not in self._verified:
                each.verify()  # damage must not get a new seal
                self._verified.add(each.path)
        size, dtype = store.space.dimension, store.dtype
        lines = map(self._line, numbers.tolist())
        return write_part(folder, place, size, dtype, len(numbers), self._vectors(numbers), lines)

    def _vectors(self, numbers: Rows) -> Iterator[memoryview]:
        for first in range(0, len(numbers), _BLOCK):
            block = numbers[first : first + _BLOCK]
            vectors = np.empty((len(block), self._store.space.dimension), self._store.dtype)
            stored = block < len(self._store)
            vectors[stored] = self._store.take(block[stored])
            if self._changed is not None:
                vectors[~stored] = self._changed.take(block[~stored] - len(self._store))
            for vector in vectors:
                yield vector.data

    def _line(self, number: int) -> bytes:
        if number < len(self._store):
            return self._lines[0].read(number)
        return staged_line(self._lines[1].read(number - len(self._store)))


class _Lines:
    """The lines of a store's rows in any order: 8 bytes a row say where each begins."""

    def __init__(self, store: EmbeddingStore, stack: ExitStack) -> None:
        self._store, self._stack = store, stack.enter_context(ExitStack())  # of the part that is open
        self._firsts = np.cumsum([0, *(part.count for part in store.parts)])
        ends = np.fromiter(map(len, store.lines()), np.int64, len(store)).cumsum()
        self._begins = np.concatenate([np.zeros(1, np.int64), ends])
        self._open: tuple[int, IO[bytes]] | None = None

    def read(self, number: int) -> bytes:
        part = int(np.searchsorted(self._firsts, number, side="right")) - 1
        if self._open is None or self._open[0] != part:
            self._stack.close()
            file = self._store.path / self._store.parts[part].rows_file
            self._open = part, self._stack.enter_context(file.open("rb"))
        begin = self._begins[number] - self._begins[self._firsts[part]]
        size = self._begins[number + 1] - self._begins[number]
        return os.pread(self._open[1].fileno(), int(size), int(begin))
