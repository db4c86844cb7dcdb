"""Which subsets of p3 `more_labels.py` labels, and how.

Each plan is drawn by a fixed seed. The ids of its splits carry on from p3's, so that plans and label files
can be joined with `cat`. The recipe is p3's where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from airrep_train.label import SampleOptions, Subset, SubsetPlan, sample_subsets
from airrep_train.target import FineTuneOptions

UNSEEN = ("amazon_polarity", "app_reviews", "quartz", "sciq")
"""Four of p3's tasks, drawn by a fixed seed from those with 450 rows."""
RECIPE = FineTuneOptions(epochs=1, learning_rate=1e-4, batch_size=8, max_length=160, freeze_embeddings=True)
TEST = 4
"""p3's last split: half of its dev rows are the queries of the truths that differ from it in one thing."""


@dataclass(frozen=True)
class Plan:
    """Which subsets are labelled, and how.

    Attributes:
        name: of its files in `benchmarks/data`.
        first_split: the number of its first split.
        sample: how the subsets are drawn; None: they are those of p3's last split.
        tasks: the tasks whose rows they are; empty: all.
        own_queries: its dev rows are drawn too; else they are half of those of p3's last split.
        one_out: subsets are the pool without one row, every row `one_out` times (with another seed each).
        recipe: of the fine-tuning.
        repeat: subsets a split that are measured twice.
        pruned: the target is SmolLM2 without some of its blocks.
    """

    name: str
    first_split: int
    sample: SampleOptions | None = None
    tasks: tuple[str, ...] = ()
    own_queries: bool = False
    one_out: int = 0
    recipe: FineTuneOptions = RECIPE
    repeat: int = 4
    pruned: bool = False

    @property
    def last_split(self) -> int:
        """The number of its last split."""
        return self.first_split + (self.sample.splits if self.sample else 1) - 1


def _sample(size: int, subsets: int, seed: int, **others: int) -> SampleOptions:
    sizes = {"splits": 1, "dev_size": 96, "pool_size": 3000, **others}
    return SampleOptions(subset_size=size, subsets=subsets, seed=seed, **sizes)


PLANS = {
    plan.name: plan
    for plan in (
        Plan("more", 5, _sample(64, 60, 17, splits=12, dev_size=384), own_queries=True),
        Plan("unseen", 17, _sample(64, 60, 29, dev_size=240, pool_size=1200), UNSEEN, own_queries=True),
        Plan("small", 18, _sample(16, 60, 31)),
        Plan("large", 19, _sample(256, 40, 37)),
        Plan("twice", 20, recipe=replace(RECIPE, epochs=2, learning_rate=2e-4)),
        Plan(
            "adapters",
            21,
            recipe=replace(RECIPE, learning_rate=1e-3, lora_rank=16, freeze_embeddings=False),
        ),
        Plan("one-out", 22, _sample(24, 1, 41), one_out=4),
        Plan("pruned", 23, pruned=True),
        Plan("size-32", 24, _sample(32, 22, 43), repeat=0),
        Plan("size-128", 25, _sample(128, 22, 47), repeat=0),
        Plan("wide", 26, _sample(64, 6, 53, splits=6, dev_size=768), own_queries=True, repeat=0),
    )
}


def draw(plan: Plan, p3: SubsetPlan, tasks: Sequence[str]) -> SubsetPlan:
    """The subsets of a plan, in rounds over its splits; drawn ones leave p3's dev sets out.

    Args:
        p3: the subsets of p3 itself.
        tasks: of every row of p3.
    """
    if plan.sample is None:
        taken = [subset.select for subset in p3.split(TEST)]
        return _numbered({plan.first_split: (_half(p3), taken)})
    lines = np.array([line for line, task in enumerate(tasks) if not plan.tasks or task in plan.tasks])
    free = np.setdiff1d(lines, np.concatenate(list(p3.dev.values())))
    drawn = sample_subsets(len(free), plan.sample)
    splits = {}
    for dev_id, dev in drawn.dev.items():
        selections = [free[subset.select] for subset in drawn.split(dev_id)]
        if plan.one_out:
            (pool,) = selections
            selections = [np.delete(pool, row) for _ in range(plan.one_out) for row in range(len(pool))]
        splits[dev_id + plan.first_split] = free[dev] if plan.own_queries else _half(p3), selections
    return _numbered(splits)


def _half(p3: SubsetPlan) -> NDArray[np.int64]:
    return p3.dev[TEST][::2]


def _numbered(splits: dict[int, tuple[NDArray[np.int64], list[NDArray[np.int64]]]]) -> SubsetPlan:
    """Splits of dev rows and selections as a plan, the first subset of every split first."""
    count = max(len(selections) for _, selections in splits.values())
    subsets = tuple(
        Subset(f"{dev_id}-{number}", dev_id, selections[number])
        for number in range(count)
        for dev_id, (_, selections) in splits.items()
    )
    return SubsetPlan(subsets, {dev_id: dev for dev_id, (dev, _) in splits.items()})
