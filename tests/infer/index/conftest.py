"""An index that several files of tests look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from indexed import clustered, extend

from airrep_infer.store import EmbeddingStore


@pytest.fixture(scope="session")
def large(made_once: Callable[..., Path]) -> tuple[EmbeddingStore, Path]:
    """5,000 rows and their index, made once; copy the folder before changing it."""
    from airrep_infer.index import build_index

    def build(folder: Path) -> None:
        folder.mkdir()
        store = extend(folder / "store", clustered(5000))
        build_index(store, folder / "index", links=16, ef_construction=100, threads=1)

    folder = made_once("large_index", build)
    return EmbeddingStore.open(folder / "store"), folder / "index"
