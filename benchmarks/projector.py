"""What the projector's own steps learn from labels, behind vectors that are computed once (docs/quality.md).

    python benchmarks/projector.py --gradients GRADIENTS --encoder ENCODER [--json FILE]

ENCODER is a checkpoint that was taught p3's gradients, GRADIENTS the folder that it was taught from. Splits 0
to 2 train, split 3 validates, and LDS is that of split 4, over whose queries and subsets the interval is.
Every variant is `airrep_train.fit`'s own projector phase, with the vectors standing in for an encoder.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import record
import torch
from numpy.typing import NDArray
from torch import nn

from airrep_train.evaluate import Embedded, Truth, VectorScorer, embed_lines, evaluate, truth_from_labels
from airrep_train.fit import FitOptions
from airrep_train.fit.projector_first import train_projector
from airrep_train.fit.ranking_loss import normalise
from airrep_train.fit.steps import lines_of
from airrep_train.fit.validation import validate_on
from airrep_train.label import LabelledSplit
from airrep_train.model import AirRepModel

LENGTH = 8**0.5  # of the vectors that `teach` gives
FEW = (10, 20)  # subsets of a split, of the variants with fewer labels


class Frozen(nn.Module):
    """Vectors of all lines in the place of a model and its encoder."""

    bring_to_length = AirRepModel.bring_to_length

    def __init__(self, vectors: NDArray[np.float32], beta: float) -> None:
        super().__init__()
        width = vectors.shape[1]
        self.vectors, self.model = torch.from_numpy(vectors), self
        self.config = SimpleNamespace(embedding_dim=width, normalize=True, scale=LENGTH)
        self.projector = nn.Linear(width, width)
        nn.init.eye_(self.projector.weight)
        nn.init.zeros_(self.projector.bias)
        self.beta = nn.Parameter(torch.tensor(beta))

    def projector_output(self) -> AbstractContextManager[None]:
        return nullcontext()

    def encode(self, lines: NDArray[np.int64]) -> torch.Tensor:
        return self.vectors[torch.from_numpy(lines)]

    @torch.no_grad()
    def embed(self, lines: NDArray[np.int64]) -> torch.Tensor:
        vectors: torch.Tensor = self.bring_to_length(self.projector(self.encode(lines)))
        return vectors


@dataclass(frozen=True)
class Row:
    """A variant: its best step, its validation LDS, and LDS on the test split with its interval."""

    variant: str
    step: int
    validation: float
    lds: float
    ci95: tuple[float, float]


def main() -> None:
    parser = record.labels_parser(__doc__)
    parser.add_argument("--gradients", type=Path, required=True)
    parser.add_argument("--encoder", required=True)
    options = record.parse_with_labels(parser)
    rows = measure(options.data, options.encoder, options.gradients)
    if options.json:
        measures = {f"LDS, {row.variant}, split 4": record.Measure(row.lds, "LDS", True) for row in rows}
        record.save(options.json, "projector", {"rows": [asdict(row) for row in rows]}, measures)


def measure(data: Path, encoder: str, gradients: Path) -> list[Row]:
    """Every variant, printed as it is done."""
    truth = truth_from_labels(
        data / "examples.jsonl", data / "subsets.jsonl", [data / "losses.jsonl"], [0, 1, 2, 3, 4]
    )
    splits = sorted(truth.splits, key=lambda split: split.dev_id)
    lines = truth.lines()
    taught, store = (
        embed_lines(source, truth.examples, lines) for source in (encoder, [gradients / "store"])
    )

    def of_all(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors of the truth's lines, at their places among all examples."""
        placed = np.zeros((len(truth.examples), vectors.shape[1]), np.float32)
        placed[lines] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return placed

    of_text, of_gradients = of_all(taught.vectors), of_all(store.vectors)
    both = 0.5**0.5 * np.concatenate([of_text, of_gradients], axis=1)
    base = FitOptions()
    changed: dict[str, dict[str, Any]] = {
        "defaults": {},
        "a quarter of the queries a step": {"dev_per_step": 48},
        "rate .00025, 200 steps": {"projector_lr": 2.5e-4, "projector_steps": 200},
        "rate .001": {"projector_lr": 1e-3},
        "rate .002": {"projector_lr": 2e-3},
    }
    rows = [
        run(name, of_text, taught.beta, splits, replace(base, **changes)) for name, changes in changed.items()
    ]
    for few in FEW:
        fewer = [_first_subsets(split, few) for split in splits[:4]] + splits[4:]
        rows.append(run(f"{few} subsets of each split", of_text, taught.beta, fewer, base))
    rows.append(run("behind the gradients", of_gradients, 1 / LENGTH**2, splits, base))
    rows.append(run("behind both", both, 1 / LENGTH**2, splits, base))
    return rows


def _first_subsets(split: LabelledSplit, few: int) -> LabelledSplit:
    return replace(split, subsets=split.subsets[:few], losses=split.losses[:few])


def run(
    variant: str, vectors: NDArray[np.float32], beta: float, splits: list[LabelledSplit], options: FitOptions
) -> Row:
    """Train behind some vectors (n, D), and measure."""
    model = Frozen(vectors, beta)
    training, validation, test = splits[:3], splits[3:4], splits[4]

    def validate(embed: Any) -> Any:
        return validate_on(validation, embed, model.beta.detach(), fit_scale=True)

    targets = [normalise(split.losses) for split in training]
    lines = lines_of([*training, *validation])
    best = train_projector(model, training, targets, lines, validate, options)  # type: ignore[arg-type]
    of_test = lines_of([test])
    embedded = Embedded(of_test, model.embed(of_test).numpy(), best.reached.beta)
    measured = evaluate(VectorScorer(embedded), Truth((), [test]))
    row = Row(variant, best.step, best.reached.lds, measured.mean, measured.ci95)
    low, high = row.ci95
    print(f"{variant:32} step {row.step:3}  validation {row.validation:.3f}  test {row.lds:.3f} ", end="")
    print(f"[{low:.3f}, {high:.3f}]", flush=True)
    return row


if __name__ == "__main__":
    main()
