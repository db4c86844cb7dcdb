"""LDS: does the predicted influence of subsets rank them as their measured losses do?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

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

    def lds(self) -> NDArray[np.float64]:
        """(Q,) Spearman correlations; NaN where the losses are equal, 0 where the predictions are."""
        x, y = self.predicted, self.measured
        spread = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
        ranked: NDArray[np.float64] = np.divide(
            (x * y).sum(axis=1), spread, out=np.zeros(len(x)), where=spread != 0
        )
        ranked[~y.any(axis=1)] = np.nan
        return ranked

    def correlations(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """(Q, B) correlations when subset k counts `counts[k, b]` times; 0 where either side is constant."""
        size = np.maximum(self.known @ counts, 1.0)
        x, y = self.predicted @ counts / size, self.measured @ counts / size
        covariance = (self.predicted * self.measured) @ counts / size - x * y
        spread = (self.predicted**2 @ counts / size - x**2) * (self.measured**2 @ counts / size - y**2)
        varies = spread > _LEAST_VARIANCE
        return np.where(varies, covariance / np.sqrt(np.where(varies, spread, 1.0)), 0.0)


def query_lds(influence: NDArray[np.float32], losses: NDArray[np.float32]) -> NDArray[np.float64]:
    """Spearman correlation of f and -L over subsets, for every query (docs/method.md).

    Args:
        influence: (M, K) influence of K subsets on M queries.
        losses: (K, M) measured losses; NaN where unknown, and then that subset is left out for the query.

    Returns:
        (M,) correlations; NaN for a query whose known losses are all equal (it ranks nothing), 0 for
        a constant prediction (it says nothing).
    """
    return RankedSplit.of(influence, losses).lds()


def _ranks(values: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    ranked = np.zeros(values.shape)
    for row, given, mask in zip(ranked, values, known, strict=True):
        if mask.any():
            ranks = rankdata(given[mask])
            row[mask] = ranks - ranks.mean()
    return ranked
