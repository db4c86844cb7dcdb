"""The training objective: attention pooling, normalised labels, pairwise ranking loss (paper, section 3.2).

    s_ij = q_j . z_i          f_jk = sum_{i in S_k} softmax_i(beta |s_ij|) s_ij
    y_jk = (mean_j - L_jk) / std_j, clipped to [-10, 10]
    loss = mean over pairs with y_ja > y_jb of min(y_ja - y_jb, 10) softplus(-t (f_ja - f_jb))

The paper has t = 1. Far below its best value the loss is all but linear in f: what lowers it most is to
spread scores out, not to order them. `fit_logit_scale` finds that value for a start that ranks already.

Everything works on embeddings of *distinct* examples, so the cost of a subset is an index, not an encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch.nn.functional import softplus

CLIP = 10.0
"""Bound of normalised labels and of a pair's weight."""
MAX_ELEMENTS = 1 << 24
"""Queries are taken in blocks so that no temporary of the objective holds more elements than this."""


@dataclass(frozen=True)
class Members:
    """K subsets as positions in a table of distinct examples.

    Attributes:
        index: (K, n) int64, padded with 0 where a subset is shorter than the longest.
        mask: (K, n) bool, False for padding; None when all subsets have n members.
    """

    index: torch.Tensor
    mask: torch.Tensor | None

    @staticmethod
    def of(subsets: Sequence[NDArray[np.int64]], device: torch.device | str = "cpu") -> Members:
        """Pack K lists of positions; each must have at least one."""
        sizes = np.array([len(subset) for subset in subsets])
        if not sizes.all():
            raise ValueError("a subset has no members, so it has no influence to pool")
        index = np.zeros((len(subsets), sizes.max()), np.int64)
        mask = np.arange(sizes.max()) < sizes[:, None]
        index[mask] = np.concatenate(subsets)
        return Members(
            torch.from_numpy(index).to(device),
            None if mask.all() else torch.from_numpy(mask).to(device),
        )


def attention_pool(scores: torch.Tensor, members: Members, beta: torch.Tensor) -> torch.Tensor:
    """Influence f of every subset on every query.

    Args:
        scores: (M, U) scores s of M queries and U distinct examples.
        members: K subsets of the U examples.
        beta: scalar; 0 pools by the mean.

    Returns:
        (M, K) influences.
    """
    gathered = scores.index_select(1, members.index.flatten()).unflatten(1, members.index.shape)
    logits = beta * gathered.abs()
    if members.mask is not None:
        logits = logits.masked_fill(~members.mask, -torch.inf)
    pooled: torch.Tensor = (logits.softmax(dim=-1) * gathered).sum(dim=-1)
    return pooled


@torch.no_grad()
def influence(
    queries: torch.Tensor, table: torch.Tensor, members: Members, beta: torch.Tensor
) -> torch.Tensor:
    """`attention_pool` of embeddings, (M, D) and (U, D), in blocks of queries: (M, K) influences."""
    rows = _block_rows(table, members)
    return torch.cat([attention_pool(block @ table.T, members, beta) for block in queries.split(rows)])


@dataclass(frozen=True)
class Targets:
    """Normalised labels of one split.

    Attributes:
        values: (M, K) float32 labels y, higher is better for the query; NaN where there is no label.
        tied: queries without any label because all their losses are equal.
        unknown: labels missing because the measured loss is.
    """

    values: NDArray[np.float32]
    tied: int
    unknown: int


def normalise(losses: NDArray[np.float32]) -> Targets:
    """Labels y from the (K, M) losses of K subsets on M dev examples; non-finite losses are unknown."""
    known = np.where(np.isfinite(losses), losses, np.nan).T.astype(np.float64)
    count = np.isfinite(known).sum(axis=1)
    usable = count >= 2
    # A spread of rounding size would be blown up to unit variance by the division; compare exactly.
    usable[usable] = np.nanmin(known[usable], axis=1) < np.nanmax(known[usable], axis=1)
    values = np.full(known.shape, np.nan)
    rows = known[usable]
    centred = np.nanmean(rows, axis=1, keepdims=True) - rows
    values[usable] = np.clip(centred / np.nanstd(rows, axis=1, keepdims=True), -CLIP, CLIP)
    unknown = int((known.shape[1] - count).sum())
    return Targets(values.astype(np.float32), int(((count >= 2) & ~usable).sum()), unknown)


