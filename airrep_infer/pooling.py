"""Attention pooling: the influence of a group of examples, exact, streaming and mergeable.

For a query with scores `s_i` over a group S (section 3.2 of arXiv 2505.18513)

    f(q, S) = sum_i a_i s_i,    a = softmax_i(beta * |s_i|)

This is the one definition of the rule outside torch. `attention_pool` is the formula for scores that
are in memory; `PooledPartial` sees them block by block and merges across threads, processes and machines.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError

Floats = NDArray[np.floating]

# exp(16) is far from the ends of float32, and scaling |s| up to it costs 1e-6 of a weight at most.
_SMALL_EXPONENT = 16.0


def check_pooling_scale(beta: float) -> float:
    """`beta` as a float.

    Raises:
        InputError: it is not a finite number >= 0.
    """
    if not (math.isfinite(beta) and beta >= 0):
        raise InputError(f"the pooling scale must be a finite number >= 0, got {beta}")
    return float(beta)


def attention_pool(scores: ArrayLike, beta: float = 1.0, axis: int = -1) -> NDArray[np.float64]:
    """f = sum_i softmax_i(beta |s_i|) s_i along `axis`, in float64; `beta` = 0 is the mean.

    Raises:
        InputError: `beta` is not a finite number >= 0, or there is nothing to pool along `axis`.
    """
    beta = check_pooling_scale(beta)
    s = np.asarray(scores, np.float64)
    if s.shape[axis] == 0:
        raise InputError("an empty group has no influence; leave it out")
    magnitude = np.abs(s)
    with np.errstate(over="ignore"):  # a far smaller score at a huge beta: exp(-inf) = 0 is right
        weights = np.exp((magnitude - magnitude.max(axis=axis, keepdims=True)) * beta)
    return np.asarray((weights * s).sum(axis=axis) / weights.sum(axis=axis), np.float64)


class PooledPartial:
    """The attention pooling of the scores seen so far, for Q queries and G groups.

    Holds, per (query, group), `weight` = sum exp(beta (|s| - top)) and `weighted` = sum exp(beta
    (|s| - top)) s, as flash attention does, float64 (Q, G); `top` is max |s|, or 0 where every beta |s| is
    small. Two partials merge into that of the union of their scores; the order matters only to rounding.

    Weights are computed in the dtype of the scores (the maximum is subtracted before the scale is
    applied, so even beta |s| = 1e4 keeps the exponent's digits that count) and summed across blocks
    in float64. Feed one partial scores of one dtype.

    Raises:
        InputError: `beta` is not a finite number >= 0.
    """

    def __init__(self, queries: int, groups: int = 1, beta: float = 1.0) -> None:
        self.beta = check_pooling_scale(beta)
        self.top = np.full((queries, groups), -np.inf)
        self.weight = np.zeros((queries, groups))
        self.weighted = np.zeros((queries, groups))
        self._scratch: Floats = np.empty(0, np.float32)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_scratch": np.empty(0, np.float32)}

    def update(
        self, scores: Floats, codes: NDArray[np.integer] | None = None, queries: slice = slice(None)
    ) -> None:
        """Add a block of scores (q, n), float32 or float64.

        Args:
            codes: (n,) the group of each column; None puts all into group 0. A column with a
                negative code belongs to no group. Sorted codes spare a copy of the block.
            queries: which of the Q queries the q rows of the block are.
        """
        if codes is not None:
            if np.any(codes[1:] < codes[:-1]):
                order = np.argsort(codes, kind="stable")
                codes, scores = codes[order], scores[:, order]
            outside = int(np.searchsorted(codes, 0))
            codes, scores = codes[outside:], scores[:, outside:]
        n = scores.shape[1]
        if n == 0:
            return
        starts = np.zeros(1, np.intp)
        columns: slice | NDArray[np.integer] = slice(0, 1)
        if codes is not None:
            starts = np.concatenate([starts, np.flatnonzero(codes[1:] != codes[:-1]) + 1])
            columns = slice(int(codes[0]), int(codes[0]) + 1)
        weights = np.abs(scores, out=self._workspace(scores))
        highest = weights.max(axis=1, keepdims=True)
        if len(starts) == 1:  # one group: plain reductions are several times faster than reduceat
            self._exponentiate(weights, highest)
            sums = weights.sum(axis=1, keepdims=True)
            weighted = np.einsum("ij,ij->i", weights, scores)[:, None]
            self._add(queries, columns, highest.astype(np.float64), sums, weighted)
            return
        assert codes is not None
        present = codes[starts]
        if present[-1] - present[0] == len(present) - 1:  # without gaps: a slice spares gathering
            columns = slice(int(present[0]), int(present[-1]) + 1)
        else:
            columns = present
        if self.beta * highest.max() <= _SMALL_EXPONENT:
            # Nothing can overflow or vanish, so the maximum of each group is not worth its pass.
            reference: NDArray[np.float64] | None = None
            self._exponentiate(weights, None)
        else:
            tops = np.maximum.reduceat(weights, starts, axis=1)
            reference = tops.astype(np.float64)
            self._exponentiate(weights, tops.repeat(np.diff(starts, append=n), axis=1))
        sums = np.add.reduceat(weights, starts, axis=1)
        np.multiply(weights, scores, out=weights)
        self._add(queries, columns, reference, sums, np.add.reduceat(weights, starts, axis=1))

    def merge(self, other: PooledPartial) -> None:
        """Add what `other` (same queries, groups and beta) has seen."""
        if (self.top.shape, self.beta) != (other.top.shape, other.beta):
            raise ValueError(
                f"cannot merge partials of {self.top.shape} (queries, groups) at beta {self.beta} and of "
                f"{other.top.shape} at beta {other.beta}"
            )
        top = np.maximum(self.top, other.top)
        mine, theirs = self._decay(self.top, top), self._decay(other.top, top)
        self.weight = self.weight * mine + other.weight * theirs
        self.weighted = self.weighted * mine + other.weighted * theirs
        self.top = top

    def replace(self, before: NDArray[np.float64], after: NDArray[np.float64]) -> None:
        """Exchange scores in group 0 for more exact values, both (Q, m); NaN pads uneven rows.

        `before` must be the values that were added, and `after` must differ only by rounding.
        """
        for sign, scores in ((-1, before), (1, after)):
            with np.errstate(over="ignore"):
                weights = np.exp((np.abs(scores) - self.top[:, :1]) * self.beta)
            self.weight[:, 0] += sign * np.nansum(weights, axis=1)
            self.weighted[:, 0] += sign * np.nansum(weights * scores, axis=1)

    def result(self) -> NDArray[np.float64]:
        """f(q, S), float64 (Q, G); NaN for a group of which no score was seen."""
        with np.errstate(invalid="ignore"):
            return self.weighted / self.weight

    def _workspace(self, scores: Floats) -> Floats:
        """A scratch array like `scores`, in the same memory order: fresh pages cost as much as a pass."""
        if scores.flags.f_contiguous and not scores.flags.c_contiguous:
            return self._workspace(scores.T).T
        if self._scratch.size < scores.size or self._scratch.dtype != scores.dtype:
            self._scratch = np.empty(scores.size, scores.dtype)
        return self._scratch[: scores.size].reshape(scores.shape)

    def _exponentiate(self, magnitudes: Floats, top: Floats | None) -> None:
        """exp(beta (|s| - top)), in place; no `top` is a top of 0."""
        if top is not None:
            np.subtract(magnitudes, top, out=magnitudes)
        with np.errstate(over="ignore"):
            if self.beta != 1.0:
                np.multiply(magnitudes, self.beta, out=magnitudes)
        np.exp(magnitudes, out=magnitudes)

    def _add(
        self,
        queries: slice,
        columns: slice | NDArray[np.integer],
        reference: NDArray[np.float64] | None,
        weight: Floats,
        weighted: Floats,
    ) -> None:
        """Add the sums of a block whose weights are exp(beta (|s| - reference)); None is 0."""
        old = self.top[queries, columns]
        if reference is None:
            if old.max() <= 0:  # all so far against 0: the usual case, and no exponentials
                self.top[queries, columns] = 0
                self.weight[queries, columns] += weight
                self.weighted[queries, columns] += weighted
                return
            reference = np.zeros(old.shape)
        top = np.maximum(old, reference)
        mine, theirs = self._decay(old, top), self._decay(reference, top)
        self.top[queries, columns] = top
        self.weight[queries, columns] = self.weight[queries, columns] * mine + weight * theirs
        self.weighted[queries, columns] = self.weighted[queries, columns] * mine + weighted * theirs

    def _decay(self, old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
        # Nothing seen yet: -inf - -inf and -inf * 0 would be NaN; the sums are 0, so any factor does.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.exp(np.where(np.isneginf(old), 0.0, old - new) * self.beta))
