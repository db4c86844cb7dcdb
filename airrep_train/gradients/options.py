"""How gradients are taken and mapped; imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from airrep_infer.errors import InputError
from airrep_train.options import MatmulDtype

UPPER_HALF, ALL = "upper-half", "all"
_RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class GradientOptions:
    """How the target's gradients are taken, and how vectors are made of them.

    Attributes:
        layers: blocks of the target, "upper-half", "all" or "FIRST-LAST" (numbers from 0, both included).
            On p3 the upper half is better than all, and costs less.
        rank: a layer's gradient is projected to rank x rank numbers.
        dims: principal components of a stored vector, D.
        max_length: tokens of an example, BOS included; the rest is cut off.
        dtype: of the matrix products of the pass.
        bos: start each row with the tokenizer's BOS, if it has one.
        eos: end each response with the tokenizer's EOS.
        seed: of the projections.
        tokens_at_once: tokens of a batch, padding included; bounds memory.
    """

    layers: str = UPPER_HALF
    rank: int = 16
    dims: int = 768
    max_length: int = 512
    dtype: MatmulDtype = "bfloat16"
    bos: bool = True
    eos: bool = False
    seed: int = 0
    tokens_at_once: int = 4096

    def __post_init__(self) -> None:
        least = {"rank": 1, "dims": 1, "max_length": 2, "seed": 0, "tokens_at_once": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if self.dtype not in get_args(MatmulDtype):
            raise InputError(f"dtype must be bfloat16 or float32, got {self.dtype!r}")
        if self.layers not in (UPPER_HALF, ALL) and not _RANGE.fullmatch(self.layers):
            raise InputError(
                f"layers must be {UPPER_HALF}, {ALL} or FIRST-LAST such as 15-29, got {self.layers!r}"
            )

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
