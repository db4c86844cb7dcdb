"""Attention pooling: the influence of a group of examples, exact, streaming and mergeable.

For a query with scores `s_i` over a group S (section 3.2 of arXiv 2505.18513)

    f(q, S) = sum_i a_i s_i,    a = softmax_i(beta * |s_i|)

This is the one definition of the rule outside torch. `attention_pool` is the formula for scores that
are in memory; `PooledPartial` sees them block by block and merges across threads, processes and machines.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError
from airrep_infer.score.plan import NON_FINITE

Floats = NDArray[np.floating]

# exp(16) is far from the ends of float32, and scaling |s| up to it costs 1e-6 of a weight at most.
_SMALL_WEIGHT = math.exp(16.0)


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

    Holds, per (group, query), `weight` = sum exp(beta (|s| - top)) and `weighted` = sum exp(beta
    (|s| - top)) s, as flash attention does, float64 (G, Q); `top` is max |s|, or 0 where every beta |s| is
    small. Two partials merge into that of the union of their scores; the order matters only to rounding.

    Weights are computed in the dtype of the scores (the maximum is subtracted before the scale is
    applied, so even beta |s| = 1e4 keeps the exponent's digits that count) and summed across tiles
    in float64. Feed one partial scores of one dtype.

    Raises:
        InputError: `beta` is not a finite number >= 0.
    """

    def __init__(self, queries: int, groups: int = 1, beta: float = 1.0) -> None:
        self.beta = check_pooling_scale(beta)
        self.top = np.full((groups, queries), -np.inf)
        self.weight = np.zeros((groups, queries))
        self.weighted = np.zeros((groups, queries))
        self._large = False
        self._scratch: Floats = np.empty(0, np.float32)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_scratch": np.empty(0, np.float32)}

    def update(
        self,
        scores: Floats,
        codes: NDArray[np.integer] | None = None,
        queries: slice = slice(None),
        *,
        magnitudes: Floats | None = None,
    ) -> None:
        """Add a tile of scores (q, n), float32 or float64; fastest where those of one row are adjacent.

        Args:
            codes: (n,) the group of each column; None puts all into group 0. A column with a
                negative code belongs to no group. Sorted codes spare a copy of the tile.
            queries: which of the Q queries the q lines of the tile are.
            magnitudes: (n, q) |s|, where they are known; they are overwritten.

        Raises:
            InputError: a score is not finite.
        """
        by_row = scores.T
        if codes is not None and np.any(codes[1:] < codes[:-1]):
            order = np.argsort(codes, kind="stable")
            codes, by_row, magnitudes = codes[order], by_row[order], None
        if codes is not None and codes[0] < 0:
            grouped = slice(int(np.searchsorted(codes, 0)), None)
            codes, by_row = codes[grouped], by_row[grouped]
            magnitudes = None if magnitudes is None else magnitudes[grouped]
        if not len(by_row):
            return
        starts = np.zeros(1, np.intp)
        if codes is not None:
            starts = np.concatenate([starts, np.flatnonzero(codes[1:] != codes[:-1]) + 1])
        groups = np.zeros(1, np.intp) if codes is None else codes[starts]
        segments = [slice(*ends) for ends in itertools.pairwise([*starts, len(by_row)])]
        if magnitudes is None:
            magnitudes = np.abs(by_row, out=self._workspace(by_row))
        if not self._large:
            with np.errstate(over="ignore", invalid="ignore"):
                weight, weighted = self._sums(by_row, magnitudes, segments)
            if weight.max() <= _SMALL_WEIGHT:  # a sum is at least its largest weight, so none was lost
                self._add(queries, groups, None, weight, weighted)
                return
            self._large = True
            np.abs(by_row, out=magnitudes)
        tops = np.stack([magnitudes[rows].max(axis=0) for rows in segments])
        if not np.isfinite(tops).all():
            raise InputError(NON_FINITE)
        for rows, top in zip(segments, tops, strict=True):
            np.subtract(magnitudes[rows], top, out=magnitudes[rows])
        with np.errstate(over="ignore"):  # far below the top at a huge beta: exp(-inf) = 0 is right
            weight, weighted = self._sums(by_row, magnitudes, segments)
        self._add(queries, groups, tops.astype(np.float64), weight, weighted)

    def add(self, top: Floats, weight: Floats, weighted: Floats, queries: slice) -> None:
        """Add to group 0 what other scores left: max |s| and the two sums against it, (q,) each."""
        self._add(queries, np.zeros(1, np.intp), top[None].astype(np.float64), weight[None], weighted[None])

    def merge(self, other: PooledPartial) -> None:
        """Add what `other` (same queries, groups and beta) has seen."""
        if (self.top.shape, self.beta) != (other.top.shape, other.beta):
            raise ValueError(
                f"cannot merge partials of {self.top.shape} (groups, queries) at beta {self.beta} and of "
                f"{other.top.shape} at beta {other.beta}"
            )
        top = np.maximum(self.top, other.top)
        mine, theirs = self._decay(self.top, top), self._decay(other.top, top)
        self.weight = self.weight * mine + other.weight * theirs
        self.weighted = self.weighted * mine + other.weighted * theirs
        self.top = top

    def together(self) -> PooledPartial:
        """The pooling of all groups as one, of groups that do not overlap."""
        whole = PooledPartial(self.top.shape[1], 1, self.beta)
        whole.top = self.top.max(axis=0, keepdims=True)
        decay = self._decay(self.top, whole.top)
        whole.weight = (self.weight * decay).sum(axis=0, keepdims=True)
        whole.weighted = (self.weighted * decay).sum(axis=0, keepdims=True)
        return whole

    def replace(self, before: NDArray[np.float64], after: NDArray[np.float64]) -> None:
        """Exchange scores in group 0 for more exact values, both (Q, m); NaN pads uneven rows.

        `before` must be the values that were added, and `after` must differ only by rounding.
        """
        for sign, scores in ((-1, before), (1, after)):
            with np.errstate(over="ignore"):
                weights = np.exp((np.abs(scores) - self.top[0][:, None]) * self.beta)
            self.weight[0] += sign * np.nansum(weights, axis=1)
            self.weighted[0] += sign * np.nansum(weights * scores, axis=1)

    def result(self) -> NDArray[np.float64]:
        """f(q, S), float64 (Q, G); NaN for a group of which no score was seen."""
        with np.errstate(invalid="ignore"):
            return np.ascontiguousarray((self.weighted / self.weight).T)

    def log_weight(self) -> NDArray[np.float64]:
        """log sum_i exp(beta |s_i|), float64 (Q, G); -inf for a group of which no score was seen."""
        with np.errstate(divide="ignore"):
            weight = np.log(self.weight) + self.beta * np.where(np.isneginf(self.top), 0.0, self.top)
        return np.ascontiguousarray(weight.T)

    def _sums(self, by_row: Floats, exponents: Floats, segments: list[slice]) -> tuple[Floats, Floats]:
        """The sums of w = exp(beta exponents) and of w s over each segment of rows: (segments, q) each.

        Scores s and exponents are (n, q); the exponents are overwritten.
        """
        power, unit = _POWERS[exponents.dtype.type]
        if self.beta * unit != 1.0:
            np.multiply(exponents, self.beta * unit, out=exponents)
        weights = power(exponents, out=exponents)
        ones = np.ones(len(by_row), weights.dtype)
        weight, weighted = np.empty((2, len(segments), by_row.shape[1]), weights.dtype)
        for number, rows in enumerate(segments):
            np.matmul(ones[rows], weights[rows], out=weight[number])
        np.multiply(weights, by_row, out=weights)
        for number, rows in enumerate(segments):
            np.matmul(ones[rows], weights[rows], out=weighted[number])
        return weight, weighted

    def _workspace(self, rows: Floats) -> Floats:
        """A scratch array like `rows`, in the same memory order: fresh pages cost as much as a pass."""
        if rows.flags.f_contiguous and not rows.flags.c_contiguous:
            return self._workspace(rows.T).T
        if self._scratch.size < rows.size or self._scratch.dtype != rows.dtype:
            self._scratch = np.empty(rows.size, rows.dtype)
        return self._scratch[: rows.size].reshape(rows.shape)

    def _add(
        self,
        queries: slice,
        groups: NDArray[np.integer],
        reference: Floats | None,
        weight: Floats,
        weighted: Floats,
    ) -> None:
        """Add the sums (g, q) of a tile whose weights are exp(beta (|s| - reference)); None is 0."""
        lines: slice | NDArray[np.integer] = groups
        if groups[-1] - groups[0] == len(groups) - 1:  # without gaps: a slice spares gathering
            lines = slice(int(groups[0]), int(groups[-1]) + 1)
        old = self.top[lines, queries]
        if reference is None:
            if old.max() <= 0:  # all so far against 0: the usual case, and no exponentials
                self.top[lines, queries] = 0
                self.weight[lines, queries] += weight
                self.weighted[lines, queries] += weighted
                return
            reference = np.zeros(old.shape)
        top = np.maximum(old, reference)
        mine, theirs = self._decay(old, top), self._decay(reference, top)
        self.top[lines, queries] = top
        self.weight[lines, queries] = self.weight[lines, queries] * mine + weight * theirs
        self.weighted[lines, queries] = self.weighted[lines, queries] * mine + weighted * theirs

    def _decay(self, old: Floats, new: NDArray[np.float64]) -> NDArray[np.float64]:
        # Nothing seen yet: -inf - -inf and -inf * 0 would be NaN; the sums are 0, so any factor does.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.exp(np.where(np.isneginf(old), 0.0, old - new) * self.beta))


def _fastest_power() -> tuple[np.ufunc, float]:
    """(exp, 1), or (exp2, log2(e)) where numpy has it for this CPU's vectors: it takes half the time."""
    try:
        from numpy.lib.introspect import opt_func_info
    except ImportError:  # numpy < 2.0
        return np.exp, 1.0
    kernels = opt_func_info(func_name="^exp2$", signature="float32")
    current = kernels.get("exp2", {}).get("ff", {}).get("current", "baseline")
    return (np.exp, 1.0) if current.startswith("baseline") else (np.exp2, math.log2(math.e))


_POWERS = {np.float32: _fastest_power(), np.float64: (np.exp, 1.0)}
