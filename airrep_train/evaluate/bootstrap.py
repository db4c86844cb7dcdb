"""Confidence intervals of LDS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
_CHUNK_ELEMENTS = 1 << 23


def bootstrap_means(values: NDArray[np.float64], *, seed: int = 0, n: int = RESAMPLES) -> NDArray[np.float64]:
    """Means of resampled queries: (methods, Q) -> (methods, n), every method on the same resamples."""
    queries = values.shape[1]
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ELEMENTS // queries)
    parts = []
    for start in range(0, n, chunk):
        # How often each query is drawn is all that a mean needs.
        counts = generator.multinomial(queries, np.full(queries, 1 / queries), size=min(chunk, n - start))
        parts.append(values @ counts.T / queries)
    return np.concatenate(parts, axis=1)


def interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The 95% percentile interval of resampled values."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)
