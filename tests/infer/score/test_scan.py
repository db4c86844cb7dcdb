"""The pass itself: vectors as they are scored, and which tiles an accumulator is shown."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import pytest

from airrep_infer import resources
from airrep_infer.errors import InputError
from airrep_infer.score.plan import ScanPlan, as_corpus
from airrep_infer.score.scan import (
    MAX_QUERIES_PER_TILE,
    SCORES_PER_TILE,
    as_scored,
    scan,
    scratch_bytes,
)
from airrep_infer.score.selection import Strategy, select


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    "end", [0x7C00, 0x10000]
)  # the finite positive ones, and all with infinities and NaN
def test_every_float16_is_scored_as_what_it_is(end):
    halves = np.arange(end, dtype=np.uint32).astype(np.uint16).view(np.float16)
    for sign in (1, -1):
        vectors = (halves * np.float16(sign)).reshape(-1, 256)
        found = as_scored(vectors, np.dtype(np.float32))
        assert found.dtype == np.float32
        expected = vectors.astype(np.float32)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_vectors_become_the_dtype_of_the_pass(stored, kind):
    vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(stored)
    found = as_scored(vectors[::2, ::-1], np.dtype(kind))
    np.testing.assert_array_equal(found, vectors[::2, ::-1].astype(kind))
    assert found.dtype == kind


class Seen:
    """Keeps every tile, as a whole score matrix, and how often each score came."""

    def __init__(self, queries, rows):
        self.scores = np.zeros((queries, rows))
        self.times = np.zeros((queries, rows), int)
        self.largest = 0

    def update(self, scores, rows, queries):
        assert scores.T.flags.c_contiguous
        self.scores[queries, rows] = scores
        self.times[queries, rows] += 1
        self.largest = max(self.largest, scores.size)

    def merge(self, other):
        self.scores += other.scores
        self.times += other.times
        self.largest = max(self.largest, other.largest)


@pytest.mark.parametrize("queries", [1, 5, MAX_QUERIES_PER_TILE + 3])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("block_rows", [None, 100])
def test_every_score_is_shown_once(queries, reverse, block_rows):
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=(1111, 4)).astype(np.float16)
    vectors = rng.normal(size=(queries, 4))
    plan = ScanPlan(
        vectors,
        as_corpus(corpus),
        lambda: Seen(queries, 1111),
        order=(lambda first, count: np.arange(count)[::-1]) if reverse else None,
        block_rows=block_rows,
        threads=3,
        dtype="float32",
    )
    scanned = scan(plan)
    seen = scanned.seen
    assert scanned.dtype == "float32"
    assert (seen.times == 1).all()
    np.testing.assert_allclose(seen.scores, vectors @ corpus.T.astype(float), atol=1e-5)
    assert seen.largest <= SCORES_PER_TILE


@pytest.mark.parametrize("queries", [1, 31, 1000, 1024, 3000])
def test_a_tile_fits_the_cache_and_is_worth_a_product(queries):
    """The tiles that a pass really shows: at most 1 MB of float32, and not thin slices of it."""
    tiles = []

    class Sizes:
        def update(self, scores, rows, queries):
            tiles.append(scores.shape)

        def merge(self, other):
            pass

    corpus = as_corpus(np.ones((20_000, 2), np.float32))
    scan(ScanPlan(np.ones((queries, 2)), corpus, Sizes, threads=1, dtype="float32"))
    assert sum(shape[0] * shape[1] for shape in tiles) == queries * 20_000
    largest = max(4 * shape[0] * shape[1] for shape in tiles)
    assert largest <= 1 << 20
    assert largest > (1 << 19 if queries > 31 else 1 << 14)


def test_threads_are_as_many_as_the_budget_allows(monkeypatch):
    """Of `select` as of `attribute`, and on the node that scans."""
    pools = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, threads, name):
            pools.append(threads)
            super().__init__(threads, name)

    monkeypatch.setattr(sys.modules[scan.__module__], "ThreadPoolExecutor", Pool)
    corpus = np.random.default_rng(0).normal(size=(400, 8))
    queries, each = corpus[:5], scratch_bytes(5, 8)
    whole = [select(queries, corpus, 3, strategy=strategy).rows for strategy in get_args(Strategy)]
    try:
        for budget, threads in ((100 * each, 6), (3.5 * each, 3), (1.2 * each, 1)):
            resources.limit_memory(budget / 1e9)
            for strategy, rows in zip(get_args(Strategy), whole, strict=True):
                pools.clear()
                chosen = select(queries, corpus, 3, strategy=strategy, threads=6, block_rows=20)
                assert chosen.rows.tolist() == rows.tolist()
                assert set(pools) <= {threads} and (pools or strategy == "cover")  # which holds so few scores
        resources.limit_memory(0.5 * each / 1e9)
        with pytest.raises(InputError, match=r"a scan for 5 queries needs .* the budget is"):
            select(queries, corpus, 3, strategy="mean")
    finally:
        resources.limit_memory(None)
