"""Vectors as real ones lie, stores of them, and what an index is compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from airrep_infer.encode import EmbeddingSpace
from airrep_infer.index import AnnIndex
from airrep_infer.rows import Example
from airrep_infer.score import attribute
from airrep_infer.store import EmbeddingStore, StoreWriter

DIMENSION = 24
EXACT = 1e-12  # relative: float64 sums in another order


def clustered(count: int, seed: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    """Clusters off the origin whose rows have lengths of a ratio of 5, as real embeddings have."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1234).normal(size=(40, dimension)) + 0.5
    vectors = centres[rng.integers(0, 40, count)] + 0.4 * rng.normal(size=(count, dimension))
    return (vectors * rng.lognormal(0, 0.25, (count, 1))).astype(np.float32)


def extend(
    path: Path, vectors: np.ndarray, *, dtype: str = "float32", fingerprint: str = "ab" * 32
) -> EmbeddingStore:
    """Append vectors to a store, in parts of 700 rows."""
    space = EmbeddingSpace(fingerprint, "fp32", vectors.shape[1])
    with StoreWriter(path, space, pooling_scale=1.0, dtype=dtype, part_rows=700) as writer:
        known = len(EmbeddingStore.open(path))
        names = [f"r{known + number}" for number in range(len(vectors))]
        writer.append([Example(name, None, name) for name in names], vectors)
    return EmbeddingStore.open(path)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=EXACT, atol=EXACT * np.abs(expected).max())


def assert_exact(index: AnnIndex, queries: np.ndarray, k: int, **options: int) -> None:
    """The index finds what the exact scan finds, ties included."""
    exact = attribute(queries, index.store, k=k)
    high, low = index.proponents(queries, k, **options), index.opponents(queries, k, **options)
    np.testing.assert_array_equal(high.rows, exact.proponent_rows)
    np.testing.assert_array_equal(low.rows, exact.opponent_rows)
    same(high.scores, exact.proponent_scores)
    same(low.scores, exact.opponent_scores)
