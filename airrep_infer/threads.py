"""How many threads to use: the one default of everything that computes."""

from __future__ import annotations

import os


def available_cores() -> int:
    """The cores this process may use (its CPU affinity, as containers and job schedulers set it)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
