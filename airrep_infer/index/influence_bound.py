"""What the influence of a whole corpus can be when only the scores at its two ends are known.

The influence is f = (A + sum_out w(s) s) / (B + sum_out w(s)) with w(s) = exp(beta |s|), where A and B
are the sums over the known rows. The m others have scores in [low, high], of known mean (it costs one dot
product with the sum of all vectors). For any slope b the mean makes sum_out b (s - mean) = 0, so

    f <= max over s in [low, high] of  (A + m (w(s) s - b (s - mean))) / (B + m w(s))

(Each of the m rows satisfies the inequality that the maximum states; add them up.) The right side is a
maximum of straight lines in b; its minimum is found by intersecting the two lines that enclose it. The
maximum is taken over a grid of s, to whose values is added what a curve of that bend can rise
between two points, so the bound holds for every s. The lower bound is the upper one with all signs turned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from airrep_infer.score import check_pooling_scale

Floats = NDArray[np.float64]

_CELLS = 512
_STEPS = 40
_RELATIVE = 1e-6


def influence_bounds(
    scores: Floats,
    counts: Floats,
    low: Floats,
    high: Floats,
    others: Floats,
    mean: Floats,
    beta: float,
) -> tuple[Floats, Floats]:
    """(lowest, highest) value that f(q, S) can have, both (Q,).

    Args:
        scores: (Q, c) the known scores, at least one a query.
        counts: (Q, c) how many rows have each; 0 takes a score out.
        low, high: (Q,) what no score of another row lies beyond, low <= high.
        others: (Q,) how many other rows there are, m; where 0, f is known and both bounds are it.
        mean: (Q,) the mean score of the others; NaN where there are none.
    """
    beta = check_pooling_scale(beta)
    mean = np.clip(np.where(others > 0, mean, low), low, high)  # a rounding may put it outside
    upper = _upper(scores, counts, low, high, others, mean, beta)
    lower = -_upper(-scores, counts, -high, -low, others, -mean, beta)
    return np.minimum(lower, upper), np.maximum(lower, upper)


def _upper(
    scores: Floats, counts: Floats, low: Floats, high: Floats, others: Floats, mean: Floats, beta: float
) -> Floats:
    some = (others > 0)[:, None]
    magnitudes = np.where(counts > 0, np.abs(scores), 0.0)
    ends = np.where(some, np.maximum(np.abs(low), np.abs(high))[:, None], 0.0)
    top = np.maximum(magnitudes.max(axis=1, keepdims=True), ends)
    known = counts * np.exp(beta * (magnitudes - top))
    base, weight = (known * scores).sum(axis=1, keepdims=True), known.sum(axis=1, keepdims=True)

    # 0, where the weight has its kink, must be a grid point if it lies within.
    grid = np.sort(
        np.concatenate(
            [np.linspace(low, high, _CELLS + 1, axis=1), np.clip(0.0, low, high)[:, None], mean[:, None]],
            axis=1,
        ),
        axis=1,
    )
    weights = np.exp(beta * (np.abs(grid) - top))
    # |d2/ds2 (w(s) s - F w(s))| <= beta w(s) (2 + beta |s| + beta |F|), and |F| <= top; a curve of that
    # bend rises over a cell's ends by at most an eighth of it times the cell's width squared.
    bend = beta * weights * (2 + beta * (np.abs(grid) + top))
    rise = np.maximum(bend[:, 1:], bend[:, :-1]) * np.diff(grid, axis=1) ** 2 / 8
    rise = np.maximum(np.pad(rise, ((0, 0), (0, 1))), np.pad(rise, ((0, 0), (1, 0))))
    under = weight + others[:, None] * weights
    # The line of grid point s in b: flat + b * slope.
    flat = (base + others[:, None] * (weights * grid + rise)) / under
    slope = others[:, None] * (mean[:, None] - grid) / under

    best = flat.max(axis=1)  # b = 0
    last = grid.shape[1] - 1
    falling, rising = np.full(len(grid), last), np.zeros(len(grid), np.intp)
    lines = np.arange(len(grid))
    for _ in range(_STEPS):
        apart = slope[lines, rising] - slope[lines, falling]
        with np.errstate(divide="ignore", invalid="ignore"):
            b = (flat[lines, falling] - flat[lines, rising]) / apart
        b = np.where(apart > 0, b, 0.0)  # no room on one side of the mean: b does not matter
        values = flat + b[:, None] * slope
        highest = values.argmax(axis=1)
        best = np.minimum(best, values[lines, highest])
        least = flat[lines, falling] + b * slope[lines, falling]
        if np.all((best - least <= _RELATIVE * top[:, 0]) | (apart <= 0)):
            break
        down = slope[lines, highest] <= 0
        falling, rising = np.where(down, highest, falling), np.where(down, rising, highest)
    return np.asarray(np.minimum(best, top[:, 0]))
