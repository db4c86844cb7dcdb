"""What gives the score s of a training example for a query."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from airrep_train.evaluate.embeddings import Embedded
from airrep_train.label import Indices

Similarity = Literal["dot", "cosine"]
_BLOCK_ELEMENTS = 1 << 24


class Scorer(Protocol):
    """Scores examples for queries; `beta` is its scale of attention pooling."""

    @property
    def beta(self) -> float: ...

    def scores(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        """Scores s of U examples for Q queries, both by line number.

        Yields:
            (q, U) blocks for consecutive queries, (Q, U) together.
        """
        ...


@dataclass(frozen=True)
class VectorScorer:
    """s = q . z, or the cosine of both (0 for a zero vector); q is one of `queries` where these are given."""

    embedded: Embedded
    similarity: Similarity = "dot"
    queries: Embedded | None = None

    @property
    def beta(self) -> float:
        return self.embedded.beta

    def scores(self, queries: Indices, pool: Indices) -> Iterator[NDArray[np.floating]]:
        """See `Scorer`."""
        z = self._take(self.embedded, pool).T
        for part in query_blocks(queries, pool):
            yield self._take(self.queries or self.embedded, part) @ z

    def _take(self, embedded: Embedded, lines: Indices) -> NDArray[np.float32]:
        vectors = embedded.take(lines)
        if self.similarity == "cosine":
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.where(norms > 0, norms, 1)
        return vectors


def query_blocks(queries: Indices, pool: Indices) -> Iterator[Indices]:
    """Consecutive queries, so few that their scores of the pool stay small."""
    rows = max(1, _BLOCK_ELEMENTS // len(pool))
    for start in range(0, len(queries), rows):
        yield queries[start : start + rows]
