"""From projected gradients to vectors: whitening, square-root norms, unit length, principal components.

    g_l = (C_l + m_l I)^(-1/2) p_l          p_l a row's projected gradient of layer l, C_l its second moments
    h   = concatenation of g_l / |g_l|^(1/2), to unit length
    z   = components h, to unit length      `components`: the leading principal axes of h (uncentred)

with `m_l` the mean eigenvalue of C_l. A map is fitted once and stored, so that later rows and queries are
mapped alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write, sha256_file
from airrep_infer.progress import Progress, begin
from airrep_infer.sealed import damage, integer, number, read_sealed, text, write_sealed
from airrep_infer.store import EmbeddingStore

FORMAT = 2  # the first had no seal
KIND = "airrep-gradient-map"
RMS_FIELD = "gradient_rms"
"""Field of a raw store's rows: what the row's vector was divided by."""
_LISTING, _WHITENING, _COMPONENTS = "map.json", "whitening.npy", "components.npy"
_AGAIN = "make it again with `airrep-train gradients`"
_PCA_ROWS = 8_192
_BLOCK_ROWS = 256
_MEASURED_ROWS = 1_024


@dataclass(frozen=True)
class GradientMap:
    """Maps projected gradients to vectors of unit length.

    Attributes:
        whitening: (layers, r * r, r * r) float32, symmetric.
        components: (dims, layers * r * r) float32, orthonormal rows.
        source: fingerprint of the capture that it is for.
        rows: how many rows it was fitted on.
        explained: share of the squared length of fitted rows that the components keep.
    """

    whitening: NDArray[np.float32]
    components: NDArray[np.float32]
    source: str
    rows: int
    explained: float

    @property
    def fingerprint(self) -> str:
        """sha256 of what the vectors depend on: the capture and the map."""
        digest = hashlib.sha256(self.source.encode())
        digest.update(self.whitening.tobytes())
        digest.update(self.components.tobytes())
        return digest.hexdigest()

    def __call__(self, vectors: NDArray[np.floating], rms: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, layers * r * r) raw vectors, divided by `rms` (n,), to (n, dims) of unit length, or zero."""
        return to_unit_length(self.whitened(vectors, rms) @ self.components.T)

    def whitened(self, vectors: NDArray[np.floating], rms: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same without the components, (n, layers * r * r): what they approximate."""
        return whiten(vectors, rms, self.whitening)

    def share_kept(self, raw: EmbeddingStore, first: int) -> float:
        """Share of the squared length of rows that the components keep, as `explained` is of fitted rows.

        Args:
            raw: projected gradients.
            first: the number of the first row to look at; up to 1,024 are looked at, evenly spaced.
        """
        numbers = first + evenly_spaced(len(raw) - first, _MEASURED_ROWS)
        rms, kept, whole = row_rms(raw), 0.0, 0.0
        for start in range(0, len(numbers), _BLOCK_ROWS):
            block = numbers[start : start + _BLOCK_ROWS]
            rows = self.whitened(raw.take(block), rms[block])
            kept += float(np.square(rows @ self.components.T).sum())
            whole += float(np.square(rows).sum())
        return kept / whole if whole else 0.0

    def save(self, folder: Path) -> None:
        """Write the map; `map.json` comes last and vouches for the arrays by hash."""
        folder.mkdir(parents=True, exist_ok=True)
        hashes = {}
        for name, array in ((_WHITENING, self.whitening), (_COMPONENTS, self.components)):
            with atomic_write(folder / name) as stream:
                np.save(stream, array)
            hashes[name] = sha256_file(folder / name)
        facts = {"source": self.source, "rows": self.rows, "explained": self.explained, "sha256": hashes}
        write_sealed(folder / _LISTING, KIND, FORMAT, facts)

    @staticmethod
    def load(folder: Path) -> GradientMap:
        """Read a map.

        Raises:
            InputError: there is none, it is of another format, or a file has changed.
        """
        if not (folder / _LISTING).is_file():
            raise InputError(
                f"{folder}: no gradient map (no {_LISTING}); make it with `airrep-train gradients`"
            )
        listing = read_sealed(folder / _LISTING, KIND, FORMAT, _AGAIN, unsealed=1)
        with damage(folder / _LISTING, _AGAIN):
            for name in (_WHITENING, _COMPONENTS):
                if sha256_file(folder / name) != listing["sha256"].get(name):
                    raise InputError(
                        f"{folder / name}: damaged: its sha256 is not the recorded one; {_AGAIN}"
                    )
            whitening, components = (np.load(folder / name) for name in (_WHITENING, _COMPONENTS))
            return GradientMap(
                whitening,
                components,
                text(listing["source"]),
                integer(listing["rows"]),
                number(listing["explained"]),
            )


def whiten(
    vectors: NDArray[np.floating], rms: NDArray[np.float32], whitening: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Each layer whitened and divided by the square root of its norm; then the whole to unit length.

    Args:
        vectors: (n, layers * w), each row divided by its `rms` (n,).
        whitening: (layers, w, w).

    Returns:
        (n, layers * w); zero for a row without a gradient.
    """
    layers, width, _ = whitening.shape
    blocks = (vectors.astype(np.float32) * rms[:, None]).reshape(len(vectors), layers, width)
    whitened = np.matmul(blocks.transpose(1, 0, 2), whitening).transpose(1, 0, 2)
    norms = np.linalg.norm(whitened, axis=2, keepdims=True)
    return to_unit_length((whitened / np.sqrt(np.where(norms > 0, norms, 1))).reshape(len(vectors), -1))


def to_unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows divided by their norms; a row of zeros stays one."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), np.float32)


def fit_map(raw: EmbeddingStore, rank: int, dims: int, progress: Progress | None = None) -> GradientMap:
    """Fit whitening on all rows, and principal components on up to 8,192 of them, evenly spaced.

    There are `dims` components, or as many as rows or numbers where there are fewer.
    """
    from sklearn.utils.extmath import randomized_svd

    width = rank * rank
    layers = raw.space.dimension // width
    sample = evenly_spaced(len(raw), _PCA_ROWS)
    dims = min(dims, len(sample), raw.space.dimension)
    rms = row_rms(raw)
    moments = np.zeros((layers, width, width))
    add = begin(progress, "whitening", len(raw))
    for first, block in raw.blocks(_BLOCK_ROWS):
        scaled = block.astype(np.float32) * rms[first : first + len(block), None]
        by_layer = scaled.reshape(len(block), layers, width).transpose(1, 2, 0)
        moments += by_layer @ by_layer.transpose(0, 2, 1)
        add(len(block))
    whitening = np.stack([_inverse_root(moment / len(raw)) for moment in moments]).astype(np.float32)

    mapped = np.empty((len(sample), raw.space.dimension), np.float32)
    add = begin(progress, "principal components", len(sample))
    for first in range(0, len(sample), _BLOCK_ROWS):
        numbers = sample[first : first + _BLOCK_ROWS]
        mapped[first : first + len(numbers)] = whiten(raw.take(numbers), rms[numbers], whitening)
        add(len(numbers))
    _, values, components = randomized_svd(mapped, dims, n_iter=4, random_state=0)
    explained = float(np.square(values).sum() / np.square(mapped).sum())
    return GradientMap(
        whitening,
        np.ascontiguousarray(components, np.float32),
        raw.space.fingerprint,
        len(raw),
        round(explained, 6),
    )


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of the numbers from 0 to before `count`, evenly spaced; all of them where they fit."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def row_rms(raw: EmbeddingStore) -> NDArray[np.float32]:
    """What the vectors of a raw store were divided by, (n,)."""
    return np.array([row.fields[RMS_FIELD] for row in raw.rows()], np.float32)


def mapped_blocks(raw: EmbeddingStore, gradient_map: GradientMap) -> Iterator[NDArray[np.float32]]:
    """The vectors of a raw store under a map, (b, dims) blocks that cross no part."""
    rms = row_rms(raw)
    for first, block in raw.blocks(_BLOCK_ROWS):
        yield gradient_map(block, rms[first : first + len(block)])


def _inverse_root(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C + mean eigenvalue * I)^(-1/2); the identity for a layer that never has a gradient."""
    values, vectors = np.linalg.eigh(moments)
    mean = values.mean()
    if mean <= 0:
        return np.eye(len(moments))
    return np.asarray((vectors * (values.clip(min=0) + mean) ** -0.5) @ vectors.T)
