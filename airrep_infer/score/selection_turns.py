"""Selection in turns: each query takes its best row that is left."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from airrep_infer.resources import check_memory
from airrep_infer.score.selection_limits import Admission
from airrep_infer.score.selection_pass import Passes
from airrep_infer.score.top_k import SLACK, TopK, rank, rescore

_FIRST_LIST = 32
# A list's entry is a key with room for half as many more, then a row number and a score, each sorted once.
_ENTRY_BYTES = 48


def take_turns(
    passes: Passes, admission: Admission
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Rows (m,) in the order in which they were taken, their scores, and the query of each.

    The queries choose from lists of their best rows. When a list runs out too early, they are made anew,
    twice as long.

    Raises:
        InputError: the lists would not fit into memory.
    """
    queries, corpus = passes.queries, passes.corpus
    length = max(_FIRST_LIST, 2 * -(-admission.expected // len(queries)))
    # Without limits a list of as many rows as are wanted cannot run out before they are taken.
    longest = len(corpus) if admission.limited else min(admission.places, len(corpus))
    while True:
        length = min(length, longest)
        check_memory(
            _ENTRY_BYTES * len(queries) * length,
            f"a list of the best {length} rows of each of {len(queries)} queries",
            "loosen the limits, or take another strategy",
        )
        kept = min(length + SLACK, len(corpus))
        rows, _ = passes(partial(TopK, len(queries), kept), len(queries) * kept).result()
        listed, scores = rank(rescore(queries, corpus, rows, passes.threads), rows, length)
        dealt = _deal(listed, admission, to_the_end=length == longest)
        if dealt is not None:
            places, served = dealt
            return listed[served, places], scores[served, places], np.array(served, np.int64)
        length *= 2


def _deal(
    listed: NDArray[np.int64], admission: Admission, *, to_the_end: bool = False
) -> tuple[list[int], list[int]] | None:
    """Where in their lists (Q, L) the queries find the rows that they take, and the query of each.

    None if a list runs out.

    Args:
        to_the_end: a list that runs out has all rows of the corpus, so there is nothing left to take.
    """
    admission.restart()
    gone: set[int] = set()
    places: list[int] = []
    served: list[int] = []
    following = [0] * len(listed)
    query = 0
    while not admission.is_full():
        if following[query] == listed.shape[1]:
            return (places, served) if to_the_end else None
        row = int(listed[query, following[query]])
        following[query] += 1
        if row in gone:
            continue
        gone.add(row)
        if admission.admit(row):
            places.append(following[query] - 1)
            served.append(query)
            query = (query + 1) % len(listed)
    return places, served
