"""What this machine gives a process: cores, memory, BLAS threads, the description of the CPU.

A container's or a batch job's own limits (control groups, version 1 and 2) count as well as the machine's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController

from airrep_infer.errors import InputError

_ROOT = Path("/")
_UNLIMITED = 1 << 62
_asked_bytes: int | None = None


def available_cores() -> int:
    """The cores this process may use: its CPU affinity, and no more than its control groups' CPU time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _core_quota(_ROOT))


def free_memory() -> int:
    """Bytes that this process can still allocate; very much where the system does not say."""
    free = _UNLIMITED
    for line in _text(_ROOT / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    return min(free, control_group_room(_ROOT))


def limit_memory(gigabytes: float | None) -> None:
    """Set the budget of this process, as `--memory` does; None: what is free."""
    take_budget(None if gigabytes is None else int(gigabytes * 1e9))


def take_budget(asked: int | None) -> None:
    """Set the budget of a worker: what `asked_memory` says where it was started, or its part of that."""
    global _asked_bytes
    _asked_bytes = asked


def asked_memory() -> int | None:
    """Bytes that `limit_memory` was given; None: nothing was asked for."""
    return _asked_bytes


def memory_budget() -> int:
    """Bytes that a piece of work may take: as asked by `limit_memory`, else four fifths of what is free."""
    return free_memory() * 4 // 5 if _asked_bytes is None else _asked_bytes


def check_memory(needed: int, what: str, fix: str) -> None:
    """Refuse work that the budget does not allow, before it begins.

    Raises:
        InputError: `what` needs more bytes than the budget; the message has both figures and `fix`.
    """
    budget = memory_budget()
    if needed > budget:
        raise InputError(
            f"{what} needs {needed / 1e9:.1f} GB of memory and the budget is {budget / 1e9:.1f} GB; {fix}, "
            "or raise the budget with --memory"
        )


def threads_within_memory(threads: int | None, each: int, shared: int, what: str, fix: str) -> int:
    """How many threads the budget allows, at most `threads` (default: the cores).

    Args:
        each: bytes that every thread takes.
        shared: bytes that are taken once.

    Raises:
        InputError: not even one thread fits, see `check_memory`.
    """
    check_memory(shared + each, what, fix)
    return max(1, min(threads or available_cores(), (memory_budget() - shared) // max(1, each)))


def control_group_room(root: Path) -> int:
    """Bytes that the control groups of this process leave; very much without a limit.

    Pages of files are not counted as used: the kernel takes them back.
    """
    room = _UNLIMITED
    for folder, old in _control_groups(root, "memory"):
        limit = _text(folder / ("memory.limit_in_bytes" if old else "memory.max")).strip()
        if limit.isdecimal():
            stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
            used = int(stat.get("total_rss" if old else "anon", 0))
            room = min(room, max(0, int(limit) - used))
    return room


def _core_quota(root: Path) -> int:
    """Cores' worth of time that the control groups allow, rounded up; very much without a limit."""
    quota = float(_UNLIMITED)
    for folder, old in _control_groups(root, "cpu"):
        if old:
            allowed = [
                _text(folder / "cpu.cfs_quota_us").strip(),
                _text(folder / "cpu.cfs_period_us").strip(),
            ]
        else:
            allowed = _text(folder / "cpu.max").split()
        if len(allowed) == 2 and allowed[0].isdecimal() and allowed[1].isdecimal() and int(allowed[1]):
            quota = min(quota, int(allowed[0]) / int(allowed[1]))
    return max(1, math.ceil(quota))


def _control_groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The folders of this process' groups, and whether they are of version 1."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        old = controllers != ""
        if old and controller not in controllers.split(","):
            continue
        # Version 1 mounts controllers under their names, those that are mounted together under both.
        for name in dict.fromkeys((controller, controllers)) if old else ("",):
            base = root / "sys/fs/cgroup" / name
            group = base / path.lstrip("/")
            # Every group above has its own limit; inside a container those above `base` are not to be seen.
            for folder in (group, *group.parents):
                if folder.is_relative_to(base):
                    yield folder, old


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or not there
        return ""


def one_blas_thread() -> AbstractContextManager[Any]:
    """While this is entered, a product of matrices runs on the thread that asks for it."""
    return _libraries().limit(limits=1, user_api="blas")  # type: ignore[no-any-return]


def blas_libraries() -> list[dict[str, Any]]:
    """What is known of each BLAS library: `internal_api`, `architecture` (of its kernels), `version`, ..."""
    return [library for library in _libraries().info() if library["user_api"] == "blas"]


@cache
def _libraries() -> ThreadpoolController:
    # Those loaded by now, NumPy's among them. Looking takes milliseconds where large files are mapped,
    # longer than a search in an index.
    return ThreadpoolController()


def processor_description() -> str:
    """Linux's text about maker, model and flags of every core; empty where there is none."""
    return _text(_ROOT / "proc/cpuinfo")
