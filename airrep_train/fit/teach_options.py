"""Settings and result of teaching; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airrep_train.options import MatmulDtype, check_options, deciding, option


@dataclass(frozen=True)
class TeachOptions:
    """How an encoder is taught."""

    steps: int = option("Batches.", default=40, least=1)
    batch_rows: int = option(
        "Rows of a batch, half drawn at random and half neighbours of these under the teacher.",
        default=512,
        least=4,
    )
    neighbours: int = option("A neighbour is one of so many nearest.", default=8, least=1)
    learning_rate: float = option(
        "Peak learning rate of encoder and projector.",
        default=1e-4,
        above=0,
        flags=("--lr", "--learning-rate"),
    )
    warmup: float = option(
        "Share of the steps over which the rate rises from 0; then it falls linearly to 0.",
        default=0.1,
        least=0,
        most=1,
    )
    weight_decay: float = option("AdamW's, on weight matrices.", default=0.01, least=0)
    clip: float = option("Bound of the gradient's norm.", default=1.0, above=0)
    scale: float = option(
        "Length of the vectors of a plain encoder that is taught; a checkpoint keeps its own.",
        default=8**0.5,
        above=0,
    )
    beta: float = option(
        "Pooling scale of a plain encoder that is taught; a checkpoint keeps its own.", default=0.29, least=0
    )
    validation_rows: int = option("Rows that are not taught, to measure on.", default=512, least=3)
    validate_every: int = option("Steps between two measurements.", default=10, least=1)
    seed: int = option("Seed of the choice of rows.", default=0, least=0)
    precision: MatmulDtype = option(
        "Of the matrix products; bfloat16 is autocast over float32 weights.", default="float32"
    )
    token_budget: int = option(
        "Tokens encoded at once, padding included; bounds memory.", default=2048, least=1, decides=False
    )
    activation_gb: float | None = option(
        "Memory (GB, 1e9 bytes) for kept activations.",
        default=None,
        least=0,
        unset="half of the memory that is free at the start",
        decides=False,
    )
    save_seconds: float = option("Least time between two saved states.", default=60.0, least=0, decides=False)

    def __post_init__(self) -> None:
        check_options(self)

    def identity(self) -> dict[str, Any]:
        """The settings that the result depends on."""
        return deciding(self)


@dataclass(frozen=True)
class TeachResult:
    """What teaching came to.

    Attributes:
        checkpoint: the folder.
        rows: that were taught from.
        steps: batches.
        untaught, taught: mean correlation with the teacher over rows that were not taught, before and after.
        seconds: time spent, over all starts of the run.
    """

    checkpoint: str
    rows: int
    steps: int
    untaught: float
    taught: float
    seconds: float
