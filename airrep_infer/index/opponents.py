"""Which rows can be opponents: the few that are among the lowest of many queries.

Queries lie where rows lie, so a search with q starts among its answers. -q lies where no row is: seen from
there all rows are far, nearly equally so, and a graph of all of them has no way that leads to the best.
But opponents are the same few rows again and again ("hubs": Radovanovic et al., JMLR 2010). So some rows, the
probes, stand for the queries to come: their lowest rows are found exactly, and the graph that is searched
for opponents holds what is among the lowest of any probe, and nothing else. Of a million rows that is a
sixth, and holds 98% of the ten lowest of queries which were no probes (`benchmarks/index.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from airrep_infer.index.graph import MappedRows, Rows
from airrep_infer.progress import Progress, begin
from airrep_infer.resources import check_memory, memory_budget
from airrep_infer.score import ScanPlan, TopK, check_queries, scan
from airrep_infer.store import EmbeddingStore

PROBES = 10_000  # at least, or every row
ROWS_PER_PROBE = 100
LOWEST = 200  # of a probe; at least, and at least twice the k that the recall is measured with
_PROBES_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class Probed:
    """What probes found: opponents (o,), sorted row numbers; the probes (P,) and their lowest scores (P, m).

    The scores are sorted; where there are fewer than m rows, infinity stands for the rest.
    """

    opponents: Rows
    probes: Rows
    lowest: NDArray[np.float32]


def probe(
    store: EmbeddingStore,
    distinct: Rows,
    count: int,
    threads: int,
    before: Probed | None = None,
    old_rows: int = 0,
    progress: Progress | None = None,
) -> Probed:
    """The rows of a store that are among the `count` lowest of any probe.

    Args:
        distinct: the first rows of equal vectors, sorted; no others are probes or found.
        before: what was found when the store had `old_rows` rows; a row that was an opponent stays one.
    """
    step = min(max(1, len(store) // PROBES), ROWS_PER_PROBE)
    chosen = distinct[(distinct >= old_rows) & (distinct % step == 0)]
    new = distinct[distinct >= old_rows]
    scored = _passes(chosen, distinct, count, threads) * len(distinct)
    if before:
        scored += _passes(before.probes, new, count, threads) * len(new)
    done = begin(progress, "find opponents", scored)
    rows, scores = _lowest(store, chosen, distinct, count, threads, done)
    lowest = np.pad(scores, ((0, 0), (0, count - scores.shape[1])), constant_values=np.inf)
    probed = Probed(np.unique(rows), chosen, lowest)
    if before is None:
        return probed
    rows, scores = _lowest(store, before.probes, new, count, threads, done)
    merged = np.sort(np.concatenate([before.lowest, scores], axis=1), axis=1)[:, :count]
    entered = rows[scores <= merged[:, -1:]]
    return Probed(
        np.unique(np.concatenate([before.opponents, probed.opponents, entered])),
        np.concatenate([before.probes, chosen]),
        np.concatenate([merged, lowest]),
    )


def _lowest(
    store: EmbeddingStore,
    probes: Rows,
    among: Rows,
    count: int,
    threads: int,
    done: Callable[[int], object],
) -> tuple[Rows, NDArray[np.float32]]:
    """(rows, scores), both (P, min(count, n)), of each probe's lowest of the n rows `among`.

    Raises:
        InputError: the memory budget does not hold them.
    """
    kept = min(count, len(among))
    check_memory(
        2 * 12 * len(probes) * kept,
        f"finding the {kept} lowest rows of {len(probes)} probes",
        "measure the recall with a lower -k",
    )
    rows = np.empty((len(probes), kept), np.int64)
    scores = np.empty(rows.shape, np.float32)
    if not rows.size:
        return rows, scores
    corpus = store if len(among) == len(store) else MappedRows(store, among)
    at_once = _at_once(kept, threads)
    for start in range(0, len(probes), at_once):
        part = slice(start, start + at_once)
        queries = check_queries(-store.take(probes[part]), corpus)
        lists = partial(TopK, len(queries), kept)
        plan = ScanPlan(queries, corpus, lists, threads=threads, report=done, dtype="float32")
        places, highest = scan(plan).seen.result()
        rows[part], scores[part] = among[places], -highest
    return rows, scores


def _at_once(kept: int, threads: int) -> int:
    """Probes of a pass: as many as the lists of all threads may have in a quarter of the memory budget."""
    entry = 3 * 12  # bytes, with the room for more, while a list is cut back
    return max(1, min(_PROBES_AT_ONCE, memory_budget() // 4 // (entry * max(1, kept) * threads)))


def _passes(probes: Rows, among: Rows, count: int, threads: int) -> int:
    return -(-len(probes) // _at_once(min(count, len(among)), threads))
