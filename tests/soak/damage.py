"""Bits flipped in every file that we write: the reader refuses it in one line, or reads what was written."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from soak.counts import Counts
from soak.disk import content_of
from soak.jobs import write_store

from airrep_infer.errors import InputError
from airrep_infer.store.store import EmbeddingStore

_HEAD = 200
"""Flips meet the first bytes of a file, where headers are, as often as all of it."""


@dataclass(frozen=True)
class Written:
    """Files of one kind: `make` writes them into a folder, `read` gives what they say, to be compared."""

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], Any]


def _read_store(folder: Path) -> Any:
    store = EmbeddingStore.open(folder / "s")
    return store, list(store.lines()), store.take(np.arange(len(store))).tobytes()


# Larger than the pages that are looked at when it is opened.
STORE = Written("a store", lambda folder: write_store(folder / "s", 4_000, part_rows=3_000), _read_store)


def flips(kind: Written, folder: Path, count: int, seed: int = 0) -> Counts:
    """Flip one bit somewhere, read, put it back; `count` times."""
    counts = Counts(f"bit flips in {kind.name}")
    folder.mkdir(exist_ok=True)
    kind.make(folder)
    before = kind.read(folder)
    files = sorted(content_of(folder))
    draw = random.Random(seed)
    for number in range(count):
        file = folder / draw.choice(files)
        whole = file.read_bytes()
        damaged = bytearray(whole)
        place = draw.randrange(min(len(whole), draw.choice((_HEAD, len(whole)))))
        damaged[place] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        with counts.attempt(f"flip {number}, {file.name} at {place}"):
            try:
                value = kind.read(folder)
            except InputError as error:
                assert "\n" not in str(error) and str(folder) in str(error), str(error)
                counts.refused += 1
            else:  # white space of JSON, or a word that nobody reads again
                assert value == before, "another value was read"
        file.write_bytes(whole)
    return counts
