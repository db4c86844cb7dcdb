"""What a taught encoder learns from which labels, and how: the best use of labelling (docs/quality.md).

    python benchmarks/projector.py --encoder ENCODER [--only NAME ...] [--json FILE]

ENCODER is a checkpoint that was taught without labels. Each of p3's splits 0 to 3 is measured in turn, by the
projector's steps of `airrep_train.fit` on labels of the others, or of the plans in `benchmarks/data`; the
last step counts, so nothing is chosen on the split that is measured. Intervals of the gain are over its
queries. Dev rows of splits 0 to 2 were taught without labels, those of split 3 may not have been.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import record
import torch
from numpy.typing import NDArray
from quality import read_truth
from torch import nn

from airrep_train.evaluate import embed_lines, query_lds, truth_from_labels
from airrep_train.fit import FitOptions
from airrep_train.fit.projector_first import train_projector
from airrep_train.fit.ranking_loss import influence, normalise
from airrep_train.fit.result import gain_interval
from airrep_train.fit.steps import gather_rows, lines_of, whole
from airrep_train.fit.validation import Validation
from airrep_train.label import LabelledSplit
from airrep_train.model import AirRepModel, load_checkpoint

MEASURED = (0, 1, 2, 3)
STEPS = 60
OPTIONS = FitOptions(projector_steps=STEPS).from_start(trained=True)
Splits = list[LabelledSplit]


class Frozen(nn.Module):
    """Vectors of all lines in the place of a model and its encoder."""

    bring_to_length = AirRepModel.bring_to_length

    def __init__(self, vectors: torch.Tensor, beta: float, length: float) -> None:
        super().__init__()
        width = vectors.shape[1]
        self.vectors, self.model = vectors, self
        self.config = SimpleNamespace(embedding_dim=width, normalize=True, scale=length)
        self.projector = nn.Linear(width, width)
        nn.init.eye_(self.projector.weight)
        nn.init.zeros_(self.projector.bias)
        self.beta = nn.Parameter(torch.tensor(beta))

    def projector_output(self) -> AbstractContextManager[None]:
        return nullcontext()

    def encode(self, lines: NDArray[np.int64]) -> torch.Tensor:
        return self.vectors[torch.from_numpy(lines)]

    @torch.no_grad()
    def each(self, split: LabelledSplit) -> NDArray[np.float64]:
        """LDS of every query of a split."""
        rows = gather_rows(split, whole(split))
        table = self.bring_to_length(self.projector(self.encode(rows.lines)))
        pooled = influence(table[rows.queries], table, rows.members, self.beta)
        found: NDArray[np.float64] = query_lds(pooled.numpy(), split.losses)
        return found


@dataclass(frozen=True)
class Variant:
    """Labels and settings: `labels` makes the splits to train on of p3's other three."""

    labels: Callable[[Splits], Splits]
    changes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Row:
    """What a variant reached: mean LDS over the measured splits, and the gain over no labels."""

    variant: str
    labels: int
    lds: float
    each: tuple[float, ...]
    gain: float
    gain_ci95: tuple[float, float]


def first(splits: Splits, subsets: int | None = None, queries: int | None = None) -> Splits:
    """The first subsets of each split, and queries at even distances."""
    cut = []
    for split in splits:
        chosen = np.arange(len(split.dev))
        if queries is not None:
            chosen = np.linspace(0, len(split.dev), queries, endpoint=False).astype(np.int64)
        cut.append(
            replace(
                split,
                dev=split.dev[chosen],
                subsets=split.subsets[:subsets],
                losses=split.losses[:subsets][:, chosen],
            )
        )
    return cut


