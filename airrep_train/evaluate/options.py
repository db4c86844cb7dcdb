"""What an evaluation measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airrep_infer.command import check_options, option
from airrep_infer.errors import InputError

OnTruncate = Literal["cut", "error"]
Pooling = Literal["attention", "sum", "mean", "published-eval"]


@dataclass(frozen=True)
class EvaluateOptions:
    """What is evaluated on measured losses, next to what."""

    baselines: tuple[str, ...] | None = option(
        "NAME[:dot|:cosine][+POOLING] to compare with: random, tfidf, bm25, gradcos, graddot (default "
        "+mean), gradients, or an encoder (default :dot+attention); repeatable. In a pipeline file the "
        "default is tfidf, bm25 and the base.",
        default=None,
        flags=("--baseline",),
    )
    splits: tuple[int, ...] = option(
        "dev_id to evaluate on; repeatable. In a pipeline file the default is the test splits of [fit], else "
        "those that validate.",
        default=(),
        flags=("--split",),
        unset="the last",
    )
    pooling: Pooling = option(
        "Of the model; published-eval has no absolute value in the softmax.", default="attention"
    )
    on_truncate: OnTruncate = option(
        "What to do with rows that exceed the token limit of the model, or of a baseline's encoder.",
        default="cut",
    )
    seed: int = option("Seed of the bootstrap and of the baseline `random`.", default=0, least=0)

    def __post_init__(self) -> None:
        check_options(self)
        given = self.baselines or ()
        for name in given:
            if given.count(name) > 1:
                raise InputError(f"baselines: {name!r} is given twice")
