"""The slow twin of whitening: each layer by an eigendecomposition of its own, in float64."""

from __future__ import annotations

import numpy as np


def whiten_plainly(projected: np.ndarray, width: int) -> np.ndarray:
    """(n, layers * width) projected gradients, each layer whitened and divided by the root of its norm."""
    whitened = []
    for block in np.split(projected.astype(np.float64), projected.shape[1] // width, axis=1):
        moments = block.T @ block / len(block)
        values, vectors = np.linalg.eigh(moments + np.trace(moments) / width * np.eye(width))
        white = block @ vectors / np.sqrt(values) @ vectors.T
        whitened.append(white / np.sqrt(np.linalg.norm(white, axis=1, keepdims=True)))
    return np.concatenate(whitened, axis=1)
