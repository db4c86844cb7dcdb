"""What the operating system says of the CPU."""

from __future__ import annotations

from pathlib import Path


def processor_description() -> str:
    """Linux's text about maker, model and flags of every core; empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""
