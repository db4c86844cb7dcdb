"""Do queries rank the rows that they should find first? Recall@k, AUC and average precision, with intervals.

The intervals are 95% percentile bootstrap intervals over queries; all methods are compared on the same
resamples (docs/method.md, "Known rows").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from airrep_infer.errors import InputError
from airrep_infer.rows import CutCounts
from airrep_train.evaluate.bootstrap import resample_means
from airrep_train.evaluate.comparison import (
    Comparison,
    compare,
    comparison_lines,
    comparisons_json,
    cut_lines,
    time_lines,
)
from airrep_train.evaluate.known import KnownOptions, KnownTruth
from airrep_train.evaluate.methods import Compared, Model, baseline_cuts, open_methods, times
from airrep_train.evaluate.options import EvaluateOptions
from airrep_train.evaluate.scorers import Scorer
from airrep_train.label import Indices

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class RankingMeasure:
    """One measure of the model: mean over queries, its interval, and the baselines."""

    name: str
    mean: float
    ci95: tuple[float, float]
    baselines: Mapping[str, Comparison]


@dataclass(frozen=True)
class RankingEvaluation:
    """The result of `evaluate_known`.

    Attributes:
        model: what was evaluated.
        measures: recall@k, AUC and average precision, in this order.
        queries: those that count.
        left_out: queries that have no row to find, or nothing but such rows; they do not count.
        rows: of the pool.
        found: rows that a query should find, mean over the queries that count.
        cut: rows that the model's token limit cut; None where that is not known.
        baseline_cuts: rows that a baseline's token limit cut, by its name, of those that cut any.
        ms_a_row: milliseconds that a row's vector took, by the method's name, where that is known.
    """

    model: str
    measures: tuple[RankingMeasure, ...]
    queries: int
    left_out: int
    rows: int
    found: float
    cut: CutCounts | None = None
    baseline_cuts: Mapping[str, CutCounts] = field(default_factory=dict)
    ms_a_row: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` writes (docs/files.md)."""
        return {
            "known": {
                "queries": self.queries,
                "left_out": self.left_out,
                "rows": self.rows,
                "found": self.found,
            },
            "cut": asdict(self.cut) if self.cut else None,
            "measures": {
                measure.name: {
                    "mean": measure.mean,
                    "ci95": list(measure.ci95),
                    "baselines": comparisons_json(measure.baselines),
                }
                for measure in self.measures
            },
            "baseline_cuts": {name: asdict(cut) for name, cut in self.baseline_cuts.items()},
            "ms_a_row": dict(self.ms_a_row),
        }

    def cut_lines(self) -> list[str]:
        """Whose token limit cut rows, a line each."""
        return cut_lines(self.model, self.cut, self.baseline_cuts)

    def table(self) -> str:
        """The result as aligned text, a table for each measure."""
        tables = [
            comparison_lines(measure.name, self.model, measure.mean, measure.ci95, measure.baselines)
            for measure in self.measures
        ]
        notes = f"{self.queries} queries, {self.found:.1f} of {self.rows} rows to find on average"
        if self.left_out:
            notes += f"; {self.left_out} queries without a row to find, or with no other, are left out"
        return "\n\n".join("\n".join(lines) for lines in [*tables, [notes, *time_lines(self.ms_a_row)]])


def evaluate_known(
    model: Model,
    truth: KnownTruth,
    *,
    k: int = KnownOptions.k,
    seed: int = EvaluateOptions.seed,
    **compared: Unpack[Compared],
) -> RankingEvaluation:
    """Recall@k, AUC and average precision of a model and of baselines, where it is known what queries find.

    Args:
        k: rows that recall looks at.
        seed, compared: as of `evaluate`; a group's pooling does not matter here.

    Raises:
        InputError: no usable model or baseline, a baseline with a pooling, or no query that counts.
    """
    baselines = compared.get("baselines", ())
    if pooled := [name for name in baselines if "+" in name and not Path(name).exists()]:
        raise InputError(f"baseline {pooled[0]!r}: single rows are ranked, nothing is pooled; drop the +")
    rows = len(truth.pool)
    counted = np.array([number for number, found in enumerate(truth.found) if 0 < len(found) < rows])
    if not len(counted):
        raise InputError("no query has a row to find beside rows that it should not find")
    methods = open_methods(
        model, truth.examples, np.arange(len(truth.examples)), truth.queries, seed=seed, **compared
    )
    values = np.stack([_measure(method.scorer, truth, counted, k) for method in methods])
    names = [method.name for method in methods]
    measures = [
        RankingMeasure(name, *compare(names, of_methods.mean(axis=1), resample_means(of_methods, seed=seed)))
        for name, of_methods in zip(
            (f"recall@{k}", "AUC", "average precision"), np.moveaxis(values, 2, 0), strict=True
        )
    ]
    return RankingEvaluation(
        names[0],
        tuple(measures),
        len(counted),
        len(truth.found) - len(counted),
        rows,
        float(np.mean([len(truth.found[number]) for number in counted])),
        cut=methods[0].cut,
        baseline_cuts=baseline_cuts(methods),
        ms_a_row=times(methods),
    )


def _measure(scorer: Scorer, truth: KnownTruth, counted: Indices, k: int) -> NDArray[np.float64]:
    """(Q, 3): the measures of one method, of the queries that count."""
    parts: list[NDArray[np.float64]] = []
    waiting = iter(counted)
    for block in scorer.scores(truth.queries[counted], truth.pool):
        relevant = np.zeros(block.shape, bool)
        for row in relevant:
            row[truth.found[next(waiting)]] = True
        parts.append(rank_measures(block, relevant, k))
    return np.concatenate(parts)


def rank_measures(scores: NDArray[np.floating], relevant: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Recall@k, AUC and average precision of each query, (Q, 3).

    Rows with equal scores count as in a random order for recall, by half for AUC, and as one step for
    average precision.

    Args:
        scores: (Q, N), the highest first.
        relevant: (Q, N) the rows to find: at least one, and not all.
    """
    from sklearn.metrics import average_precision_score

    size = scores.shape[1]
    sought = relevant.sum(axis=1)
    k = min(k, size)
    last = np.partition(scores, size - k, axis=1)[:, size - k, None]
    above, tied = scores > last, scores == last
    share = (k - above.sum(axis=1)) / tied.sum(axis=1)
    recall = ((above & relevant).sum(axis=1) + share * (tied & relevant).sum(axis=1)) / sought
    ranks = np.where(relevant, rankdata(scores, axis=1), 0.0).sum(axis=1)
    auc = (ranks - sought * (sought + 1) / 2) / (sought * (size - sought))
    precision = [average_precision_score(right, row) for right, row in zip(relevant, scores, strict=True)]
    return np.stack([recall, auc, precision], axis=1)
