"""Confidence intervals of LDS over queries and subsets: both are samples, so both are drawn again.

A resample draws queries and, within each split, subsets, with replacement (a two-way bootstrap: Owen 2007,
"The pigeonhole bootstrap"). A query's correlation is that of its ranks among *all* its subsets, weighted by
how often each was drawn: ranks taken anew would tie copies of a subset, and lower every correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

RESAMPLES = 10_000
_CHUNK_ELEMENTS = 1 << 22
_LEAST_VARIANCE = 1e-6
"""Ranks differ by halves at least; less than this is rounding of equal ones."""


@dataclass(frozen=True)
class RankedSplit:
    """Ranks of a split's K subsets for its Q queries, by prediction and by measurement.

    Attributes:
        predicted, measured: (Q, K) ranks around 0, and 0 where the loss is unknown.
        known: (Q, K) 1.0 where the loss is known.
    """

    predicted: NDArray[np.float64]
    measured: NDArray[np.float64]
    known: NDArray[np.float64]

    @staticmethod
    def of(influence: NDArray[np.float32], losses: NDArray[np.float32]) -> RankedSplit:
        """From (Q, K) influences and (K, Q) losses, NaN where unknown."""
        known = np.isfinite(losses.T)
        return RankedSplit(_ranks(influence, known), _ranks(-losses.T, known), known.astype(np.float64))

    def correlations(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """(Q, B) correlations when subset k counts `counts[k, b]` times; 0 where either side is constant."""
        size = np.maximum(self.known @ counts, 1.0)
        x, y = self.predicted @ counts / size, self.measured @ counts / size
        covariance = (self.predicted * self.measured) @ counts / size - x * y
        spread = (self.predicted**2 @ counts / size - x**2) * (self.measured**2 @ counts / size - y**2)
        varies = spread > _LEAST_VARIANCE
        return np.where(varies, covariance / np.sqrt(np.where(varies, spread, 1.0)), 0.0)


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


def _ranks(values: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    ranked = np.zeros(values.shape)
    for row, given, mask in zip(ranked, values, known, strict=True):
        if mask.any():
            ranks = rankdata(given[mask])
            row[mask] = ranks - ranks.mean()
    return ranked
