"""Memory of this machine: how much of it is free, and keeping what the process has once been given."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from airrep_infer.resources import asked_memory, check_memory, free_memory

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGEST_USUAL = 32 << 20
# What a pass takes at its peak, as a multiple of what its forward part keeps. By resident memory, fine-tuning
# takes 0.87 and 1.15 with SmolLM2-135M (4 rows of 128 tokens in bfloat16, 2 of 400 in float32), 1.53 with a
# narrow target of 3M weights.
_PEAK = 1.6


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


@dataclass(frozen=True)
class PassMemory:
    """Bytes that a forward pass keeps for its backward pass: `fixed` ones, and `row` for each row."""

    fixed: int
    row: int

    def of(self, rows: int) -> int:
        """About what forward and backward pass take at their peak."""
        return int(_PEAK * (self.fixed + rows * self.row))

    def rows_within(self, room: int) -> int:
        """How many rows a pass may have that takes no more than `room` bytes."""
        return max(0, int(room / _PEAK - self.fixed) // max(1, self.row))


def measure_pass(model: nn.Module, forward: Callable[[int], torch.Tensor]) -> PassMemory:
    """What a pass over rows of one length takes, from one row and from two.

    Args:
        model: its weights do not count.
        forward: computes the loss of so many such rows.
    """
    with torch.random.fork_rng():
        one, two = (_saved_bytes(model, lambda rows=rows: forward(rows)) for rows in (1, 2))  # type: ignore[misc]
    return PassMemory(max(0, 2 * one - two), two - one)


def _saved_bytes(model: nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()  # which keeps what is saved, so that no address is used twice
    del loss
    return sum(saved.values())


def is_limited(model: nn.Module) -> bool:
    """Whether `--memory` limits work with this model: it was given, and the model is on the CPU."""
    return asked_memory() is not None and next(model.parameters()).device.type == "cpu"


def check_model_memory(
    model: nn.Module,
    what: str,
    *,
    for_each_trained: int = 0,
    activations: int = 0,
    fix: str = "take a smaller model",
) -> int:
    """Refuse work with a model on the CPU that exceeds the memory budget of `--memory`.

    Args:
        what: the work, for the message.
        for_each_trained: values of 4 bytes that it keeps of every weight that is trained: its gradient, the
            two moments of AdamW, copies.
        activations: bytes of a pass, see `PassMemory`; 0 where these are limited otherwise.
        fix: what can be done about it.

    Returns:
        The bytes that are needed; 0 where nothing limits them.

    Raises:
        InputError: they do; the message has both figures.
    """
    if not is_limited(model):
        return 0
    all_weights = sum(weight.numel() for weight in model.parameters())
    stored = sum(weight.nbytes for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    needed = stored + 4 * for_each_trained * trained + activations
    check_memory(
        needed,
        f"{what} (a model of {all_weights / 1e6:.0f}M weights, {trained / 1e6:.0f}M of them trained)",
        fix,
    )
    return needed


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
