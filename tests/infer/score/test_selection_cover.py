"""Coverage against plain greedy, and against every subset."""

from itertools import combinations
from math import e
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer.errors import InputError
from airrep_infer.rows.examples import read_examples
from airrep_infer.score.plan import as_corpus
from airrep_infer.score.selection import select
from airrep_infer.score.selection_cover import cover as cover_with
from airrep_infer.score.selection_limits import Admission, Limits
from airrep_infer.score.selection_pass import Passes

DATA = Path(__file__).parents[3] / "demo" / "data"
ROUNDING = 1e-5


def cover(queries, corpus, n, *, limits=None, held_scores=1 << 25, **options):
    rows = as_corpus(corpus)
    admission = Admission(limits or Limits(), rows, n)
    return cover_with(Passes(queries, rows, **options), admission, held_scores=held_scores)


def worth(queries, corpus):
    """w (rows, queries): 1 for a query's best row, 0 for an average one."""
    scores = np.asarray(corpus, np.float64) @ np.asarray(queries, np.float64).T
    mean = scores.mean(axis=0)
    return (scores - mean) / (scores.max(axis=0) - mean)


def check_greedy(values, chosen):
    """Every step took a row whose gain no other exceeds: all gains of all rows are computed at every step.

    Ties are usual (the best row of any query that no other query wants gains 1), so any such row will do.
    """
    covered = np.zeros(values.shape[1])
    for step, (row, gain) in enumerate(zip(chosen.rows.tolist(), chosen.gains.tolist(), strict=True)):
        left = np.setdiff1d(np.arange(len(values)), chosen.rows[:step])
        gains = np.maximum(values[left] - covered, 0).sum(axis=1)
        if gains.max() <= ROUNDING and covered.any():  # each query has its best row: a new round
            covered = np.zeros(values.shape[1])
            gains = np.maximum(values[left], 0).sum(axis=1)
        assert row in left and abs(gain - gains[left == row][0]) < ROUNDING
        assert gain >= gains.max() - ROUNDING
        covered = np.maximum(covered, values[row])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 6), st.data())
def test_lazy_greedy_is_greedy(seed, rows, count, data):
    rng = np.random.default_rng(seed)
    corpus, queries = rng.normal(size=(rows, 5)).astype(np.float32), rng.normal(size=(count, 5))
    n = data.draw(st.integers(1, rows))
    chosen = cover(queries, corpus, n)
    check_greedy(worth(queries, corpus), chosen)


def test_greedy_is_near_the_best_of_all_subsets():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        corpus, queries = rng.normal(size=(12, 4)).astype(np.float32), rng.normal(size=(7, 4))
        values = worth(queries, corpus)

        def total(rows, values=values):
            return np.maximum(values[list(rows)].max(axis=0), 0).sum()

        best = max(total(rows) for rows in combinations(range(12), 3))
        chosen = select(queries, corpus, 3)
        assert total(chosen.rows) == pytest.approx(chosen.scores.sum(), abs=ROUNDING)
        assert (1 - 1 / e) * best <= total(chosen.rows) <= best + ROUNDING


def test_one_row_a_query_is_the_exact_cover():
    """Queries at right angles, one row for each: every strategy could find them, cover must."""
    corpus = np.concatenate([np.eye(6), 0.1 * np.ones((20, 6))]).astype(np.float32)
    chosen = select(np.eye(6), corpus, 6)
    assert sorted(chosen.rows.tolist()) == list(range(6))
    np.testing.assert_array_equal(chosen.rows, chosen.served)


@pytest.mark.parametrize("n", [1, 40, 150])
def test_a_cut_of_the_candidates_loses_little_and_starves_no_query(n):
    rng = np.random.default_rng(1)
    corpus, queries = rng.normal(size=(6000, 8)).astype(np.float32), rng.normal(size=(20, 8))
    whole = cover(queries, corpus, n)
    cut = cover(queries, corpus, n, held_scores=1000, block_rows=700, threads=2)
    assert len(set(cut.rows.tolist())) == n
    values = worth(queries, corpus)
    of_whole, of_cut = (np.maximum(values[rows], 0).max(axis=0).sum() for rows in (whole.rows, cut.rows))
    assert of_cut >= 0.98 * of_whole


def test_queries_that_want_the_same_rows_get_longer_lists():
    rng = np.random.default_rng(2)
    corpus = rng.normal(size=(5000, 3)).astype(np.float32)
    queries = np.repeat(rng.normal(size=(1, 3)), 9, axis=0)
    # Each round is one row, the best that is left: n rows in the order of their scores.
    chosen = cover(queries, corpus, 300, held_scores=1000)
    np.testing.assert_array_equal(chosen.rows, np.argsort(-(corpus @ queries[0]), kind="stable")[:300])


def test_unusable_corpus_is_named():
    corpus = np.ones((3, 2), np.float32)
    corpus[1, 0] = np.nan
    with pytest.raises(InputError, match="corpus holds a NaN"):
        select(np.ones((1, 2)), corpus, 1)


def test_a_goal_of_three_skills_gets_rows_of_all_three():
    """The demo's rows as TF-IDF vectors: as real as an encoder's, and made in no time."""
    text = pytest.importorskip("sklearn.feature_extraction.text", reason="TF-IDF is in the extra train")
    goals = ("capitals", "roman", "plurals")
    train = read_examples(DATA / "train.jsonl")
    queries = [row for row in read_examples(DATA / "queries.jsonl") if row.fields["skill"] in goals]
    words = text.TfidfVectorizer().fit([row.text for row in train])
    corpus = words.transform([row.text for row in train]).toarray()
    vectors = words.transform([row.text for row in queries]).toarray()

    def fewest(strategy):
        chosen = [train[row].fields["skill"] for row in select(vectors, corpus, 30, strategy=strategy).rows]
        counts = [chosen.count(goal) for goal in goals]
        return min(counts)

    assert fewest("cover") >= 4
    assert fewest("cover") > fewest("pooled")
