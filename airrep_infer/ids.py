"""Sets of ids that are small enough for corpora of hundreds of millions of rows.

A Python set of strings takes about 100 bytes an id, a hash in a sorted run 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError

_RECENT = 1 << 16
_NUMBER_BITS = 32
_NUMBERS = (1 << _NUMBER_BITS) - 1


class SortedRuns:
    """64-bit keys, each with the same number of 64-bit values, in sorted runs that merge as they grow."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []  # each (1 + values, n); the keys ascend

    def add(self, run: NDArray[np.uint64]) -> None:
        """Add n entries, (1 + values, n): the keys, in any order, and below each its values."""
        # Like a binary counter: runs merge with the smaller ones before them, so an entry moves log(n) times.
        while self._runs and self._runs[-1].shape[1] <= run.shape[1]:
            run = np.concatenate([self._runs.pop(), run], axis=1)
        self._runs.append(run[:, np.argsort(run[0], kind="stable")])

    def find(self, key: int) -> NDArray[np.uint64]:
        """The entries of a key, (1 + values, m); m is 0 where there is none."""
        wanted = np.uint64(key)
        entries = [np.empty((len(self._runs[0]) if self._runs else 1, 0), np.uint64)]
        for run in self._runs:
            first = int(np.searchsorted(run[0], wanted))
            if first < run.shape[1] and run[0, first] == wanted:  # seldom: most rows are new
                entries.append(run[:, first : np.searchsorted(run[0], wanted, side="right")])
        return entries[0] if len(entries) == 1 else np.concatenate(entries, axis=1)

    def all(self) -> list[NDArray[np.uint64]]:
        """All entries, in arrays (1 + values, n)."""
        return self._runs


class SeenIds:
    """A set of ids in 8 bytes each.

    A hit can be a hash collision (once in some 10^4 corpora of 10^8 rows), so the reader confirms it
    against the files before it calls an id a duplicate.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._runs = SortedRuns()

    def add(self, name: str) -> bool:
        """Add an id; False when (very probably) it was there already."""
        key = _hash(name)
        if key in self._recent or self._runs.find(key).size:
            return False
        self._recent.add(key)
        if len(self._recent) >= _RECENT:
            self._runs.add(np.fromiter(self._recent, np.uint64, len(self._recent))[None])
            self._recent.clear()
        return True


@dataclass(frozen=True, slots=True)
class KnownRow:
    """A row as `KnownRows` knows it: its number, its sha, and a hash of what else is stored of it."""

    number: int
    sha: str
    fields: int


class KnownRows:
    """The rows of a store by id, in 32 bytes each; rows are numbered as they are added.

    Two ids are told apart by 96 bits of their hashes.
    """

    def __init__(self) -> None:
        self._runs = SortedRuns()
        self._count = 0
        self._texts: tuple[NDArray[np.uint64], NDArray[np.uint64]] | None = None

    def add(self, rows: Iterable[tuple[str, str, int]], count: int) -> None:
        """Add `count` rows as (id, sha, hash of the fields)."""
        run = np.empty((4, count), np.uint64)
        for column, (name, sha, fields) in enumerate(rows):
            key, check = _row_key(name)
            number = self._count + column
            run[:, column] = key, check << _NUMBER_BITS | number, int(sha, 16), fields
        self._count += count
        if self._count >> _NUMBER_BITS:
            raise InputError(f"a store holds at most {1 << _NUMBER_BITS} rows; use a second one")
        self._runs.add(run)

    def find(self, name: str) -> KnownRow | None:
        """The row of an id."""
        key, check = _row_key(name)
        for place, sha, fields in self._runs.find(key)[1:].T.tolist():
            if place >> _NUMBER_BITS == check:
                return KnownRow(place & _NUMBERS, f"{sha:016x}", fields)
        return None

    def with_sha(self, sha: str) -> int | None:
        """The number of a row with this sha, among those that were added before the first call."""
        if self._texts is None:
            places, shas = (np.concatenate([row[n] for row in self._runs.all()]) for n in (1, 2))
            order = np.argsort(shas, kind="stable")
            self._texts = shas[order], places[order] & np.uint64(_NUMBERS)
        shas, numbers = self._texts
        wanted = np.uint64(int(sha, 16))
        first = int(np.searchsorted(shas, wanted))
        return int(numbers[first]) if first < len(shas) and shas[first] == wanted else None


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _row_key(name: str) -> tuple[int, int]:
    """64 bits to find an id by, and 32 to tell it from others that have the same."""
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=12).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
