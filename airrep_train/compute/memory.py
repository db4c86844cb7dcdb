"""Memory of this machine: how much of it is free, and keeping what the process has once been given."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

import torch
from torch import nn

from airrep_infer.resources import asked_memory, check_memory, free_memory

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGEST_USUAL = 32 << 20


def activation_budget(device: torch.device, gigabytes: float | None) -> int:
    """Bytes of activations that a process may keep: as asked, or its part of half of the memory.

    That is what is free, on the CPU at most what `--memory` gives.
    """
    if gigabytes is not None:
        return int(gigabytes * 1e9)
    if device.type != "cpu":
        return free_bytes(device) // 2
    asked = asked_memory()
    room = free_bytes(device) if asked is None else min(asked, free_bytes(device))
    return room // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_model_memory(model: nn.Module, what: str, *, for_each_trained: int = 0) -> None:
    """Refuse work with a model on the CPU whose weights alone exceed the memory budget of `--memory`.

    Activations come on top; how many there are is not known before.

    Args:
        what: the work, for the message.
        for_each_trained: values of 4 bytes that it keeps of every weight that is trained: its gradient, the
            two moments of AdamW, copies.

    Raises:
        InputError: they do; the message has both figures.
    """
    if asked_memory() is None or next(model.parameters()).device.type != "cpu":
        return
    all_weights = sum(weight.numel() for weight in model.parameters())
    stored = sum(weight.nbytes for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    check_memory(
        stored + 4 * for_each_trained * trained,
        f"{what} (a model of {all_weights / 1e6:.0f}M weights, {trained / 1e6:.0f}M of them trained)",
        "take a smaller model",
    )


def free_bytes(device: torch.device) -> int:
    """Memory that a process on `device` can still allocate; 0 where that cannot be asked (mps).

    On the CPU a container's own limit counts too.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return 0
    return free_memory()


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """In this block the C library (glibc) keeps what is freed for the next allocation.

    By default it returns every large tensor to the kernel at once, which zeroes it page by page when it is
    asked for again, in every training step. At the end of the block all is returned.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    # Old versions refuse more than the largest threshold they would come to by themselves.
    if not libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_USUAL)
    libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    try:
        yield
    finally:
        # Thresholds that were set once no longer adapt, so leave them where they would have gone.
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_USUAL)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_USUAL)
        libc.malloc_trim(0)
