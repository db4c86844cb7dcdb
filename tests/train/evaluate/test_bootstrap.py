"""Intervals over queries and subsets: against a loop, against a known truth, and paired."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from airrep_train.evaluate.bootstrap import interval, resample_lds
from airrep_train.evaluate.lds import RankedSplit, query_lds

Numbers = NDArray[np.float32]


def draw(
    rng: np.random.Generator, queries: int = 40, subsets: int = 30, noise: float = 1.0
) -> tuple[Numbers, Numbers]:
    """(Q, K) influences and (K, Q) losses that go together, up to noise that subsets share in part."""
    signal = rng.standard_normal((queries, subsets))
    shared = rng.standard_normal(subsets)
    predicted = signal + noise * (rng.standard_normal((queries, subsets)) + shared) / 2**0.5
    return predicted.astype(np.float32), -signal.T.astype(np.float32)


def test_weighted_correlations_are_those_of_repeated_subsets() -> None:
    rng = np.random.default_rng(0)
    influence, losses = draw(rng)
    influence[3] = 0.5  # constant: says nothing
    losses[:, 4] = 1.0  # constant: ranks nothing
    losses[[2, 5], 6] = np.nan  # unknown for one query
    split = RankedSplit.of(influence, losses)
    counts = rng.multinomial(30, np.full(30, 1 / 30), size=5).T
    counts[:, 4] = 0
    counts[7, 4] = 30  # one subset alone: no ranking
    found = split.correlations(counts.astype(np.float64))
    for query in range(40):
        known = np.isfinite(losses[:, query])
        for number in range(5):
            drawn = np.repeat(np.arange(30), counts[:, number] * known)
            x, y = split.predicted[query, drawn], split.measured[query, drawn]
            expected = np.corrcoef(x, y)[0, 1] if np.ptp(x) and np.ptp(y) else 0.0
            assert found[query, number] == pytest.approx(expected, abs=1e-9)


def test_each_subset_once_is_the_lds() -> None:
    influence, losses = draw(np.random.default_rng(1))
    found = RankedSplit.of(influence, losses).correlations(np.ones((30, 1)))[:, 0]
    np.testing.assert_allclose(found, query_lds(influence, losses), atol=1e-9)


def test_the_interval_covers_what_other_queries_and_subsets_give() -> None:
    rng = np.random.default_rng(2)
    drawn = [draw(rng) for _ in range(150)]
    truth = np.mean([query_lds(*pair).mean() for pair in drawn])
    hits, narrow = 0, 0
    for pair in drawn:
        low, high = interval(resample_lds([[RankedSplit.of(*pair)]], n=200)[0])
        hits += low <= truth <= high
        means = query_lds(*pair)[rng.integers(0, 40, (200, 40))].mean(axis=1)
        narrow += np.percentile(means, 2.5) <= truth <= np.percentile(means, 97.5)
    assert hits >= 0.86 * 150  # 95% is the promise; 30 subsets and 200 resamples fall short of it a little
    assert narrow < hits - 15  # queries alone promise too much where subsets share what moves them


def test_resamples_are_paired_repeatable_and_drawn_anew_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    influence, losses = draw(rng)
    close = (influence + 0.05 * rng.standard_normal(influence.shape)).astype(np.float32)
    first, second = RankedSplit.of(influence, losses), RankedSplit.of(close, losses)
    both = resample_lds([[first], [second]], n=400)
    other = resample_lds([[second]], n=400, seed=1)[0]
    assert np.array_equal(both, resample_lds([[first], [second]], n=400))
    assert (both[0] - both[1]).std() < 0.3 * (both[0] - other).std()
    monkeypatch.setattr("airrep_train.evaluate.bootstrap._CHUNK_ELEMENTS", 1000)
    chunked = resample_lds([[first]], n=200)
    assert chunked.shape == (1, 200) and len(np.unique(chunked)) == 200


def test_several_splits_count_by_their_queries() -> None:
    rng = np.random.default_rng(4)
    pairs = [draw(rng, queries=10), draw(rng, queries=50, subsets=12)]
    splits = [RankedSplit.of(*pair) for pair in pairs]
    expected = np.concatenate([query_lds(*pair) for pair in pairs]).mean()
    assert resample_lds([splits], n=2000).mean() == pytest.approx(expected, abs=0.03)
