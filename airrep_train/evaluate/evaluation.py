"""LDS of a model and of baselines, with confidence intervals and the ceiling that label noise sets.

LDS is the mean over queries of the Spearman correlation, over held-out subsets S_k, between f(q_j, S_k)
and -L_jk (docs/method.md). Intervals are 95% percentile bootstrap intervals over queries; all
methods are compared on the same resamples. The subsets are not resampled: an interval says how far
other queries would move the number, not other subsets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.score.pooling import attention_pool
from airrep_train.evaluate.lds import query_lds
from airrep_train.evaluate.reliability import Reliability, measure_reliability
from airrep_train.evaluate.scorers import (
    LEXICAL,
    Embedded,
    LexicalScorer,
    Pooling,
    Scorer,
    Similarity,
    VectorScorer,
    embed_lines,
    parse_spec,
)
from airrep_train.evaluate.truth import Truth
from airrep_train.label.loss_files import LabelledSplit

RESAMPLES = 10_000
_CHUNK_ELEMENTS = 1 << 23
_NAME_WIDTH = 48


@dataclass(frozen=True)
class Comparison:
    """LDS of a baseline, and the model's LDS minus it, each with its interval."""

    mean: float
    ci95: tuple[float, float]
    difference: float
    difference_ci95: tuple[float, float]


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
            "baselines": {
                name: {
                    "mean": found.mean,
                    "ci95": list(found.ci95),
                    "difference": found.difference,
                    "difference_ci95": list(found.difference_ci95),
                }
                for name, found in self.baselines.items()
            },
        }

    def table(self) -> str:
        """The result as aligned text, the model first."""
        rows = [("", "LDS", "95% CI", "model minus it", "95% CI")]
        rows.append((_shown(self.model), f"{self.mean:.3f}", _interval(self.ci95), "", ""))
        for name, found in self.baselines.items():
            difference = f"{found.difference:+.3f}", _interval(found.difference_ci95, "+")
            rows.append((_shown(name), f"{found.mean:.3f}", _interval(found.ci95), *difference))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]
        notes = f"{self.queries} queries, {self.subsets} subsets"
        if self.tied_losses:
            notes += f"; {self.tied_losses} queries with equal losses count as 0"
        if self.tied_predictions:
            notes += f"; {self.tied_predictions} queries with equal predictions count as 0"
        if (labels := self.reliability) is not None:
            share = f"; the model reaches {self.share:.0%} of it" if self.share is not None else ""
            notes += (
                f"\nceiling {labels.ceiling:.3f} (reliability {labels.correlation:.3f}, "
                f"from {labels.subsets} subsets labelled twice){share}"
            )
        return "\n".join([*(line.rstrip() for line in lines), notes])


