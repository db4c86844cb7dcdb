"""LDS of a model and of baselines, with confidence intervals and the ceiling that label noise sets.

LDS is the mean over queries of the Spearman correlation, over held-out subsets S_k, between f(q_j, S_k)
and -L_jk (docs/method.md). Intervals are 95% percentile bootstrap intervals over queries and subsets; all
methods are compared on the same resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from airrep_train.evaluate.bootstrap import resample_lds
from airrep_train.evaluate.chosen_on import NOTHING_SEEN, SeenSplits, seen_splits
from airrep_train.evaluate.comparison import compare
from airrep_train.evaluate.influence import split_influence
from airrep_train.evaluate.lds import RankedSplit
from airrep_train.evaluate.methods import Compared, Method, Model, baseline_cuts, open_methods, times
from airrep_train.evaluate.options import EvaluateOptions, Pooling
from airrep_train.evaluate.reliability import measure_reliability
from airrep_train.evaluate.result import Evaluation
from airrep_train.evaluate.scorers import Scorer
from airrep_train.evaluate.truth import Truth

if TYPE_CHECKING:
    from typing_extensions import Unpack


def evaluate(
    model: Model,
    truth: Truth,
    *,
    pooling: Pooling = EvaluateOptions.pooling,
    seed: int = EvaluateOptions.seed,
    **compared: Unpack[Compared],
) -> Evaluation:
    """LDS of a model and of baselines on measured losses.

    Args:
        model: what `scorers.embed_lines` takes, or a `Scorer`. Scores are dot products.
        pooling: of the model's scores over a subset.
        seed: of the bootstrap and of the baseline `random`.
        compared: `baselines`, `gradients`, `scores`, `on_truncate`, `precision`, `progress`: see `Compared`.

    Raises:
        InputError: no usable model or baseline, or a row that is cut where that is an error.
    """
    methods = open_methods(
        model, truth.examples, truth.lines(), truth.queries(), seed=seed, pooling=pooling, **compared
    )
    measured = [_correlations(method.scorer, truth, method.pooling) for method in methods]
    lds = np.stack([correlations.values for correlations in measured])
    mean, ci95, comparisons = compare(
        [method.name for method in methods],
        lds.mean(axis=1),
        resample_lds([method.ranked for method in measured], seed=seed),
    )
    seen = [_seen(method, truth) for method in methods]
    return Evaluation(
        f"{methods[0].name} +{pooling}",
        mean,
        ci95,
        lds.shape[1],
        sum(len(split.subsets) for split in truth.splits),
        measured[0].tied_losses,
        measured[0].tied_predictions,
        measure_reliability(truth.splits),
        comparisons,
        cut=methods[0].cut,
        unknown_losses=measured[0].unknown_losses,
        seen=seen[0],
        baselines_seen={
            method.name: of_it for method, of_it in zip(methods[1:], seen[1:], strict=True) if of_it
        },
        baseline_cuts=baseline_cuts(methods),
        ms_a_row=times(methods),
    )


def _seen(method: Method, truth: Truth) -> SeenSplits:
    if method.source is None:
        return NOTHING_SEEN
    return seen_splits(method.source, truth.examples, [split.dev_id for split in truth.splits])


@dataclass(frozen=True)
class _Correlations:
    """(Q,) Spearman correlations of all splits' queries, 0 where there is no ranking, and why; the ranks."""

    values: NDArray[np.float64]
    ranked: list[RankedSplit]
    tied_losses: int
    tied_predictions: int
    unknown_losses: int


def _correlations(scorer: Scorer, truth: Truth, pooling: Pooling) -> _Correlations:
    values, ranked, tied_losses, tied_predictions, unknown_losses = [], [], 0, 0, 0
    for split in truth.splits:
        influence = split_influence(scorer, split, pooling).astype(np.float32)
        ranked.append(RankedSplit.of(influence, split.losses))
        lds = ranked[-1].lds()
        unranked = np.isnan(lds)
        known = np.isfinite(split.losses.T)
        highest = np.where(known, influence, -np.inf).max(axis=1)
        tied = highest <= np.where(known, influence, np.inf).min(axis=1)
        unknown = known.sum(axis=1) < 2
        tied_losses += int((unranked & ~unknown).sum())
        unknown_losses += int(unknown.sum())
        tied_predictions += int((~unranked & tied).sum())
        values.append(np.where(unranked, 0.0, lds))
    return _Correlations(np.concatenate(values), ranked, tied_losses, tied_predictions, unknown_losses)
