"""What the teacher says of a single row: a vector that the encoder's own is brought to.

    x_i = (sqrt(a) g_i, sqrt(b) V r_i)        t_i = R A (x_i - mean), to unit length

with a, b what inner products of gradients and of words count in the teacher's kernel, V the leading latent
dimensions of the words (LSA) and A the leading principal axes of x over the rows to teach. Inner products of
x are the kernel, but for what V leaves out. R turns the axes to where the encoder's vectors already are
(Schönemann 1966, "A generalized solution of the orthogonal Procrustes problem"): that changes no similarity,
and spares the encoder learning a rotation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from airrep_train.fit.teacher import Teacher

_FITTED_ROWS = 8_192
_TURNED_ROWS = 2_048
_LATENT = 400


@dataclass(frozen=True)
class TeacherVectors:
    """The teacher's own vectors of rows, with as many numbers as the encoder's.

    Attributes:
        teacher: what they are of.
        latent: (words, L), or None where gradients alone teach.
        mean: (F,) of x.
        axes: (F, D), principal axes, turned.
    """

    teacher: Teacher
    latent: NDArray[np.float32] | None
    mean: torch.Tensor
    axes: torch.Tensor

    @staticmethod
    def fit(
        teacher: Teacher,
        lines: NDArray[np.int64],
        embed: Callable[[NDArray[np.int64]], torch.Tensor],
        seed: int,
    ) -> TeacherVectors:
        """From (a sample of) the rows to teach.

        Args:
            embed: the encoder's vectors (m, D) of m lines, as they are before teaching.
            seed: of the sample.
        """
        from sklearn.decomposition import PCA, TruncatedSVD

        sample = np.random.default_rng(seed).permutation(lines)[:_FITTED_ROWS]
        latent = None
        if teacher.words is not None:
            words = teacher.words[sample]
            size = min(_LATENT, words.shape[1])
            latent = TruncatedSVD(size, random_state=seed).fit(words).components_.T.astype(np.float32)
        features = _features(teacher, latent, sample)
        found = embed(sample[:_TURNED_ROWS]).float().cpu()
        size = min(found.shape[1], len(sample) - 1, features.shape[1])
        pca = PCA(size, svd_solver="covariance_eigh").fit(features.numpy())
        mean, axes = (torch.from_numpy(array.astype(np.float32)) for array in (pca.mean_, pca.components_.T))
        placed = torch.nn.functional.normalize((features[: len(found)] - mean) @ axes, dim=1)
        left, _, right = torch.linalg.svd(placed.T @ torch.nn.functional.normalize(found, dim=1))
        return TeacherVectors(teacher, latent, mean, axes @ left @ right[:size])

    def __call__(self, lines: NDArray[np.int64]) -> torch.Tensor:
        """(m, D) of unit length, or zero for a row that is as the mean."""
        placed = (_features(self.teacher, self.latent, lines) - self.mean) @ self.axes
        vectors: torch.Tensor = torch.nn.functional.normalize(placed, dim=1)
        return vectors


def _features(teacher: Teacher, latent: NDArray[np.float32] | None, lines: NDArray[np.int64]) -> torch.Tensor:
    """x, (m, F)."""
    of_gradients: torch.Tensor = teacher.vectors[torch.from_numpy(lines)] * teacher.of_vectors**0.5
    if latent is None:
        return of_gradients
    rows: Any = teacher.words[lines]
    return torch.cat([of_gradients, torch.from_numpy(rows @ latent) * teacher.of_words**0.5], dim=1)
