"""How much memory counts as free."""

from __future__ import annotations

import platform
import subprocess
import sys

import psutil
import pytest
import torch

from airrep_infer import resources
from airrep_infer.errors import InputError
from airrep_train.compute import memory
from airrep_train.compute.memory import activation_budget, check_model_memory, free_bytes

CPU = torch.device("cpu")
GB = 10**9


def test_the_budget_is_what_was_asked_or_a_part_of_half(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < free_bytes(CPU) <= psutil.virtual_memory().total
    assert free_bytes(torch.device("meta")) == 0
    monkeypatch.setattr(memory, "free_bytes", lambda device: 12 * GB)
    assert activation_budget(CPU, None) == 6 * GB
    assert activation_budget(CPU, 1.5) == 1_500_000_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert activation_budget(CPU, None) == 2 * GB
    assert activation_budget(torch.device("cuda"), None) == 6 * GB
    resources.limit_memory(3)
    try:
        assert activation_budget(CPU, None) == GB // 2
    finally:
        resources.limit_memory(None)


def test_a_model_that_the_budget_cannot_hold_is_refused_with_the_figures() -> None:
    model = torch.nn.Linear(1000, 1000, bias=False)
    check_model_memory(model, "fine-tuning", for_each_trained=4)
    resources.limit_memory(0.015)
    try:
        check_model_memory(model, "gradients")
        with pytest.raises(InputError, match=r"fine-tuning \(a model of 1M weights, 1M of them"):
            check_model_memory(model, "fine-tuning", for_each_trained=4)
        check_model_memory(model.requires_grad_(False), "fine-tuning", for_each_trained=4)
    finally:
        resources.limit_memory(None)


FREED = """
import psutil, torch
from airrep_train.compute.memory import freed_memory_kept

process = psutil.Process()
start = process.memory_info().rss

def held():
    blocks = [torch.ones(1 << 18) for _ in range(200)]  # 1 MiB each
    del blocks
    return (process.memory_info().rss - start) >> 20

outside = held()
with freed_memory_kept():
    inside = held()
print(outside, inside, (process.memory_info().rss - start) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_stays_in_the_block_and_no_longer() -> None:
    """In a process of its own: this one has memory to reuse from other tests."""
    ran = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    outside, inside, after = map(int, ran.stdout.split())
    assert outside < 90
    assert inside > 180
    assert after < 90  # the C library may keep 64 MiB
