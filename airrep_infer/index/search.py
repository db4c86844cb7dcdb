"""Approximate top-k over a store, in milliseconds: optional hnswlib graphs in front of the exact scan.

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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError
from airrep_infer.index.folder import IndexManifest, RowArrays, load_arrays
from airrep_infer.index.graph import Floats, Geometry, MappedRows, Rows, load_graph, load_hnswlib
from airrep_infer.index.influence_bound import influence_bounds
from airrep_infer.resources import available_cores, one_blas_thread
from airrep_infer.score.attribution import Attributions, attribute
from airrep_infer.score.plan import check_at_least_one, check_queries
from airrep_infer.score.pooling import check_pooling_scale
from airrep_infer.score.top_k import rank, rescore
from airrep_infer.store.store import EmbeddingStore

TAIL = 100
_SAMPLE = 4096
_QUERIES_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Hits:
    """One end of Q queries: row numbers and float64 scores, both (Q, m), most extreme first."""

    rows: Rows
    scores: Floats


class AnnIndex:
    """An opened index over a store, in memory; `build_index` makes one.

    Calls may come from several threads; they search one at a time.
    """

    def __init__(
        self,
        path: Path,
        store: EmbeddingStore,
        manifest: IndexManifest,
        graph: Any,
        hub_graph: Any,
        arrays: RowArrays,
    ) -> None:
        self.path = path
        self.store = store
        self.manifest = manifest
        self.graph = graph
        self.hub_graph = hub_graph
        self.arrays = arrays
        self._geometry = Geometry(arrays.centre, manifest.graph.radius)
        self._hub_geometry = Geometry(arrays.hub_centre, manifest.hubs.radius)
        self._corpus = MappedRows(store)
        self._lock = threading.Lock()  # hnswlib keeps ef in the graph, BLAS its threads in the process

    @classmethod
    def open(cls, path: str | Path, store: EmbeddingStore | str | Path) -> AnnIndex:
        """Read an index of a store; the content of its files is compared with their sha256.

        Raises:
            InputError: no index, a damaged one, one of another store, one that lacks rows which were
                added to the store since; or hnswlib is not installed.
        """
        path = Path(path)
        if not isinstance(store, EmbeddingStore):
            store = EmbeddingStore.open(store)
        manifest = IndexManifest.open(path)
        manifest.check_store(path, store)
        if len(store) > manifest.rows:
            raise InputError(
                f"{path}: has {manifest.rows} of the {len(store)} rows of {store.path}; add the new ones "
                f"with `airrep-infer index {store.path} -o {path}`"
            )
        load_hnswlib()
        manifest.check_files(path)
        graph, hub_graph = (
            load_graph(path, facts, manifest.space.dimension) for facts in (manifest.graph, manifest.hubs)
        )
        return cls(path, store, manifest, graph, hub_graph, load_arrays(path, manifest))

    def __len__(self) -> int:
        return self.manifest.rows

    def proponents(
        self, queries: ArrayLike, k: int = 10, *, ef: int | None = None, threads: int | None = None
    ) -> Hits:
        """The k highest scores of each query (Q, D); min(k, rows) of them, ties by row number.

        Args:
            ef: vertices that a search keeps in view; default, what reached the target recall.
            threads: workers; default, the cores this process may use.

        Raises:
            InputError: queries or options that cannot be used.
        """
        return self._hits(queries, k, ef, threads, lowest=False)

    def opponents(
        self, queries: ArrayLike, k: int = 10, *, ef: int | None = None, threads: int | None = None
    ) -> Hits:
        """The k lowest scores of each query, lowest first; see `proponents`."""
        return self._hits(queries, k, ef, threads, lowest=True)

    def attribute(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        pooling_scale: float | None = None,
        tail: int = TAIL,
        threads: int | None = None,
    ) -> Attributions:
        """Both ends of each query, and an estimate of the influence of the whole store with its error.

        The distinct vectors with the `tail` highest and lowest scores enter the influence exactly; the rows
        between are estimated from a fixed random sample of 4,096 rows. `group_influence_error` is no
        standard error but a bound: with the number and the mean of the scores between (both exact), no
        scores between the two ends' last can give an influence further away. The bound assumes that
        the index missed no row that scores beyond those last ones (what the sample shows of such
        rows is taken in), and leaves out rounding.

        Args:
            pooling_scale: beta; default, the store's.
            tail: more make the bound tighter and the search slower.
        """
        beta = check_pooling_scale(self.store.pooling_scale if pooling_scale is None else pooling_scale)
        check_at_least_one(k, "k")
        check_at_least_one(tail, "tail")
        vectors = check_queries(queries, self._corpus)
        with self._lock, one_blas_thread():
            found = [
                self._attribute(vectors[start : start + _QUERIES_AT_ONCE], k, beta, tail, threads)
                for start in range(0, len(vectors), _QUERIES_AT_ONCE)
            ]
        high, low, influence, error = zip(*found, strict=True)
        return Attributions(
            np.concatenate(influence),
            np.concatenate([hits.rows for hits in high]),
            np.concatenate([hits.scores for hits in high]),
            np.concatenate([hits.rows for hits in low]),
            np.concatenate([hits.scores for hits in low]),
            group_influence_error=np.concatenate(error),
        )

    def _attribute(
        self, queries: Floats, k: int, beta: float, tail: int, threads: int | None
    ) -> tuple[Hits, Hits, Floats, Floats]:
        count = max(k, tail)
        measured = self.manifest.measured
        # Twice the tail, so that a tail longer than the measured k is found as well as that.
        high = self._find(queries, count, max(measured.proponents.ef, 2 * count), threads, lowest=False)
        low = self._find(queries, count, max(measured.opponents.ef, 2 * count), threads, lowest=True)
        rows = np.concatenate([high.rows, low.rows], axis=1)
        scores = np.concatenate([high.scores, low.scores], axis=1)
        counts = self._copies(rows).astype(np.float64)
        sampled, vectors = self._sample
        between = (queries.astype(np.float32) @ vectors.T).astype(np.float64)
        inside = np.empty(between.shape, bool)
        for number, found in enumerate(rows):
            # Where there are few rows, one can be in both ends.
            counts[number, high.rows.shape[1] :][np.isin(low.rows[number], high.rows[number])] = 0
            inside[number] = ~np.isin(sampled, found)
        others = len(self) - counts.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (queries @ self.arrays.total - (counts * scores).sum(axis=1)) / others
        # A sampled row that an end missed shows how far beyond its last score the others may lie.
        seen = np.concatenate([np.where(inside, between, scores[:, -1:]), high.scores[:, -1:]], axis=1)
        lower, upper = influence_bounds(
            scores, counts, seen.min(axis=1), seen.max(axis=1), others, mean, beta
        )

        # The sampled rows stand for all others; where none was sampled, their mean does.
        none = (~inside.any(axis=1) & (others > 0))[:, None]
        inside = np.concatenate([inside, none], axis=1)
        values = np.concatenate([scores, between, np.where(none, mean[:, None], 0.0)], axis=1)
        shares = inside * (others / np.maximum(inside.sum(axis=1), 1))[:, None]
        estimate = _pool(values, np.concatenate([counts, shares], axis=1), beta)
        estimate = np.clip(estimate, lower, upper)
        error = np.maximum(upper - estimate, estimate - lower)
        return self._expand(high, k, lowest=False), self._expand(low, k, lowest=True), estimate, error

    @cached_property
    def _sample(self) -> tuple[Rows, NDArray[np.float32]]:
        """The vertices (s,) of some rows, and their vectors (s, D)."""
        size = min(_SAMPLE, len(self))
        rows = np.sort(np.random.default_rng(0).choice(len(self), size, replace=False))
        firsts = np.arange(len(self))
        firsts[self.arrays.duplicates[:, 1]] = self.arrays.duplicates[:, 0]
        return firsts[rows], self._corpus.take(rows)

    def _hits(self, queries: ArrayLike, k: int, ef: int | None, threads: int | None, *, lowest: bool) -> Hits:
        check_at_least_one(k, "k")
        check_at_least_one(ef, "ef")
        measured = self.manifest.measured
        ef = ef or (measured.opponents if lowest else measured.proponents).ef
        vectors = check_queries(queries, self._corpus)
        with self._lock, one_blas_thread():
            return self._expand(self._find(vectors, k, ef, threads, lowest=lowest), k, lowest=lowest)

    def _find(self, queries: Floats, count: int, ef: int, threads: int | None, *, lowest: bool) -> Hits:
        """The `count` best vertices (or all) by their first rows."""
        threads = check_at_least_one(threads, "threads") or available_cores()
        count = min(count, self.manifest.graph.vertices)
        ef = max(ef, count)
        if lowest:
            graph, vertices = self.hub_graph, self.manifest.hubs.vertices
            mapped = self._hub_geometry.queries(-queries)
        else:
            graph, vertices = self.graph, self.manifest.graph.vertices
            mapped = self._geometry.queries(queries)
        held = not lowest or count <= self.arrays.lowest.shape[1]
        while held and ef < vertices:
            try:
                graph.set_ef(ef)
                found, _ = graph.knn_query(mapped, count, num_threads=threads)
            except RuntimeError as error:
                # A query met fewer than `count` vertices: its part of the graph is not well linked.
                if "contig" not in str(error):
                    raise
                ef *= 2
                continue
            rows = found.astype(np.int64)
            return Hits(*rank(rescore(queries, self._corpus, rows, threads), rows, count, lowest=lowest))
        exact = attribute(queries, MappedRows(self.store, self._vertices), k=count, threads=threads)
        if lowest:
            return Hits(self._vertices[exact.opponent_rows], exact.opponent_scores)
        return Hits(self._vertices[exact.proponent_rows], exact.proponent_scores)

    @cached_property
    def _vertices(self) -> Rows:
        others = np.zeros(len(self), bool)
        others[self.arrays.duplicates[:, 1]] = True
        return np.flatnonzero(~others)

    def _copies(self, vertices: Rows) -> Rows:
        """How many rows each vertex stands for."""
        firsts = self.arrays.duplicates[:, 0]
        after = np.searchsorted(firsts, vertices, side="right")
        return np.asarray(1 + after - np.searchsorted(firsts, vertices), np.int64)

    def _expand(self, found: Hits, k: int, *, lowest: bool) -> Hits:
        """The k best rows of the best vertices."""
        copies = self._copies(found.rows)
        if copies.max() == 1:
            return Hits(found.rows[:, :k], found.scores[:, :k])
        firsts, others = self.arrays.duplicates.T
        kept = min(k, len(self))
        rows, scores = np.empty((len(copies), kept), np.int64), np.empty((len(copies), kept))
        for number, vertices in enumerate(found.rows):
            lists = [
                np.concatenate([[vertex], others[np.searchsorted(firsts, vertex) :][: min(copy - 1, k)]])
                for vertex, copy in zip(vertices, copies[number], strict=True)
            ]
            repeated = np.repeat(found.scores[number], [len(one) for one in lists])
            rows[number], scores[number] = rank(repeated, np.concatenate(lists), kept, lowest=lowest)
        return Hits(rows, scores)


def _pool(scores: Floats, counts: Floats, beta: float) -> Floats:
    """Attention pooling of scores (Q, c) that count more than once, or not at all."""
    magnitudes = np.where(counts > 0, np.abs(scores), 0.0)
    weights = counts * np.exp(beta * (magnitudes - magnitudes.max(axis=1, keepdims=True)))
    return np.asarray((weights * scores).sum(axis=1) / weights.sum(axis=1), np.float64)
