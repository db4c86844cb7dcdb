"""What influence meant in nats, against least squares and against a truth that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from airrep_train.evaluate import calibrate
from airrep_train.label import LabelledSplit, Subset

SLOPE = 0.3


def drawn(
    rng: np.random.Generator, queries: int = 40, subsets: int = 30
) -> tuple[LabelledSplit, NDArray[np.float64]]:
    """A split, and (Q, K) influences that say SLOPE nats each, up to noise that subsets share in part."""
    influence = rng.normal(size=(queries, subsets)) + rng.normal(size=(queries, 1))
    noise = rng.normal(size=(queries, subsets)) + rng.normal(size=subsets)
    base = rng.uniform(3, 9, queries)
    # Queries that are high in influence are those whose loss falls least: only differences within count.
    falls = SLOPE * influence + 0.2 * noise - 2 * influence.mean(axis=1, keepdims=True) + 1
    chosen = tuple(Subset(f"0-{k}", 0, np.arange(16)) for k in range(subsets))
    losses = (base[:, None] - falls).T.astype(np.float32)
    nothing = np.empty(0, np.int64), np.empty((0, queries), np.float32)
    split = LabelledSplit(0, np.arange(queries), chosen, losses, *nothing, base.astype(np.float32))
    return split, influence


def test_the_slope_is_that_of_least_squares_with_a_mean_for_each_query() -> None:
    split, influence = drawn(np.random.default_rng(0))
    losses = split.losses.copy()
    losses[3, 5] = losses[4:, 6] = np.nan
    found = calibrate([replace(split, losses=losses)], [influence], n=50)
    known = np.isfinite(losses.T)
    each = np.repeat(np.eye(40), 30, axis=0)[known.ravel()]
    columns = np.column_stack([influence[known], each])
    expected = np.linalg.lstsq(columns, -losses.T[known], rcond=None)[0][0]
    assert found is not None and found.nats == pytest.approx(expected, rel=1e-4)
    assert found.subset_rows == 16
    assert found.typical == pytest.approx(np.nanmean(split.base - losses), rel=1e-4)


def test_several_splits_share_one_slope_and_miss_the_typical_fall_if_one_has_no_base() -> None:
    rng = np.random.default_rng(1)
    pairs = [drawn(rng), drawn(rng, 10, 50)]
    both = calibrate([split for split, _ in pairs], [influence for _, influence in pairs], n=50)
    assert both is not None and both.nats == pytest.approx(SLOPE, abs=0.05) and both.typical is not None
    without = [pairs[0][0], replace(pairs[1][0], base=None)]
    again = calibrate(without, [influence for _, influence in pairs], n=50)
    assert again == replace(both, typical=None)  # the slope needs no base losses


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits, width = 0, []
    for _ in range(100):
        split, influence = drawn(rng)
        found = calibrate([split], [influence], n=200)
        assert found is not None
        hits += found.nats_low <= SLOPE <= found.nats_high
        width.append(found.nats_high - found.nats_low)
    assert hits >= 86 and np.mean(width) < SLOPE


def test_influence_that_does_not_vary_means_nothing() -> None:
    split, influence = drawn(np.random.default_rng(3))
    assert calibrate([split], [np.ones_like(influence)]) is None
