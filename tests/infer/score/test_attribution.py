"""One-pass attribution against full sorts and full softmaxes in float64."""

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from airrep_infer.errors import InputError
from airrep_infer.score.attribution import Influence, attribute
from airrep_infer.score.groups import Groups

ABSOLUTE = 1e-5  # relative to max(1, |value|)
SETTINGS = settings(max_examples=120, deadline=None)
DTYPES = ("float32", "float64", None)


class Parts:
    """A corpus in parts of odd sizes: blocks never cross a part, as in an `EmbeddingStore`."""

    def __init__(self, array, cuts):
        self.array, self.parts = array, np.split(np.arange(len(array)), cuts)

    def __len__(self):
        return len(self.array)

    def blocks(self, size, wanted=None):
        for part in self.parts:
            for start in range(0, len(part), size):
                first, end = int(part[start]), int(part[start : start + size][-1]) + 1
                if wanted is None or wanted(first, end):
                    yield first, self.array[first:end]

    def take(self, numbers):
        return self.array[numbers].astype(np.float32)


def pool(scores, beta):
    exponents = beta * np.abs(scores)
    weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    return (weights * scores).sum(axis=1) / weights.sum(axis=1)


def assert_close(actual, expected):
    assert np.all(np.abs(actual - expected) <= ABSOLUTE * np.maximum(1, np.abs(expected)))


def assert_correct(result, queries, corpus, k, beta, members=None):
    """`result` is what full sorts and softmaxes of the float64 scores give."""
    scores = np.asarray(queries, np.float64) @ np.asarray(corpus, np.float64).T
    rows = np.arange(len(corpus))
    for query, line in enumerate(scores):
        one = result[query]
        for found, key in ((one.proponents, -line), (one.opponents, line)):
            expected = np.lexsort((rows, key))[:k]
            assert_close(np.array([item.score for item in found]), line[expected])
            assert len({item.row for item in found}) == min(k, len(rows))
            # Rows may differ only where float64 scores tie up to the order of summation.
            assert_close(line[[item.row for item in found]], line[expected])
    assert_close(result.group_influence, pool(scores, beta))
    for name, numbers in (members or {}).items():
        expected = pool(scores[:, numbers], beta)
        assert_close(np.array([one.groups[name] for one in result]), expected)


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, dimension, count = draw(st.integers(1, 300)), draw(st.integers(1, 12)), draw(st.integers(1, 6))
    corpus, queries = rng.normal(size=(n, dimension)), rng.normal(size=(count, dimension))
    corpus, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (corpus, queries))
    if draw(st.booleans()):  # duplicates
        corpus = corpus[rng.integers(0, max(1, n // 4), n)]
    corpus = corpus.astype(draw(st.sampled_from([np.float32, np.float16])))
    cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=4))) if n > 1 else []
    options = {
        "k": draw(st.sampled_from([1, 2, 10, 400])),
        "block_rows": draw(st.one_of(st.none(), st.integers(1, 320))),
        "threads": draw(st.integers(1, 4)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "pooling_scale": draw(st.sampled_from([0.0, 0.7, 1.0, 12.0])),
    }
    return queries.astype(np.float32), corpus, cuts, options, rng


@SETTINGS
@given(problems())
def test_partition_in_any_blocks_threads_and_parts(problem):
    queries, corpus, cuts, options, rng = problem
    count = min(len(corpus), 5)
    others = rng.integers(-1, count, len(corpus) - count)
    codes = rng.permutation(np.concatenate([np.arange(count), others]))
    groups = Groups.from_codes([f"g{code}" for code in range(count)], codes)
    result = attribute(queries, Parts(corpus, cuts), groups=groups, **options)
    members = {f"g{code}": np.flatnonzero(codes == code) for code in range(count)}
    assert_correct(result, queries, corpus, options["k"], options["pooling_scale"], members)


@SETTINGS
@given(problems())
def test_overlapping_groups_in_any_blocks_threads_and_parts(problem):
    queries, corpus, cuts, options, rng = problem
    members = {
        f"g{number}": rng.permutation(len(corpus))[: rng.integers(1, len(corpus) + 1)] for number in range(4)
    } | {"one row": np.array([len(corpus) - 1])}
    result = attribute(queries, Parts(corpus, cuts), groups=Groups.from_members(members), **options)
    assert_correct(result, queries, corpus, options["k"], options["pooling_scale"], members)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lines", ["equal", "integers", "zeros"])
@pytest.mark.parametrize("block_rows", [3, 64, 5000])
def test_ties_go_to_the_lower_row(dtype, lines, block_rows):
    rng = np.random.default_rng(0)
    corpus = {
        "equal": np.ones((1000, 4)),
        "integers": rng.integers(-2, 3, (1000, 4)),
        "zeros": np.copysign(0.0, rng.normal(size=(1000, 4))),
    }[lines].astype(np.float32)
    queries = rng.integers(-2, 3, (5, 4)).astype(np.float32)
    groups = Groups.from_codes("ab", rng.integers(0, 2, 1000))
    scores = queries @ corpus.T
    for threads in (1, 2, 3):
        for grouped in (None, groups):
            result = attribute(
                queries, corpus, k=30, threads=threads, dtype=dtype, block_rows=block_rows, groups=grouped
            )
            order = np.argsort(-scores, axis=1, kind="stable")[:, :30]
            np.testing.assert_array_equal(result.proponent_rows, order)
            order = np.argsort(scores, axis=1, kind="stable")[:, :30]
            np.testing.assert_array_equal(result.opponent_rows, order)


@pytest.mark.parametrize("ascending", [True, False])
def test_corpus_sorted_by_score_is_the_worst_case_and_right(ascending):
    corpus = np.linspace(-1, 1, 20_000, dtype=np.float32)[:: 1 if ascending else -1, None]
    queries = np.array([[1.0], [-1.0], [0.5]], np.float32)
    for threads in (1, 2):
        result = attribute(queries, corpus, k=50, threads=threads, block_rows=512, dtype="float32")
        assert_correct(result, queries, corpus, 50, 1.0)


def test_equal_options_give_equal_bits():
    rng = np.random.default_rng(0)
    corpus, queries = rng.normal(size=(5000, 32)).astype(np.float32), rng.normal(size=(40, 32))
    runs = [attribute(queries, corpus, threads=3, block_rows=100, dtype="float32") for _ in range(3)]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.group_influence, runs[0].group_influence)
        np.testing.assert_array_equal(run.proponent_rows, runs[0].proponent_rows)
        np.testing.assert_array_equal(run.proponent_scores, runs[0].proponent_scores)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_of_ten_thousand_do_not_overflow(dtype):
    corpus = np.array([[1e4], [-9.9e3], [3.0], [0.0]], np.float32)
    result = attribute(np.array([[1.0], [-1.0]]), corpus, k=1, dtype=dtype)
    np.testing.assert_allclose(result.group_influence, [1e4, -1e4], rtol=ABSOLUTE)


