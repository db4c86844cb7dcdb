"""The teacher of an encoder: gradients of the target on the same rows, words of the responses, and the loss.

    c_ij = cos(z_i, z_j)      k_ij = (1 - w) g_i . g_j / spread + w r_i . r_j / spread'
    loss = mean over rows i of 1 - correlation over j != i of c_ij and k_ij
           + weight * mean over rows i of 1 - cos(z_i, t_i)

for the rows of a batch, with r_i the TF-IDF of a response's words (`response_words`). Gradients are projected
to few numbers, which blurs the very tokens that a row teaches; the words bring them back (docs/quality.md has
what they add). The spreads are standard deviations over pairs of rows. A row's correlation does not depend on
where its cosines lie or how far they spread, so the encoder need not give the teacher's values, only their
order and proportions. t_i is the teacher's own vector of a row (`teacher_vectors`): it says where a row is
among all, not only what it has in common with the few others of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.rows import Example
from airrep_train.evaluate import response_words
from airrep_train.gradients import evenly_spaced, open_gradients

_BLOCK_ELEMENTS = 1 << 26
_LEAST_SPREAD = 1e-9
_SPREAD_ROWS = 1_024


@dataclass(frozen=True)
class Teacher:
    """What the rows of an examples file have in common, by gradients and by the words of their responses.

    Attributes:
        vectors: (n, G) float32, unit length, in the order of the examples.
        fingerprint: identity of what it knows.
        words: (n, words) CSR, TF-IDF of the responses, or None where gradients alone teach.
        of_vectors, of_words: what inner products of either count in the kernel.
    """

    vectors: torch.Tensor
    fingerprint: str
    words: Any = None
    of_vectors: float = 1.0
    of_words: float = 0.0

    @staticmethod
    def open(folder: Path, examples: Sequence[Example], word_share: float) -> Teacher:
        """The gradients of these rows, found by id and content, and the words of their responses.

        Args:
            word_share: the words' part of the kernel, from 0 to 1; gradients have the rest.

        Raises:
            InputError: the folder is not complete, or lacks a row; no response has a word.
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
        return Teacher.of(torch.from_numpy(store.take(numbers)), store.fingerprint, examples, word_share)

    @staticmethod
    def of(
        vectors: torch.Tensor, fingerprint: str, examples: Sequence[Example], word_share: float
    ) -> Teacher:
        """From (n, G) gradient vectors of n examples; see `open`."""
        if not word_share:
            return Teacher(vectors, fingerprint)
        words = response_words(examples)
        sample = evenly_spaced(len(examples), _SPREAD_ROWS)
        of_vectors = (1 - word_share) / _spread(vectors[sample] @ vectors[sample].T)
        of_words = word_share / _spread(_products(words[sample], words[sample]))
        return Teacher(vectors, f"{fingerprint}, words {word_share:g}", words, of_vectors, of_words)

    def kernel(self, lines: NDArray[np.int64]) -> torch.Tensor:
        """What every two of some rows have in common, (m, m)."""
        return self.between(lines, lines)

    def between(self, lines: NDArray[np.int64], others: NDArray[np.int64]) -> torch.Tensor:
        """What m rows and u others have in common, (m, u); 1 is a standard deviation, where words count."""
        return self._between(self._take(lines), self._take(others))

    def _take(self, lines: NDArray[np.int64]) -> tuple[torch.Tensor, Any]:
        return self.vectors[torch.from_numpy(lines)], None if self.words is None else self.words[lines]

    def _between(self, rows: tuple[torch.Tensor, Any], others: tuple[torch.Tensor, Any]) -> torch.Tensor:
        products = rows[0] @ others[0].T
        if self.words is None:
            return products
        return self.of_vectors * products + self.of_words * _products(rows[1], others[1])

    def neighbours(self, lines: NDArray[np.int64], among: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """The `count` rows of `among` most like each of m lines, itself left out: (m, count)."""
        candidates, nearest = self._take(among), []
        size = max(1, _BLOCK_ELEMENTS // len(among))
        for start in range(0, len(lines), size):
            part = lines[start : start + size]
            scores = self._between(self._take(part), candidates)
            scores.masked_fill_(torch.from_numpy(part[:, None] == among), -torch.inf)
            nearest.append(scores.topk(count, dim=1).indices)
        rows: NDArray[np.int64] = among[torch.cat(nearest).numpy()]
        return rows


def _products(rows: Any, others: Any) -> torch.Tensor:
    return torch.from_numpy((rows @ others.T).toarray())


def _spread(products: torch.Tensor) -> float:
    """Standard deviation over pairs of different rows."""
    different = ~torch.eye(len(products), dtype=torch.bool)
    return max(float(products[different].std()), _LEAST_SPREAD)


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


def teaching_gradients(
    table: torch.Tensor, kernel: torch.Tensor, vectors: torch.Tensor | None = None, weight: float = 0.0
) -> tuple[float, torch.Tensor]:
    """The loss of a table of embeddings (m, D), and its gradient with respect to them.

    Args:
        kernel: (m, m) similarities under the teacher.
        vectors: (m, D), the teacher's own, where they count too.
        weight: of their mean cosine distance in the loss.
    """
    table = table.detach().float().requires_grad_()
    loss = 1 - row_correlations(table, kernel).mean()
    if vectors is not None:
        cosines = torch.nn.functional.cosine_similarity(table, vectors.to(table), dim=1)
        loss = loss + weight * (1 - cosines.mean())
    (gradient,) = torch.autograd.grad(loss, table)
    return loss.item(), gradient
