"""Selections under limits against a plain walk over all rows in the order of their strategy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer.errors import InputError
from airrep_infer.score.plan import as_corpus
from airrep_infer.score.selection import select
from airrep_infer.score.selection_cover import cover
from airrep_infer.score.selection_limits import MISFITS, Admission, FieldCounts, Limits
from airrep_infer.score.selection_pass import Passes
from airrep_infer.score.selection_turns import take_turns

RANKED = ("pooled", "mean", "max")


def problem(seed, rows=200, count=5):
    rng = np.random.default_rng(seed)
    corpus = rng.normal(size=(rows, 6)).astype(np.float32)
    corpus[rng.integers(0, rows, rows // 3)] = corpus[0]  # copies of one row
    return rng, corpus, rng.normal(size=(count, 6))


def counts(codes, numbers, field="f"):
    return FieldCounts(field, tuple(f"v{n}" for n in range(len(numbers))), codes, np.array(numbers))


def admits(taken, row, corpus, limits, places):
    """Whether a row may follow those taken, by the definitions."""
    for ceiling in limits.at_most:
        code = ceiling.codes[row]
        if (ceiling.codes[taken] == code).sum() >= ceiling.counts[code]:
            return False
    if limits.at_least is not None:
        have = np.bincount(limits.at_least.codes[[*taken, row]], minlength=len(limits.at_least.names))
        if np.maximum(limits.at_least.counts - have, 0).sum() > places - len(taken) - 1:
            return False
    if limits.tokens is not None and limits.tokens[[*taken, row]].sum() > limits.token_budget:
        return False
    if limits.max_cosine is not None and taken:
        unit = corpus / np.linalg.norm(corpus, axis=1, keepdims=True)
        return bool((unit[taken] @ unit[row]).max() <= limits.max_cosine)
    return True


def walk(order, corpus, limits, places):
    taken = []
    for row in order:
        allowed = limits.allowed is None or limits.allowed[row]
        if len(taken) < places and allowed and admits(taken, row, corpus, limits, places):
            taken.append(int(row))
    return taken


def order_of(queries, corpus, strategy):
    scores = queries @ corpus.astype(np.float64).T
    if strategy == "pooled":
        weights = np.exp(np.abs(scores) - np.abs(scores).max(axis=0))
        combined = (weights * scores).sum(axis=0) / weights.sum(axis=0)
    else:
        combined = scores.mean(axis=0) if strategy == "mean" else scores.max(axis=0)
    return np.argsort(-combined, kind="stable")


@pytest.mark.parametrize("strategy", RANKED)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ranked_rows_are_a_walk_down_the_whole_order(strategy, seed):
    rng, corpus, queries = problem(seed)
    limits = Limits(
        allowed=rng.random(200) < 0.8,
        at_most=(counts(rng.integers(0, 2, 200).astype(np.int32), [15, 200], "g"),),
        at_least=counts(rng.integers(0, 3, 200).astype(np.int32), [12, 0, 4]),
        max_cosine=0.9,
    )
    chosen = select(queries, corpus, 20, strategy=strategy, limits=limits, block_rows=64)
    assert chosen.rows.tolist() == walk(order_of(queries, corpus, strategy), corpus, limits, 20)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_round_robin_passes_over_what_is_refused(seed):
    rng, corpus, queries = problem(seed)
    limits = Limits(at_least=counts(rng.integers(0, 2, 200).astype(np.int32), [15, 0]), max_cosine=0.9)
    chosen = select(queries, corpus, 20, strategy="round-robin", limits=limits)
    orders = np.argsort(-(queries @ corpus.astype(np.float64).T), axis=1, kind="stable")
    taken, following = [], [0] * len(queries)
    while len(taken) < 20:
        query = len(taken) % len(queries)
        row = int(orders[query, following[query]])
        following[query] += 1
        if row not in taken and admits(taken, row, corpus, limits, 20):
            taken.append(row)
    assert chosen.rows.tolist() == taken


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_cover_takes_the_best_row_that_is_admitted(seed):
    rng, corpus, queries = problem(seed, rows=60, count=4)
    limits = Limits(at_most=(counts(rng.integers(0, 3, 60).astype(np.int32), [2, 3, 9]),), max_cosine=0.95)
    chosen = select(queries, corpus, 9, limits=limits)
    scores = corpus.astype(np.float64) @ queries.T
    worth = (scores - scores.mean(axis=0)) / (scores.max(axis=0) - scores.mean(axis=0))
    covered, taken = np.zeros(4), []
    for row, gain in zip(chosen.rows.tolist(), chosen.scores.tolist(), strict=True):
        left = [n for n in range(60) if n not in taken and admits(taken, n, corpus, limits, 9)]
        gains = np.maximum(worth[left] - covered, 0).sum(axis=1)
        if gains.max() <= 1e-5:
            covered = np.zeros(4)
            gains = np.maximum(worth[left], 0).sum(axis=1)
        assert row in left
        assert gain == pytest.approx(gains.max(), abs=1e-5) == gains[left.index(row)]
        covered = np.maximum(covered, worth[row])
        taken.append(row)


def test_a_cut_of_the_candidates_still_finds_the_rows_of_a_floor():
    """The rare value scores low for every query: none of its rows is among anyone's best."""
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=(5000, 8)).astype(np.float32)
    rare = np.zeros(5000, np.int32)
    rare[:30] = 1
    corpus[:30] *= 0.01
    queries = rng.normal(size=(10, 8))
    limits = Limits(at_least=counts(rare, [0, 25]), at_most=(counts(rare, [9999, 26], "g"),))
    admission = Admission(limits, as_corpus(corpus), 40)
    chosen = cover(Passes(queries, as_corpus(corpus)), admission, held_scores=1000)
    assert len(set(chosen.rows.tolist())) == 40 and rare[chosen.rows].sum() in (25, 26)


