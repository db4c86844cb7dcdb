"""How gradients are taken and mapped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from airrep_infer.command import check_options, deciding, option
from airrep_infer.errors import InputError
from airrep_train.options import MatmulDtype

UPPER_HALF, ALL = "upper-half", "all"
WARM_UP_ROWS, CHECKPOINTS, WARM_UP_RATE = 64, 2, 1e-4
WARM_UP_OPTIONS = ("warm_up", "checkpoints", "warm_up_rate")
_OF_A_BEGUN = "that of a folder that has begun"
_RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class GradientOptions:
    """How the target's gradients are taken, and how vectors are made of them.

    On p3 the upper half of the blocks gives better scores than all of them, at half of the cost,
    and two checkpoints better ones than the target as it is loaded.
    """

    layers: str = option(
        "Blocks of the target: upper-half, all, or FIRST-LAST (from 0, both included).", default=UPPER_HALF
    )
    rank: int = option("A layer's gradient is projected to rank x rank numbers.", default=16, least=1)
    dims: int = option(
        "Principal components of a stored vector, at most as many as there are rows.", default=768, least=1
    )
    max_length: int = option("Tokens of an example, BOS included; the rest is cut off.", default=512, least=2)
    dtype: MatmulDtype = option(
        "Of weights and matrix products; float32 is faster on CPUs without AVX-512 BF16 and AMX.",
        default="bfloat16",
    )
    bos: bool = option("Start each text with the tokenizer's BOS, if it has one.", default=True)
    eos: bool = option("End each response with EOS.", default=False, flags=("--eos/--no-eos",))
    warm_up: int | None = option(
        "Random rows that the target is fine-tuned on first; 0 takes its gradients as it is loaded.",
        default=None,
        least=0,
        unset=f"{WARM_UP_ROWS}, or {_OF_A_BEGUN}",
    )
    checkpoints: int | None = option(
        "Warm-ups, each from the target as it is loaded: on a part of those rows, and the last on all.",
        default=None,
        least=1,
        unset=f"{CHECKPOINTS}, or {_OF_A_BEGUN}",
    )
    warm_up_rate: float | None = option(
        "AdamW's learning rate in a warm-up.",
        default=None,
        above=0,
        unset=f"{WARM_UP_RATE:g}, or {_OF_A_BEGUN}",
    )
    seed: int = option("Seed of the projections and of the warm-up.", default=0, least=0)
    tokens_at_once: int = option(
        "Tokens of a batch, padding included; bounds memory.", default=4096, least=1, decides=False
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.layers not in (UPPER_HALF, ALL) and not _RANGE.fullmatch(self.layers):
            raise InputError(
                f"layers must be {UPPER_HALF}, {ALL} or FIRST-LAST such as 15-29, got {self.layers!r}"
            )
        if self.warm_up == 0 and (self.checkpoints, self.warm_up_rate) != (None, None):
            raise InputError("without a warm-up there are no checkpoints and no rate: leave them out")
        if self.warm_up and self.warm_up < (self.checkpoints or CHECKPOINTS):
            raise InputError(f"warm_up {self.warm_up} is fewer rows than checkpoints; give more, or 0")

    def new_warm_up(self) -> dict[str, Any]:
        """The settings of a warm-up that is made now; empty: there is none."""
        if self.warm_up == 0:
            return {}
        return {
            "warm_up": self.warm_up or WARM_UP_ROWS,
            "checkpoints": self.checkpoints or CHECKPOINTS,
            "warm_up_rate": self.warm_up_rate or WARM_UP_RATE,
        }

    def identity(self) -> dict[str, Any]:
        """The settings that the vectors of a new folder depend on."""
        return {**self.capture_identity(), **self.new_warm_up()}

    def capture_identity(self) -> dict[str, Any]:
        """The same without those of the warm-up."""
        return {name: value for name, value in deciding(self).items() if name not in WARM_UP_OPTIONS}

    def blocks(self, count: int) -> range:
        """Which of a target's `count` blocks the layers are taken from.

        Raises:
            InputError: a block that the target does not have.
        """
        if self.layers == ALL:
            return range(count)
        if (match := _RANGE.fullmatch(self.layers)) is None:
            return range(count // 2, count)
        first, last = map(int, match.groups())
        if not first <= last < count:
            raise InputError(f"layers {self.layers}: the target has blocks 0-{count - 1}")
        return range(first, last + 1)