def ranking_pairs(targets: torch.Tensor) -> int:
    """How many ordered pairs `ranking_loss` sums over, for (M, K) labels."""
    ordered = targets.sort(dim=1).values  # NaN last
    known = (~ordered.isnan()).sum(dim=1)
    pairs = int((known * (known - 1) // 2).sum())
    for row, size in zip(ordered.cpu(), known.tolist(), strict=True):
        ties = torch.unique_consecutive(row[:size], return_counts=True)[1]
        pairs -= int((ties * (ties - 1) // 2).sum())
    return pairs


def ranking_loss(pooled: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Pairwise ranking loss, summed over pairs (divide by `ranking_pairs` for the average).

    Args:
        pooled: (M, K) influences f.
        targets: (M, K) labels y; a pair with a NaN or with equal labels does not count.
    """
    margin = targets.unsqueeze(2) - targets.unsqueeze(1)
    weight = torch.where(margin > 0, margin.clamp(max=CLIP), 0.0)
    return (weight * softplus(pooled.unsqueeze(1) - pooled.unsqueeze(2))).sum()


@dataclass(frozen=True)
class ObjectiveGradients:
    """The average loss of a step and its gradient with respect to embeddings (M, D), (U, D) and beta."""

    loss: float
    pairs: int
    queries: torch.Tensor
    table: torch.Tensor
    beta: torch.Tensor


def objective_gradients(
    queries: torch.Tensor,
    table: torch.Tensor,
    members: Members,
    beta: torch.Tensor,
    targets: torch.Tensor,
    logit_scale: float = 1.0,
) -> ObjectiveGradients:
    """Loss and exact gradients, in blocks of queries so that memory stays bounded.

    Args:
        queries: (M, D) dev embeddings.
        table: (U, D) embeddings of the distinct examples of all subsets.
        members: K subsets of the table.
        beta: scalar pooling scale.
        targets: (M, K) labels. Without any pair the loss and all gradients are 0.
        logit_scale: t.
    """
    queries, table, beta = (x.detach().float().requires_grad_() for x in (queries, table, beta))
    pairs = ranking_pairs(targets)
    leaves = (queries, table, beta)
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    loss = 0.0
    rows = _block_rows(table, members)
    for block, labels in zip(queries.split(rows), targets.split(rows), strict=True):
        if pairs:
            pooled = logit_scale * attention_pool(block @ table.T, members, beta)
            part = ranking_loss(pooled, labels) / pairs
            part.backward()
            loss += part.item()
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return ObjectiveGradients(loss, pairs, *gradients)


@torch.no_grad()
def fit_logit_scale(pooled: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> float:
    """The t with the least loss, which is convex in t, between 1/100 and 100.

    Args:
        pooled: (M, K) influences of each split.
        targets: their (M, K) labels.
    """
    pairs = max(1, sum(map(ranking_pairs, targets)))

    def loss(exponent: float) -> float:
        total = 0.0
        for influences, labels in zip(pooled, targets, strict=True):
            rows = max(1, MAX_ELEMENTS // labels.shape[1] ** 2)
            for block, wanted in zip(influences.split(rows), labels.split(rows), strict=True):
                total += ranking_loss(10.0**exponent * block, wanted).item()
        return total / pairs

    return float(10.0 ** minimize_scalar(loss, bounds=(-2, 2), method="bounded", options={"xatol": 0.01}).x)


def _block_rows(table: torch.Tensor, members: Members) -> int:
    subsets = len(members.index)
    return max(1, MAX_ELEMENTS // max(len(table), members.index.numel(), subsets * subsets))
