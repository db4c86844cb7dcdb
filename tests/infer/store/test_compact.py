"""Joining parts gives the store that one undisturbed run writes, and loses nothing on the way."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_store import PART, SPACE, at_step, content, make, make_older, write, writer

from airrep_infer.cli import main
from airrep_infer.errors import BusyError, InputError, StorageError
from airrep_infer.index import graph
from airrep_infer.store import writer as store_writer
from airrep_infer.store.compact import CompactSummary, compact_store
from airrep_infer.store.listing import write_listing
from airrep_infer.store.store import EmbeddingStore


@pytest.fixture(autouse=True)
def quick_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def grown(path: Path, count: int = 23) -> Path:
    """A store of many short parts, as hourly appends make it."""
    for total in range(2, count + 2, 2):
        write(path, min(total, count), chunk=2)
    return path


@pytest.mark.parametrize("part_rows", [5, 7, 23, 100])
def test_the_result_is_that_of_one_run(tmp_path: Path, part_rows: int) -> None:
    before = len(EmbeddingStore.open(grown(tmp_path / "s")).parts)
    summary = compact_store(tmp_path / "s", part_rows=part_rows)
    write(tmp_path / "one", 23, part_rows=part_rows)
    assert content(tmp_path / "s") == content(tmp_path / "one")
    assert summary == CompactSummary(23, before, -(-23 // part_rows))
    assert {child.name for child in tmp_path.iterdir()} == {"s", "one"}
    assert len(write(tmp_path / "s", 30, part_rows=part_rows)) == 30  # it can be extended


def test_a_store_that_cannot_get_fewer_parts_stays(tmp_path: Path) -> None:
    write(tmp_path / "s", 13)
    (tmp_path / "s" / "notes.txt").write_text("mine")
    before = content(tmp_path / "s")
    assert compact_store(tmp_path / "s", part_rows=PART) == CompactSummary(13, 3, 3)
    assert compact_store(tmp_path / "s", part_rows=2) == CompactSummary(13, 3, 3)  # it never splits
    assert content(tmp_path / "s") == before


@pytest.mark.parametrize("version", [1, 2])
def test_an_earlier_version_gets_its_checksums(tmp_path: Path, version: int) -> None:
    write(tmp_path / "s", 13)
    before = content(tmp_path / "s")
    make_older(tmp_path / "s", version)
    assert compact_store(tmp_path / "s", part_rows=PART) == CompactSummary(13, 3, 3)
    if version == 1:  # rows may have hashes that are no longer made, which the listing goes on to say
        listing = EmbeddingStore.open(tmp_path / "s").listing
        assert listing.former_hashes
        write_listing(tmp_path / "s", replace(listing, former_hashes=False))
    assert content(tmp_path / "s") == before
    make_older(grown(tmp_path / "many"), version)
    assert compact_store(tmp_path / "many", part_rows=PART).parts == 5
    assert EmbeddingStore.open(tmp_path / "many").unchecked == 0


def test_what_cannot_be_compacted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such store"):
        compact_store(tmp_path / "s")
    grown(tmp_path / "s")
    with writer(tmp_path / "s"), pytest.raises(BusyError, match="another process is writing"):
        compact_store(tmp_path / "s")
    file = tmp_path / "s" / "part-00001.npy"
    vectors = np.load(file)
    vectors[0, 0] += 1
    np.save(file, vectors)
    before = content(tmp_path / "s")
    with pytest.raises(InputError, match=r"part-00001.npy: damaged"):
        compact_store(tmp_path / "s")
    assert content(tmp_path / "s") == before


def test_killed_at_every_step_it_is_the_old_store_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(tmp_path / "before", 8)
    write(tmp_path / "after", 8, part_rows=100)
    old, new = content(tmp_path / "before"), content(tmp_path / "after")
    for step in range(1, 100):
        path = grown(tmp_path / "work" / str(step), 8)
        child = os.fork()
        if child == 0:
            with at_step(step, lambda: os.kill(os.getpid(), signal.SIGKILL), monkeypatch):
                compact_store(path)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        assert content(path) in (old, new)
        compact_store(path)
        assert content(path) == new
    assert step > 8, "the kills did not happen"
    last = str(step)
    names = {child.name for child in (tmp_path / "work").iterdir()}
    assert all(not name.startswith(f".{last}.") for name in names)


def test_a_full_disk_leaves_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = grown(tmp_path / "s", 8)
    before = content(path)

    def fail() -> None:
        raise OSError(28, os.strerror(28))

    for step in (1, 3, 5, 8):
        with at_step(step, fail, monkeypatch), pytest.raises(StorageError, match="No space left"):
            compact_store(path)
        assert content(path) == before
        assert [child.name for child in tmp_path.iterdir()] == ["s"]


def test_the_command(tmp_path: Path) -> None:
    grown(tmp_path / "s")
    result = CliRunner().invoke(main, ["compact", str(tmp_path / "s")])
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.endswith(f"{tmp_path / 's'}: 23 rows, 12 parts, now 1\n")


def test_too_many_parts_for_an_index_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EmbeddingStore.open(grown(tmp_path / "s"))
    monkeypatch.setattr("resource.getrlimit", lambda _kind: (20, 20))
    with pytest.raises(InputError, match=r"s: has 12 parts, .* keep 10 of them open; join .* compact"):
        graph.MappedRows(store)
    compact_store(store.path)
    assert len(graph.MappedRows(EmbeddingStore.open(store.path))) == 23


def test_rows_do_not_wait_long_for_their_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(store_writer.time, "monotonic", lambda: now)
    examples, vectors = make(9)
    with writer(tmp_path / "s", part_rows=100) as out:
        for n in range(9):
            now += 100
            out.append([examples[n]], vectors[n : n + 1])
            assert now - 100 * len(EmbeddingStore.open(tmp_path / "s")) <= store_writer.PART_SECONDS
    assert [part.count for part in EmbeddingStore.open(tmp_path / "s").parts] == [4, 4, 1]
    assert EmbeddingStore.open(tmp_path / "s").space == SPACE


def test_rows_in_memory_are_bounded_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_writer, "memory_budget", lambda: 4 * 50_000)
    examples, vectors = make(9)
    long = [replace(example, fields={"note": "x" * 20_000}) for example in examples]
    with writer(tmp_path / "s", part_rows=100) as out:
        for n in range(9):
            out.append(long[n : n + 1], vectors[n : n + 1])
    assert [part.count for part in EmbeddingStore.open(tmp_path / "s").parts] == [3, 3, 3]
