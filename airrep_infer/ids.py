"""A set of ids that is small enough for corpora of hundreds of millions of rows."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_RECENT = 1 << 16


class SeenIds:
    """A set of ids in 8 bytes each: sorted runs of 64-bit hashes, merged as they grow.

    A Python set of strings would take about 100 bytes an id. A hit can be a hash collision (once in
    some 10^4 corpora of 10^8 rows), so the reader confirms it against the files before it calls an
    id a duplicate.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, name: str) -> bool:
        """Add an id; False when (very probably) it was there already."""
        key = _hash(name)
        if key in self._recent or any(_in_run(run, key) for run in self._runs):
            return False
        self._recent.add(key)
        if len(self._recent) >= _RECENT:
            run = np.sort(np.fromiter(self._recent, np.uint64, len(self._recent)))
            self._recent.clear()
            # Like a binary counter: equal-sized runs merge, so an id is moved log(n) times.
            while self._runs and len(self._runs[-1]) <= len(run):
                run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
            self._runs.append(run)
        return True


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _in_run(run: NDArray[np.uint64], key: int) -> bool:
    at = int(np.searchsorted(run, np.uint64(key)))
    return at < len(run) and int(run[at]) == key
