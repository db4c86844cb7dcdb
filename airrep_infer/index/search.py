"""Searches in the graphs of an index: the most extreme rows of each query, with exact scores.

**Equal vectors** are one vertex of the graph, which stands for all its rows: copies would link only to
each other, and cut the graph to pieces.

**Exact where that is no slower**: a search that would keep every vertex in view (`ef` >= vertices: small
stores, or k near the number of rows) is an exact scan instead. So is one for more opponents than were found
of a probe (200, or twice the k that the index was made for): the graph for opponents may not hold them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from airrep_infer.index.folder import RowArrays
from airrep_infer.index.graph import Floats, Graph, MappedRows, Rows
from airrep_infer.resources import available_cores, one_blas_thread
from airrep_infer.score import attribute, check_at_least_one, rank, rescore
from airrep_infer.store import EmbeddingStore

_SAMPLE = 4096


@dataclass(frozen=True, eq=False)
class Hits:
    """One end of Q queries: row numbers and float64 scores, both (Q, m), most extreme first."""

    rows: Rows
    scores: Floats


class Searcher:
    """The graphs of an index over a store, in memory.

    `graph` has every distinct vector and finds proponents, `opponent_graph` finds opponents. Calls of
    `search` may come from several threads; they run one at a time.
    """

    def __init__(self, store: EmbeddingStore, graph: Graph, opponent_graph: Graph, arrays: RowArrays) -> None:
        self.store = store
        self.graph = graph
        self.opponent_graph = opponent_graph
        self.arrays = arrays
        self.corpus = MappedRows(store)
        self.lock = threading.Lock()  # hnswlib keeps ef in the graph, BLAS its threads in the process

    def search(self, queries: Floats, k: int, ef: int, *, lowest: bool, threads: int | None = None) -> Hits:
        """The k highest (or lowest) scores of each query (Q, D); min(k, rows) of them, ties by row number.

        Args:
            ef: vertices that a search keeps in view, at least k.
        """
        with self.lock, one_blas_thread():
            return self.expand(self.find(queries, k, ef, lowest=lowest, threads=threads), k, lowest=lowest)

    def find(self, queries: Floats, count: int, ef: int, *, lowest: bool, threads: int | None) -> Hits:
        """The `count` best vertices (or all) by their first rows; the caller holds the lock."""
        threads = check_at_least_one(threads, "threads") or available_cores()
        count = min(count, self.graph.vertices)
        ef = max(ef, count)
        graph = self.opponent_graph if lowest else self.graph
        mapped = graph.geometry.queries(-queries if lowest else queries)
        held = not lowest or count <= self.arrays.lowest.shape[1]
        while held and ef < graph.vertices:
            try:
                graph.hnsw.set_ef(ef)
                numbers, _ = graph.hnsw.knn_query(mapped, count, num_threads=threads)
            except RuntimeError as error:
                # A query met fewer than `count` vertices: its part of the graph is not well linked.
                if "contig" not in str(error):
                    raise
                ef *= 2
                continue
            rows = numbers.astype(np.int64)
            return Hits(*rank(rescore(queries, self.corpus, rows, threads), rows, count, lowest=lowest))
        exact = attribute(queries, MappedRows(self.store, self._vertices), k=count, threads=threads)
        if lowest:
            return Hits(self._vertices[exact.opponent_rows], exact.opponent_scores)
        return Hits(self._vertices[exact.proponent_rows], exact.proponent_scores)

    def copies(self, vertices: Rows) -> Rows:
        """How many rows each vertex stands for."""
        firsts = self.arrays.duplicates[:, 0]
        after = np.searchsorted(firsts, vertices, side="right")
        return np.asarray(1 + after - np.searchsorted(firsts, vertices), np.int64)

    def expand(self, hits: Hits, k: int, *, lowest: bool) -> Hits:
        """The k best rows of the best vertices."""
        copies = self.copies(hits.rows)
        if copies.max() == 1:
            return Hits(hits.rows[:, :k], hits.scores[:, :k])
        firsts, others = self.arrays.duplicates.T
        kept = min(k, len(self.store))
        rows, scores = np.empty((len(copies), kept), np.int64), np.empty((len(copies), kept))
        for number, vertices in enumerate(hits.rows):
            equal_rows = [
                np.concatenate([[vertex], others[np.searchsorted(firsts, vertex) :][: min(count - 1, k)]])
                for vertex, count in zip(vertices, copies[number], strict=True)
            ]
            repeated = np.repeat(hits.scores[number], [len(equal) for equal in equal_rows])
            rows[number], scores[number] = rank(repeated, np.concatenate(equal_rows), kept, lowest=lowest)
        return Hits(rows, scores)

    @cached_property
    def sample(self) -> tuple[Rows, NDArray[np.float32]]:
        """The vertices (s,) of a fixed random sample of the rows, and their vectors (s, D)."""
        total = len(self.store)
        rows = np.sort(np.random.default_rng(0).choice(total, min(_SAMPLE, total), replace=False))
        firsts = np.arange(total)
        firsts[self.arrays.duplicates[:, 1]] = self.arrays.duplicates[:, 0]
        return firsts[rows], self.corpus.take(rows)

    @cached_property
    def _vertices(self) -> Rows:
        others = np.zeros(len(self.store), bool)
        others[self.arrays.duplicates[:, 1]] = True
        return np.flatnonzero(~others)
