"""Near copies: rows that are the same but for little, by the runs of characters that they have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from airrep_infer.rows.example import Example

NEAR_COPY = 0.8
"""Jaccard similarity of the two rows' runs of 5 characters, from which one is a near copy of the other."""
_RUN = 5
# A run is known by a hash of 64 bits, of its characters' numbers times powers of this.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_CHARACTERS_AT_ONCE = 1 << 20
_ROUNDING = 1e-9  # of a number of runs

Runs = NDArray[np.uint64]
_Number = TypeVar("_Number", np.uint64, np.int64)


@dataclass(frozen=True, eq=False)
class Near:
    """The rows (n,) that a text is a near copy of, by their numbers, and how similar each is (n,)."""

    rows: NDArray[np.int64]
    similarity: NDArray[np.float64]


class NearCopies:
    """Rows, and which of them another row is a near copy of.

    Two rows are near copies if the Jaccard similarity of their sets of runs of 5 characters, in lower case
    and with white space as one space, is at least `similarity`. All of a row counts, however long it is.

    Only rows that share one of their rarest runs are compared. A near copy can lack only so many runs of a
    row; of one more than that it has at least one (Bayardo et al., "Scaling up all pairs similarity search",
    2007). Taking the rarest ones leaves few other rows to compare.

    Args:
        examples: the rows, which are numbered from 0.
        similarity: above 0, at most 1.
    """

    def __init__(self, examples: Iterable[Example], similarity: float = NEAR_COPY) -> None:
        self._similarity = similarity
        runs = [_runs(example) for example in examples]
        self._sizes = np.array([len(of_row) for of_row in runs], np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        # The runs of all rows, each as its place in `_known`, row after row and the rarest first.
        self._known, places, counts = np.unique(
            np.concatenate([*runs, np.empty(0, np.uint64)]), return_inverse=True, return_counts=True
        )
        self._rarity = np.empty(len(counts), np.int64)
        self._rarity[np.argsort(counts, kind="stable")] = np.arange(len(counts))
        rows = np.repeat(np.arange(len(runs)), self._sizes)
        self._places = places[np.lexsort((self._rarity[places], rows))]
        # Which rows have a run among their rarest ones, by the run's place.
        rank = np.arange(len(rows)) - self._starts[rows]
        rarest = np.array([self._rare_count(size) for size in self._sizes.tolist()], np.int64)
        first = rank < rarest[rows]
        order = np.argsort(self._places[first], kind="stable")
        self._rows_by_rare_run = rows[first][order]
        self._ends = np.cumsum(np.bincount(self._places[first], minlength=len(counts)))
        self._asked = np.zeros(len(counts), bool)

    def of(self, example: Example) -> Near:
        """The rows that an example is a near copy of, in their order."""
        runs = _runs(example)
        places = np.searchsorted(self._known, runs)
        places = places[np.take(self._known, places, mode="clip") == runs] if len(self._known) else places[:0]
        # Runs that no row has are the rarest of all.
        rare = self._rare_count(len(runs)) - (len(runs) - len(places))
        candidates = self._with_rare_runs(places, rare) if rare > 0 else np.empty(0, np.int64)
        sizes = self._sizes[candidates]
        like = np.minimum(sizes, len(runs)) >= self._similarity * np.maximum(sizes, len(runs)) - _ROUNDING
        candidates, sizes = candidates[like], sizes[like]
        self._asked[places] = True
        shared = np.array(
            [
                np.count_nonzero(self._asked[self._places[start : start + size]])
                for start, size in zip(self._starts[candidates].tolist(), sizes.tolist(), strict=True)
            ],
            np.int64,
        )
        self._asked[places] = False
        similarity = shared / (len(runs) + sizes - shared)
        near = similarity >= self._similarity
        return Near(candidates[near], similarity[near])

    def _with_rare_runs(self, places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """The rows that have one of the `count` rarest of some runs among their own rarest ones."""
        rarity = self._rarity[places]
        if count < len(places):
            places = places[np.argpartition(rarity, count - 1)[:count]]
        ends = self._ends[places]
        begins = np.where(places > 0, self._ends[places - 1], 0)
        rare = zip(begins[begins < ends].tolist(), ends[begins < ends].tolist(), strict=True)
        found = [self._rows_by_rare_run[begin:end] for begin, end in rare]
        return _distinct(np.concatenate([*found, np.empty(0, np.int64)]))

    def _rare_count(self, size: int) -> int:
        """How many of the rarest runs of a row of `size` runs are compared: a near copy has one of them."""
        return size - math.ceil(self._similarity * size - _ROUNDING) + 1


def _runs(example: Example) -> Runs:
    """The distinct runs of a row's characters, as ascending hashes; a shorter text is a run itself."""
    text = " ".join(example.content.lower().split()).ljust(_RUN, "\0")
    made = np.empty(0, np.uint64)
    # A part at a time: what takes memory is the distinct runs of a long row, not all of them.
    for start in range(0, len(text) - _RUN + 1, _CHARACTERS_AT_ONCE):
        part = text[start : start + _CHARACTERS_AT_ONCE + _RUN - 1]
        characters = np.frombuffer(part.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        count = len(characters) - _RUN + 1
        hashes = characters[:count].copy()
        for place in range(1, _RUN):
            hashes *= _FACTOR
            hashes += characters[place : place + count]
        made = _distinct(np.concatenate([made, hashes]) if start else hashes)
    return made


def _distinct(values: NDArray[_Number]) -> NDArray[_Number]:
    """The distinct values (n,) in ascending order; `np.unique` is slower (2.4: 18 times for 2,500 values)."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values
