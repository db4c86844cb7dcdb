"""Micro-batches suit the device, and go to a GPU without waiting for it."""

from __future__ import annotations

from typing import Any

import torch

from airrep_train.compute import micro_batch_tokens, to_device


def test_a_micro_batch_is_as_large_as_asked_or_suits_the_device() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert micro_batch_tokens(100, cpu) == micro_batch_tokens(100, gpu) == 100
    assert 2 * micro_batch_tokens(None, cpu) < micro_batch_tokens(None, gpu)


def test_a_copy_to_a_gpu_is_from_pinned_memory_and_does_not_wait() -> None:
    calls: list[Any] = []

    class Recorded:
        def pin_memory(self) -> Recorded:
            calls.append("pinned")
            return self

        def to(self, device: torch.device, *, non_blocking: bool = False) -> Recorded:
            calls.append((device.type, non_blocking))
            return self

    to_device(Recorded(), torch.device("cuda"))  # type: ignore[arg-type]
    to_device(Recorded(), torch.device("cpu"))  # type: ignore[arg-type]
    assert calls == ["pinned", ("cuda", True), ("cpu", False)]
