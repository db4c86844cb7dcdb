"""Confidence intervals by the bootstrap: what was sampled is drawn again, queries, and for LDS subsets too.

A resample of LDS draws queries and, within each split, subsets, with replacement (a two-way bootstrap:
Owen 2007, "The pigeonhole bootstrap"). A query's correlation is that of its ranks among *all* its subsets,
weighted by how often each was drawn: ranks taken anew would tie copies of a subset, and lower every
correlation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    sizes = [(len(split.known), split.known.shape[1]) for split in methods[0]]
    queries = sum(size[0] for size in sizes)
    parts = [
        [
            sum(
                (split.correlations(of_subsets) * of_queries).sum(axis=0)
                for split, (of_queries, of_subsets) in zip(method, drawn, strict=True)
            )
            / queries
            for method in methods
        ]
        for drawn in draw_both(sizes, seed=seed, n=n)
    ]
    return np.concatenate(parts, axis=1)


def draw_both(
    sizes: Sequence[tuple[int, int]], *, seed: int = 0, n: int = RESAMPLES
) -> Iterator[list[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """Draw `n` resamples, some at a time: for each split how often its queries and its subsets are drawn.

    Args:
        sizes: queries Q and subsets K of each split. Queries are drawn among those of all splits.

    Yields:
        a pair of (Q, b) and (K, b) for each split, b resamples.
    """
    queries = sum(size[0] for size in sizes)
    ends = np.cumsum([size[0] for size in sizes])[:-1]
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ELEMENTS // max(queries, *(size[1] for size in sizes)))
    for start in range(0, n, chunk):
        length = min(chunk, n - start)
        # How often each is drawn is all that matters.
        of_queries = np.split(_counts(generator, queries, length), ends)
        of_subsets = [_counts(generator, size[1], length) for size in sizes]
        yield list(zip(of_queries, of_subsets, strict=True))


def resample_means(values: NDArray[np.float64], *, seed: int = 0, n: int = RESAMPLES) -> NDArray[np.float64]:
    """Means of (M, Q) values over queries in `n` resamples of the queries: (M, n), all M on the same ones."""
    queries = values.shape[1]
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ELEMENTS // queries)
    parts = [
        values @ _counts(generator, queries, min(chunk, n - start)) / queries for start in range(0, n, chunk)
    ]
    return np.concatenate(parts, axis=1)


def interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The 95% percentile interval of resampled values."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def _counts(generator: np.random.Generator, size: int, resamples: int) -> NDArray[np.float64]:
    """(size, resamples): how often each of `size` things is drawn."""
    return generator.multinomial(size, np.full(size, 1 / size), size=resamples).T.astype(np.float64)
