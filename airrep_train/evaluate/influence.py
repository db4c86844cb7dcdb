"""The influence of subsets from the scores of their members."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from airrep_infer.score import attention_pool
from airrep_train.evaluate.options import Pooling
from airrep_train.evaluate.scorers import Scorer
from airrep_train.label import LabelledSplit


def split_influence(scorer: Scorer, split: LabelledSplit, pooling: Pooling) -> NDArray[np.float64]:
    """f(q_j, S_k) of every query and subset of a split: (Q, K)."""
    pool, positions = np.unique(
        np.concatenate([subset.select for subset in split.subsets]), return_inverse=True
    )
    ends = np.cumsum([len(subset.select) for subset in split.subsets])
    members = np.split(positions.reshape(-1), ends[:-1])
    blocks = [
        np.stack([pool_scores(block[:, chosen], pooling, scorer.beta) for chosen in members], axis=1)
        for block in scorer.scores(split.dev, pool)
    ]
    return np.concatenate(blocks)


def pool_scores(scores: NDArray[np.floating], pooling: Pooling, beta: float) -> NDArray[np.float64]:
    """Influence of a group from the scores of its members, (q, n) -> (q,).

    `attention` is the rule that training and inference use. `published-eval` leaves the absolute value
    out of the softmax, as the published evaluation does: opponents then weigh next to nothing.
    """
    s = np.asarray(scores, np.float64)
    if pooling == "attention":
        return attention_pool(s, beta)
    if pooling == "published-eval":
        weights = np.exp(beta * (s - s.max(axis=1, keepdims=True)))
        return np.asarray((weights * s).sum(axis=1) / weights.sum(axis=1), np.float64)
    return np.asarray(s.sum(axis=1) if pooling == "sum" else s.mean(axis=1), np.float64)
