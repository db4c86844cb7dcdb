"""The teacher of an encoder: gradients of the target on the same rows, and the loss that compares with them.

    c_ij = cos(z_i, z_j)      k_ij = g_i . g_j       for the rows of a batch
    loss = mean over rows i of 1 - correlation over j != i of c_ij and k_ij

A row's correlation does not depend on where its cosines lie or how far they spread, so the encoder need not
give the teacher's values, only their order and proportions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.rows import Example
from airrep_train.gradients import open_gradients

_BLOCK_ELEMENTS = 1 << 26
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class Teacher:
    """Gradient vectors of the rows of an examples file.

    Attributes:
        vectors: (n, G) float32, unit length, in the order of the examples.
        fingerprint: identity of the gradients.
    """

    vectors: torch.Tensor
    fingerprint: str

    @staticmethod
    def open(folder: Path, examples: Sequence[Example]) -> Teacher:
        """The gradients of these rows, found by id and content.

        Raises:
            InputError: the folder is not complete, or lacks a row.
        """
        store = open_gradients(folder)
        place = {(str(row.id), row.sha): number for number, row in enumerate(store.rows())}
        missing = [example.id for example in examples if (str(example.id), example.sha) not in place]
        if missing:
            raise InputError(
                f"{folder}: no gradient of row {missing[0]!r} with this text ({len(missing)} of "
                f"{len(examples)} rows are missing); add them with `airrep-train gradients`"
            )
        numbers = np.array([place[str(example.id), example.sha] for example in examples], np.int64)
        return Teacher(torch.from_numpy(store.take(numbers)), store.fingerprint)

    def kernel(self, lines: NDArray[np.int64]) -> torch.Tensor:
        """Inner products of some rows' gradients, (m, m)."""
        vectors = self.vectors[torch.from_numpy(lines)]
        return vectors @ vectors.T

    def neighbours(self, lines: NDArray[np.int64], among: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """The `count` rows of `among` most like each of m lines, itself left out: (m, count)."""
        candidates = self.vectors[torch.from_numpy(among)]
        nearest = []
        for part in torch.from_numpy(lines).split(max(1, _BLOCK_ELEMENTS // len(among))):
            scores = self.vectors[part] @ candidates.T
            scores.masked_fill_(part[:, None] == torch.from_numpy(among), -torch.inf)
            nearest.append(scores.topk(count, dim=1).indices)
        rows: NDArray[np.int64] = among[torch.cat(nearest).numpy()]
        return rows


def row_correlations(vectors: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """For each row, the correlation of its cosines with its row of the kernel, over the other rows.

    Args:
        vectors: (m, D), of any length.
        kernel: (m, m); its diagonal does not count.

    Returns:
        (m,); 0 for a row whose cosines or kernel are constant.
    """
    unit = torch.nn.functional.normalize(vectors, dim=1)
    others = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    cosines, wanted = (
        _centred(matrix[others].view(len(vectors), -1)) for matrix in (unit @ unit.T, kernel.to(unit))
    )
    spread = cosines.norm(dim=1) * wanted.norm(dim=1)
    correlations: torch.Tensor = (cosines * wanted).sum(dim=1) / spread.clamp(min=_LEAST_SPREAD)
    return correlations


def _centred(rows: torch.Tensor) -> torch.Tensor:
    return rows - rows.mean(dim=1, keepdim=True)


def teaching_gradients(table: torch.Tensor, kernel: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The loss of a table of embeddings (m, D), and its gradient with respect to them."""
    table = table.detach().float().requires_grad_()
    loss = 1 - row_correlations(table, kernel).mean()
    (gradient,) = torch.autograd.grad(loss, table)
    return loss.item(), gradient
