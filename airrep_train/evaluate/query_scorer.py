"""An encoder's rows, scored for queries that are taken by their gradients (see `QueryMap`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from airrep_infer.rows import Example
from airrep_infer.store import EmbeddingStore, is_store
from airrep_train.evaluate.embeddings import Embedded, stored_hashes
from airrep_train.evaluate.given_scores import gradient_scorer
from airrep_train.evaluate.options import GRADIENT_QUERIES
from airrep_train.evaluate.scorers import VectorScorer
from airrep_train.gradients import QueryMap, check_shared, evenly_spaced, open_gradients
from airrep_train.label import Indices

_MAP_ROWS = 2_048


def gradient_queries(
    rows: Embedded, folders: Sequence[Path], examples: Sequence[Example], queries: Indices
) -> VectorScorer:
    """Queries by their gradients; the map is fitted on the other lines that have gradients.

    Args:
        rows: of the encoder.
        queries: lines of the queries.

    Raises:
        InputError: no folder, queries without gradients, or too few other lines with them.
    """
    others = _stored_lines([open_gradients(folder) for folder in folders], examples, rows.lines)
    others = np.setdiff1d(others, queries)
    gradients = gradient_scorer(GRADIENT_QUERIES, folders, examples, np.union1d(others, queries)).embedded
    check_shared(len(others), "the gradients and the rows that are no query")
    query_map = QueryMap.fit(gradients.take(others), rows.take(others))
    return VectorScorer(rows, "dot", replace(gradients, vectors=query_map(gradients.vectors)))


def map_lines(
    model: str | Path | Sequence[str | Path],
    folders: Sequence[Path],
    examples: Sequence[Example],
    queries: Indices,
) -> Indices:
    """Up to 2,048 lines to fit a map on, evenly spaced among those that have gradients and are no query.

    Args:
        model: of the rows; where it is stores, only lines that they have.
    """
    lines = np.arange(len(examples))
    lines = _stored_lines([open_gradients(folder) for folder in folders], examples, lines)
    sources = [model] if isinstance(model, str | Path) else list(model)
    if stores := [EmbeddingStore.open(source) for source in sources if is_store(source)]:
        lines = _stored_lines(stores, examples, lines)
    lines = np.setdiff1d(lines, queries)
    return np.asarray(lines[evenly_spaced(len(lines), _MAP_ROWS)], np.int64)


def _stored_lines(stores: Sequence[EmbeddingStore], examples: Sequence[Example], lines: Indices) -> Indices:
    """Those of some lines whose example is a row of some stores."""
    known = {row.sha for store in stores for row in store.rows()}
    hashes = stored_hashes(stores, (examples[line] for line in lines), known)
    kept: Indices = np.asarray(lines, np.int64)[np.array([sha is not None for sha in hashes], bool)]
    return kept
