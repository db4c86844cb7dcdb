"""Selection: the rows of a corpus to train on for a set of queries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError
from airrep_infer.progress import Progress, begin
from airrep_infer.score.plan import (
    Array,
    Corpus,
    ScoreDtype,
    as_corpus,
    check_at_least_one,
    check_queries,
)
from airrep_infer.score.pooling import check_pooling_scale
from airrep_infer.score.rows_of import RowsOf
from airrep_infer.score.selection_cover import cover
from airrep_infer.score.selection_limits import Admission, Limits
from airrep_infer.score.selection_pass import Passes, row_scores
from airrep_infer.score.selection_ranked import select_ranked
from airrep_infer.score.selection_turns import take_turns

Strategy = Literal["cover", "pooled", "mean", "max", "round-robin"]


@dataclass(frozen=True, eq=False)
class Selection:
    """Selected rows (n,) in rank order, the score (n,), float64, that chose each, and whom it serves.

    `served` (n,) is the query that a row was chosen for: the one it adds most to ("cover"), whose turn it
    was ("round-robin"), else the one with the row's highest score.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    served: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


def select(
    queries: ArrayLike,
    corpus: Corpus | Array,
    n: int | None = None,
    *,
    strategy: Strategy = "cover",
    limits: Limits | None = None,
    pooling_scale: float = 1.0,
    block_rows: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    dtype: ScoreDtype | None = None,
) -> Selection:
    """The n rows of a corpus that serve a set of queries (Q, D) best, best first.

    With s_ij the score of row i for query j, the strategies rank rows by

    - "cover": what a row adds to the rows before it, so that every query is served; see `cover`. Exact greedy
      up to 2^25 scores, beyond that among the best rows of each query and of all
    - "pooled": sum_j a_ij s_ij with a_ij = softmax_j(`pooling_scale` * |s_ij|), attention over the queries
    - "mean": mean_j s_ij
    - "max": max_j s_ij
    - "round-robin": queries take turns, in order, each taking the row with its highest score that is
      not taken yet; the score is that query's.

    All but "cover" are exact for any size. Ties go to the lower row. The scores that choose are float64,
    those of "cover" rounded to float32.

    Rows that `limits` refuse are passed over, and the next best is looked at.

    Args:
        n: rows to select; None only with a token budget, which then says when to stop.
        limits: what the selection keeps to.
        block_rows, threads, dtype: as for `attribute`.
        progress: told of the stage "select", in rows, of the first pass; there may be more.

    Raises:
        InputError: queries, n or options that cannot be used, a corpus that holds NaN or infinity, or limits
            that leave fewer than n rows.
    """
    corpus = as_corpus(corpus)
    if strategy not in get_args(Strategy):
        raise InputError(f"unknown strategy {strategy!r}; choose one of {', '.join(get_args(Strategy))}")
    beta = check_pooling_scale(pooling_scale)
    limits = limits or Limits()
    numbers = None
    if limits.allowed is not None:
        if len(limits.allowed) != len(corpus):
            raise InputError(f"limits are of {len(limits.allowed)} rows, the corpus has {len(corpus)}")
        numbers = np.flatnonzero(limits.allowed)
        corpus, limits = as_corpus(RowsOf(corpus, numbers)), limits.of(numbers)
    places = _places(n, corpus, limits)
    vectors = check_queries(queries, corpus)
    admission = Admission(limits, corpus, places)
    passes = Passes(vectors, corpus, block_rows, threads, dtype, begin(progress, "select", len(corpus)))
    if strategy == "cover":
        chosen = cover(passes, admission)
        rows, scores, served = chosen.rows, chosen.gains, chosen.served
    elif strategy == "round-robin":
        rows, scores, served = take_turns(passes, admission)
    else:
        rows, scores = select_ranked(passes, admission, strategy, beta)
        served = _best_served(vectors, corpus, rows)
    if len(rows) < places and limits.token_budget is None:
        raise InputError(_too_few(len(rows), places, admission.reasons))
    return Selection(rows if numbers is None else numbers[rows], scores, served)


def _places(n: int | None, corpus: Corpus, limits: Limits) -> int:
    """How many rows are selected, at most: what was asked for, or what a token budget can pay."""
    if limits.tokens is not None and limits.token_budget is not None:
        if n is not None:
            raise InputError("a number of rows and a token budget exclude each other; give one")
        check_at_least_one(limits.token_budget, "the token budget")
        shortest_first = np.cumsum(np.sort(limits.tokens))
        places = int(np.searchsorted(shortest_first, limits.token_budget, side="right"))
        if not places:
            raise InputError(
                f"no row fits into {limits.token_budget} tokens: the shortest has {limits.tokens.min()}; "
                "ask for more"
            )
        return places
    if n is None:
        raise InputError("give a number of rows to select, or limits with a token budget")
    check_at_least_one(n, "the number of rows to select")
    if n > len(corpus):
        raise InputError(f"cannot select {n} rows: the corpus has {len(corpus)}; choose at most that many")
    limits.check_supply(n)
    return n


def _too_few(selected: int, wanted: int, reasons: Iterable[str]) -> str:
    return (
        f"only {selected} of {wanted} rows could be selected; the others were refused by "
        f"{', '.join(reasons)}; loosen the limits, or ask for fewer rows"
    )


def _best_served(queries: NDArray[np.float64], corpus: Corpus, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The query (m,) for which each of some rows has its highest score."""
    served = np.empty(len(rows), np.int64)
    for part, scores in row_scores(queries, corpus, rows):
        served[part] = scores.argmax(axis=1)
    return served
