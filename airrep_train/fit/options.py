"""Settings and result of a training run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from airrep_infer.errors import InputError
from airrep_train.options import MatmulDtype

_FREE: Any = {"identity": False}  # may change when a run is resumed: the result does not depend on it


@dataclass(frozen=True)
class FitOptions:
    """Settings of a training run.

    Attributes:
        epochs: passes over the subsets of the training splits.
        subsets_per_step: at most this many subsets of one split in a step; a split's subsets are cut
            into equal parts. Fewer make more steps of less work each, which learns more in the same time (on
            p3 10 better than 20, and 20 better than 40).
        dev_per_step: at most this many of the split's dev examples in a step, drawn anew each time.
        learning_rate: of the encoder, at its peak.
        projector_rate: the projector's learning rate as a multiple of `learning_rate`.
        beta_rate: the same for the pooling scale, which validation then fits to rows that were not trained
            on; 0 keeps the one of the start.
        warmup: share of all steps over which the learning rate rises from 0; then it falls linearly to 0.
        weight_decay: AdamW's, on weight matrices.
        freeze_embeddings: leave the encoder's token and position embeddings as they are.
        centre: start a plain encoder with its mean embedding subtracted, in the projector's bias. The
            embeddings of a plain encoder share a large common part, which makes nearly all scores
            positive: no opponents, and attention over |s| that looks at one side only.
        validation: dev_ids of the splits that validate; default: the last one that is not for testing.
        test: dev_ids of splits that neither train nor validate, for `evaluate`.
        patience: stop after this many epochs without a better validation LDS.
        clip: bound of the gradient's norm.
        seed: of the order of subsets and the choice of dev examples.
        precision: float32, or bfloat16 autocast over float32 weights.
        token_budget: tokens, padding included, that are encoded at once.
        activation_gb: of activations (GB, 1e9 bytes) that a step keeps from its first pass in each process,
            so that they need not be computed again; default: half of the memory that is free at the start.
        save_seconds: least time between two saved states within an epoch.
        trackers: experiment trackers of accelerate ("tensorboard", "wandb", ...).
    """

    epochs: int = 6
    subsets_per_step: int = 10
    dev_per_step: int = 192
    learning_rate: float = 1e-4
    projector_rate: float = 1.0
    beta_rate: float = 100.0
    warmup: float = 0.1
    weight_decay: float = 0.01
    freeze_embeddings: bool = False
    centre: bool = True
    validation: tuple[int, ...] = ()
    test: tuple[int, ...] = ()
    patience: int = 3
    clip: float = 1.0
    seed: int = 0
    precision: MatmulDtype = "float32"
    token_budget: int = field(default=2048, metadata=_FREE)
    activation_gb: float | None = field(default=None, metadata=_FREE)
    save_seconds: float = field(default=60.0, metadata=_FREE)
    trackers: tuple[str, ...] = field(default=(), metadata=_FREE)

    def __post_init__(self) -> None:
        least = {"epochs": 1, "subsets_per_step": 2, "dev_per_step": 1, "patience": 1, "token_budget": 1}
        least |= {"seed": 0, "save_seconds": 0, "weight_decay": 0, "projector_rate": 0, "beta_rate": 0}
        least |= {} if self.activation_gb is None else {"activation_gb": 0}
        for name, bound in least.items():
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= bound):
                raise InputError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup is a share of the steps, in 0..1, got {self.warmup}")
        if self.precision not in get_args(MatmulDtype):
            raise InputError(f"precision must be float32 or bfloat16, got {self.precision!r}")
        _check_trackers(self.trackers)

    def identity(self) -> dict[str, Any]:
        """The settings that the result depends on."""
        free = {f.name for f in fields(self) if f.metadata.get("identity") is False}
        return {name: value for name, value in asdict(self).items() if name not in free}


def _check_trackers(asked: tuple[str, ...]) -> None:
    """accelerate leaves out a tracker that is not installed, without a word."""
    known = [str(name) for name in LOGGER_TYPE_TO_CLASS]
    working = [tracker.value for tracker in get_available_trackers()]
    for name in asked:
        if name not in known:
            raise InputError(f"tracker {name!r} is unknown to accelerate; it knows {', '.join(known)}")
        if name not in working:
            raise InputError(f"tracker {name!r} is not installed; pip install {name}, or leave it out")


@dataclass(frozen=True)
class FitResult:
    """What a run came to; LDS is the mean over the validation queries.

    Attributes:
        checkpoint: the folder of the best epoch's model.
        epochs: epochs run; fewer than asked when stopped early.
        best_epoch: 0 is the untrained start.
        untrained_lds: validation LDS of the start, see `centre`; like `lds` with the pooling scale fitted to
            the validation split, which flatters both a little: what counts is a test split (`evaluate`).
        lds: validation LDS of the checkpoint.
        beta: its pooling scale.
        tied_queries: training queries without any label (all losses equal).
        unknown_labels: other training labels that were missing or not finite.
        skipped_steps: steps without any pair, or with a gradient that was not finite.
        seconds: time spent, over all starts of the run.
    """

    checkpoint: str
    epochs: int
    best_epoch: int
    untrained_lds: float
    lds: float
    beta: float
    tied_queries: int
    unknown_labels: int
    skipped_steps: int
    seconds: float
