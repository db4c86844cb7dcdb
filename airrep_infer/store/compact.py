"""Joining the parts of a store into fewer, without embedding anything again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from airrep_infer.errors import InputError, storage_errors
from airrep_infer.files import open_locked, remove_leftovers
from airrep_infer.folders import whole_folder
from airrep_infer.progress import Progress, begin
from airrep_infer.store.listing import write_listing
from airrep_infer.store.part import PART_ROWS, write_part
from airrep_infer.store.store import EmbeddingStore

_BLOCK = 8192


@dataclass(frozen=True)
class CompactSummary:
    """What one `compact_store` did: rows of the store, its parts before and now."""

    rows: int
    parts_before: int
    parts: int


def compact_store(
    path: str | Path, *, part_rows: int = PART_ROWS, progress: Progress | None = None
) -> CompactSummary:
    """Join the parts of a store, so that each but the last has `part_rows` rows.

    The result is byte for byte the store that one undisturbed run with this `part_rows` writes. It takes the
    place of the old one in one step; until then the old one stays as it is, so there must be room for both.
    Where the parts cannot become fewer, they are only given the checksums that an earlier version did not
    write. An index of the store has to be made again.

    Args:
        path: the store.
        part_rows: rows of a part.
        progress: told of the stage "compact", in rows.

    Raises:
        InputError: there is no store, or a part of it is damaged.
        BusyError: another process is writing the store.
        StorageError: there is no room, or the folder cannot be written.
    """
    path = Path(path)
    if part_rows < 1:
        raise InputError(f"{part_rows} rows a part: expected at least 1")
    taken = f"{path}: another process is writing this store; wait for it"
    EmbeddingStore.open(path)  # a folder of something else gets no lock file
    with open_locked(path / ".lock", taken):
        with storage_errors(path):
            remove_leftovers(path.resolve())  # a run that was killed after it had put the new store in place
        store = EmbeddingStore.open(path)
        rows, before = len(store), len(store.parts)
        sizes = [part_rows] * (rows // part_rows) + [rows % part_rows] * (rows % part_rows > 0)
        if len(sizes) >= before:
            if not store.unchecked:
                return CompactSummary(rows, before, before)
            sizes = [part.count for part in store.parts]
        store.verify()  # damage must not get a new seal
        add = begin(progress, "compact", rows)
        vectors, lines = _vectors(store), store.lines()
        with whole_folder(path, overwrite=True) as folder:
            parts = []
            for place, size in enumerate(sizes):
                data = islice(vectors, size)
                parts.append(write_part(folder, place, store.space.dimension, store.dtype, size, data, lines))
                add(size)
            write_listing(folder, replace(store.listing, parts=tuple(parts)))
            open_locked(folder / ".lock", taken).close()
    return CompactSummary(rows, before, len(sizes))


def _vectors(store: EmbeddingStore) -> Iterator[memoryview]:
    for _, block in store.blocks(_BLOCK):
        for vector in block:
            yield vector.data