def test_lists_grow_until_a_strict_limit_is_kept():
    """Each of 400 rows is a copy of one of 40: a list of the best 40 rows has four different ones."""
    rng = np.random.default_rng(0)
    corpus = np.repeat(rng.normal(size=(40, 8)), 10, axis=0).astype(np.float32)
    queries, limits = rng.normal(size=(2, 8)), Limits(max_cosine=0.9999)
    rows = as_corpus(corpus)
    for chosen in (
        cover(Passes(queries, rows), Admission(limits, rows, 30), held_scores=10).rows,
        take_turns(Passes(queries, rows), Admission(limits, rows, 30))[0],
        select(queries, corpus, 30, strategy="mean", limits=limits).rows,
    ):
        assert len({row // 10 for row in chosen.tolist()}) == len(chosen) == 30


def test_a_token_budget_is_filled_best_first_and_ends_after_misfits():
    corpus = -np.arange(1000, dtype=np.float32)[:, None]
    tokens = np.full(1000, 50)
    tokens[0], tokens[3] = 120, 20
    limits = Limits(tokens=tokens, token_budget=200)
    for strategy in (*RANKED, "round-robin", "cover"):
        chosen = select(np.ones((1, 1)), corpus, strategy=strategy, limits=limits)
        assert chosen.rows.tolist() == [0, 1, 3], strategy  # 30 tokens are left, and row 2 did not fit
    tokens[:] = 150
    tokens[MISFITS + 2] = 50  # would fill the budget, but nobody looks so far down
    chosen = select(np.ones((1, 1)), corpus, strategy="mean", limits=Limits(tokens=tokens, token_budget=200))
    assert chosen.rows.tolist() == [0]


def test_what_cannot_be_kept_is_named():
    corpus, queries = np.eye(4, dtype=np.float32), np.ones((1, 4))
    codes = np.array([0, 0, 1, 1], np.int32)
    for limits, message in (
        (Limits(at_least=counts(codes, [3, 0])), "f=v0: 3 rows are asked for, and the pool has 2"),
        (Limits(at_least=counts(codes, [2, 2])), "at least 4 rows are asked for by f, and 3 are to be"),
        (Limits(at_most=(counts(codes, [1, 1]),)), "only 2 of 3 rows .* refused by at most of f;"),
        (Limits(max_cosine=-0.5), "only 1 of 3 rows .* refused by max cosine;"),
        (Limits(allowed=np.ones(3, bool)), "limits are of 3 rows, the corpus has 4"),
        (Limits(allowed=codes > 0), "cannot select 3 rows: the corpus has 2"),
        (Limits(tokens=np.ones(4, np.int64), token_budget=2), "exclude each other"),
    ):
        with pytest.raises(InputError, match=message):
            select(queries, corpus, 3, limits=limits)
    with pytest.raises(InputError, match="no row fits into 4 tokens: the shortest has 5"):
        select(queries, corpus, limits=Limits(tokens=np.full(4, 5), token_budget=4))
    with pytest.raises(InputError, match="give a number of rows"):
        select(queries, corpus)
    with pytest.raises(InputError, match="cannot promise"):
        Limits(at_least=counts(codes, [1, 1]), tokens=np.ones(4, np.int64), token_budget=2)