def variants(read: Callable[[str], Splits], p3: Splits) -> dict[str, Variant]:
    """All that is compared; `read` gives the splits of a plan."""
    half = {int(line) for line in read("small")[0].dev}
    (last,) = (split for split in p3 if split.dev_id == 4)
    shared = np.array([line in half for line in last.dev])
    on_half = [replace(last, dev=last.dev[shared], losses=last.losses[:, shared])]
    found = {
        "3 splits x 40 subsets x 192 queries": Variant(lambda others: others),
        "3 x 20 x 192": Variant(lambda others: first(others, 20)),
        "3 x 10 x 192": Variant(lambda others: first(others, 10)),
        "2 x 20 x 192": Variant(lambda others: first(others[:2], 20)),
        "1 x 40 x 192": Variant(lambda others: others[:1]),
        "3 x 20 x 96": Variant(lambda others: first(others, 20, 96)),
        "3 x 20 x 48": Variant(lambda others: first(others, 20, 48)),
        "12 x 6 x 384": Variant(lambda _: first(read("more"), 6)),
        "12 x 6 x 192": Variant(lambda _: first(read("more"), 6, 192)),
        "12 x 6 x 96": Variant(lambda _: first(read("more"), 6, 96)),
        "12 x 3 x 384": Variant(lambda _: first(read("more"), 3)),
        "3 x 40 x 192 and 12 x 6 x 384": Variant(lambda others: [*others, *first(read("more"), 6)]),
        "3 x 40 x 192 and all of 12 splits": Variant(lambda others: [*others, *read("more")]),
        "6 x 6 x 768": Variant(lambda _: first(read("wide"), 6)),
        "6 x 6 x 384": Variant(lambda _: first(read("wide"), 6, 384)),
        "6 x 6 x 192": Variant(lambda _: first(read("wide"), 6, 192)),
        "subsets of 16 rows, 1 x 22 x 96": Variant(lambda _: first(read("small"), 22)),
        "subsets of 32 rows, 1 x 22 x 96": Variant(lambda _: first(read("size-32"), 22)),
        "subsets of 64 rows, 1 x 22 x 96": Variant(lambda _: first(on_half, 22)),
        "subsets of 128 rows, 1 x 22 x 96": Variant(lambda _: first(read("size-128"), 22)),
        "subsets of 256 rows, 1 x 22 x 96": Variant(lambda _: first(read("large"), 22)),
        "subsets of 16 rows, 1 x 60 x 96": Variant(lambda _: first(read("small"), 60)),
    }
    changed: dict[str, dict[str, Any]] = {
        "no pull, t = 1, beta learned (before)": {"projector_pull": 0.0},
        "no pull, t = 1": {"projector_pull": 0.0, "beta_rate": 0.0},
        "a pull of 0.5": {"projector_pull": 0.5},
        "a pull of 8": {"projector_pull": 8.0},
        "rate .00025": {"projector_lr": 2.5e-4},
        "rate .001": {"projector_lr": 1e-3},
        "a quarter of the queries a step": {"dev_per_step": 48},
    }
    for name, changes in changed.items():
        found[f"3 x 40 x 192, {name}"] = Variant(lambda others: others, tuple(changes.items()))
    return found


def train(model: Frozen, training: Splits, options: FitOptions) -> None:
    """All steps, of which the last is kept."""
    rising = count()
    targets = [normalise(split.losses) for split in training]
    train_projector(
        model,  # type: ignore[arg-type]
        training,
        targets,
        lines_of(training),
        lambda _: Validation(float(next(rising)), model.beta.item()),
        options,
    )


def measure(data: Path, encoder: str, only: Sequence[str]) -> Iterator[Row]:
    """Every variant in turn."""
    truth = truth_from_labels(
        data / "examples.jsonl", data / "subsets.jsonl", [data / "losses.jsonl"], [*MEASURED, 4]
    )
    p3 = sorted(truth.splits, key=lambda split: split.dev_id)
    one_split = {name: read_truth(name, data, 4) for name in ("small", "size-32", "size-128", "large")}
    several = {name: read_truth(name, data, 4, every_split=True) for name in ("more", "wide")}
    plans = {name: list(truth.splits) for name, truth in (one_split | several).items()}
    embedded = embed_lines(encoder, truth.examples, np.arange(len(truth.examples)))
    config = load_checkpoint(encoder).model.config
    if not config.normalize:
        raise SystemExit(f"{encoder}: its vectors are not of one length; name a checkpoint that was taught")
    vectors = torch.nn.functional.normalize(torch.from_numpy(embedded.vectors), dim=1)

    def start() -> Frozen:
        return Frozen(vectors, embedded.beta, config.scale)

    before = [start().each(p3[measured]) for measured in MEASURED]
    yield row("no label", 0, before, before)
    for name, variant in variants(lambda plan: plans[plan], p3).items():
        if only and not any(part in name for part in only):
            continue
        after, labels = [], 0
        for measured in MEASURED:
            training = variant.labels([p3[other] for other in MEASURED if other != measured])
            model = start()
            train(model, training, replace(OPTIONS, **dict(variant.changes)))
            after.append(model.each(p3[measured]))
            labels = sum(len(split.subsets) for split in training)
        yield row(name, labels, after, before)


def row(name: str, labels: int, after: list[NDArray[np.float64]], before: list[NDArray[np.float64]]) -> Row:
    with_labels, without = np.concatenate(after), np.concatenate(before)
    low, high = gain_interval(without.tolist(), with_labels.tolist())
    assert low is not None and high is not None  # of two queries or more
    each = tuple(float(part.mean()) for part in after)
    return Row(name, labels, float(np.mean(each)), each, float((with_labels - without).mean()), (low, high))


def main() -> None:
    parser: argparse.ArgumentParser = record.labels_parser(__doc__)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--only", action="append", default=[], help="variants whose name has this")
    options = record.parse_with_labels(parser)
    rows = []
    for found in measure(options.data, options.encoder, options.only):
        rows.append(found)
        low, high = found.gain_ci95
        splits = " ".join(f"{part:.3f}" for part in found.each)
        print(f"{found.variant:58} {found.labels:4}  {found.lds:.4f}  {found.gain:+.4f} ", end="")
        print(f"[{low:+.4f}, {high:+.4f}]  {splits}", flush=True)
    if options.json:
        measures = {
            f"LDS, {found.variant}, mean of splits 0 to 3": record.Measure(found.lds, "LDS", True)
            for found in rows
        }
        record.save(options.json, "projector", {"rows": [asdict(found) for found in rows]}, measures)


if __name__ == "__main__":
    main()
