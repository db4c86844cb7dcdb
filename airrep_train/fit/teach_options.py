"""Settings and result of teaching; imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from airrep_infer.errors import InputError
from airrep_train.options import MatmulDtype

_FREE: Any = {"identity": False}  # the result does not depend on it


@dataclass(frozen=True)
class TeachOptions:
    """How an encoder is taught.

    Attributes:
        steps: batches.
        batch_rows: rows of a batch, half drawn at random and half neighbours of these under the teacher.
        neighbours: a neighbour is one of so many nearest.
        learning_rate: of the encoder and the projector, at its peak.
        warmup: share of the steps over which the rate rises from 0; then it falls linearly to 0.
        weight_decay: AdamW's, on weight matrices.
        clip: bound of the gradient's norm.
        scale: length of the vectors of a plain encoder that is taught; a checkpoint keeps its own.
        beta: pooling scale of a plain encoder that is taught; a checkpoint keeps its own.
        validation_rows: rows that are not taught, to measure on.
        validate_every: steps between two measurements.
        seed: of the choice of rows.
        precision: of the matrix products; bfloat16 is autocast over float32 weights.
        token_budget: tokens, padding included, that are encoded at once.
        activation_gb: memory (GB) for kept activations; default: half of what is free at the start.
        save_seconds: least time between two saved states.
    """

    steps: int = 40
    batch_rows: int = 512
    neighbours: int = 8
    learning_rate: float = 1e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    scale: float = 8**0.5
    beta: float = 0.29
    validation_rows: int = 512
    validate_every: int = 10
    seed: int = 0
    precision: MatmulDtype = "float32"
    token_budget: int = field(default=2048, metadata=_FREE)
    activation_gb: float | None = field(default=None, metadata=_FREE)
    save_seconds: float = field(default=60.0, metadata=_FREE)

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_rows": 4, "neighbours": 1, "validation_rows": 3, "validate_every": 1}
        for name, bound in (least | {"seed": 0, "token_budget": 1, "weight_decay": 0, "beta": 0}).items():
            if not getattr(self, name) >= bound:
                raise InputError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        for name in ("learning_rate", "clip", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup is a share of the steps, in 0..1, got {self.warmup}")

    def identity(self) -> dict[str, Any]:
        """The settings that the result depends on."""
        free = {f.name for f in fields(self) if f.metadata.get("identity") is False}
        return {name: value for name, value in asdict(self).items() if name not in free}


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
