"""The influence of a store from its ends alone: bounds that hold, and are tight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from indexed import clustered

pytest.importorskip("hnswlib", reason="hnswlib (extra: index) is compiled on installation and optional")

from airrep_infer.index import AnnIndex
from airrep_infer.index.influence_bound import influence_bounds
from airrep_infer.score import attention_pool, attribute
from airrep_infer.store import EmbeddingStore

ROUNDING = 1e-9


@st.composite
def ends(draw: st.DrawFn) -> tuple[np.ndarray, int, float]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(3, 400))
    shape = draw(st.sampled_from(["normal", "skewed", "two values", "equal"]))
    scores = {
        "normal": rng.normal(size=(3, count)),
        "skewed": rng.lognormal(0, 1, (3, count)) - 1,
        "two values": rng.choice([-1.0, 2.0], (3, count)),
        "equal": np.full((3, count), 0.7),
    }[shape]
    scale = draw(st.sampled_from([0.01, 1.0, 5.0, 100.0]))
    tail = draw(st.integers(1, max(1, (count - 1) // 2)))
    return (
        np.sort(scores * scale + draw(st.sampled_from([-3.0, 0.0, 1.0])), axis=1),
        tail,
        draw(st.sampled_from([0.0, 0.3, 1.0, 10.0])),
    )


@settings(max_examples=300, deadline=None)
@given(ends())
def test_bounds_hold_whatever_lies_between(problem: tuple[np.ndarray, int, float]) -> None:
    scores, tail, beta = problem
    outer = np.concatenate([scores[:, :tail], scores[:, -tail:]], axis=1)
    between = scores[:, tail:-tail]
    others = np.full(3, float(between.shape[1]))
    mean = between.mean(axis=1) if between.size else np.full(3, np.nan)
    low, high = scores[:, tail - 1], scores[:, -tail]
    lower, upper = influence_bounds(outer, np.ones_like(outer), low, high, others, mean, beta)
    slack = ROUNDING * np.abs(scores).max()
    exact = attention_pool(scores, beta)
    assert (lower - slack <= exact).all() and (exact <= upper + slack).all()
    assert (lower >= scores[:, 0] - slack).all() or beta > 0
    if not between.size or beta == 0:  # nothing unknown: the bound is the value
        np.testing.assert_allclose(upper, lower, atol=1e-6 * np.abs(scores).max() + 1e-12)
    # The worst that two values in between can do with the given mean; the bounds may not cut it off.
    for split in (0.1, 0.5, 0.9):
        if not between.size:
            break
        reach = np.minimum((mean - low) / split, (high - mean) / (1 - split))
        values = np.stack([mean - split * reach, mean + (1 - split) * reach], axis=1)
        both = np.concatenate([outer, values], axis=1)
        weights = np.concatenate(
            [np.ones_like(outer), others[:, None] * np.array([1 - split, split])], axis=1
        ) * np.exp(beta * (np.abs(both) - np.abs(both).max(axis=1, keepdims=True)))
        worst = (weights * both).sum(axis=1) / weights.sum(axis=1)
        assert (lower - slack <= worst).all() and (worst <= upper + slack).all()


def test_bounds_are_as_tight_as_two_values_allow() -> None:
    """Against a grid search over all pairs of values with the mean, which contains the worst case."""
    rng = np.random.default_rng(0)
    for beta, scale in ((1.0, 0.2), (1.0, 2.0), (3.0, 1.0)):
        scores = np.sort(rng.normal(0.3, scale, (1, 500)), axis=1)
        outer, between = np.concatenate([scores[:, :20], scores[:, -20:]], axis=1), scores[:, 20:-20]
        low, high, mean, m = scores[:, 19], scores[:, -20], between.mean(axis=1), np.full(1, 460.0)
        lower, upper = influence_bounds(outer, np.ones_like(outer), low, high, m, mean, beta)
        below, above = np.meshgrid(np.linspace(low[0], mean[0], 400), np.linspace(mean[0], high[0], 400))
        share = np.divide(mean[0] - below, above - below, out=np.zeros_like(below), where=above > below)
        known, left, right = (np.exp(beta * np.abs(values)) for values in (outer, below, above))
        numerator = (known * outer).sum() + 460 * ((1 - share) * left * below + share * right * above)
        reached = numerator / (known.sum() + 460 * ((1 - share) * left + share * right))
        width = reached.max() - reached.min()
        assert upper[0] == pytest.approx(reached.max(), abs=0.01 * width)
        assert lower[0] == pytest.approx(reached.min(), abs=0.01 * width)


def test_influence_is_estimated_within_its_error(large: tuple[EmbeddingStore, Path]) -> None:
    store, path = large
    index = AnnIndex.open(path, store)
    queries = np.concatenate([clustered(300, seed=11), 0.05 * clustered(300, seed=12)])  # > 256: two chunks
    measured = index.manifest.measured
    exact = attribute(queries, store, k=50)
    complete = np.ones(600, bool)  # the bound assumes that the ends are
    for search, end, rows in (
        (index.proponents, measured.proponents, exact.proponent_rows),
        (index.opponents, measured.opponents, exact.opponent_rows),
    ):
        tails = search(queries, 50, ef=max(end.ef, 100)).rows
        complete &= [set(a) == set(b) for a, b in zip(tails, rows, strict=True)]
    assert complete.sum() > 100
    for beta in (0.0, 1.0, 4.0):
        exact = attribute(queries, store, k=10, pooling_scale=beta)
        found = index.attribute(queries, 10, pooling_scale=beta, tail=50)
        off = np.abs(found.group_influence - exact.group_influence)
        assert (off <= found.group_influence_error + ROUNDING)[complete].all()
        assert (off <= found.group_influence_error + ROUNDING).mean() > 0.95
        narrow = index.attribute(queries, 10, pooling_scale=beta, tail=10)
        assert found.group_influence_error.mean() <= narrow.group_influence_error.mean() + ROUNDING
        # The estimate is far better than the worst case, and than the ends alone.
        assert off.mean() <= 0.02 * np.abs(exact.group_influence).mean() + ROUNDING
    assert len(found) == 600 and len(found[5].proponents) == 10
