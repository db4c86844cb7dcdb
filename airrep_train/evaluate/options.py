"""What an evaluation measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airrep_infer.command import check_options, option
from airrep_infer.errors import InputError

OnTruncate = Literal["cut", "error"]
Pooling = Literal["attention", "sum", "mean", "published-eval"]
LEXICAL = ("random", "tfidf", "response-tfidf", "bm25")
GRADIENT_QUERIES = "gradient-queries"
BY_GRADIENTS = ("gradients", "gradcos", "graddot", GRADIENT_QUERIES)
OF_TEXTS = LEXICAL[1:]
"""What a pipeline compares with, beside its base, where its file does not say."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What is evaluated on measured losses, next to what."""

    baselines: tuple[str, ...] | None = option(
        f"NAME[:dot|:cosine][+POOLING] to compare with: {', '.join(LEXICAL)}, gradcos, graddot (default "
        f"+mean), gradients, {GRADIENT_QUERIES}, or an encoder (default +attention, encoders :dot); "
        f"repeatable. In a pipeline file the default is {', '.join(OF_TEXTS)} and the base.",
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
