"""Make an index over a store, or add to one the rows that its store has gained."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError
from airrep_infer.index.folder import (
    LAYOUT,
    EndRecall,
    GraphFacts,
    IndexFile,
    IndexManifest,
    Measurement,
    RowArrays,
    content_of,
    is_index,
    locked,
    remove_leftovers,
    save_arrays,
    save_graph,
    write_manifest,
)
from airrep_infer.index.graph import Geometry, MappedRows, choose_geometry, load_hnswlib, make_graph
from airrep_infer.index.opponents import LOWEST, Probed, probe
from airrep_infer.index.recall import exact_ends, measure
from airrep_infer.index.search import AnnIndex
from airrep_infer.progress import Progress, begin
from airrep_infer.resources import available_cores
from airrep_infer.score.plan import check_at_least_one
from airrep_infer.store.store import EmbeddingStore

RECALL = 0.95
K = 10
LINKS = 24
EF_CONSTRUCTION = 200
MAX_EF = 4096
# Times those: no query lies near the hubs, so their graph must be a better one; it is small.
HUB_LINKS = 3
HUB_EF_CONSTRUCTION = 4
_BLOCK = 8192
_TRIED = 4000
_UNSAVED = IndexFile("", 0, "")

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
    """Index a store in the folder `path`; where an index of it is there, add only the rows that are new.

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
        wanted = _wanted(old, recall, k, max_ef)
        if old and old.rows == len(store) and wanted == old.measured and queries is None:
            remove_leftovers(path, old)
            return AnnIndex.open(path, store)
        if old:
            index = _grown(path, store, old, threads, progress)
        else:
            index = _made(
                path, store, wanted, links or LINKS, ef_construction or EF_CONSTRUCTION, threads, progress
            )
        truth = exact_ends(store, wanted.k, queries, source=source, threads=threads, progress=progress)
        measured = replace(measure(index, truth, wanted.target, wanted.max_ef, threads), k=wanted.k)
        manifest = replace(index.manifest, measured=measured)
        if manifest.arrays == _UNSAVED:
            manifest = replace(
                manifest,
                graph=replace(manifest.graph, file=save_graph(path, index.graph, "graph")),
                hubs=replace(manifest.hubs, file=save_graph(path, index.hub_graph, "hubs")),
                arrays=save_arrays(path, index.arrays),
            )
        write_manifest(path, manifest)
    if not measured.reached:
        raise InputError(
            f"{path}: {measured}; below the target {measured.target} (with 95% confidence). The index is "
            "saved and can be used as it is. For more recall: --rebuild with larger --links and "
            "--ef-construction, a larger --max-ef (slower searches), or a lower --recall"
        )
    return AnnIndex(path, store, manifest, index.graph, index.hub_graph, index.arrays)


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


def _wanted(
    old: IndexManifest | None, recall: float | None, k: int | None, max_ef: int | None
) -> Measurement:
    """The measurement that is asked for, with what has been found so far (or nothing)."""
    nothing = EndRecall(1, 0.0, 0.0)
    found = old.measured if old else Measurement(K, RECALL, MAX_EF, 0, "", nothing, nothing)
    return replace(
        found,
        k=found.k if k is None else k,
        target=found.target if recall is None else recall,
        max_ef=found.max_ef if max_ef is None else max_ef,
    )


def _made(
    path: Path,
    store: EmbeddingStore,
    wanted: Measurement,
    links: int,
    ef_construction: int,
    threads: int,
    progress: Progress | None,
) -> AnnIndex:
    """A new index, in memory: nothing measured, no files yet."""
    firsts, total = _distinct(store)
    distinct = _distinct_rows(firsts)
    some = store.take(_sample(distinct))
    geometry = choose_geometry(some, total / len(store), some, wanted.target, links, ef_construction, threads)
    graph = make_graph(geometry, len(distinct), links, ef_construction)
    longest = _add(graph, store, 0, firsts, geometry, threads, progress)

    probed = probe(store, distinct, max(LOWEST, 2 * wanted.k), threads, progress=progress)
    hubs = MappedRows(store, probed.hubs)
    hub_total = np.zeros(store.space.dimension)
    for _, block in hubs.blocks(_BLOCK):
        hub_total += block.sum(axis=0, dtype=np.float64)
    some, queries = store.take(_sample(probed.hubs)), -store.take(_sample(probed.probes))
    effort = HUB_LINKS * links, HUB_EF_CONSTRUCTION * ef_construction
    hub_geometry = choose_geometry(some, hub_total / len(hubs), queries, wanted.target, *effort, threads)
    hub_graph = make_graph(hub_geometry, len(hubs), *effort)
    _add_hubs(hub_graph, store, probed.hubs, hub_geometry, threads, progress)

    manifest = IndexManifest(
        space=store.space,
        hnswlib=version("hnswlib"),
        graph=GraphFacts(_UNSAVED, len(distinct), links, ef_construction, geometry.radius),
        hubs=GraphFacts(_UNSAVED, len(hubs), *effort, hub_geometry.radius),
        arrays=_UNSAVED,
        measured=wanted,
        max_norm=longest,
        **_coverage(store),
    )
    arrays = RowArrays(
        geometry.centre, hub_geometry.centre, total, _duplicates(firsts), probed.probes, probed.lowest
    )
    return AnnIndex(path, store, manifest, graph, hub_graph, arrays)


