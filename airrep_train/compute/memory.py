"""Memory of this machine: how much of it is free, and keeping what the process has once been given."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

import torch

from airrep_infer.resources import free_memory

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGEST_USUAL = 32 << 20


def activation_budget(device: torch.device, gigabytes: float | None) -> int:
    """Bytes of activations that a process may keep: as asked, or its part of half of the free memory."""
    if gigabytes is not None:
        return int(gigabytes * 1e9)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    return free_bytes(device) // 2 // processes


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
