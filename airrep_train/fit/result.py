"""What a training run came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from airrep_infer.bundle import Calibration
from airrep_infer.rows import CutCounts


@dataclass(frozen=True)
class FitResult:
    """What a run came to; LDS is the mean over the validation queries.

    Attributes:
        checkpoint: the folder of the best epoch's model.
        epochs: epochs run; fewer than asked when stopped early.
        best_epoch: 0 is the untrained start.
        untrained_lds: validation LDS of the start, see `centre`; like `lds` with the pooling scale fitted to
            the validation split, which flatters both a little: what counts is a test split (`evaluate`).
        lds: validation LDS of the checkpoint.
        beta: its pooling scale.
        tied_queries: training queries without any label (all losses equal).
        unknown_labels: training labels that were missing or not finite.
        skipped_steps: steps without any pair, or with a gradient that was not finite.
        seconds: time spent, over all starts of the run.
        projector_step: of the steps that the projector takes before the first epoch, the best one; 0 when
            none was better than the start.
        cut_rows, cut_responses: examples that the token limit cut, and of how many the response.
        left_out: of them, examples that it trained without.
        gain_low, gain_high: the 95% interval of `lds` minus `untrained_lds` over the validation queries; None
            for runs that an earlier version began.
        better: whether the checkpoint's LDS is above that of the start, and the interval above 0.
        calibration: what influence meant in nats on the validation splits, see `evaluate.calibrate`; None for
            runs of earlier versions.
    """

    checkpoint: str
    epochs: int
    best_epoch: int
    untrained_lds: float
    lds: float
    beta: float
    tied_queries: int
    unknown_labels: int
    skipped_steps: int
    seconds: float
    cut_rows: int = 0
    cut_responses: int = 0
    left_out: int = 0
    projector_step: int = 0
    gain_low: float | None = None
    gain_high: float | None = None
    better: bool = True
    calibration: Calibration | None = None

    @classmethod
    def of_record(cls, *, calibration: Mapping[str, Any] | None = None, **values: Any) -> FitResult:
        """The result as the folder of a run has recorded it."""
        known = None if calibration is None else Calibration.from_json(calibration)
        return cls(**values, calibration=known)

    def with_typical(self, typical: float | None) -> FitResult:
        """The result with the typical fall of a loss by now; None: there are no base losses.

        No weight depends on it, so base losses may come after the training.
        """
        if self.calibration is None or typical is None:
            return self
        return replace(self, calibration=replace(self.calibration, typical=typical))

    def described(self) -> str:
        """The result in one line."""
        best = f"epoch {self.best_epoch} of {self.epochs}"
        if not self.best_epoch and self.projector_step:
            best = f"the projector's step {self.projector_step}"
            best += f", better than all {self.epochs} epochs" if self.epochs else ""
        line = (
            f"validation LDS {self.lds:.3f} ({best}; at the start "
            f"{self.untrained_lds:.3f}), beta {self.beta:.3f}, {self.seconds:.0f} s"
        )
        if not self.best_epoch and not self.projector_step:
            what = "epoch" if self.epochs else "step"
            line += f"; no {what} was better than the start, which is what was written"
        elif not self.better:
            line += (
                f"; not shown to be better than the start: the gain lies in [{self.gain_low:+.3f}, "
                f"{self.gain_high:+.3f}] (95%)"
            )
        if self.calibration is not None:
            meant = self.calibration
            each = meant.one_deviation / meant.nats if meant.nats else 0.0
            line += (
                f"; one standard deviation of a subset's influence meant {meant.one_deviation:.2f} nats "
                f"[{meant.nats_low * each:.2f}, {meant.nats_high * each:.2f}]"
            )
            if not meant.tells:
                line += ", which is not told apart from none: no nats are predicted"
        if self.left_out:
            line += f"; {self.left_out} rows exceed the token limit and were left out"
        elif self.cut_rows:
            line += f"; {CutCounts(self.cut_rows, self.cut_responses)}"
        return line


def gain_interval(start: Sequence[float], best: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95% bootstrap interval over queries of the mean of `best` - `start`; None where one is missing."""
    if len(start) != len(best) or len(start) < 2:
        return None, None
    gain = np.subtract(best, start)
    if not np.ptp(gain):
        return float(gain[0]), float(gain[0])
    resampled = bootstrap((gain,), np.mean, n_resamples=2000, method="percentile", random_state=0)
    return float(resampled.confidence_interval.low), float(resampled.confidence_interval.high)
