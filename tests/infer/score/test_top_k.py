"""Both ends of a stream of tiles against full sorts: any tiles, any row order, ties, skew."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer.errors import InputError
from airrep_infer.score.top_k import BothEnds, TopK

SKEWS = {"centred": 0.0, "mostly positive": 3.0, "all negative": -20.0}


def sorted_ends(scores, k):
    """(rows, scores) of full sorts of (Q, n), as `BothEnds.result` lays them out; ties to lower rows."""
    high = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    low = np.argsort(scores, axis=1, kind="stable")[:, :k]
    rows = np.hstack([high, low])
    return rows, np.take_along_axis(scores, rows, axis=1)


def update(ends, scores, rows, queries):
    """A tile as `scan` gives it: the scores of a row adjacent in memory."""
    tile = np.ascontiguousarray(scores.T)
    ends.update(tile.T, rows, queries, np.abs(tile))


@st.composite
def streams(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, n = draw(st.integers(1, 4)), draw(st.integers(1, 400))
    scores = rng.normal(size=(count, n)) + SKEWS[draw(st.sampled_from(list(SKEWS)))]
    shape = draw(st.sampled_from(["as drawn", "ties", "ascending", "descending"]))
    if shape == "ties":
        scores = np.round(scores)
    elif shape != "as drawn":
        scores = np.sort(scores, axis=1)[:, :: 1 if shape == "ascending" else -1]
    order = rng.permutation(n) if draw(st.booleans()) else np.arange(n)
    cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=8))) if n > 1 else []
    return scores.astype(np.float32), np.split(order, cuts), draw(st.sampled_from([1, 3, 20, 500]))


@settings(max_examples=300, deadline=None)
@given(streams(), st.randoms(use_true_random=False))
def test_any_tiles_in_any_order_on_any_workers_give_the_full_sort(stream, random):
    scores, tiles, k = stream
    workers = [BothEnds(len(scores), k) for _ in range(random.randint(1, 3))]
    for rows in tiles:
        worker = random.choice(workers)
        for first in range(0, len(scores), 2):  # two queries a tile
            part = slice(first, min(first + 2, len(scores)))
            update(worker, scores[part][:, rows], rows, part)
    while len(workers) > 1:
        pickle.loads(pickle.dumps(workers[0])).merge(workers[-1])  # leaves both as they are
        workers[0].merge(workers.pop())
    found_rows, found = workers[0].result()
    expected_rows, expected = sorted_ends(scores, k)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found_rows, expected_rows)


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_streams_with_few_candidates_a_tile(skew, dtype):
    """Long enough for the second comparison of a skewed stream, for waiting candidates and for cuts."""
    scores = (np.random.default_rng(0).normal(size=(30, 40_000)) + SKEWS[skew]).astype(dtype)
    ends = BothEnds(30, 25)
    for first in range(0, 40_000, 128):
        rows = np.arange(first, min(first + 128, 40_000))
        update(ends, scores[:, rows], rows, slice(0, 30))
    rows, _ = ends.result()
    np.testing.assert_array_equal(rows, sorted_ends(scores.astype(np.float32), 25)[0])


def test_one_end_alone_reads_tiles_in_either_memory_order():
    scores = np.random.default_rng(0).normal(size=(3, 5000)).astype(np.float32)
    for order in "CF":
        best = TopK(3, 40)
        for first in range(0, 5000, 100):
            rows = np.arange(first, first + 100)
            best.update(np.array(scores[:, rows], order=order), rows, slice(0, 3))
        np.testing.assert_array_equal(best.result()[0], sorted_ends(scores, 40)[0][:, :40])


def test_zeros_of_either_sign_tie():
    ends = BothEnds(1, 2)
    update(ends, np.array([[-0.0, 0.0, -0.0, 0.0]], np.float32), np.arange(4), slice(0, 1))
    np.testing.assert_array_equal(ends.result()[0], [[0, 1, 0, 1]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_an_error(value):
    best = TopK(1, 1)
    with pytest.raises(InputError, match="NaN or an infinity"):
        best.update(np.array([[0.0, value]], np.float32), np.arange(2), slice(0, 1))


def test_strangers_do_not_merge():
    for stranger in (TopK(2, 3), TopK(1, 4)):
        with pytest.raises(ValueError, match="cannot merge"):
            TopK(1, 3).merge(stranger)
