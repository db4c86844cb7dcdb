"""How passes run on this machine: the dtype of their products, and the memory that they may take."""

from airrep_train.compute.autocast import autocast
from airrep_train.compute.device import CPU_TOKENS, micro_batch_tokens, to_device
from airrep_train.compute.memory import (
    PassMemory,
    activation_budget,
    check_model_memory,
    free_bytes,
    freed_memory_kept,
    is_limited,
    measure_pass,
)

__all__ = [
    "CPU_TOKENS",
    "PassMemory",
    "activation_budget",
    "autocast",
    "check_model_memory",
    "free_bytes",
    "freed_memory_kept",
    "is_limited",
    "measure_pass",
    "micro_batch_tokens",
    "to_device",
]
