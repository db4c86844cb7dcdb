"""A part of a corpus, as a corpus of its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from airrep_infer.score.plan import Array, Corpus, Wanted


class RowsOf:
    """Some rows of a corpus as a corpus of their own: row i is row `numbers[i]`; `numbers` (m,) ascend."""

    def __init__(self, corpus: Corpus, numbers: NDArray[np.int64]) -> None:
        self.corpus = corpus
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def blocks(self, size: int, wanted: Wanted | None = None) -> Iterator[tuple[int, Array]]:
        """See `Corpus`; a block has at most the rows that one of the whole corpus has."""

        def inside(first: int, end: int) -> bool:
            low, high = map(int, np.searchsorted(self.numbers, [first, end]))
            return low < high and (wanted is None or wanted(low, high))

        for first, block in self.corpus.blocks(size, inside):
            low, high = np.searchsorted(self.numbers, [first, first + len(block)])
            yield int(low), block[self.numbers[low:high] - first]

    def take(self, numbers: NDArray[np.int64]) -> Array:
        """See `Corpus`."""
        return self.corpus.take(self.numbers[numbers])
