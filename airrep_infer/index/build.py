"""Make an index over a store, or add to one the rows that its store has gained."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError
from airrep_infer.index.ann_index import AnnIndex
from airrep_infer.index.folder import (
    LAYOUT,
    IndexManifest,
    Measurement,
    RecallTarget,
    RowArrays,
    content_of,
    is_index,
    locked,
    remove_leftovers,
    save_arrays,
    write_manifest,
)
from airrep_infer.index.graph import Graph, MappedRows, choose_geometry, load_hnswlib
from airrep_infer.index.opponents import LOWEST, Probed, probe
from airrep_infer.index.recall import exact_ends, measure
from airrep_infer.index.search import Searcher
from airrep_infer.progress import Progress, begin
from airrep_infer.resources import available_cores
from airrep_infer.score import check_at_least_one
from airrep_infer.store import EmbeddingStore

RECALL = 0.95
K = 10
LINKS = 24
EF_CONSTRUCTION = 200
MAX_EF = 4096
# Times those: no query lies near the opponents, so their graph must be a better one; it is small.
OPPONENT_LINKS = 3
OPPONENT_EF_CONSTRUCTION = 4
_BLOCK = 8192
_TRIED = 4000

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


def build_index(
    store: EmbeddingStore | str | Path,
    path: str | Path,
    *,
    recall: float | None = None,
    k: int | None = None,
    queries: ArrayLike | None = None,
    source: str = "queries",
    links: int | None = None,
    ef_construction: int | None = None,
    max_ef: int | None = None,
    rebuild: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> AnnIndex:
    """Index a store in the folder `path`; where one exists, add only the rows that are new.

    Each end's `ef` is chosen for the target recall@k, measured against the exact scan with 1,000 rows
    of the store (each without itself) or of `queries`. None stands for what an existing index has, and
    else for recall 0.95 at k 10, 24 links, ef_construction 200, max_ef 4096. With `threads` 1 the
    same store gives the same graph; with more, the order in which rows are linked varies.

    Args:
        queries: (Q, D) embeddings of the kind that will be asked; `source` is what to call them.
        links: neighbours of a vertex (hnswlib's M); more: better recall, more memory, slower to build.
            The graph for opponents has three times as many.
        ef_construction: candidates while building, four times as many for opponents; more: better
            recall, slower to build.
        max_ef: the largest `ef` that may be chosen, which bounds the time of a search.
        rebuild: make a new index even where there is one; the old one works until the new one is whole.
        progress: told of the stages "index rows", "find opponents", "index opponents" and "measure", in rows.

    Raises:
        InputError: the folder is no index, or one of another store or with other links; or the
            target recall cannot be reached, in which case the index has been saved with what was.
        StorageError: it cannot be written; what was there before stays.
    """
    path = Path(path)
    if not isinstance(store, EmbeddingStore):
        store = EmbeddingStore.open(store)
    if not len(store):
        raise InputError(f"{store.path}: the store has no rows; embed some first")
    for value, what in ((k, "k"), (links, "links"), (ef_construction, "ef_construction"), (max_ef, "max_ef")):
        check_at_least_one(value, what)
    if links == 1:
        raise InputError("links must be at least 2, got 1: a chain cannot be searched")
    if recall is not None and not 0 < recall <= 1:
        raise InputError(f"the target recall must be above 0 and at most 1, got {recall}")
    threads = check_at_least_one(threads, "threads") or available_cores()
    load_hnswlib()
    LAYOUT.make(path)
    with locked(path):
        old = IndexManifest.open(path) if is_index(path) and not rebuild else None
        if old:
            old.check_store(path, store)
            _check_same(path, old, links, ef_construction)
        target = _target(old, recall, k, max_ef)
        unchanged = old is not None and old.rows == len(store)
        if old and unchanged and target == old.measured.asked and queries is None:
            remove_leftovers(path, old)
            return AnnIndex.open(path, store)
        if old and unchanged:
            searcher = AnnIndex.open(path, store).searcher
        elif old:
            searcher = _grown(path, store, old, threads, progress)
        else:
            effort = links or LINKS, ef_construction or EF_CONSTRUCTION
            searcher = _made(store, target, *effort, threads, progress)
        truth = exact_ends(store, target.k, queries, source=source, threads=threads, progress=progress)
        measured = measure(searcher, truth, target, threads)
        manifest = replace(old, measured=measured) if old and unchanged else _save(path, searcher, measured)
        write_manifest(path, manifest)
    if not measured.reached:
        raise InputError(
            f"{path}: {measured}; below the target {measured.target} (with 95% confidence). The index is "
            "saved and can be used as it is. For more recall: --rebuild with larger --links and "
            "--ef-construction, a larger --max-ef (slower searches), or a lower --recall"
        )
    return AnnIndex(path, manifest, searcher)


def _check_same(path: Path, old: IndexManifest, links: int | None, ef_construction: int | None) -> None:
    for value, has, what in (
        (links, old.graph.links, "links"),
        (ef_construction, old.graph.ef_construction, "ef_construction"),
    ):
        if value is not None and value != has:
            raise InputError(
                f"{path}: was made with {what} {has}, asked to add rows with {value}; leave that out, "
                "or make the index again with --rebuild"
            )


def _target(
    old: IndexManifest | None, recall: float | None, k: int | None, max_ef: int | None
) -> RecallTarget:
    """What is asked for; what is not said is what an existing index was made for, or the default."""
    before = old.measured.asked if old else RecallTarget(K, RECALL, MAX_EF)
    return RecallTarget(
        k=before.k if k is None else k,
        recall=before.recall if recall is None else recall,
        max_ef=before.max_ef if max_ef is None else max_ef,
    )


def _made(
    store: EmbeddingStore,
    target: RecallTarget,
    links: int,
    ef_construction: int,
    threads: int,
    progress: Progress | None,
) -> Searcher:
    """A new index, in memory."""
    firsts, total = _distinct(store)
    distinct = _distinct_rows(firsts)
    sample, centre = store.take(_sample(distinct)), total / len(store)
    geometry = choose_geometry(sample, centre, sample, target.recall, links, ef_construction, threads)
    graph = Graph.empty(geometry, len(distinct), links, ef_construction)
    _add(graph, store, 0, firsts, threads, progress)

    lowest = max(LOWEST, min(2 * target.k, len(distinct)))
    probed = probe(store, distinct, lowest, threads, progress=progress)
    opponents = MappedRows(store, probed.opponents)
    opponent_total = np.zeros(store.space.dimension)
    for _, block in opponents.blocks(_BLOCK):
        opponent_total += block.sum(axis=0, dtype=np.float64)
    opponent_centre = opponent_total / len(opponents)
    sample, queries = store.take(_sample(probed.opponents)), -store.take(_sample(probed.probes))
    effort = OPPONENT_LINKS * links, OPPONENT_EF_CONSTRUCTION * ef_construction
    geometry = choose_geometry(sample, opponent_centre, queries, target.recall, *effort, threads)
    opponent_graph = Graph.empty(geometry, len(opponents), *effort)
    _add_opponents(opponent_graph, store, probed.opponents, threads, progress)
    arrays = RowArrays(centre, opponent_centre, total, _duplicates(firsts), probed.probes, probed.lowest)
    return Searcher(store, graph, opponent_graph, arrays)


def _grown(
    path: Path,
    store: EmbeddingStore,
    old: IndexManifest,
    threads: int,
    progress: Progress | None,
) -> Searcher:
    """The index with the rows that the store has gained, in memory."""
    before = AnnIndex.open(path, replace(store, parts=store.parts[: old.parts])).searcher
    graph, opponent_graph, arrays = before.graph, before.opponent_graph, before.arrays
    firsts, total = _distinct(store)
    distinct = _distinct_rows(firsts)
    graph.hnsw.resize_index(len(distinct))
    _add(graph, store, old.rows, firsts, threads, progress)

    known = Probed(opponent_graph.row_numbers(), arrays.probes, arrays.lowest)
    probed = probe(store, distinct, arrays.lowest.shape[1], threads, known, old.rows, progress)
    opponent_graph.hnsw.resize_index(len(probed.opponents))
    new = np.setdiff1d(probed.opponents, known.opponents, assume_unique=True)
    _add_opponents(opponent_graph, store, new, threads, progress)
    arrays = replace(
        arrays, total=total, duplicates=_duplicates(firsts), probes=probed.probes, lowest=probed.lowest
    )
    return Searcher(store, graph, opponent_graph, arrays)


def _save(path: Path, searcher: Searcher, measured: Measurement) -> IndexManifest:
    """Write the graphs and arrays under new names; the manifest that names them."""
    store = searcher.store
    return IndexManifest(
        space=store.space,
        content=content_of(store, len(store.parts)),
        rows=len(store),
        parts=len(store.parts),
        hnswlib=version("hnswlib"),
        graph=searcher.graph.save(path, "graph"),
        opponent_graph=searcher.opponent_graph.save(path, "hubs"),
        arrays=save_arrays(path, searcher.arrays),
        measured=measured,
    )


def _sample(rows: Rows) -> Rows:
    return np.sort(np.random.default_rng(0).choice(rows, min(_TRIED, len(rows)), replace=False))


def _add(
    graph: Graph,
    store: EmbeddingStore,
    old_rows: int,
    firsts: Rows,
    threads: int,
    progress: Progress | None,
) -> None:
    """Add the rows from `old_rows` on, each distinct vector once, by the number of its first row."""
    report = begin(progress, "index rows", len(store) - old_rows)
    # Parts never change, so the old rows end where a block ends.
    for first, block in store.blocks(_BLOCK, lambda first, _end: first >= old_rows):
        rows = np.arange(first, first + len(block))
        new = firsts[rows] == rows
        if new.any():
            graph.add(block[new], rows[new], threads)
        report(len(block))


def _add_opponents(
    graph: Graph, store: EmbeddingStore, opponents: Rows, threads: int, progress: Progress | None
) -> None:
    report = begin(progress, "index opponents", len(opponents))
    for first, block in MappedRows(store, opponents).blocks(_BLOCK):
        graph.add(block, opponents[first : first + len(block)], threads)
        report(len(block))


def _distinct(store: EmbeddingStore) -> tuple[Rows, Floats]:
    """(n,) the first row with the same vector, for every row; (D,) the sum of all vectors."""
    firsts = np.empty(len(store), np.int64)
    total = np.zeros(store.space.dimension)
    seen: dict[bytes, int] = {}
    for first, block in store.blocks(_BLOCK):
        total += block.sum(axis=0, dtype=np.float64)
        for number, vector in enumerate(np.asarray(block, np.float32) + np.float32(0), first):  # -0.0 is 0.0
            digest = hashlib.blake2b(vector, digest_size=16).digest()
            firsts[number] = seen.setdefault(digest, number)
    return firsts, total


def _distinct_rows(firsts: Rows) -> Rows:
    return np.flatnonzero(firsts == np.arange(len(firsts)))


def _duplicates(firsts: Rows) -> Rows:
    """(m, 2): first row and other row of equal vectors, sorted."""
    others = np.flatnonzero(firsts != np.arange(len(firsts)))
    pairs = np.stack([firsts[others], others], axis=1)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]
