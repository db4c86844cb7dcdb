"""What this machine gives: the cores this process may use, BLAS threads, the description of the CPU."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController


def available_cores() -> int:
    """The cores this process may use (its CPU affinity, as containers and job schedulers set it)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_blas_thread() -> AbstractContextManager[Any]:
    """While this is entered, a product of matrices runs on the thread that asks for it."""
    return _libraries().limit(limits=1, user_api="blas")  # type: ignore[no-any-return]


def blas_libraries() -> list[dict[str, Any]]:
    """What is known of each BLAS library: `internal_api`, `architecture` (of its kernels), `version`, ..."""
    return [one for one in _libraries().info() if one["user_api"] == "blas"]


@cache
def _libraries() -> ThreadpoolController:
    # Those loaded by now, NumPy's among them. Looking takes milliseconds where large files are mapped,
    # longer than a search in an index.
    return ThreadpoolController()


def processor_description() -> str:
    """Linux's text about maker, model and flags of every core; empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""
