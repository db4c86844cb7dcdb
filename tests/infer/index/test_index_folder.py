"""The folder of an index: damage, other stores, unusable options, one writer, and a killed save."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from indexed import DIMENSION, assert_exact, clustered, extend

pytest.importorskip("hnswlib", reason="hnswlib (extra: index) is compiled on installation and optional")

from airrep_infer.errors import BusyError, InputError, StorageError
from airrep_infer.index import AnnIndex
from airrep_infer.index.build import build_index
from airrep_infer.index.folder import MANIFEST, IndexManifest, locked, save_graph
from airrep_infer.store import EmbeddingStore


@pytest.mark.parametrize("what", [0, 1, 2], ids=["graph", "hubs", "arrays"])
@pytest.mark.parametrize("how", ["byte", "cut", "gone"])
def test_damaged_files(what: int, how: str, large: tuple[EmbeddingStore, Path], tmp_path: Path) -> None:
    store, path = large
    folder = shutil.copytree(path, tmp_path / "i")
    file = folder / IndexManifest.open(folder).files[what].name
    content = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content if how == "byte" else content[:-1])
    with pytest.raises(InputError, match=file.name):
        AnnIndex.open(folder, store)


def test_damaged_or_foreign_manifests(large: tuple[EmbeddingStore, Path], tmp_path: Path) -> None:
    store, path = large
    folder = shutil.copytree(path, tmp_path / "i")
    file = folder / MANIFEST
    original = json.loads(file.read_text())
    for change, words in (
        ({"rows": 4999}, "sha256"),
        ({"graph": {**original["graph"], "vertices": 4999}}, "sha256"),
        ({"space": {**original["space"], "dimension": DIMENSION + 8}}, "sha256"),
        ({"hubs": {**original["hubs"], "radius": 1.0}}, "sha256"),
        ({"format_version": 99}, "format version 99"),
        ({"kind": "airrep-store"}, "airrep-store"),
    ):
        file.write_text(json.dumps({**original, **change}))
        with pytest.raises(InputError, match=words):
            AnnIndex.open(folder, store)
    file.write_text("{")
    with pytest.raises(InputError, match=MANIFEST):
        AnnIndex.open(folder, store)
    with pytest.raises(InputError, match=MANIFEST):
        build_index(store, folder)
    small = extend(tmp_path / "small", clustered(50))
    assert len(build_index(small, folder, rebuild=True, threads=1)) == 50  # nothing of the old one is read
    with pytest.raises(InputError, match="not an index"):
        AnnIndex.open(tmp_path / "nowhere", store)


def test_other_stores(large: tuple[EmbeddingStore, Path], tmp_path: Path) -> None:
    store, path = large
    vectors = store.take(np.arange(len(store)))
    vectors[17] *= 1.001
    changed = extend(tmp_path / "changed", vectors)
    shorter = extend(tmp_path / "shorter", vectors[:700])
    for other in (changed, shorter):
        for use in (AnnIndex.open, lambda path, store: build_index(store, path)):
            with pytest.raises(InputError, match="another store"):
                use(path, other)
    with pytest.raises(InputError, match="different encoders"):
        AnnIndex.open(path, extend(tmp_path / "model", vectors, fingerprint="cd" * 32))
    with pytest.raises(InputError, match="different encoders"):
        AnnIndex.open(path, extend(tmp_path / "wide", np.pad(vectors, ((0, 0), (0, 8)))))


def test_unusable_folders_and_options(large: tuple[EmbeddingStore, Path], tmp_path: Path) -> None:
    store, path = large
    (tmp_path / "file").write_text("x")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    for name, words in (("file", "is a file"), ("notes", "todo.txt")):
        with pytest.raises(InputError, match=words):
            build_index(store, tmp_path / name)
    for options, words in (
        ({"recall": 0.0}, "recall"),
        ({"recall": 1.1}, "recall"),
        ({"k": 0}, "k must be"),
        ({"links": 1}, "links"),
        ({"max_ef": 0}, "max_ef"),
    ):
        with pytest.raises(InputError, match=words):
            build_index(store, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
    index = AnnIndex.open(path, store)
    with pytest.raises(InputError, match="NaN"):
        index.proponents(np.full((1, DIMENSION), np.nan))
    with pytest.raises(InputError, match="dimension 3"):
        index.attribute(np.ones((1, 3)))
    with pytest.raises(InputError, match="tail"):
        index.attribute(np.ones((1, DIMENSION)), tail=0)


def test_one_writer_at_a_time(large: tuple[EmbeddingStore, Path], tmp_path: Path) -> None:
    store, path = large
    folder = shutil.copytree(path, tmp_path / "i")
    with locked(folder), pytest.raises(BusyError, match="another process"):
        build_index(store, folder, recall=0.9)
    assert len(AnnIndex.open(folder, store)) == len(store)


def test_a_graph_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    """hnswlib's own save does not notice a full disk."""

    class Short:
        def save_index(self, path: str) -> None:
            Path(path).write_bytes(b"x" * 10)

        def index_file_size(self) -> int:
            return 11

    with pytest.raises(StorageError, match="space"):
        save_graph(tmp_path, Short(), "graph")
    assert list(tmp_path.iterdir()) == []


def build_killed(store: Path, index: Path, moment: int) -> int:
    """Build in a process that dies before its `moment`-th fsync, rename or removal; its status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    calls = itertools.count(1)

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if next(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in ("fsync", "replace", "rename", "unlink"):
        setattr(os, name, dying(getattr(os, name)))
    try:
        build_index(EmbeddingStore.open(store), index, threads=1)
    finally:
        os._exit(0 if sys.exc_info()[0] is None else 1)


def test_killed_while_saving_it_leaves_an_index(tmp_path: Path) -> None:
    """SIGKILL in a real process before every fsync, rename and removal of a save, until one survives."""
    vectors = clustered(400)
    old = extend(tmp_path / "s", vectors[:300])
    build_index(old, tmp_path / "before", links=4, ef_construction=20, threads=1)
    new = extend(tmp_path / "s", vectors[300:])
    survived: list[int] = []
    for moment in range(1, 40):
        folder = shutil.copytree(tmp_path / "before", tmp_path / f"i{moment}")
        status = build_killed(new.path, folder, moment)
        rows = IndexManifest.open(folder).rows
        assert_exact(AnnIndex.open(folder, old if rows == 300 else new), vectors[:2], 5, ef=400)
        survived.append(rows)
        if status == 0:
            break
        assert os.WIFSIGNALED(status)
        index = build_index(new, folder, threads=1)
        assert_exact(index, vectors[:2], 5, ef=400)
        assert len(list(folder.iterdir())) == 5  # lock, manifest and its three files: nothing is left over
    # Some were killed before the manifest was replaced, some after.
    assert status == 0 and moment > 8 and set(survived[:-1]) == {300, 400}
