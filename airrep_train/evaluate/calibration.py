"""What influence meant in nats: measured falls of a query's loss against predicted influence.

For query j and subset k of a split, `g_jk` is the fall of the loss: its loss before any fine-tuning minus
`L_jk`, or where the former is not known, minus `L_jk` alone. Both `g` and `f` are taken around their means
over the subsets of a query, and g = c f is fitted by least squares over all queries together:

    c = sum_jk (f_jk - mean f_j) (g_jk - mean g_j) / sum_jk (f_jk - mean f_j)^2

The differences between queries stay out: those of high influence are not those whose loss falls most (on p3
a fit over all pairs gives slopes from .11 to .30 on splits where this one gives .31), and `attribute` asks
what a row changes for one query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.bundle import Calibration
from airrep_infer.sealed import damage, read_record
from airrep_train.evaluate.bootstrap import RESAMPLES, draw_both, interval
from airrep_train.label import LabelledSplit

_RESULT = Path("training") / "result.json"  # of `fit`, in a checkpoint


def calibrate(
    splits: Sequence[LabelledSplit],
    influences: Sequence[NDArray[np.floating]],
    *,
    seed: int = 0,
    n: int = RESAMPLES,
) -> Calibration | None:
    """What influence meant in nats, with its 95% interval over queries and subsets (see `bootstrap`).

    Args:
        splits: measured losses; the model was not trained on them.
        influences: of each split the (Q, K) predicted f.
        seed, n: of the resamples.

    Returns:
        the calibration; None where the influence of no query varies between subsets of known losses.
    """
    measured = [_Falls.of(split, influence) for split, influence in zip(splits, influences, strict=True)]
    sizes = [(len(split.dev), len(split.subsets)) for split in splits]
    once = [(np.ones((queries, 1)), np.ones((subsets, 1))) for queries, subsets in sizes]
    covariance, variance = _sums(measured, once)
    if not variance[0] > 0:
        return None
    slopes = []
    for drawn in draw_both(sizes, seed=seed, n=n):
        again, spread = _sums(measured, drawn)
        slopes.append(again[spread > 0] / spread[spread > 0])
    slope = float(covariance[0] / variance[0])
    low, high = interval(np.concatenate(slopes))
    deviation = float(np.sqrt(variance[0] / sum(falls.known.sum() for falls in measured)))
    rows = np.mean([len(subset.select) for split in splits for subset in split.subsets])
    return Calibration(slope, low, high, slope * deviation, round(float(rows)), typical_fall(splits))


def typical_fall(splits: Sequence[LabelledSplit]) -> float | None:
    """The mean fall of all known losses, whatever the model; None where base losses are missing."""
    falls = [split.base - split.losses for split in splits if split.base is not None]
    known = np.concatenate([fall[np.isfinite(fall)] for fall in falls]) if falls else np.empty(0)
    return float(known.mean()) if len(falls) == len(splits) and len(known) else None


def calibration_of(model: str | Path) -> Calibration | None:
    """What `fit` measured of a checkpoint; None where it is not known.

    Raises:
        InputError: the record of its training is damaged.
    """
    path = Path(model) / _RESULT
    if not path.is_file():
        return None
    fix = "train it again"
    value = read_record(path, fix).get("calibration")
    with damage(path, fix):
        return None if value is None else Calibration.from_json(value)


@dataclass(frozen=True)
class _Falls:
    """Influence f and fall of the loss g of one split, (Q, K), 0 where the loss is unknown; known: 1 or 0."""

    f: NDArray[np.float64]
    g: NDArray[np.float64]
    known: NDArray[np.float64]

    @classmethod
    def of(cls, split: LabelledSplit, influence: NDArray[np.floating]) -> _Falls:
        # A query's base loss is the same for all subsets, so around the mean it plays no part.
        known = np.isfinite(split.losses.T)
        around = np.where(known, influence, 0.0).sum(axis=1, keepdims=True)
        around /= np.maximum(known.sum(axis=1, keepdims=True), 1)
        return cls(
            np.where(known, influence - around, 0.0),
            np.where(known, -split.losses.T.astype(np.float64), 0.0),
            known.astype(np.float64),
        )


def _sums(
    measured: Sequence[_Falls], drawn: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums over queries and subsets of (f - mean f)(g - mean g) and of (f - mean f)^2, (b,) each.

    Queries and subsets count as often as they are drawn, also in the means.
    """
    covariance = variance = np.zeros(())
    for falls, (of_queries, of_subsets) in zip(measured, drawn, strict=True):
        size = np.maximum(falls.known @ of_subsets, 1.0)
        f, g = falls.f @ of_subsets, falls.g @ of_subsets
        covariance = covariance + (((falls.f * falls.g) @ of_subsets - f * g / size) * of_queries).sum(axis=0)
        variance = variance + (((falls.f**2) @ of_subsets - f**2 / size) * of_queries).sum(axis=0)
    return covariance, variance
