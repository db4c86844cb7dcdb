"""A measure of a model beside that of baselines, with intervals: how it is compared and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.rows import CutCounts
from airrep_train.evaluate.bootstrap import interval

_NAME_WIDTH = 48


@dataclass(frozen=True)
class Comparison:
    """A measure of a baseline, and the model's minus it, each with its interval."""

    mean: float
    ci95: tuple[float, float]
    difference: float
    difference_ci95: tuple[float, float]


def compare(
    names: Sequence[str], means: NDArray[np.float64], resampled: NDArray[np.float64]
) -> tuple[float, tuple[float, float], dict[str, Comparison]]:
    """One measure of the model, its interval, and the baselines against it.

    Args:
        names: of the M methods, the model first.
        means: (M,) the measure.
        resampled: (M, n) the measure in n resamples, all methods on the same ones.
    """
    return (
        float(means[0]),
        interval(resampled[0]),
        {
            name: Comparison(
                float(mean), interval(again), float(means[0] - mean), interval(resampled[0] - again)
            )
            for name, mean, again in zip(names[1:], means[1:], resampled[1:], strict=True)
        },
    )


def comparisons_json(baselines: Mapping[str, Comparison]) -> dict[str, Any]:
    """The object of baselines that `--json` writes."""
    return {
        name: {
            "mean": comparison.mean,
            "ci95": list(comparison.ci95),
            "difference": comparison.difference,
            "difference_ci95": list(comparison.difference_ci95),
        }
        for name, comparison in baselines.items()
    }


def comparison_lines(
    measure: str, model: str, mean: float, ci95: tuple[float, float], baselines: Mapping[str, Comparison]
) -> list[str]:
    """One measure as aligned lines of text, the model first."""
    rows = [("", measure, "95% CI", "model minus it", "95% CI")]
    rows.append((_shown(model), f"{mean:.3f}", _interval(ci95), "", ""))
    for name, comparison in baselines.items():
        difference = f"{comparison.difference:+.3f}", _interval(comparison.difference_ci95, "+")
        rows.append((_shown(name), f"{comparison.mean:.3f}", _interval(comparison.ci95), *difference))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def cut_lines(model: str, cut: CutCounts | None, baselines: Mapping[str, CutCounts]) -> list[str]:
    """Whose token limit cut rows, a line each; the model first."""
    of_model = {model: cut} if cut is not None and cut.rows else {}
    return [f"{name}: {counts}" for name, counts in [*of_model.items(), *baselines.items()]]


def time_lines(ms_a_row: Mapping[str, float]) -> list[str]:
    """What a row's vector took by each method, in a line; none where nothing is known."""
    times = ", ".join(f"{_shown(name)} {ms:.3g}" for name, ms in ms_a_row.items())
    return [f"milliseconds a row: {times}"] if times else []


def _shown(name: str) -> str:
    """A name for the table: of a long path its end, which tells models apart."""
    return name if len(name) <= _NAME_WIDTH else f"...{name[3 - _NAME_WIDTH :]}"


def _interval(bounds: tuple[float, float], sign: str = "") -> str:
    return f"[{bounds[0]:{sign}.3f}, {bounds[1]:{sign}.3f}]"
