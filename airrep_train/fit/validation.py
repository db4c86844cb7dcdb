"""Validation of a model that is being trained: LDS on splits that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from airrep_infer.bundle import Calibration
from airrep_infer.errors import InputError
from airrep_train.evaluate import calibrate, query_lds
from airrep_train.fit.ranking_loss import influence
from airrep_train.fit.steps import gather_rows, whole
from airrep_train.label import LabelledSplit

Embed = Callable[[NDArray[np.int64]], torch.Tensor]
"""From sorted line numbers (U,) to embeddings (U, D)."""

_SCALE_FACTORS = tuple(2 ** (step / 4) for step in sorted(range(-16, 5), key=abs))
"""Factors of the learned pooling scale that are tried, nearest first, which wins a tie."""


@dataclass(frozen=True)
class Validation:
    """What a model reached.

    Attributes:
        lds: mean over the queries.
        beta: the pooling scale that it was reached with.
        each: LDS of every query that has a ranking.
    """

    lds: float
    beta: float
    each: tuple[float, ...] = ()

    def metrics(self) -> dict[str, float]:
        """What is recorded of it."""
        return {"lds": self.lds, "fitted_beta": self.beta}


def validate_on(
    splits: Sequence[LabelledSplit], embed: Embed, learned: torch.Tensor, *, fit_scale: bool
) -> Validation:
    """Mean LDS over the queries of all validation splits; queries without a ranking do not count.

    Scores of rows that were trained on are more reliable than those of other rows, so the scale that was
    learned with the former is too sharp for the latter. Factors of it are tried, which cost no encoding.

    Args:
        learned: the pooling scale of the model.
        fit_scale: whether other scales than that are tried.

    Raises:
        InputError: no query has a ranking.
    """
    factors = _SCALE_FACTORS if fit_scale else (1.0,)
    scores: list[list[NDArray[np.float64]]] = [[] for _ in factors]
    for split in splits:
        rows = gather_rows(split, whole(split), learned.device)
        table = embed(rows.lines)
        for factor, of_splits in zip(factors, scores, strict=True):
            pooled = influence(table[rows.queries], table, rows.members, factor * learned)
            of_splits.append(query_lds(pooled.cpu().numpy(), split.losses))
    each = np.array([np.concatenate(of_splits) for of_splits in scores])  # (factors, queries)
    known = ~np.isnan(each[0])  # a matter of the losses alone
    if not known.any():
        if not any(np.isfinite(split.losses).any() for split in splits):
            raise InputError(
                "every validation loss is unknown (no response token within max_length, or the target "
                "diverged); label again with other settings, or choose another split"
            )
        raise InputError("every validation query has equal losses after all subsets; choose another split")
    means = each[:, known].mean(axis=1)
    best = int(np.argmax(means))
    return Validation(float(means[best]), (factors[best] * learned).item(), tuple(each[best, known].tolist()))


def calibrate_on(splits: Sequence[LabelledSplit], embed: Embed, beta: torch.Tensor) -> Calibration | None:
    """What the model's influence meant in nats on the validation splits, see `evaluate.calibrate`."""
    influences = []
    for split in splits:
        rows = gather_rows(split, whole(split), beta.device)
        table = embed(rows.lines)
        influences.append(influence(table[rows.queries], table, rows.members, beta).cpu().numpy())
    return calibrate(splits, influences)
