"""LDS of a model and of baselines, with confidence intervals and the ceiling that label noise sets.

LDS is the mean over queries of the Spearman correlation, over held-out subsets S_k, between f(q_j, S_k)
and -L_jk (docs/method.md). Intervals are 95% percentile bootstrap intervals over queries and subsets; all
methods are compared on the same resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import refuse_cuts
from airrep_train.evaluate.baselines import BY_GRADIENTS, LEXICAL, LexicalScorer, Spec, parse_spec
from airrep_train.evaluate.bootstrap import interval, resample_lds
from airrep_train.evaluate.chosen_on import chosen_on
from airrep_train.evaluate.embeddings import Embedded, embed_lines
from airrep_train.evaluate.given_scores import FileScorer, gradient_scorer
from airrep_train.evaluate.influence import split_influence
from airrep_train.evaluate.lds import RankedSplit
from airrep_train.evaluate.options import EvaluateOptions, OnTruncate, Pooling
from airrep_train.evaluate.reliability import measure_reliability
from airrep_train.evaluate.result import Comparison, Evaluation
from airrep_train.evaluate.scorers import Scorer, Similarity, VectorScorer
from airrep_train.evaluate.truth import Truth


def evaluate(
    model: str | Path | Sequence[str | Path] | Scorer,
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
    specs = [parse_spec(text) for text in baselines]
    asked = [*baselines, *map(str, scores)]
    if twice := sorted({text for text in asked if asked.count(text) > 1}):
        raise InputError(f"baseline {twice[0]!r} is given twice")
    if gradients and not any(spec.name in BY_GRADIENTS for spec in specs):
        raise InputError(
            f"gradients are for the baselines {', '.join(BY_GRADIENTS)}: name one, or leave them out"
        )
    lines = truth.lines()
    embedded: dict[tuple[Any, str], Embedded] = {}
    count = begin(progress, "evaluate", None)

    def vectors(source: Any, variant: str, similarity: Similarity = "dot") -> VectorScorer:
        key = (str(source) if isinstance(source, str | Path) else tuple(map(str, source))), variant
        if key not in embedded:
            embedded[key] = embed_lines(source, truth.examples, lines, precision=variant, count=count)
        return VectorScorer(embedded[key], similarity)

    # One store in a sequence is the same source as the store alone.
    if isinstance(model, Sequence) and not isinstance(model, str) and len(model) == 1:
        model = model[0]
    given = isinstance(model, str | Path | Sequence)
    if given and on_truncate == "error":
        cuts = vectors(model, precision).embedded.cuts
        if cuts is None:
            raise InputError(
                f"{model}: a store does not say which rows were cut; --on-truncate error needs its bundle"
            )
        refuse_cuts([truth.examples[line] for line in lines], cuts)
    measured = [_correlations(vectors(model, precision) if given else model, truth, pooling)]  # type: ignore[arg-type]

    def baseline(spec: Spec) -> Scorer:
        if spec.name in LEXICAL:
            return LexicalScorer(spec.name, truth.examples, seed)
        if spec.name in BY_GRADIENTS:
            return gradient_scorer(spec.name, gradients, truth.examples, lines)
        return vectors(spec.name, "fp32", spec.similarity)

    measured += [_correlations(baseline(spec), truth, spec.pooling) for spec in specs]
    measured += [_correlations(FileScorer.open(path, truth.examples), truth, "mean") for path in scores]
    names = [*(spec.text for spec in specs), *map(str, scores)]

    lds = np.stack([correlations.values for correlations in measured])
    means, resampled = lds.mean(axis=1), resample_lds([method.ranked for method in measured], seed=seed)
    name = " ".join(map(str, model)) if isinstance(model, list | tuple) else str(model)
    return Evaluation(
        f"{name if given else 'model'} +{pooling}",
        float(means[0]),
        interval(resampled[0]),
        lds.shape[1],
        sum(len(split.subsets) for split in truth.splits),
        measured[0].tied_losses,
        measured[0].tied_predictions,
        measure_reliability(truth.splits),
        {
            text: Comparison(
                float(mean), interval(again), float(means[0] - mean), interval(resampled[0] - again)
            )
            for text, mean, again in zip(names, means[1:], resampled[1:], strict=True)
        },
        cut=vectors(model, precision).embedded.cut if given else None,
        unknown_losses=measured[0].unknown_losses,
        chosen_on=chosen_on(model, truth.examples, [split.dev_id for split in truth.splits])
        if isinstance(model, str | Path)
        else (),
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
