"""What fine-tuning really takes, in a process of its own."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from airrep_infer.resources import limit_memory
from airrep_train.target import FineTuneOptions, LmRow, Target
from airrep_train.target import target as target_module

BATCH, LENGTH = 24, 128


def save_wider_llama(folder: Path) -> str:
    """A target whose activations are many times the noise of a process' memory."""
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=256,
        eos_token_id=257,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def fine_tune(small: str, target: str, output: Path) -> None:
    """Write the bytes that were said to be needed, and those that were added at the peak.

    Args:
        small: a target that is fine-tuned first: the program itself is not counted.
    """
    torch.set_num_threads(1)
    limit_memory(50)
    _fine_tune(small, 2)
    process, stop, peak = psutil.Process(), threading.Event(), 0
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    said = []
    check = target_module.check_model_memory
    target_module.check_model_memory = lambda *given, **how: said.append(check(*given, **how))  # type: ignore[assignment, func-returns-value]
    watcher = threading.Thread(target=watch)
    watcher.start()
    _fine_tune(target, BATCH)
    stop.set()
    watcher.join()
    output.write_text(json.dumps({"said": max(said), "taken": peak - before}))


def _fine_tune(target: str, batch: int) -> None:
    loaded = Target(target, FineTuneOptions(batch_size=batch, max_length=LENGTH, dtype="float32"), "cpu")
    rows = [LmRow(np.random.default_rng(n).integers(0, 258, LENGTH), 40) for n in range(2 * batch)]
    loaded.fine_tune(rows, 0)
