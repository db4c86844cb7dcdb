"""How subsets are drawn and labelled."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from airrep_infer.command import check_options, option
from airrep_infer.errors import InputError
from airrep_infer.rows import NEAR_COPY, OnTruncate
from airrep_train.target import TargetOptions

LabelEngine = Literal["local", "ray"]

DEFAULT_POOL = 3000
"""Pool size where none is given, and there are so many rows."""


@dataclass(frozen=True)
class SampleOptions:
    """How many examples go where; the draw depends on nothing else."""

    splits: int = option("Splits, each with a dev set and a pool of its own.", default=10, least=1)
    dev_size: int = option("Examples whose losses are measured, per split.", default=192, least=1)
    pool_size: int | None = option(
        "Other examples that subsets are drawn from, per split.",
        default=None,
        least=1,
        unset="3,000, or all others where there are fewer",
    )
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
        self.check_pool(self.pool_size or DEFAULT_POOL)

    def check_pool(self, size: int) -> None:
        """Refuse a pool that does not have the subsets.

        Raises:
            InputError: a subset exceeds it, or there are fewer distinct subsets than are asked for.
        """
        if self.subset_size > size:
            raise InputError(f"subset_size {self.subset_size} exceeds pool_size {size}; lower it")
        if math.comb(size, self.subset_size) < self.subsets:
            raise InputError(
                f"a pool of {size} has {math.comb(size, self.subset_size)} distinct subsets of "
                f"{self.subset_size}, fewer than the {self.subsets} asked for; enlarge the pool, lower "
                "subset_size, or ask for fewer"
            )

    def identity(self, count: int) -> dict[str, Any]:
        """What decides the plan of `count` examples.

        A pool size that is not given is written as 3,000 where there are so many, as by earlier versions,
        whose default it was: their plans are the same.
        """
        size = self.pool_size
        if size is None and self.dev_size + DEFAULT_POOL <= count:
            size = DEFAULT_POOL
        return {**asdict(self), "pool_size": size}


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
