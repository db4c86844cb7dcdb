"""How many principal components of the gradients are enough: LDS on a split of p3 (docs/quality.md).

    python benchmarks/components.py --gradients GRADIENTS [--split 4] [--json FILE]

GRADIENTS is a folder of `airrep-train gradients` that holds p3's rows. The first 192, 384 and all components
of its store are compared with the whitened gradients that they were made of, pooled by the mean and by
attention with scales of 1, 2, 4 and 8.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import record
from numpy.typing import NDArray

from airrep_train.evaluate import Embedded, Truth, VectorScorer, evaluate, truth_from_labels
from airrep_train.gradients import GradientMap, open_gradients, row_rms

DIMS = (192, 384)
SCALES = (1.0, 2.0, 4.0, 8.0)
_BLOCK = 256


@dataclass(frozen=True)
class Row:
    """LDS with so many numbers a row: with the mean, and with attention by its scale."""

    numbers: int
    mean: float
    attention: dict[str, float]


def main() -> None:
    parser = record.labels_parser(__doc__)
    parser.add_argument("--gradients", type=Path, required=True)
    parser.add_argument("--split", type=int, default=4)
    options = record.parse_with_labels(parser)
    rows = measure(options.data, options.split, options.gradients)
    if options.json:
        where = f"{record.warm_up_of(options.gradients)}, split {options.split}"
        measures = {
            f"LDS of {row.numbers} numbers, mean, {where}": record.Measure(row.mean, "LDS", True)
            for row in rows
        }
        figures = {"split": options.split, "rows": [asdict(row) for row in rows]}
        record.save(options.json, "components", figures, measures)


def measure(data: Path, split: int, gradients: Path) -> list[Row]:
    """Every number of components, printed as it is done."""
    truth = truth_from_labels(
        data / "examples.jsonl", data / "subsets.jsonl", [data / "losses.jsonl"], [split]
    )
    lines = truth.lines()
    store, raw = open_gradients(gradients), open_gradients(gradients, "raw")
    numbers = {str(row.id): number for number, row in enumerate(store.rows())}
    wanted = np.array([numbers[str(truth.examples[line].id)] for line in lines])
    components = store.take(wanted)
    rows = [_lds(truth, lines, _to_unit_length(components[:, :dims])) for dims in DIMS]
    rows.append(_lds(truth, lines, components))
    gradient_map, rms = GradientMap.load(gradients / "map"), row_rms(raw)
    numbers = {str(row.id): number for number, row in enumerate(raw.rows())}
    wanted = np.array([numbers[str(truth.examples[line].id)] for line in lines])
    blocks = [wanted[first : first + _BLOCK] for first in range(0, len(wanted), _BLOCK)]
    whole = np.concatenate([gradient_map.whitened(raw.take(block), rms[block]) for block in blocks])
    rows.append(_lds(truth, lines, whole))
    return rows


def _to_unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)


def _lds(truth: Truth, lines: NDArray[np.int64], vectors: NDArray[np.float32]) -> Row:
    mean = evaluate(VectorScorer(Embedded(lines, vectors, 1.0)), truth, pooling="mean").mean
    attention = {
        f"{scale:g}": evaluate(VectorScorer(Embedded(lines, vectors, scale)), truth).mean for scale in SCALES
    }
    row = Row(vectors.shape[1], mean, attention)
    shown = "  ".join(f"scale {scale} {lds:.3f}" for scale, lds in attention.items())
    print(f"{row.numbers:6} numbers  mean {mean:.3f}  {shown}", flush=True)
    return row


if __name__ == "__main__":
    main()
