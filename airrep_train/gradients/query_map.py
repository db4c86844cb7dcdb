"""Queries by their gradients, rows by the encoder: a map from the one space into the other.

    A = argmin over A of sum_i |(u_i - mean u) - (g_i - mean g) A|^2 + ridge |A|^2        q = (g - mean g) A

over rows i that have both, a gradient g_i (unit length, `mapping`) and the encoder's vector u_i (ridge
regression, Hoerl & Kennard 1970). What an encoder gets wrong about a query is in every score of that query;
what it gets wrong about rows evens out over a group. So most of what gradients know better than an encoder is
had by a backward pass a query, and rows cost what they cost (docs/quality.md has the figures).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.store import EmbeddingStore
from airrep_train.gradients.mapping import evenly_spaced, to_unit_length

LEAST_ROWS = 500
"""With 200 rows of p3 the map is worse than an embedded query, with 500 a little better, and with 1,000
nearly as good as with 7,000."""
_MOST_ROWS = 8_192
_RIDGE = 2.0
"""In mean eigenvalues of the gradients' scatter: the best of .5 to 8 on p3's first four splits, and as good
as any of .03 to 4 on the demo's."""


@dataclass(frozen=True)
class QueryMap:
    """Brings gradients into the space of an encoder.

    Attributes:
        mean: (G,) of the gradients.
        weights: (G, D), A.
        length: of the vectors that it gives: the root mean square of the encoder's.
        rows: how many it was fitted on.
    """

    mean: NDArray[np.float32]
    weights: NDArray[np.float32]
    length: float
    rows: int

    @staticmethod
    def fit(gradients: NDArray[np.float32], vectors: NDArray[np.float32]) -> QueryMap:
        """From the gradients (n, G) of some rows and the encoder's vectors (n, D) of the same."""
        from sklearn.linear_model import Ridge

        mean = gradients.mean(axis=0)
        eigenvalue = float(np.square(gradients - mean).sum()) / gradients.shape[1]
        ridge = Ridge(_RIDGE * eigenvalue).fit(gradients, vectors)
        length = float(np.sqrt(np.square(vectors).sum(axis=1).mean()))
        return QueryMap(mean, np.ascontiguousarray(ridge.coef_.T, np.float32), length, len(vectors))

    def __call__(self, gradients: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n, G) to (n, D), all of one length; zero for a row without a gradient."""
        there = np.any(gradients, axis=1, keepdims=True)
        brought = np.where(there, (gradients.astype(np.float32) - self.mean) @ self.weights, 0)
        return self.length * to_unit_length(brought.astype(np.float32))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the map."""
        digest = hashlib.sha256(np.float64(self.length).tobytes())
        for array in (self.mean, self.weights):
            digest.update(array.tobytes())
        return digest.hexdigest()


def fit_query_map(gradients: EmbeddingStore, train: EmbeddingStore) -> QueryMap:
    """From the rows that a store of gradients and one of embeddings share, at most 8,192, evenly spaced.

    Raises:
        InputError: they share fewer than 500 rows, or `train` has no embeddings of texts.
    """
    if train.query_map:
        raise InputError(f"{train.path}: its vectors are of gradients; give the store of the embedded rows")
    places = {row.sha: number for number, row in enumerate(gradients.rows())}
    shared = [(places[row.sha], number) for number, row in enumerate(train.rows()) if row.sha in places]
    check_shared(len(shared), f"{gradients.path} and {train.path}")
    chosen = np.array(shared, np.int64)[evenly_spaced(len(shared), _MOST_ROWS)]
    return QueryMap.fit(*(store.take(chosen[:, side]) for side, store in enumerate((gradients, train))))


def check_shared(rows: int, what: str) -> None:
    """Refuse to fit a map on too few rows.

    Raises:
        InputError: with their number.
    """
    if rows < LEAST_ROWS:
        raise InputError(
            f"{what}: have {rows} rows in common, a map of queries needs {LEAST_ROWS}; take the gradients of "
            "more rows of that store, or attribute on the gradients themselves"
        )
