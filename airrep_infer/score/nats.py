"""From scores to nats: by how much a row is expected to lower a query's loss.

A calibration says what influence meant over subsets of n rows (`bundle.Calibration`). With w_i =
exp(beta |s_i|), the influence of a subset of n - 1 random rows and row i is about

    f = ((n - 1) Z fbar + w_i s_i) / ((n - 1) Z + w_i),     Z = mean w,  fbar = sum_j w_j s_j / sum_j w_j

over the whole corpus: sums over random rows are replaced by their expectations. With a random row in the
place of i it is about fbar, so that row i shifts f by

    delta_i = w_i (s_i - fbar) / ((n - 1) Z + w_i)

and the loss is expected to fall by `Calibration.nats` times that. A group of m rows takes the place of
min(m, n) random ones in the same way. It is an extrapolation from subsets of n rows: how a loss moves after
other fine-tunings, `airrep-train verify` measures. Sums are near their expectations while no row outweighs
all others of a subset: for vectors of length sqrt(8) and beta .3, as encoders taught here have them, delta is
within 12% of what drawn subsets give; where beta |s| reaches 5 or so it can be far off for groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.bundle import Calibration
from airrep_infer.rows import PredictedNats
from airrep_infer.score.attribution import Attributions
from airrep_infer.store import EmbeddedRows, EmbeddingStore

Floats = NDArray[np.float64]
_DIGITS = 6


def calibration_for(train: EmbeddingStore, queries: EmbeddedRows) -> Calibration | None:
    """What says in nats what these training rows do to these queries; None where nothing can.

    Not where influence meant nothing that is told apart from 0 (`Calibration.tells`), nor for queries that it
    was not measured of (`EmbeddedRows.calibrated`).
    """
    known = train.calibration
    return known if known is not None and known.tells and queries.calibrated else None


def shifts_of_rows(
    scores: ArrayLike,
    influence: ArrayLike,
    log_weight: ArrayLike,
    rows: ArrayLike,
    beta: float,
    subset_rows: int,
) -> Floats:
    """By how much rows shift the influence of a random subset that one of them is in, (Q, m).

    Args:
        scores: (Q, m) of the rows.
        influence, log_weight: (Q,) f of the whole corpus, and log sum_i exp(beta |s_i|).
        rows: of the corpus, one number or (Q,).
        subset_rows: n; no more are taken than there are.
    """
    s = np.asarray(scores, np.float64)
    count = np.asarray(rows, np.float64)[..., None]
    mean_weight = np.asarray(log_weight, np.float64)[:, None] - np.log(count)
    return _shift(beta * np.abs(s) - mean_weight, s, np.asarray(influence)[:, None], count, 1.0, subset_rows)


def shifts_of_groups(
    groups: Floats,
    group_log_weight: Floats,
    group_rows: ArrayLike,
    influence: Floats,
    log_weight: Floats,
    rows: ArrayLike,
    subset_rows: int,
) -> Floats:
    """By how much a group shifts the influence of a random subset, in the place of as many rows, (Q, G).

    Args:
        groups, group_log_weight: (Q, G), f of each group, and log sum_i exp(beta |s_i|) over it.
        group_rows: (Q, G), how many rows a group has; 0 gives a shift of 0.
        influence, log_weight, rows, subset_rows: as of `shifts_of_rows`.
    """
    count, size = np.asarray(rows, np.float64)[..., None], np.asarray(group_rows, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = group_log_weight - np.log(size) - (log_weight[:, None] - np.log(count))
        shift = _shift(relative, groups, influence[:, None], count, size, subset_rows)
    return np.where(size > 0, shift, 0.0)


def _shift(
    relative: Floats, own: Floats, influence: Floats, count: Floats, size: ArrayLike, subset_rows: int
) -> Floats:
    """The shift by `size` rows of influence `own`, whose mean weight has the logarithm `relative` to Z."""
    taken = np.minimum(subset_rows, count)
    placed = np.minimum(size, taken)
    others = taken - placed
    # placed w / (placed w + others Z), as a logistic function of the logarithms: no exponent overflows.
    with np.errstate(divide="ignore", over="ignore"):
        share = 1.0 / (1.0 + np.exp(np.log(others) - np.log(placed) - relative))
    return np.asarray(share * (own - influence), np.float64)


@dataclass(frozen=True, eq=False)
class Predictions:
    """The nats of an attribution, by query.

    Attributes:
        proponents, opponents: (Q, m) shifts of influence by the rows of each end.
        groups: (Q, G) by each group; None without groups.
    """

    calibration: Calibration
    proponents: Floats
    opponents: Floats
    groups: Floats | None

    @classmethod
    def of(cls, calibration: Calibration, result: Attributions, rows: int, beta: float) -> Predictions | None:
        """Those of an attribution to a corpus of `rows` rows; None where it does not know its weights."""
        if result.log_weight is None:
            return None
        count = np.full(len(result), rows) if result.compared is None else result.compared
        whole, n = (result.group_influence, result.log_weight, count), calibration.subset_rows
        groups = None
        if result.groups is not None and result.group_log_weight is not None:
            assert result.group_rows is not None
            groups = shifts_of_groups(result.groups, result.group_log_weight, result.group_rows, *whole, n)
        return cls(
            calibration,
            shifts_of_rows(result.proponent_scores, *whole, beta, n),
            shifts_of_rows(result.opponent_scores, *whole, beta, n),
            groups,
        )

    def of_proponents(self, query: int) -> list[PredictedNats]:
        """The nats of a query's proponents, in their order."""
        return [predict(self.calibration, shift) for shift in self.proponents[query].tolist()]

    def of_opponents(self, query: int) -> list[PredictedNats]:
        """The nats of a query's opponents, in their order."""
        return [predict(self.calibration, shift) for shift in self.opponents[query].tolist()]

    def of_groups(
        self, queries: Sequence[int] | NDArray[np.int64], names: Sequence[str]
    ) -> dict[str, PredictedNats] | None:
        """The nats of each group by its name, mean over some queries (q,); None without groups."""
        if self.groups is None:
            return None
        shifts = self.groups[queries].mean(axis=0).tolist()
        return {name: predict(self.calibration, shift) for name, shift in zip(names, shifts, strict=True)}


def predict(calibration: Calibration, shift: float) -> PredictedNats:
    """Nats of a shift of influence, with the interval of the calibration."""
    ends = sorted((calibration.nats_low * shift, calibration.nats_high * shift))
    return PredictedNats(*(round(nats, _DIGITS) for nats in (calibration.nats * shift, *ends)))
