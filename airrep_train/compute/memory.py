"""Memory of this machine: how much of it is free, and keeping what the process has once been given."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

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
    return min(int(psutil.virtual_memory().available), _control_group_room(Path("/")))


def _control_group_room(root: Path) -> int:
    """What the control groups of this process (a container, a batch job) leave; very much without a limit.

    Pages of files are not counted as used: the kernel takes them back.
    """
    room = 1 << 62
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, used = root / "sys/fs/cgroup", "memory.max", "anon"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "total_rss"
        else:
            continue
        # Every group above has its own limit; inside a container those above `base` are not to be seen.
        group = base / path.lstrip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(base))):
            if (folder / limit).is_file() and (most := (folder / limit).read_text().strip()) != "max":
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                room = min(room, max(0, int(most) - int(stat[used])))
    return room


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
