"""Selection against full score matrices in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer.errors import InputError
from airrep_infer.score.selection import select

ABSOLUTE = 1e-5
STRATEGIES = ("pooled", "mean", "max", "round-robin")  # "cover" is in test_selection_cover.py


def plain(queries, corpus, n, strategy, beta):
    """(rows, scores) by the definitions, with full sorts."""
    scores = np.asarray(queries, np.float64) @ np.asarray(corpus, np.float64).T
    if strategy == "round-robin":
        taken = {}
        for turn in range(n):
            line = scores[turn % len(scores)]
            row = next(row for row in np.argsort(-line, kind="stable") if row not in taken)
            taken[row] = line[row]
        return np.array(list(taken)), np.array(list(taken.values()))
    if strategy == "max":
        combined = scores.max(axis=0)
    else:
        exponents = (0.0 if strategy == "mean" else beta) * np.abs(scores)
        weights = np.exp(exponents - exponents.max(axis=0))
        combined = (weights * scores).sum(axis=0) / weights.sum(axis=0)
    rows = np.argsort(-combined, kind="stable")[:n]
    return rows, combined[rows]


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_selection_is_its_definition(strategy, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows, count, dimension = (data.draw(st.integers(1, most)) for most in (300, 8, 6))
    corpus = rng.normal(size=(rows, dimension)).astype(data.draw(st.sampled_from([np.float32, np.float16])))
    queries = rng.normal(size=(count, dimension)).astype(np.float32)
    if data.draw(st.booleans()):  # queries that want the same rows
        queries[:] = queries[0]
    n = data.draw(st.integers(1, rows))
    beta = data.draw(st.sampled_from([0.0, 1.0, 5.0]))
    selection = select(
        queries,
        corpus,
        n,
        strategy=strategy,
        pooling_scale=beta,
        block_rows=data.draw(st.one_of(st.none(), st.integers(1, 300))),
        threads=data.draw(st.integers(1, 3)),
        dtype=data.draw(st.sampled_from([None, "float32"])),
    )
    expected, scores = plain(queries, corpus, n, strategy, beta)
    assert len(set(selection.rows.tolist())) == len(selection) == n
    np.testing.assert_allclose(selection.scores, scores, rtol=ABSOLUTE, atol=ABSOLUTE)
    np.testing.assert_array_equal(selection.rows, expected)
    by_row = corpus[selection.rows].astype(np.float64) @ queries.astype(np.float64).T
    served = by_row[np.arange(n), selection.served]
    best = selection.scores if strategy == "round-robin" else by_row.max(axis=1)
    np.testing.assert_allclose(served, best, rtol=ABSOLUTE, atol=ABSOLUTE)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("block_rows", [7, 1000])
def test_ties_go_to_the_lower_row(strategy, block_rows):
    rng = np.random.default_rng(0)
    corpus = rng.integers(-1, 2, (500, 3)).astype(np.float32)
    queries = rng.integers(-1, 2, (1, 3)).astype(np.float32).repeat(4, axis=0)
    for dtype in ("float32", "float64"):
        selection = select(queries, corpus, 200, strategy=strategy, block_rows=block_rows, dtype=dtype)
        np.testing.assert_array_equal(selection.rows, plain(queries, corpus, 200, strategy, 1.0)[0])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_queries_than_a_block_holds(strategy):
    rng = np.random.default_rng(0)
    corpus, queries = rng.normal(size=(300, 3)).astype(np.float32), rng.normal(size=(2100, 3))
    selection = select(queries, corpus, 120, strategy=strategy)
    np.testing.assert_array_equal(selection.rows, plain(queries, corpus, 120, strategy, 1.0)[0])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_unusable_input_is_named(strategy):
    corpus = np.ones((3, 2), np.float32)
    with pytest.raises(InputError, match="cannot select 4 rows: the corpus has 3"):
        select(np.ones((1, 2)), corpus, 4, strategy=strategy)
    with pytest.raises(InputError, match="rows to select must be"):
        select(np.ones((1, 2)), corpus, 0, strategy=strategy)
    with pytest.raises(InputError, match="dimension 3, the corpus has 2"):
        select(np.ones((1, 3)), corpus, 1, strategy=strategy)
    corpus[1, 0] = np.nan
    with pytest.raises(InputError, match="corpus holds a NaN"):
        select(np.ones((1, 2)), corpus, 1, strategy=strategy)


def test_unknown_strategy_is_an_error():
    with pytest.raises(InputError, match="'best'; choose one of cover, pooled, mean, max, round-robin"):
        select(np.ones((1, 2)), np.ones((3, 2), np.float32), 1, strategy="best")