def _grown(
    path: Path,
    store: EmbeddingStore,
    old: IndexManifest,
    threads: int,
    progress: Progress | None,
) -> AnnIndex:
    """The index with the rows that the store has gained, in memory."""
    first_rows = replace(store, parts=store.parts[: old.parts])
    index = AnnIndex.open(path, first_rows)
    graph, hub_graph, arrays = index.graph, index.hub_graph, index.arrays
    if len(store) == old.rows:
        return AnnIndex(path, store, old, graph, hub_graph, arrays)
    firsts, total = _distinct(store)
    distinct = _distinct_rows(firsts)
    graph.resize_index(len(distinct))
    geometry = Geometry(arrays.centre, old.graph.radius)
    longest = _add(graph, store, old.rows, firsts, geometry, threads, progress)

    before = Probed(np.sort(np.array(hub_graph.get_ids_list(), np.int64)), arrays.probes, arrays.lowest)
    probed = probe(store, distinct, arrays.lowest.shape[1], threads, before, old.rows, progress)
    hub_graph.resize_index(len(probed.hubs))
    new = np.setdiff1d(probed.hubs, before.hubs, assume_unique=True)
    _add_hubs(hub_graph, store, new, Geometry(arrays.hub_centre, old.hubs.radius), threads, progress)

    manifest = replace(
        old,
        graph=replace(old.graph, file=_UNSAVED, vertices=len(distinct)),
        hubs=replace(old.hubs, file=_UNSAVED, vertices=len(probed.hubs)),
        arrays=_UNSAVED,
        max_norm=max(old.max_norm, longest),
        **_coverage(store),
    )
    arrays = replace(
        arrays, total=total, duplicates=_duplicates(firsts), probes=probed.probes, lowest=probed.lowest
    )
    return AnnIndex(path, store, manifest, graph, hub_graph, arrays)


def _sample(rows: Rows) -> Rows:
    return np.sort(np.random.default_rng(0).choice(rows, min(_TRIED, len(rows)), replace=False))


def _add(
    graph: Any,
    store: EmbeddingStore,
    old_rows: int,
    firsts: Rows,
    geometry: Geometry,
    threads: int,
    progress: Progress | None,
) -> float:
    """Add the rows from `old_rows` on, each distinct vector once, by the number of its first row.

    Returns:
        How far the farthest of them is from the centre.
    """
    done = begin(progress, "index rows", len(store) - old_rows)
    longest = 0.0
    for first, block in store.blocks(_BLOCK):
        if first < old_rows:  # parts never change, so the rows of before end where a block ends
            continue
        longest = max(longest, float(np.linalg.norm(block - geometry.centre, axis=1).max()))
        rows = np.arange(first, first + len(block))
        new = firsts[rows] == rows
        if new.any():
            graph.add_items(geometry.rows(block[new]), rows[new], num_threads=threads)
        done(len(block))
    return longest


def _add_hubs(
    graph: Any,
    store: EmbeddingStore,
    hubs: Rows,
    geometry: Geometry,
    threads: int,
    progress: Progress | None,
) -> None:
    done = begin(progress, "index opponents", len(hubs))
    for first, block in MappedRows(store, hubs).blocks(_BLOCK):
        graph.add_items(geometry.rows(block), hubs[first : first + len(block)], num_threads=threads)
        done(len(block))


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


def _coverage(store: EmbeddingStore) -> dict[str, Any]:
    """The manifest's entries that say what is indexed."""
    parts = len(store.parts)
    return {
        "content": content_of(store, parts),
        "rows": len(store),
        "parts": parts,
    }
