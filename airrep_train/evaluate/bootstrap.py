"""Confidence intervals of LDS over queries and subsets: both are samples, so both are drawn again.

A resample draws queries and, within each split, subsets, with replacement (a two-way bootstrap: Owen 2007,
"The pigeonhole bootstrap"). A query's correlation is that of its ranks among *all* its subsets, weighted by
how often each was drawn: ranks taken anew would tie copies of a subset, and lower every correlation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from airrep_train.evaluate.lds import RankedSplit

RESAMPLES = 10_000
_CHUNK_ELEMENTS = 1 << 22


def resample_lds(
    methods: Sequence[Sequence[RankedSplit]], *, seed: int = 0, n: int = RESAMPLES
) -> NDArray[np.float64]:
    """Mean LDS of every method in `n` resamples: (methods, n), all methods on the same resamples.

    Args:
        methods: for each, all splits; the same queries and subsets in each method.
    """
    splits = methods[0]
    sizes = [split.known.shape for split in splits]
    queries = sum(size[0] for size in sizes)
    ends = np.cumsum([size[0] for size in sizes])[:-1]
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ELEMENTS // max(queries, *(size[1] for size in sizes)))
    parts = []
    for start in range(0, n, chunk):
        length = min(chunk, n - start)
        # How often each is drawn is all that matters.
        of_queries = np.split(_counts(generator, queries, length), ends)
        of_subsets = [_counts(generator, size[1], length) for size in sizes]
        parts.append(
            [
                sum(
                    (split.correlations(subsets) * weights).sum(axis=0)
                    for split, subsets, weights in zip(method, of_subsets, of_queries, strict=True)
                )
                / queries
                for method in methods
            ]
        )
    return np.concatenate(parts, axis=1)


def interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The 95% percentile interval of resampled values."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def _counts(generator: np.random.Generator, size: int, resamples: int) -> NDArray[np.float64]:
    """(size, resamples): how often each of `size` things is drawn."""
    return generator.multinomial(size, np.full(size, 1 / size), size=resamples).T.astype(np.float64)
