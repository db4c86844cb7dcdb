"""Fine-tuning the target on a subset: which weights change, and the training loop.

Weights and optimizer are float32; with dtype "bfloat16" the matrix products run in bfloat16 under
autocast. (The published code trains bfloat16 weights with AdamW at lr 2e-5, where most updates are
smaller than half a unit in the last place and vanish.)
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Sequence
from typing import Any

import torch

from airrep_infer.errors import InputError
from airrep_train.compute import autocast
from airrep_train.target.losses import TokenLosses
from airrep_train.target.options import FineTuneOptions
from airrep_train.target.texts import LmRow, pad_rows


def fine_tune(
    model: Any,
    token_losses: TokenLosses,
    rows: Sequence[LmRow],
    options: FineTuneOptions,
    seed: int,
    order_keys: Sequence[int] | None = None,
) -> None:
    """Fine-tune on one subset, from the present weights.

    A step's loss is the mean over the batch's response tokens. Rows without any are left out.

    Args:
        model: its weights that require gradients change, see `choose_weights`.
        token_losses: of this model.
        rows: the subset.
        options: how.
        seed: decides the order of the rows and, in models that have it, dropout.
        order_keys: a number for each row. Rows then come in the order of a hash of epoch, seed and number, so
            that rows which are left out change nothing in the order of those that remain.
    """
    keys = range(len(rows)) if order_keys is None else order_keys
    used = [(row, key) for row, key in zip(rows, keys, strict=True) if row.start < len(row.ids)]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.learning_rate, fused=True)
    shuffler = random.Random(seed)
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in range(options.epochs):
            order = [row for row, _ in used]
            if order_keys is None:
                shuffler.shuffle(order)
            else:
                order = [row for row, _ in sorted(used, key=lambda pair: _place(epoch, seed, pair[1]))]
            for first in range(0, len(order), options.batch_size):
                batch = pad_rows(order[first : first + options.batch_size])
                token_losses(batch.to(model.device)).mean().backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()


def _place(epoch: int, seed: int, key: int) -> bytes:
    return hashlib.blake2b(f"{epoch} {seed} {key}".encode(), digest_size=8).digest()


def choose_weights(model: Any, options: FineTuneOptions) -> None:
    """Mark the weights that fine-tuning changes; add adapters where they are asked for.

    Raises:
        InputError: nothing is left to train, or peft is not installed.
    """
    if options.lora_rank is not None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise InputError("lora_rank needs the package peft: pip install peft") from error
        config = LoraConfig(
            r=options.lora_rank, lora_alpha=2 * options.lora_rank, target_modules="all-linear"
        )
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            inject_adapter_in_model(config, model)
    if options.freeze_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    if options.gradient_checkpointing:

        def contexts() -> tuple[Any, Any]:
            # The second forward pass runs outside the block of the first, and must compute the same.
            return contextlib.nullcontext(), autocast(model.device, options.dtype)

        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": contexts}
        )
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError("nothing is left to train; leave freeze_embeddings out")
