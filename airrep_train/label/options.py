"""How subsets are drawn and labelled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from airrep_infer.command import check_options, option
from airrep_infer.errors import InputError
from airrep_infer.rows import NEAR_COPY, OnTruncate
from airrep_train.target import TargetOptions

LabelEngine = Literal["local", "ray"]


@dataclass(frozen=True)
class SampleOptions:
    """How many examples go where; the draw depends on nothing else."""

    splits: int = option("Splits, each with a dev set and a pool of its own.", default=10, least=1)
    dev_size: int = option("Examples whose losses are measured, per split.", default=192, least=1)
    pool_size: int = option("Other examples that subsets are drawn from, per split.", default=3000, least=1)
    subset_size: int = option("Examples in each subset.", default=64, least=1)
    subsets: int = option("Subsets per split.", default=40, least=1)
    seed: int = option("Seed of the draw.", default=0, least=0)
    near_copy: float = option(
        "Rows this similar to a dev row (Jaccard similarity of their runs of 5 characters) are kept out of "
        "the pool of its split; 1: copies only.",
        default=NEAR_COPY,
        above=0,
        most=1,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.subset_size > self.pool_size:
            raise InputError(f"subset_size {self.subset_size} exceeds pool_size {self.pool_size}; lower it")
        if math.comb(self.pool_size, self.subset_size) < self.subsets:
            raise InputError(
                f"a pool of {self.pool_size} has {math.comb(self.pool_size, self.subset_size)} distinct "
                f"subsets of {self.subset_size}, fewer than the {self.subsets} asked for; enlarge the pool "
                "or ask for fewer"
            )


@dataclass(frozen=True)
class LabelOptions(TargetOptions):
    """What is labelled, and where; how it is fine-tuned is in `FineTuneOptions`."""

    repeat: int = option("Subsets per split to label twice, for the reliability.", default=0, least=0)
    engine: LabelEngine = option("Where it runs: this process, or a Ray cluster.", default="local")
    workers: int | None = option("Ray actors.", default=None, least=1, unset="one per GPU or node")
    on_truncate: OnTruncate = option(
        "What to do with rows that exceed the max length: cut them, make them an error, or cut them and skip "
        "the training rows that have no response left.",
        default="cut",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is not None and self.engine != "ray":
            raise InputError("workers belongs to engine ray; the local engine is this one process")
