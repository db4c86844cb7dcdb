"""LDS: does the predicted influence of subsets rank them as their measured losses do?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def query_lds(influence: NDArray[np.float32], losses: NDArray[np.float32]) -> NDArray[np.float64]:
    """Spearman correlation of f and -L over subsets, for every query (docs/method.md).

    Args:
        influence: (M, K) influence of K subsets on M queries.
        losses: (K, M) measured losses; NaN where unknown, and then that subset is left out for the query.

    Returns:
        (M,) correlations; NaN for a query whose known losses are all equal (it ranks nothing), 0 for
        a constant prediction (it says nothing).
    """
    return np.array([_spearman(f, -loss) for f, loss in zip(influence, losses.T, strict=True)])


def _spearman(predicted: NDArray[np.float32], measured: NDArray[np.float32]) -> float:
    known = np.isfinite(measured)
    if known.sum() < 2:
        return float("nan")
    x, y = rankdata(predicted[known]), rankdata(measured[known])
    x, y = x - x.mean(), y - y.mean()
    if not y.any():
        return float("nan")
    return float(x @ y / np.sqrt((x @ x) * (y @ y))) if x.any() else 0.0
