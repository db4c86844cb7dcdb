"""The graphs of an index: hnswlib, the space it searches in, and fast reads of the rows it points to.

Rows are ordered by q . z, but hnswlib finds the best only where its graph is good. Two changes leave the
order as it is for every query, and make the graph good:

    x(z) = (z - c, sqrt(max(0, r^2 - |z - c|^2))) / r        x(q) = (q, 0) / |q|
    x(q) . x(z) = (q . z - q . c) / (|q| r)

The centre c (the mean of the rows) shifts all scores of a query alike; without it, opponents, which are
searched with -q, lie far from everything. The further coordinate lifts rows that are shorter than r onto a
sphere, on which inner product, cosine and distance have the same neighbours; longer rows stand out of
it, where a search for the largest inner product looks first. With r the largest norm, all rows are on the
sphere (the usual reduction of inner product to distance), but a few long rows then push all others
together at its pole; with r = 0 (plain inner products) few vertices link to short rows, and some cannot
be reached. Which r between is best depends on the embeddings, so a few are tried on a sample of the rows.

There are two graphs, each with its c and r: one of all rows for proponents, and for opponents one of the
rows that can be some (see `index.opponents`).

c and r are fixed when an index is made. Rows that are added later, however long, keep the order exact; only
the recall can change, and it is measured again after every addition.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.index.folder import GraphFacts, save_graph
from airrep_infer.resources import check_memory
from airrep_infer.score import Array, Wanted
from airrep_infer.store import EmbeddingStore

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]

_RADII = (0.5, 0.8, 0.95)  # quantiles of the norms
_TRIED_K = (10, 100)  # what is asked, and the ends of the influence of a whole store
_TRIED_EF = tuple(round(10 * 1.4**step) for step in range(14))
_TRIED_QUERIES = 400
_VERTEX_BYTES = 100  # label, lock, count, pointers, links of the upper layers


def load_hnswlib() -> Any:
    """The module `hnswlib`.

    Raises:
        InputError: it is not installed.
    """
    try:
        import hnswlib
    except ImportError as error:
        raise InputError(
            f"an index needs hnswlib ({error}); install it with: pip install 'airrep[index]' "
            "(it is compiled, which needs a C++ compiler and Python's headers)"
        ) from error
    return hnswlib


@dataclass(frozen=True, eq=False)
class Geometry:
    """The map from embeddings to the graph's space, see above; `centre` (D,), `radius` > 0."""

    centre: Floats
    radius: float

    @property
    def dimension(self) -> int:
        return len(self.centre) + 1

    def rows(self, vectors: Array) -> NDArray[np.float32]:
        """(n, D) embeddings of the corpus -> (n, D + 1)."""
        mapped = np.empty((len(vectors), self.dimension), np.float32)
        shifted = (vectors - self.centre) / self.radius
        mapped[:, :-1] = shifted
        mapped[:, -1] = np.sqrt(np.maximum(0, 1 - np.einsum("ij,ij->i", shifted, shifted)))
        return mapped

    def queries(self, vectors: Floats) -> NDArray[np.float32]:
        """(Q, D) embeddings of queries -> (Q, D + 1); opponents are searched with their negatives."""
        mapped = np.zeros((len(vectors), self.dimension), np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        mapped[:, :-1] = vectors / np.where(norms > 0, norms, 1)
        return mapped


@dataclass(frozen=True, eq=False)
class Graph:
    """An `hnswlib.Index` with the space it searches in, and what it is made with.

    `links` is hnswlib's M, `ef_construction` how many candidates it looks at while it adds a row.
    """

    hnsw: Any
    geometry: Geometry
    links: int
    ef_construction: int

    @classmethod
    def empty(cls, geometry: Geometry, room: int, links: int, ef_construction: int) -> Graph:
        """A graph with room for so many vertices.

        Raises:
            InputError: the memory budget does not allow it.
        """
        each = 4 * geometry.dimension + 2 * 4 * links + _VERTEX_BYTES
        check_memory(room * each, f"a graph of {room} rows with {links} links each", "give fewer --links")
        hnsw = load_hnswlib().Index("ip", geometry.dimension)
        hnsw.init_index(room, M=links, ef_construction=ef_construction)
        return cls(hnsw, geometry, links, ef_construction)

    @classmethod
    def load(cls, path: Path, facts: GraphFacts, centre: Floats) -> Graph:
        """Read a graph, whose file's sha256 has been checked.

        Raises:
            InputError: it is not what the facts say.
        """
        geometry = Geometry(centre, facts.radius)
        hnsw = load_hnswlib().Index("ip", geometry.dimension)
        file = path / facts.file.name
        hnsw.load_index(str(file))
        if (hnsw.element_count, hnsw.M) != (facts.vertices, facts.links):
            raise InputError(
                f"{file}: has {hnsw.element_count} vertices with {hnsw.M} links each, "
                f"expected {facts.vertices} with {facts.links}; index the store again with --rebuild"
            )
        return cls(hnsw, geometry, facts.links, facts.ef_construction)

    @property
    def vertices(self) -> int:
        """How many rows it holds."""
        return int(self.hnsw.element_count)

    def row_numbers(self) -> Rows:
        """The numbers of the rows that it holds, sorted."""
        return np.sort(np.array(self.hnsw.get_ids_list(), np.int64))

    def add(self, vectors: Array, numbers: Rows, threads: int) -> None:
        """Add the embeddings (n, D) of the rows `numbers` (n,), for which there is room."""
        self.hnsw.add_items(self.geometry.rows(vectors), numbers, num_threads=threads)

    def save(self, path: Path, name: str) -> GraphFacts:
        """Write it into the folder `path` under a new name that begins with `name`."""
        file = save_graph(path, self.hnsw, name)
        return GraphFacts(file, self.vertices, self.links, self.ef_construction, self.geometry.radius)


def choose_geometry(
    vectors: Array,
    centre: Floats,
    queries: Array,
    target: float,
    links: int,
    ef_construction: int,
    threads: int,
) -> Geometry:
    """The geometry in which a graph of rows (s, D) soonest finds the share `target` for queries (Q, D)."""
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors - centre, axis=1)
    radii = [float(radius) for radius in np.unique(np.quantile(norms, _RADII)) if radius > 0]
    if len(radii) < 2:
        return Geometry(centre, radii[0] if radii else 1.0)  # all rows are equal, or nearly all
    queries = np.asarray(queries[:: -(-len(queries) // _TRIED_QUERIES)], np.float64)
    scores = queries @ vectors.T
    tried = [Geometry(centre, radius) for radius in radii]
    efforts = []
    for geometry in tried:
        graph = Graph.empty(geometry, len(vectors), links, ef_construction)
        graph.add(vectors, np.arange(len(vectors)), threads)
        mapped = geometry.queries(queries)
        efforts.append(sum(_effort(graph.hnsw, mapped, scores, k, target, threads) for k in _TRIED_K))
    return tried[int(np.argmin(efforts))]


def _effort(
    hnsw: Any, queries: NDArray[np.float32], scores: Floats, k: int, target: float, threads: int
) -> float:
    """About how large `ef` must be for the target recall@k; scores are (Q, s), of all rows."""
    k = min(k, scores.shape[1])
    last = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    for ef in _TRIED_EF:
        if ef < k:
            continue
        hnsw.set_ef(ef)
        try:
            rows, _ = hnsw.knn_query(queries, k, num_threads=threads)
        except RuntimeError:  # fewer than k met: as bad as a graph can be
            continue
        if (np.take_along_axis(scores, rows.astype(np.int64), axis=1) >= last).mean() >= target:
            return ef
    return 4.0 * _TRIED_EF[-1]


class MappedRows:
    """The vectors of some rows of a store as a `Corpus`, with all parts mapped once: fast random reads."""

    def __init__(self, store: EmbeddingStore, rows: Rows | None = None) -> None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2  # each mapping keeps its file open
        if len(store.parts) > most:
            raise InputError(
                f"{store.path}: has {len(store.parts)} parts, and this process can keep {most} of them open; "
                f"join them with `airrep-infer compact {store.path}`"
            )
        self._parts = list(store.mapped())
        self._starts = np.array([part.first for part in self._parts])
        self._dimension = store.space.dimension
        self._rows = rows
        self._count = len(store) if rows is None else len(rows)

    def __len__(self) -> int:
        return self._count

    def blocks(self, size: int, wanted: Wanted | None = None) -> Iterator[tuple[int, Array]]:
        """See `plan.Corpus`."""
        for first in range(0, self._count, size):
            end = min(first + size, self._count)
            if wanted is None or wanted(first, end):
                yield first, self.take(np.arange(first, end))

    def take(self, numbers: Rows) -> NDArray[np.float32]:
        """See `plan.Corpus`."""
        rows = numbers if self._rows is None else self._rows[numbers]
        taken = np.empty((len(rows), self._dimension), np.float32)
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        for part in np.unique(parts):
            here = parts == part
            taken[here] = self._parts[part].take(rows[here] - self._starts[part])
        return taken
