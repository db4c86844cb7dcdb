"""Sets of ids that are small enough for corpora of hundreds of millions of rows.

A Python set of strings takes about 100 bytes an id, a hash in a sorted run 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_RECENT = 1 << 16


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


class KnownRows:
    """id -> sha of rows in 16 bytes each.

    The sha is mixed with further bits of the id, so that even two ids with one hash and one text
    differ: `find` says True only for the very row (but for chances of 2^-128).
    """

    def __init__(self) -> None:
        self._runs = SortedRuns()

    def add(self, rows: Iterable[tuple[str, str]], count: int) -> None:
        """Add `count` rows as (id, sha)."""
        run = np.empty((2, count), np.uint64)
        for number, (name, sha) in enumerate(rows):
            run[0, number], run[1, number] = _row_key(name, sha)
        self._runs.add(run)

    def find(self, name: str, sha: str) -> bool | None:
        """True: known with this sha; None: not known; False: its hash is known, with another sha."""
        key, mixed = _row_key(name, sha)
        entries = self._runs.find(key)
        if not entries.size:
            return None
        return bool((entries[1] == np.uint64(mixed)).any())


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _row_key(name: str, sha: str) -> tuple[int, int]:
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little") ^ int(sha, 16)
