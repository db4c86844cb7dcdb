"""The measurements that a label run consists of, and the seed of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from airrep_infer.errors import InputError
from airrep_train.label.loss_files import Key
from airrep_train.label.subsets import Indices, Subset, SubsetPlan

_SPLIT_STEP = 1_000
_REPEAT_STEP = 1_000_000


@dataclass(frozen=True, slots=True)
class Task:
    """One measurement to make: fine-tune on `subset` under `seed`, then the losses on `dev`.

    With `keep_order` the order of the rows depends on the seed and on each row's own line number alone: rows
    that two subsets share come in the same order in both.
    """

    subset: Subset
    dev: Indices
    seed: int
    repeat: int
    keep_order: bool = False

    @property
    def key(self) -> Key:
        return self.subset.id, self.repeat


def subset_seed(base: int, dev_id: int, number: int, repeat: int = 0) -> int:
    """The seed of subset `number` (from 0) of split `dev_id`; p3's labels were made so, from base 0."""
    return base + _SPLIT_STEP * dev_id + number + _REPEAT_STEP * repeat


def check_repeat(repeat: int, subsets: Mapping[int, int]) -> None:
    """Refuse to measure more subsets of a split again than it has.

    Args:
        subsets: dev_id -> how many subsets the split has.

    Raises:
        InputError: a split has fewer; the message names the smallest.
    """
    smallest = min(subsets, key=lambda dev_id: subsets[dev_id])
    if repeat > subsets[smallest]:
        raise InputError(
            f"repeat {repeat} is more than the {subsets[smallest]} subsets of split {smallest}; give at most "
            f"{subsets[smallest]}, or draw more subsets"
        )


def plan_tasks(
    plan: SubsetPlan, seed: int = 0, *, repeat: int = 0, shard: tuple[int, int] = (1, 1)
) -> list[Task]:
    """The measurements of a run, in the order of its output: every subset once, then the repeats.

    Args:
        plan: the subsets.
        seed: base seed.
        repeat: how many subsets of each split are measured again, its first ones.
        shard: (I, N), every N-th task from the I-th, counted from 1.

    Raises:
        InputError: no such shard, or a split has fewer subsets than `repeat`.
    """
    part, parts = shard
    if not 1 <= part <= parts:
        raise InputError(f"shard {part}/{parts}: expected I/N with 1 <= I <= N")
    if repeat < 0:
        raise InputError(f"repeat must be at least 0, got {repeat}")
    check_repeat(repeat, {dev_id: len(plan.split(dev_id)) for dev_id in plan.dev})
    tasks: list[Task] = []
    for again in (0, 1):
        numbers = dict.fromkeys(plan.dev, 0)
        for subset in plan.subsets:
            number = numbers[subset.dev_id]
            numbers[subset.dev_id] += 1
            if not again or number < repeat:
                drawn = subset_seed(seed, subset.dev_id, number, again)
                tasks.append(Task(subset, plan.dev[subset.dev_id], drawn, again))
    return tasks[part - 1 :: parts]
