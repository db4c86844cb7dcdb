"""How the target is fine-tuned; imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from airrep_infer.errors import InputError
from airrep_train.options import MatmulDtype


@dataclass(frozen=True)
class FineTuneOptions:
    """How the target is fine-tuned on a subset: AdamW at a constant rate, gradients clipped at norm 1.

    Attributes:
        epochs: passes over the subset, each in a new order.
        learning_rate: AdamW's; its other settings are PyTorch's defaults.
        batch_size: examples a step.
        max_length: tokens of an example, BOS included; the rest is cut off.
        freeze_embeddings: leave the input embeddings (and a head tied to them) as they are.
        lora_rank: train adapters of this rank on every linear layer instead of the weights.
        gradient_checkpointing: less memory for about a third more time.
        dtype: "bfloat16" autocast, or "float32" throughout (faster on CPUs without AVX-512 BF16 and AMX).
        bos: start each row with the tokenizer's BOS, if it has one.
        eos: end each response with the tokenizer's EOS.
        seed: base seed; `label.run.subset_seed` derives each subset's own.
    """

    epochs: int = 1
    learning_rate: float = 1e-4
    batch_size: int = 8
    max_length: int = 512
    freeze_embeddings: bool = False
    lora_rank: int | None = None
    gradient_checkpointing: bool = False
    dtype: MatmulDtype = "bfloat16"
    bos: bool = True
    eos: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("max_length", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.dtype not in get_args(MatmulDtype):
            raise InputError(f"dtype must be bfloat16 or float32, got {self.dtype!r}")
        if self.lora_rank is not None and self.lora_rank < 1:
            raise InputError(f"lora_rank must be at least 1, got {self.lora_rank}")
        if self.lora_rank is not None and self.freeze_embeddings:
            raise InputError("lora_rank trains adapters only: leave freeze_embeddings out")
