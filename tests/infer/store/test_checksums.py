"""Whoever reads a block of a store notices a flipped bit in it; nothing else is read for that."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_store import DIMENSION, content, make, make_older, write, writer
from xxhash import xxh3_64_hexdigest

from airrep_infer.errors import InputError
from airrep_infer.index.graph import MappedRows
from airrep_infer.score import ScanPlan, attribute, scan, select
from airrep_infer.store import checksums, compact_store, merge_stores
from airrep_infer.store.checksums import BlockChecksums, open_checked
from airrep_infer.store.store import EmbeddingStore

BLOCK = 24
"""Bytes: one and a half rows of vectors, less than a line of rows."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "BLOCK_BYTES", BLOCK)


def flip(file: Path, place: int) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[place] ^= 4
    file.write_bytes(damaged)


def opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddingStore:
    """A store whose damage the samples of opening, which hold all of so small a file, do not find."""
    with monkeypatch.context() as patched:
        patched.setattr(EmbeddingStore, "_check_sample", lambda *_: None)
        return EmbeddingStore.open(path)


@pytest.mark.parametrize("pieces", [1, 7, 24, 25, 1000])
def test_checksums_are_those_of_the_blocks_however_they_are_written(pieces: int, tmp_path: Path) -> None:
    for size in (0, 1, 23, 24, 25, 48, 100):
        data = np.random.default_rng(size).bytes(size)
        made = BlockChecksums()
        for start in range(0, size, pieces):
            made.update(memoryview(data)[start : start + pieces])
        expected = [xxh3_64_hexdigest(data[start : start + BLOCK]) for start in range(0, size, BLOCK)]
        assert made.hexdigests() == "".join(expected)
        file = tmp_path / str(size)
        file.write_bytes(data)
        with open_checked(file, made.hexdigests()) as stream:
            assert stream.read() == data


def scanned(store: EmbeddingStore) -> Any:
    return attribute(np.ones((2, DIMENSION)), store, k=3, block_rows=2, threads=2)


READS: dict[str, Callable[[EmbeddingStore], Any]] = {
    "scan": scanned,
    "select": lambda store: select(np.ones((2, DIMENSION)), store, 3, block_rows=4, threads=3),
    "blocks": lambda store: list(store.blocks(3)),
    "take": lambda store: store.take(np.arange(len(store))),
    "index": lambda store: MappedRows(store).take(np.arange(len(store))),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_flipped_bit_of_a_vector_ends_every_reading(
    read: Callable[[EmbeddingStore], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "s", 13)
    read(opened(tmp_path / "s", monkeypatch))
    file = tmp_path / "s/part-00001.npy"
    for place in (128, 151, 152, 128 + 5 * 16 - 1):  # behind the header: block 0 twice, 1, the last
        flip(file, place)
        store, block = opened(tmp_path / "s", monkeypatch), (place - 128) // BLOCK
        rows = 5 + block * BLOCK // 16, 5 + (min((block + 1) * BLOCK, 80) - 1) // 16
        for _ in range(2):  # it is not believed the second time either
            with pytest.raises(InputError) as error:
                read(store)
            assert f"{file}: rows {rows[0]} to {rows[1]} of the store are damaged" in str(error.value)
            assert "restore it from a copy, or embed again" in str(error.value)
        flip(file, place)
    read(opened(tmp_path / "s", monkeypatch))


@pytest.mark.parametrize(
    "read",
    [lambda s: list(s.rows()), lambda s: s.ids([6]), lambda s: s.groups("task")],
    ids=["rows", "ids", "by"],
)
def test_a_flipped_bit_of_a_row_is_found_before_the_row_is_used(
    read: Callable[[EmbeddingStore], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "s", 13)
    file = tmp_path / "s/part-00001.rows.jsonl"
    assert b'"row-6"' in file.read_bytes()
    flip(file, file.read_bytes().index(b'"row-6"') + 5)  # another valid id
    with pytest.raises(InputError, match=r"part-00001.rows.jsonl: block \d+ \(of 1 MiB\) is damaged"):
        read(opened(tmp_path / "s", monkeypatch))


def test_damage_elsewhere_is_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "s", 13)
    flip(tmp_path / "s/part-00001.npy", 128 + 2 * 16)
    store = opened(tmp_path / "s", monkeypatch)
    expected = make(13)[1][[0, 5, 9, 12]]
    np.testing.assert_array_equal(store.take([0, 5, 9, 12]), expected)
    kept = [first for first, _ in store.blocks(2, lambda first, end: end <= 6 or first > 7)]
    assert kept == [0, 2, 4, 9, 10, 12]
    with pytest.raises(InputError, match="rows 6 to 7"):
        store.take([7])


def test_a_block_is_compared_once_by_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write(tmp_path / "s", 13)
    compared = []

    def digest(content: Any) -> str:
        compared.append(len(content))
        return xxh3_64_hexdigest(content)

    monkeypatch.setattr(checksums, "xxh3_64_hexdigest", digest)
    for _ in range(2):
        scan(ScanPlan(np.ones((1, DIMENSION)), store, make=_Nothing, threads=1))
        store.take([3, 4, 12])
    assert sum(compared) == 13 * 16
    there = pickle.loads(pickle.dumps(store))
    there.take(np.arange(13))
    assert sum(compared) == 2 * 13 * 16


class _Nothing:
    def update(self, *_: Any) -> None: ...
    def merge(self, other: Any) -> None: ...


def test_what_makes_stores_of_stores_keeps_checksums(tmp_path: Path) -> None:
    write(tmp_path / "a", 7)
    with writer(tmp_path / "b") as out:
        out.append(*make(6, first=7))
    merged = merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "ab")
    assert (merged.unchecked, len(merged)) == (0, 13)
    compact_store(tmp_path / "ab", part_rows=5)
    write(tmp_path / "one", 13)
    assert content(tmp_path / "ab") == content(tmp_path / "one")
    make_older(tmp_path / "b", 2)
    assert merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "mixed").unchecked == 6


def test_checksums_of_another_number_of_blocks_are_refused(tmp_path: Path) -> None:
    from test_store import reseal

    write(tmp_path / "s", 3)
    listing = tmp_path / "s/store.json"
    parts = json.loads(listing.read_text())["parts"]
    for key in ("checksums", "rows_checksums"):
        for wrong in (parts[0][key][:-16], parts[0][key] + "0" * 16, 7):
            reseal(listing, parts=[parts[0] | {key: wrong}])
            with pytest.raises(InputError, match="damaged"):
                EmbeddingStore.open(tmp_path / "s")
