"""LDS of a model and of baselines, with confidence intervals and the ceiling that label noise sets.

LDS is the mean over queries of the Spearman correlation, over held-out subsets S_k, between f(q_j, S_k)
and -L_jk (docs/method.md). Intervals are 95% percentile bootstrap intervals over queries and subsets; all
methods are compared on the same resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.progress import Progress
from airrep_train.evaluate.bootstrap import resample_lds
from airrep_train.evaluate.chosen_on import chosen_on
from airrep_train.evaluate.comparison import compare
from airrep_train.evaluate.influence import split_influence
from airrep_train.evaluate.lds import RankedSplit
from airrep_train.evaluate.methods import Model, open_methods, times
from airrep_train.evaluate.options import EvaluateOptions, OnTruncate, Pooling
from airrep_train.evaluate.reliability import measure_reliability
from airrep_train.evaluate.result import Evaluation
from airrep_train.evaluate.scorers import Scorer
from airrep_train.evaluate.truth import Truth


def evaluate(
    model: Model,
    truth: Truth,
    *,
    pooling: Pooling = EvaluateOptions.pooling,
    baselines: Sequence[str] = (),
    gradients: Sequence[Path] = (),
    scores: Sequence[Path] = (),
    on_truncate: OnTruncate = "cut",
    seed: int = EvaluateOptions.seed,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> Evaluation:
    """LDS of a model and of baselines on measured losses.

    Args:
        model: what `scorers.embed_lines` takes, or a `Scorer`. Scores are dot products.
        pooling: of the model's scores over a subset.
        baselines: specs, see `baselines`; each once.
        gradients: gradient folders that together hold pool and queries, for the baselines made of them.
        scores: files of scores to compare with, see `given_scores`; pooled by the mean.
        on_truncate: "error" refuses a row that exceeds the model's token limit.
        seed: of the bootstrap and of the baseline `random`.
        precision: which variant of a bundle; for the model, baselines are fp32.
        progress: told of the rows that are embedded, those of all encoders together.

    Raises:
        InputError: no usable model or baseline, or a row that is cut where that is an error.
    """
    methods = open_methods(
        model,
        truth.examples,
        truth.lines(),
        pooling=pooling,
        baselines=baselines,
        gradients=gradients,
        scores=scores,
        on_truncate=on_truncate,
        seed=seed,
        precision=precision,
        progress=progress,
    )
    measured = [_correlations(method.scorer, truth, method.pooling) for method in methods]
    lds = np.stack([correlations.values for correlations in measured])
    mean, ci95, comparisons = compare(
        [method.name for method in methods],
        lds.mean(axis=1),
        resample_lds([method.ranked for method in measured], seed=seed),
    )
    given = isinstance(model, str | Path | Sequence)
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
        chosen_on=chosen_on(methods[0].name, truth.examples, [split.dev_id for split in truth.splits])
        if given
        else (),
        ms_a_row=times(methods),
    )


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
