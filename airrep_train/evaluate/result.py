"""The result of an evaluation: numbers with their intervals, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from airrep_infer.rows import CutCounts
from airrep_train.evaluate.chosen_on import NOTHING_SEEN, SeenSplits
from airrep_train.evaluate.comparison import (
    Comparison,
    comparison_lines,
    comparisons_json,
    cut_lines,
    time_lines,
)
from airrep_train.evaluate.reliability import Reliability

FEW_SUBSETS = 20
"""With fewer, LDS says little."""


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        model: what was evaluated, and with which pooling.
        mean, ci95: LDS.
        queries, subsets: how many, over all splits.
        tied_losses: queries whose known losses are all equal; they count as 0 for every method.
        tied_predictions: other queries that the model gives one influence for all subsets; they count as 0.
        reliability: of the labels, and the ceiling that it sets; None without repeated labels.
        baselines: by the name they were asked for.
        cut: rows that the model's token limit cut; None where that is not known.
        unknown_losses: queries with fewer than two known losses; they count as 0.
        seen: splits among those evaluated that flatter the model.
        baselines_seen: the same of baselines, by their names, of those that have seen any.
        baseline_cuts: rows that a baseline's token limit cut, by its name, of those that cut any.
        ms_a_row: milliseconds that a row's vector took, by the method's name, where that is known.
    """

    model: str
    mean: float
    ci95: tuple[float, float]
    queries: int
    subsets: int
    tied_losses: int
    tied_predictions: int
    reliability: Reliability | None
    baselines: Mapping[str, Comparison]
    cut: CutCounts | None = None
    unknown_losses: int = 0
    seen: SeenSplits = NOTHING_SEEN
    baselines_seen: Mapping[str, SeenSplits] = field(default_factory=dict)
    baseline_cuts: Mapping[str, CutCounts] = field(default_factory=dict)
    ms_a_row: Mapping[str, float] = field(default_factory=dict)

    @property
    def ceiling(self) -> float | None:
        """LDS that a perfect predictor of the expected loss would get, at most."""
        return self.reliability.ceiling if self.reliability else None

    @property
    def share(self) -> float | None:
        """LDS as a share of the ceiling."""
        return self.mean / self.ceiling if self.ceiling else None

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` writes (docs/files.md)."""
        size = {"queries": self.queries, "subsets": self.subsets}
        return {
            "lds": {"mean": self.mean, "ci95": list(self.ci95), **size},
            "ceiling": self.ceiling,
            "chosen_on": list(self.seen.chose),
            "not_held_out": list(self.seen.not_held_out),
            "cut": asdict(self.cut) if self.cut else None,
            "baselines": comparisons_json(self.baselines),
            "baselines_seen": {
                name: {"chosen_on": list(seen.chose), "not_held_out": list(seen.not_held_out)}
                for name, seen in self.baselines_seen.items()
            },
            "baseline_cuts": {name: asdict(cut) for name, cut in self.baseline_cuts.items()},
            "ms_a_row": dict(self.ms_a_row),
        }

    def cut_lines(self) -> list[str]:
        """Whose token limit cut rows, a line each."""
        return cut_lines(self.model, self.cut, self.baseline_cuts)

    def table(self) -> str:
        """The result as aligned text, the model first."""
        lines = comparison_lines("LDS", self.model, self.mean, self.ci95, self.baselines)
        notes = f"{self.queries} queries, {self.subsets} subsets"
        if self.tied_losses:
            notes += f"; {self.tied_losses} queries with equal losses count as 0"
        if self.unknown_losses:
            notes += f"; {self.unknown_losses} queries with fewer than two known losses count as 0"
        if self.tied_predictions:
            notes += f"; {self.tied_predictions} queries with equal predictions count as 0"
        if self.subsets < FEW_SUBSETS:
            notes += f"; fewer than {FEW_SUBSETS} subsets rank a query poorly: label more before you compare"
        for name, seen in (("this model", self.seen), *self.baselines_seen.items()):
            notes += "".join(f"\n{note}" for note in seen.notes(name))
        if (labels := self.reliability) is not None:
            share = f"; the model reaches {self.share:.0%} of it" if self.share is not None else ""
            notes += (
                f"\nceiling {labels.ceiling:.3f} (reliability {labels.correlation:.3f}, "
                f"from {labels.subsets} subsets labelled twice){share}"
            )
        return "\n".join([*lines, notes, *time_lines(self.ms_a_row)])
