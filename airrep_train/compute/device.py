"""What differs between a CPU and a GPU where rows are encoded: the micro-batch, and how it gets there."""

from __future__ import annotations

import torch

CPU_TOKENS, GPU_TOKENS = 2048, 16_384
"""Tokens, padding included, of a micro-batch: what stays in a CPU's caches, and what fills a GPU."""


def micro_batch_tokens(asked: int | None, device: torch.device) -> int:
    """Tokens of a micro-batch: as asked, or what suits the device."""
    if asked is not None:
        return asked
    return GPU_TOKENS if device.type == "cuda" else CPU_TOKENS


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to a device without waiting for the work that is queued there.

    A copy from pageable memory to a GPU waits for all of it, so that no micro-batch would be prepared while
    another is computed. PyTorch keeps the pinned memory until the copy is done.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
