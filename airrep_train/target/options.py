"""Which language model is the target, and how it is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass

from airrep_infer.command import check_options, option
from airrep_infer.errors import InputError
from airrep_infer.rows import TemplateName
from airrep_infer.session import Device
from airrep_train.options import MatmulDtype


@dataclass(frozen=True)
class TargetOptions:
    """Which target, and where it runs."""

    target: str = option("Causal LM: a folder, a hub id, or a .gguf file.")
    device: Device = option("Device.", default="auto")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class FineTuneOptions:
    """How the target is fine-tuned on a subset: AdamW at a constant rate, gradients clipped at norm 1.

    `seed` is the base seed; `label.tasks.subset_seed` derives each subset's own.
    """

    epochs: int = option("Passes over each subset, each in a new order.", default=1, least=1)
    learning_rate: float = option(
        "AdamW's learning rate; its other settings are PyTorch's defaults.",
        default=1e-4,
        above=0,
        flags=("--lr", "--learning-rate"),
    )
    batch_size: int = option("Examples a step.", default=8, least=1)
    max_length: int = option("Tokens of an example, BOS included.", default=512, least=2)
    template: TemplateName | None = option(
        "What is cut of longer examples, see docs/rows.md.",
        default=None,
        unset="shared-1; a run that was begun with another keeps it",
    )
    freeze_embeddings: bool = option(
        "Do not train the input embeddings, nor a head tied to them.", default=False
    )
    lora_rank: int | None = option(
        "Train LoRA adapters of this rank on every linear layer instead of the weights (needs peft).",
        default=None,
        least=1,
        unset="train the weights",
    )
    gradient_checkpointing: bool = option("Less memory for about a third more time.", default=False)
    dtype: MatmulDtype = option(
        "bfloat16: autocast over float32 weights; float32 is faster on CPUs without AVX-512 BF16 and AMX.",
        default="bfloat16",
    )
    bos: bool = option("Start each text with the tokenizer's BOS, if it has one.", default=True)
    eos: bool = option("End each response with EOS.", default=False, flags=("--eos/--no-eos",))
    seed: int = option("Base seed; each subset gets its own.", default=0, least=0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.lora_rank is not None and self.freeze_embeddings:
            raise InputError("lora_rank trains adapters only: leave freeze_embeddings out")
