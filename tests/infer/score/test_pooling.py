"""Streaming attention pooling against the plain formula in float64."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer.errors import InputError
from airrep_infer.score import pooling
from airrep_infer.score.pooling import PooledPartial, attention_pool

ABSOLUTE = 1e-5  # relative to max(1, |value|)


def plain(scores, beta):
    """f for one list of scores, written as in the paper."""
    s = np.asarray(scores, np.float64)
    exponents = beta * np.abs(s)
    weights = np.exp(exponents - exponents.max())
    return float(sum(w * x for w, x in zip(weights / weights.sum(), s, strict=True)))


def assert_close(actual, expected):
    assert np.all(np.abs(actual - expected) <= ABSOLUTE * np.maximum(1, np.abs(expected)))


def rounding(scores):
    """How far f of some scores may be off where weights are computed in the scores' dtype.

    A weight is exp of an exponent of at most 16 in magnitude (or so far below the largest that it is
    smaller by its exponential), which carries three roundings of half an eps each; exp, the product with
    the score and the sums of n terms add two and n. An error of the weights by the factor 1 + d moves f by
    d times the distance between two scores, which is at most twice the largest.
    """
    eps = np.finfo(scores.dtype).eps
    return 2 * np.abs(scores.astype(np.float64)).max() * eps * (1.5 * 16 + 2 + len(scores))


def test_attention_pool_is_the_formula_along_any_axis():
    scores = np.random.default_rng(0).normal(size=(3, 7, 5))
    expected = [[plain(scores[i, :, j], 2.0) for j in range(5)] for i in range(3)]
    assert_close(attention_pool(scores, 2.0, axis=1), expected)
    assert_close(attention_pool([1.0, -2.0], 0.5), plain([1.0, -2.0], 0.5))


def test_attention_pool_of_scale_zero_is_the_mean():
    assert attention_pool([1.0, 2.0, 6.0], 0.0) == 3.0


@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf")])
def test_unusable_scale_is_an_error(beta):
    with pytest.raises(InputError, match="pooling scale"):
        attention_pool([1.0], beta)
    with pytest.raises(InputError, match="pooling scale"):
        PooledPartial(1, 1, beta)


def test_pooling_nothing():
    with pytest.raises(InputError, match="empty group"):
        attention_pool(np.empty((2, 0)))
    partial = PooledPartial(1, 2)
    partial.update(np.array([[4.0]]), np.array([1]))
    np.testing.assert_array_equal(partial.result(), [[np.nan, 4.0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.0, 1.0, 100.0, 1e30])
def test_huge_scores_do_not_overflow(beta, dtype):
    scores = np.array([[1e4, -9.99e3, 3.0, 0.0, 9998.5], [-1e4, 1.0, -1e4, -1e4, 2.0]], dtype)
    partial = PooledPartial(2, 1, beta)
    for column in range(5):
        partial.update(scores[:, column : column + 1])
    assert_close(partial.result()[:, 0], [plain(row, beta) for row in scores])


def test_column_major_blocks_are_accepted():
    scores = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    partial = PooledPartial(4)
    partial.update(scores.T)
    assert_close(partial.result()[:, 0], [plain(column, 1.0) for column in scores.T])


def test_negative_codes_belong_to_no_group():
    partial = PooledPartial(1, 2)
    partial.update(np.array([[7.0, 1.0, 9.0, -3.0]]), np.array([-1, 1, -1, 0]))
    partial.update(np.array([[7.0]]), np.array([-1]))
    np.testing.assert_array_equal(partial.result(), [[-3.0, 1.0]])


def test_a_slice_of_the_queries_leaves_the_others_alone():
    partial = PooledPartial(3)
    partial.update(np.array([[5.0]]), None, slice(1, 2))
    np.testing.assert_array_equal(partial.result()[:, 0], [np.nan, 5.0, np.nan])


def test_partials_survive_pickling_and_refuse_strangers():
    partial = PooledPartial(2, 1, 0.5)
    partial.update(np.array([[1.0, 2.0], [3.0, -4.0]]))
    again = pickle.loads(pickle.dumps(partial))
    np.testing.assert_array_equal(again.result(), partial.result())
    for stranger in (PooledPartial(2, 1, 1.0), PooledPartial(3, 1, 0.5), PooledPartial(2, 2, 0.5)):
        with pytest.raises(ValueError, match="cannot merge"):
            partial.merge(stranger)


def test_replaced_scores_count_as_if_they_had_been_added():
    rough = np.array([[30.0, -29.0, 2.0]])
    exact = np.array([[30.00001, -29.00002, 2.0]])
    partial = PooledPartial(1)
    partial.update(rough)
    partial.replace(np.array([[30.0, -29.0, np.nan]]), np.array([[30.00001, -29.00002, np.nan]]))
    np.testing.assert_allclose(partial.result()[0, 0], plain(exact[0], 1.0), rtol=1e-12)


@st.composite
def streams(draw):
    """Scores (2, n), codes (n,) with every group used, beta, dtype, and where to cut the stream."""
    groups = draw(st.integers(1, 5))
    n = draw(st.integers(groups, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.normal(size=(2, n)) * draw(st.sampled_from([1e-3, 1.0, 20.0, 1e4]))
    if draw(st.booleans()):
        scores = np.round(scores)  # ties
    codes = rng.permutation(np.concatenate([np.arange(groups), rng.integers(0, groups, n - groups)]))
    if draw(st.booleans()):
        codes = np.sort(codes)
    cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=6))) if n > 1 else []
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return scores.astype(dtype), codes, draw(st.sampled_from([0.0, 0.3, 1.0, 7.0])), cuts


@settings(max_examples=300, deadline=None)
@given(streams(), st.randoms(use_true_random=False))
def test_any_blocks_and_any_merge_order_give_the_formula(stream, random):
    scores, codes, beta, cuts = stream
    groups = codes.max() + 1
    blocks = list(itertools.pairwise([0, *cuts, scores.shape[1]]))
    random.shuffle(blocks)
    partials = []
    for start, stop in blocks:
        if partials and random.random() < 0.5:
            partial = random.choice(partials)
        else:
            partial = PooledPartial(2, groups, beta)
            partials.append(partial)
        partial.update(scores[:, start:stop], codes[start:stop])
    while len(partials) > 1:  # any association: merge random pairs
        one = partials.pop(random.randrange(len(partials)))
        random.choice(partials).merge(one)
    for row, found in zip(scores, partials[0].result(), strict=True):
        for group in range(groups):
            members = row[codes == group]
            assert abs(found[group] - plain(members, beta)) <= rounding(members)


@pytest.mark.parametrize("power", ["exp", "exp2"])
@pytest.mark.parametrize("beta", [0.5, 1.0, 40.0])
def test_either_power_gives_the_formula(power, beta, monkeypatch):
    """Which one is used depends on the CPU."""
    chosen = {"exp": (np.exp, 1.0), "exp2": (np.exp2, np.log2(np.e))}[power]
    monkeypatch.setitem(pooling._POWERS, np.float32, chosen)
    scores = np.random.default_rng(0).normal(size=(3, 200)).astype(np.float32)
    partial = PooledPartial(3, 1, beta)
    partial.update(scores)
    assert_close(partial.result()[:, 0], [plain(row, beta) for row in scores])


@pytest.mark.parametrize("scales", [(1.0, 1.0), (1.0, 300.0), (300.0, 1.0), (300.0, 1e-4)])
def test_small_and_large_scores_in_one_stream(scales):
    """A stream starts without maxima and goes over to them where a weight could overflow."""
    rng = np.random.default_rng(0)
    tiles = [scale * rng.normal(size=(4, 50)).astype(np.float32) for scale in scales]
    codes = rng.integers(0, 3, (2, 50))
    partial, other = PooledPartial(4, 3), PooledPartial(4, 3)
    partial.update(tiles[0], codes[0], magnitudes=np.abs(tiles[0].T))
    other.update(tiles[1], codes[1])
    partial.merge(other)
    every, code = np.hstack(tiles), codes.reshape(-1)
    expected = [[plain(row[code == group], 1.0) for group in range(3)] for row in every]
    assert_close(partial.result(), expected)
    assert_close(partial.together().result()[:, 0], [plain(row, 1.0) for row in every])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_an_error(value):
    scores = np.zeros((2, 5), np.float32)
    scores[1, 3] = value
    with pytest.raises(InputError, match="NaN or an infinity"):
        PooledPartial(2).update(scores)
    with pytest.raises(InputError, match="NaN or an infinity"):
        PooledPartial(2, 2).update(scores, np.array([0, 0, 1, 1, 1]))
