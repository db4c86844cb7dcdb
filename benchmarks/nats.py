"""Do predicted nats come true? Calibrated on one split of p3, measured on another (docs/quality.md).

    python benchmarks/nats.py --model CHECKPOINT [--fitted 3] [--split 4] [--json FILE]

For every row of every subset: by how many nats is it predicted to lower the loss of a query, compared with a
random row in its place, and by how many was the loss lower after that subset than after the others? One
such measurement is mostly noise; the mean over rows of about the same prediction is not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import record
from numpy.typing import NDArray

from airrep_infer.bundle import Calibration
from airrep_infer.score import attention_pool, shifts_of_rows
from airrep_train.evaluate import VectorScorer, calibrate, embed_lines, truth_from_labels
from airrep_train.label import LabelledSplit

EDGES = (-np.inf, -0.1, -0.05, -0.02, 0.02, 0.05, 0.1, 0.2, 0.4, np.inf)


@dataclass(frozen=True)
class Bin:
    """Pairs of a row and a query whose predicted nats are alike: means of both, and the standard error."""

    pairs: int
    predicted: float
    measured: float
    error: float


@dataclass(frozen=True)
class Check:
    """What became of the predictions.

    Attributes:
        fitted, measured: the calibration of the split that it was fitted on, and of the other.
        subsets: slope of measured falls on predicted ones, between subsets; 1 is right.
        rows: the same for single rows.
        bins: single rows by what was predicted.
    """

    fitted: Calibration
    measured: Calibration
    subsets: float
    rows: float
    bins: list[Bin]


def main() -> None:
    parser = record.labels_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--fitted", type=int, default=3)
    parser.add_argument("--split", type=int, default=4)
    options = record.parse_with_labels(parser)
    check = measure(options.data, options.model, options.fitted, options.split)
    for name, found in ((options.fitted, check.fitted), (options.split, check.measured)):
        print(f"split {name}: {found.nats:.3f} nats [{found.nats_low:.3f}, {found.nats_high:.3f}]")
    print(f"measured on predicted: subsets {check.subsets:.2f}, rows {check.rows:.2f}")
    for row in check.bins:
        measured = f"measured {row.measured:+.3f} +- {row.error:.3f}"
        print(f"{row.pairs:8} pairs  predicted {row.predicted:+.3f}  {measured}")
    if options.json:
        measures = {
            f"measured over predicted nats of {what}, split {options.split}": record.Measure(value, "", True)
            for what, value in (("subsets", check.subsets), ("rows", check.rows))
        }
        record.save(options.json, "nats", {"split": options.split, **asdict(check)}, measures)


def measure(data: Path, model: Path, fitted: int, split: int) -> Check:
    """Calibrate on the split `fitted` and compare with what the other measured."""
    truth = truth_from_labels(
        data / "examples.jsonl", data / "subsets.jsonl", [data / "losses.jsonl"], [fitted, split]
    )
    scorer = VectorScorer(embed_lines(model, truth.examples, truth.lines()))
    here, there = (_Scored.of(scorer, part) for part in truth.splits)
    calibration, other = (calibrate([part.split], [part.influence]) for part in (here, there))
    assert calibration is not None and other is not None
    predicted, measured = there.rows(calibration)
    return Check(
        calibration,
        other,
        other.nats / calibration.nats,
        float((predicted * measured).sum() / (predicted**2).sum()),
        [
            _bin(predicted[inside], measured[inside])
            for low, high in pairwise(EDGES)
            if (inside := (predicted > low) & (predicted <= high)).sum() > 1
        ],
    )


def _bin(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> Bin:
    error = measured.std() / np.sqrt(len(measured))
    return Bin(len(measured), float(predicted.mean()), float(measured.mean()), float(error))


@dataclass(frozen=True)
class _Scored:
    """A split with scores (Q, P) of its pool, the places of its subsets there, and their influence (Q, K)."""

    split: LabelledSplit
    scores: NDArray[np.float64]
    places: list[NDArray[np.int64]]
    influence: NDArray[np.float64]
    beta: float

    @classmethod
    def of(cls, scorer: VectorScorer, split: LabelledSplit) -> _Scored:
        pool = np.unique(np.concatenate([subset.select for subset in split.subsets]))
        scores = np.concatenate([np.asarray(block, np.float64) for block in scorer.scores(split.dev, pool)])
        places = [np.searchsorted(pool, subset.select) for subset in split.subsets]
        pooled = [attention_pool(scores[:, chosen], scorer.beta) for chosen in places]
        return cls(split, scores, places, np.stack(pooled, axis=1), scorer.beta)

    def rows(self, calibration: Calibration) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predicted nats of every row of every subset for every query, and by how much the loss was lower."""
        weights = np.exp(self.beta * np.abs(self.scores))
        whole = (weights * self.scores).sum(axis=1) / weights.sum(axis=1)
        count = self.scores.shape[1]
        shifts = shifts_of_rows(
            self.scores, whole, np.log(weights.sum(axis=1)), count, self.beta, calibration.subset_rows
        )
        losses, subsets = self.split.losses.astype(np.float64), len(self.places)
        # Compared with the mean of the other subsets, not of all.
        falls = (losses.mean(axis=0) - losses) * subsets / (subsets - 1)
        predicted = [calibration.nats * shifts[:, chosen] for chosen in self.places]
        measured = [
            np.broadcast_to(fall[:, None], nats.shape) for fall, nats in zip(falls, predicted, strict=True)
        ]
        return np.concatenate(predicted, axis=1).ravel(), np.concatenate(measured, axis=1).ravel()


if __name__ == "__main__":
    main()
