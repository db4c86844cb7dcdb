"""Approximate top-k over a store, in milliseconds: an index that is opened, searched, and attributes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from airrep_infer.errors import InputError
from airrep_infer.index.folder import IndexManifest, load_arrays
from airrep_infer.index.graph import Floats, Graph, load_hnswlib
from airrep_infer.index.influence_bound import influence_bounds
from airrep_infer.index.search import Hits, Searcher
from airrep_infer.resources import check_memory, memory_budget, one_blas_thread
from airrep_infer.score import Attributions, check_at_least_one, check_pooling_scale, check_queries
from airrep_infer.store import EmbeddingStore

TAIL = 100
_QUERIES_AT_ONCE = 256
_HIT_BYTES = 100  # row, score, copies and share of a hit, and what they are pooled from


class AnnIndex:
    """An opened index over a store, in memory; `build_index` makes one.

    Calls may come from several threads; they search one at a time.
    """

    def __init__(self, path: Path, manifest: IndexManifest, searcher: Searcher) -> None:
        self.path = path
        self.manifest = manifest
        self.searcher = searcher

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
        arrays = load_arrays(path, manifest)
        graph = Graph.load(path, manifest.graph, arrays.centre)
        opponent_graph = Graph.load(path, manifest.opponent_graph, arrays.opponent_centre)
        return cls(path, manifest, Searcher(store, graph, opponent_graph, arrays))

    @property
    def store(self) -> EmbeddingStore:
        """The store whose rows it finds."""
        return self.searcher.store

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
        return self._hits(queries, k, ef or self.manifest.measured.proponents.ef, threads, lowest=False)

    def opponents(
        self, queries: ArrayLike, k: int = 10, *, ef: int | None = None, threads: int | None = None
    ) -> Hits:
        """The k lowest scores of each query, lowest first; see `proponents`."""
        return self._hits(queries, k, ef or self.manifest.measured.opponents.ef, threads, lowest=True)

    def _hits(self, queries: ArrayLike, k: int, ef: int, threads: int | None, *, lowest: bool) -> Hits:
        check_at_least_one(k, "k")
        check_at_least_one(ef, "ef")
        checked = check_queries(queries, self.searcher.corpus)
        return self.searcher.search(checked, k, ef, lowest=lowest, threads=threads)

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
        vectors = check_queries(queries, self.searcher.corpus)
        ends = 2 * min(k, len(self)) * len(vectors)
        check_memory(
            2 * 16 * ends, f"k = {k} of {len(vectors)} queries", "ask for a lower k or fewer queries"
        )
        held = _HIT_BYTES * 2 * min(max(k, tail), len(self))
        at_once = max(1, min(_QUERIES_AT_ONCE, memory_budget() // 4 // held))
        with self.searcher.lock, one_blas_thread():
            answers = [
                self._attribute(vectors[start : start + at_once], k, beta, tail, threads)
                for start in range(0, len(vectors), at_once)
            ]
        high, low, influence, error = zip(*answers, strict=True)
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
        """(high end, low end, influence (q,), how far it may be off (q,))."""
        searcher, measured = self.searcher, self.manifest.measured
        count = max(k, tail)
        # Twice the tail, so that a tail longer than the measured k is found as well as that.
        high_ef, low_ef = max(measured.proponents.ef, 2 * count), max(measured.opponents.ef, 2 * count)
        high = searcher.find(queries, count, high_ef, lowest=False, threads=threads)
        low = searcher.find(queries, count, low_ef, lowest=True, threads=threads)
        rows = np.concatenate([high.rows, low.rows], axis=1)
        scores = np.concatenate([high.scores, low.scores], axis=1)
        counts = searcher.copies(rows).astype(np.float64)
        sampled, vectors = searcher.sample
        between = (queries.astype(np.float32) @ vectors.T).astype(np.float64)
        inside = np.empty(between.shape, bool)
        for number, known in enumerate(rows):
            # Where there are few rows, one can be in both ends.
            counts[number, high.rows.shape[1] :][np.isin(low.rows[number], high.rows[number])] = 0
            inside[number] = ~np.isin(sampled, known)
        others = len(self) - counts.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (queries @ searcher.arrays.total - (counts * scores).sum(axis=1)) / others
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
        ends = searcher.expand(high, k, lowest=False), searcher.expand(low, k, lowest=True)
        return (*ends, estimate, error)


def _pool(scores: Floats, counts: Floats, beta: float) -> Floats:
    """Attention pooling of scores (Q, c) that count more than once, or not at all."""
    magnitudes = np.where(counts > 0, np.abs(scores), 0.0)
    weights = counts * np.exp(beta * (magnitudes - magnitudes.max(axis=1, keepdims=True)))
    return np.asarray((weights * scores).sum(axis=1) / weights.sum(axis=1), np.float64)
