"""What a training step looks at: some subsets of one split and some of its dev examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from airrep_train.fit.options import FitOptions
from airrep_train.fit.ranking_loss import Members
from airrep_train.label import LabelledSplit


@dataclass(frozen=True)
class Step:
    """Positions in a split: which split, (k,) of its subsets, (m,) of its dev examples."""

    split: int
    subsets: NDArray[np.int64]
    queries: NDArray[np.int64]


def plan_epoch(splits: Sequence[LabelledSplit], options: FitOptions, epoch: int) -> list[Step]:
    """The steps of one epoch, a function of (seed, epoch) alone; epoch 0 has none.

    Every subset of every split comes once, in shuffled parts of equal size; dev examples are drawn
    anew for each step, without replacement; the steps of all splits are shuffled together.
    """
    if epoch == 0:
        return []
    generator = np.random.default_rng([options.seed, epoch])
    steps = []
    for number, split in enumerate(splits):
        subsets = generator.permutation(len(split.subsets))
        # Equal parts: a last part of one subset would have no pair.
        for part in np.array_split(subsets, -(-len(subsets) // options.subsets_per_step)):
            size = min(options.dev_per_step, len(split.dev))
            steps.append(Step(number, part, generator.choice(len(split.dev), size, replace=False)))
    return [steps[n] for n in generator.permutation(len(steps))]


@dataclass(frozen=True)
class Rows:
    """The distinct examples of some subsets and queries.

    Attributes:
        lines: (U,) line numbers of the examples.
        members: the subsets, as positions in `lines`.
        queries: (m,) int64 positions of the queries in `lines`.
    """

    lines: NDArray[np.int64]
    members: Members
    queries: torch.Tensor


def gather_rows(split: LabelledSplit, step: Step, device: torch.device | str = "cpu") -> Rows:
    """What to encode for a step, every example once."""
    parts = [split.dev[step.queries], *(split.subsets[k].select for k in step.subsets)]
    lines, positions = np.unique(np.concatenate(parts), return_inverse=True)
    queries, *subsets = np.split(positions.reshape(-1), np.cumsum([len(part) for part in parts])[:-1])
    return Rows(lines, Members.of(subsets, device), torch.from_numpy(queries).to(device))


def whole(split: LabelledSplit, number: int = 0) -> Step:
    """All subsets and dev examples of a split."""
    return Step(number, np.arange(len(split.subsets)), np.arange(len(split.dev)))


def pool_lines(splits: Sequence[LabelledSplit]) -> NDArray[np.int64]:
    """Sorted line numbers of all rows that any subset of the splits trained on."""
    return np.unique(np.concatenate([subset.select for split in splits for subset in split.subsets]))


def lines_of(splits: Sequence[LabelledSplit]) -> NDArray[np.int64]:
    """The same, with the dev rows."""
    return np.unique(np.concatenate([pool_lines(splits), *(split.dev for split in splits)]))