def test_more_queries_than_a_block_holds():
    rng = np.random.default_rng(0)
    corpus, queries = rng.normal(size=(700, 3)).astype(np.float32), rng.normal(size=(2500, 3))
    result = attribute(queries, corpus, k=3)
    assert_correct(result, queries, corpus, 3, 1.0)


def test_long_vectors_are_right_in_float64_and_the_whole_corpus_in_float32_too():
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=(4000, 384)).astype(np.float32)
    queries = rng.normal(size=(20, 384)).astype(np.float32)
    codes = np.arange(4000) % 7
    groups = Groups.from_codes("abcdefg", codes)
    members = {name: np.flatnonzero(codes == code) for code, name in enumerate("abcdefg")}
    assert_correct(attribute(queries, corpus, groups=groups), queries, corpus, 10, 1.0, members)
    assert_correct(attribute(queries, corpus, dtype="float32"), queries, corpus, 10, 1.0)


def test_result_by_query():
    result = attribute(np.array([[2.0], [-1.0]]), np.array([[1.0], [3.0]], np.float32), k=1, pooling_scale=0)
    assert len(result) == 2
    assert [one.query for one in result] == [0, 1]
    assert result[-1].proponents == (Influence(0, -1.0),)
    assert result[0].opponents == (Influence(0, 2.0),)
    assert result[0].group_influence == 4.0
    assert result[0].groups is None
    with pytest.raises(IndexError):
        result[2]


