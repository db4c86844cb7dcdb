"""The methods that an evaluation compares: a model, baselines and files of scores, each with its scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from airrep_infer.errors import InputError, about, refuse_single
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import CutCounts, Example, refuse_cuts
from airrep_train.evaluate.baselines import LexicalScorer, Spec, parse_spec
from airrep_train.evaluate.embeddings import Embedded, embed_lines
from airrep_train.evaluate.given_scores import FileScorer, gradient_scorer
from airrep_train.evaluate.options import (
    BY_GRADIENTS,
    GRADIENT_QUERIES,
    LEXICAL,
    EvaluateOptions,
    OnTruncate,
    Pooling,
)
from airrep_train.evaluate.query_scorer import gradient_queries, map_lines
from airrep_train.evaluate.scorers import Scorer, Similarity, VectorScorer
from airrep_train.label import Indices

Model = str | Path | Sequence[str | Path] | Scorer


class Compared(TypedDict, total=False):
    """What a model is compared with, and how its rows are embedded; `open_methods` has the defaults.

    Attributes:
        baselines: specs, see `baselines`; each once.
        gradients: gradient folders that together hold pool and queries, for the baselines made of them.
        scores: files of scores to compare with, see `given_scores`; pooled by the mean.
        on_truncate: "error" refuses a row that exceeds the token limit of the model or of a baseline's
            encoder; what a gradient folder or a file of scores was made of is not known here.
        precision: which variant of a bundle; for the model, which is to be one; baselines are fp32.
        progress: told of the rows that are embedded, those of all encoders together.
    """

    baselines: Sequence[str]
    gradients: Sequence[Path]
    scores: Sequence[Path]
    on_truncate: OnTruncate
    precision: str
    progress: Progress | None


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: as it was asked for; "model" of a model that is given as a `Scorer`.
        pooling: of its scores over a subset.
        cut: rows that its token limit cut; None where that is not known.
        source: the encoder of its vectors; None where there is none, or stores stand for it.
    """

    name: str
    scorer: Scorer
    pooling: Pooling
    cut: CutCounts | None = None
    source: str | Path | None = None

    @property
    def ms_a_row(self) -> float | None:
        """Milliseconds that a row's vector took; None where that is not known."""
        return self.scorer.embedded.ms_a_row if isinstance(self.scorer, VectorScorer) else None


def open_methods(
    model: Model,
    examples: Sequence[Example],
    lines: Indices,
    queries: Indices,
    *,
    seed: int,
    pooling: Pooling = EvaluateOptions.pooling,
    baselines: Sequence[str] = (),
    gradients: Sequence[Path] = (),
    scores: Sequence[Path] = (),
    on_truncate: OnTruncate = "cut",
    precision: str = "fp32",
    progress: Progress | None = None,
) -> list[Method]:
    """The model first, then the baselines and the files of scores as they are asked for.

    Args:
        lines: sorted distinct line numbers of all examples that are scored.
        queries: those of them that are queries.
        seed: of the baseline `random`.
        pooling: of the model's scores over a subset.

    Further arguments: see `Compared`; errors: see `evaluate`.
    """
    for what, values in (("baselines", baselines), ("gradients", gradients), ("scores", scores)):
        refuse_single(values, what)
    specs = [parse_spec(text) for text in baselines]
    asked = [*baselines, *map(str, scores)]
    if twice := sorted({text for text in asked if asked.count(text) > 1}):
        raise InputError(f"baseline {twice[0]!r} is given twice")
    if gradients and not any(spec.name in BY_GRADIENTS for spec in specs):
        raise InputError(
            f"gradients are for the baselines {', '.join(BY_GRADIENTS)}: name one, or leave them out"
        )
    embedded: dict[tuple[Any, str], Embedded] = {}
    count = begin(progress, "evaluate", None)

    lines_of_model = lines
    if gradients and any(spec.name == GRADIENT_QUERIES for spec in specs):
        if not isinstance(model, str | Path | Sequence):
            raise InputError(f"baseline {GRADIENT_QUERIES!r} needs a model with vectors of rows")
        lines_of_model = np.union1d(lines, map_lines(model, gradients, examples, queries))

    def vectors(
        source: Any, variant: str, similarity: Similarity = "dot", at: Indices = lines
    ) -> VectorScorer:
        key = (str(source) if isinstance(source, str | Path) else tuple(map(str, source))), variant
        if key not in embedded:
            embedded[key] = embed_lines(source, examples, at, precision=variant, count=count)
        return VectorScorer(embedded[key], similarity)

    def by_encoder(name: str, source: Any, scorer: VectorScorer, pooled: Pooling) -> Method:
        if on_truncate == "error":
            refuse_any_cut(name, scorer.embedded, examples)
        known = source if isinstance(source, str | Path) else None
        return Method(name, scorer, pooled, scorer.embedded.cut, known)

    def model_method() -> Method:
        if not isinstance(model, str | Path | Sequence):
            if precision != "fp32":
                raise InputError(f"precision {precision} is a variant of a bundle: leave it out")
            return Method("model", model, pooling)
        # One store in a sequence is the same source as the store alone.
        source = (
            model[0]
            if isinstance(model, Sequence) and not isinstance(model, str) and len(model) == 1
            else model
        )
        name = str(source) if isinstance(source, str | Path) else " ".join(map(str, source))
        return by_encoder(name, source, vectors(source, precision, at=lines_of_model), pooling)

    def baseline(spec: Spec) -> Method:
        if spec.name in LEXICAL:
            return Method(spec.text, LexicalScorer(spec.name, examples, seed), spec.pooling)
        if spec.name == GRADIENT_QUERIES:
            assert isinstance(first.scorer, VectorScorer)
            by_queries = gradient_queries(first.scorer.embedded, gradients, examples, queries)
            return Method(spec.text, by_queries, spec.pooling)
        if spec.name in BY_GRADIENTS:
            by_gradients = gradient_scorer(spec.name, gradients, examples, lines)
            return Method(spec.text, by_gradients, spec.pooling)
        return by_encoder(spec.text, spec.name, vectors(spec.name, "fp32", spec.similarity), spec.pooling)

    # What can be refused at once is, before anything is embedded.
    files = [Method(str(path), FileScorer.open(path, examples), "mean") for path in scores]
    first = model_method()
    return [first, *map(baseline, specs), *files]


def refuse_any_cut(name: str, embedded: Embedded, examples: Sequence[Example]) -> None:
    """Refuse an encoder whose token limit cuts a row, or that does not say so.

    Raises:
        InputError: with its name, and that of the first row.
    """
    if embedded.cuts is None:
        raise InputError(
            f"{name}: a store does not say which rows were cut; --on-truncate error needs its bundle"
        )
    with about(name):
        refuse_cuts([examples[line] for line in embedded.lines], embedded.cuts)


def baseline_cuts(methods: Sequence[Method]) -> dict[str, CutCounts]:
    """Rows that token limits cut, by the name of the baseline, of those that cut any."""
    return {method.name: method.cut for method in methods[1:] if method.cut and method.cut.rows}


def times(methods: Sequence[Method]) -> dict[str, float]:
    """Milliseconds a row by the name of the method, of those where it is known."""
    return {method.name: method.ms_a_row for method in methods if method.ms_a_row is not None}