def evaluate(
    model: str | Path | Sequence[str | Path] | Scorer,
    truth: Truth,
    *,
    pooling: Pooling = "attention",
    baselines: Sequence[str] = (),
    seed: int = 0,
    precision: str = "fp32",
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """LDS of a model and of baselines on measured losses.

    Args:
        model: what `scorers.embed_lines` takes, or a `Scorer`. Scores are dot products.
        pooling: of the model's scores over a subset.
        baselines: specs, see `scorers`; each once.
        seed: of the bootstrap and of the baseline `random`.
        precision: which variant of a bundle; for the model, baselines are fp32.
        progress: called with the number of rows just embedded.

    Raises:
        InputError: no usable model or baseline.
    """
    specs = [parse_spec(text) for text in baselines]
    twice = sorted({spec.text for spec in specs if baselines.count(spec.text) > 1})
    if twice:
        raise InputError(f"baseline {twice[0]!r} is given twice")
    lines = truth.lines()
    embedded: dict[tuple[Any, str], Embedded] = {}

    def vectors(source: Any, variant: str, similarity: Similarity = "dot") -> VectorScorer:
        key = (str(source) if isinstance(source, str | Path) else tuple(map(str, source))), variant
        if key not in embedded:
            embedded[key] = embed_lines(source, truth.examples, lines, precision=variant, progress=progress)
        return VectorScorer(embedded[key], similarity)

    # One store in a sequence is the same source as the store alone.
    if isinstance(model, Sequence) and not isinstance(model, str) and len(model) == 1:
        model = model[0]
    given = isinstance(model, str | Path | Sequence)
    found = [_correlations(vectors(model, precision) if given else model, truth, pooling)]  # type: ignore[arg-type]
    for spec in specs:
        lexical = spec.name in LEXICAL
        scorer: Scorer = (
            LexicalScorer(spec.name, truth.examples, seed)
            if lexical
            else vectors(spec.name, "fp32", spec.similarity)
        )
        found.append(_correlations(scorer, truth, spec.pooling))

    lds = np.stack([correlations.values for correlations in found])
    means, resampled = lds.mean(axis=1), bootstrap_means(lds, seed=seed)
    name = " ".join(map(str, model)) if isinstance(model, list | tuple) else str(model)
    return Evaluation(
        f"{name if given else 'model'} +{pooling}",
        float(means[0]),
        _ci95(resampled[0]),
        lds.shape[1],
        sum(len(split.subsets) for split in truth.splits),
        found[0].tied_losses,
        found[0].tied_predictions,
        measure_reliability(truth.splits),
        {
            spec.text: Comparison(
                float(mean), _ci95(again), float(means[0] - mean), _ci95(resampled[0] - again)
            )
            for spec, mean, again in zip(specs, means[1:], resampled[1:], strict=True)
        },
    )


@dataclass(frozen=True)
class _Correlations:
    """(Q,) Spearman correlations of all splits' queries, 0 where there is no ranking, and why."""

    values: NDArray[np.float64]
    tied_losses: int
    tied_predictions: int


def _correlations(scorer: Scorer, truth: Truth, pooling: Pooling) -> _Correlations:
    values, tied_losses, tied_predictions = [], 0, 0
    for split in truth.splits:
        influence = split_influence(scorer, split, pooling).astype(np.float32)
        lds = query_lds(influence, split.losses)
        unranked = np.isnan(lds)
        known = np.isfinite(split.losses.T)
        highest = np.where(known, influence, -np.inf).max(axis=1)
        tied = highest <= np.where(known, influence, np.inf).min(axis=1)
        tied_losses += int(unranked.sum())
        tied_predictions += int((~unranked & tied).sum())
        values.append(np.where(unranked, 0.0, lds))
    return _Correlations(np.concatenate(values), tied_losses, tied_predictions)


def split_influence(scorer: Scorer, split: LabelledSplit, pooling: Pooling) -> NDArray[np.float64]:
    """f(q_j, S_k) of every query and subset of a split: (Q, K)."""
    pool, positions = np.unique(
        np.concatenate([subset.select for subset in split.subsets]), return_inverse=True
    )
    ends = np.cumsum([len(subset.select) for subset in split.subsets])
    members = np.split(positions.reshape(-1), ends[:-1])
    blocks = [
        np.stack([pool_scores(block[:, chosen], pooling, scorer.beta) for chosen in members], axis=1)
        for block in scorer.scores(split.dev, pool)
    ]
    return np.concatenate(blocks)


def pool_scores(scores: NDArray[np.floating], pooling: Pooling, beta: float) -> NDArray[np.float64]:
    """Influence of a group from the scores of its members, (q, n) -> (q,).

    `attention` is the rule that training and inference use. `published-eval` leaves the absolute value
    out of the softmax, as the published evaluation does: opponents then weigh next to nothing.
    """
    s = np.asarray(scores, np.float64)
    if pooling == "attention":
        return attention_pool(s, beta)
    if pooling == "published-eval":
        weights = np.exp(beta * (s - s.max(axis=1, keepdims=True)))
        return np.asarray((weights * s).sum(axis=1) / weights.sum(axis=1), np.float64)
    return np.asarray(s.sum(axis=1) if pooling == "sum" else s.mean(axis=1), np.float64)


def bootstrap_means(values: NDArray[np.float64], *, seed: int = 0, n: int = RESAMPLES) -> NDArray[np.float64]:
    """Means of resampled queries: (methods, Q) -> (methods, n), every method on the same resamples."""
    queries = values.shape[1]
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ELEMENTS // queries)
    parts = []
    for start in range(0, n, chunk):
        # How often each query is drawn is all that a mean needs.
        counts = generator.multinomial(queries, np.full(queries, 1 / queries), size=min(chunk, n - start))
        parts.append(values @ counts.T / queries)
    return np.concatenate(parts, axis=1)


def _ci95(resampled: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def _shown(name: str) -> str:
    """A name for the table: of a long path its end, which tells models apart."""
    return name if len(name) <= _NAME_WIDTH else f"...{name[3 - _NAME_WIDTH :]}"


def _interval(bounds: tuple[float, float], sign: str = "") -> str:
    return f"[{bounds[0]:{sign}.3f}, {bounds[1]:{sign}.3f}]"