def test_progress_reports_every_row_and_blas_threads_are_restored():
    before = [info["num_threads"] for info in threadpool_info()]
    reports = []
    attribute(
        np.ones((1, 2)),
        np.ones((1000, 2), np.float32),
        block_rows=64,
        threads=3,
        progress=lambda *report: reports.append(report),
    )
    assert {(stage, total) for stage, _, total in reports} == {("attribute", 1000)}
    done = [done for _, done, _ in reports]
    # The last block has 40 rows, and another worker may report a block after it.
    assert done[0] == 0 and done[-1] == 1000 and set(np.diff(done)) == {40, 64} and len(done) == 17
    assert [info["num_threads"] for info in threadpool_info()] == before


class Generated:
    """A corpus of any length that is nowhere in memory."""

    def __init__(self, rows):
        self.rows = rows
        self.block = np.random.default_rng(0).normal(size=(512, 8)).astype(np.float32)

    def __len__(self):
        return self.rows

    def blocks(self, size, wanted=None):
        for first in range(0, self.rows, size):
            count = min(size, self.rows - first)
            if wanted is None or wanted(first, first + count):
                yield first, self.block[:count]

    def take(self, numbers):
        return self.block[numbers % 512]


def peak_bytes(rows):
    tracemalloc.start()
    attribute(np.eye(8), Generated(rows), k=5, block_rows=512, threads=2, dtype="float32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_peak_memory_does_not_grow_with_the_corpus():
    # How many tiles two threads hold at the same moment differs from run to run, by up to a third of the
    # peak. A single byte kept for each row would more than double it.
    peak_bytes(10_000)  # the first pass also fills caches
    assert peak_bytes(800_000) < 2 * peak_bytes(10_000)


def test_an_interrupt_ends_all_workers():
    def interrupt(stage, done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attribute(
            np.ones((1, 2)), np.ones((1000, 2), np.float32), block_rows=1, threads=3, progress=interrupt
        )
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scan")]


ROWS = np.ones((4, 2), np.float32)
QUERY = np.ones((1, 2))


@pytest.mark.parametrize(
    ("queries", "corpus", "options", "message"),
    [
        (np.ones((1, 3)), ROWS, {}, "dimension 3, the corpus has 2"),
        (np.ones((0, 2)), ROWS, {}, "no queries"),
        (np.ones(2), ROWS, {}, r"\(Q, D\), got float64 \(2,\)"),
        (np.array([[1, 1], [np.nan, 1]]), ROWS, {}, "query 1 holds a NaN"),
        (np.array([[np.inf, 1]]), ROWS, {}, "query 0 holds a NaN or an infinity"),
        (QUERY, ROWS[:0], {}, "corpus has no rows"),
        (QUERY, ROWS[0], {}, r"\(n, D\)"),
        (QUERY, np.array([[1, np.nan]], np.float32), {}, "corpus holds a NaN"),
        (QUERY, np.array([[1, 1], [np.inf, 1]], np.float32), {"dtype": "float32"}, "corpus holds a NaN"),
        (QUERY, ROWS, {"k": 0}, "k must be"),
        (QUERY, ROWS, {"block_rows": 0}, "block_rows must be"),
        (QUERY, ROWS, {"threads": -1}, "threads must be"),
        (QUERY, ROWS, {"dtype": "float16"}, "float32 or float64, not float16"),
        (QUERY, ROWS, {"pooling_scale": -0.1}, "pooling scale"),
        (QUERY, ROWS, {"groups": Groups.from_codes(["a"], [0])}, "cover 1 rows, the corpus has 4"),
        (QUERY, ROWS, {"groups": Groups.from_codes(["a"], [0, 0, 1, 0])}, "in group 1, but there are 1"),
        (QUERY, ROWS, {"groups": Groups.from_codes("ab", [0, 0, 0, 0])}, "group 'b' has no rows"),
        (QUERY, ROWS, {"groups": Groups.from_codes("aa", [0, 0, 0, 1])}, "distinct names"),
        (QUERY, ROWS, {"groups": Groups.from_members({"é": [1, 4]})}, "'é' names row 4; .* 0 to 3"),
        (QUERY, ROWS, {"groups": Groups.from_members({"a": [2, -1]})}, "names row -1"),
        (QUERY, ROWS, {"groups": Groups.from_members({"a": [2, 2]})}, "row 2 twice"),
        (QUERY, ROWS, {"groups": Groups.from_members({"a": []})}, "no rows"),
        (QUERY, ROWS, {"groups": Groups.from_members({})}, "at least one; got 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_unusable_input_is_named(queries, corpus, options, message):
    with pytest.raises(InputError, match=message):
        attribute(queries, corpus, **options)
