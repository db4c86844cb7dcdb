"""The learning rate along a run."""

from __future__ import annotations


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """The rate's factor at a step, from 0: a linear rise over the warm-up, then a linear fall."""
    rise = max(1, round(steps * warmup))
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise + 1))
