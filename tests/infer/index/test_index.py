"""The index against the exact scan: recall, ties, copies, rows that are added, several threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from indexed import DIMENSION, assert_exact, clustered, extend
from threadpoolctl import threadpool_info

pytest.importorskip("hnswlib", reason="hnswlib (extra: index) is compiled on installation and optional")

from airrep_infer.errors import InputError
from airrep_infer.index import AnnIndex
from airrep_infer.index.build import build_index
from airrep_infer.index.graph import Geometry
from airrep_infer.index.recall import exact_ends, measure_again, measure_end
from airrep_infer.score import attribute
from airrep_infer.store import EmbeddingStore

ROUNDING = 1e-9


def test_reaches_its_recall_on_other_queries(large: tuple[EmbeddingStore, Path]) -> None:
    store, path = large
    index = AnnIndex.open(path, store)
    measured = index.manifest.measured
    assert (
        max(measured.proponents.ef, measured.opponents.ef) < index.manifest.opponent_graph.vertices / 4
    )  # no exact scan
    queries = clustered(400, seed=7)
    exact = attribute(queries, store, k=10)
    for hits, rows in (
        (index.proponents(queries, 10), exact.proponent_rows),
        (index.opponents(queries, 10), exact.opponent_rows),
    ):
        shares = [len(set(found) & set(right)) / 10 for found, right in zip(hits.rows, rows, strict=True)]
        assert np.mean(shares) > 0.93
        # Whatever is found has its exact score, in order.
        scores = np.einsum(
            "qd,qkd->qk", queries.astype(float), store.take(hits.rows.ravel()).reshape(400, 10, -1)
        )
        np.testing.assert_allclose(hits.scores, scores, rtol=1e-9, atol=1e-9)
    assert (np.diff(index.proponents(queries, 10).scores) <= 0).all()
    assert (np.diff(index.opponents(queries, 10).scores) >= 0).all()


def test_the_usual_reduction_would_find_less(large: tuple[EmbeddingStore, Path], tmp_path: Path) -> None:
    """Why the space has a centre and a chosen radius: with neither, the same effort finds less."""
    import hnswlib

    store, path = large
    index = AnnIndex.open(path, store)
    vectors = store.take(np.arange(len(store))).astype(float)
    longest = np.linalg.norm(vectors, axis=1).max()
    usual = hnswlib.Index("ip", DIMENSION + 1)
    usual.init_index(len(store), M=16, ef_construction=100)
    geometry = Geometry(np.zeros(DIMENSION), float(longest))
    usual.add_items(geometry.rows(vectors), num_threads=1)
    usual.set_ef(20)
    queries = clustered(300, seed=8).astype(float)
    exact = attribute(queries, store, k=10)
    for sign, right, hits in (
        (1, exact.proponent_rows, index.proponents(queries, 10, ef=20)),
        (-1, exact.opponent_rows, index.opponents(queries, 10, ef=20)),
    ):
        rows, _ = usual.knn_query(geometry.queries(sign * queries), 10, num_threads=1)
        shares = [
            np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, right, strict=True)])
            for found in (rows, hits.rows)
        ]
        assert shares[1] > shares[0] + 0.1, shares


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0, 30.0]), st.booleans())
def test_the_space_keeps_the_order_of_scores(seed: int, radius: float, shifted: bool) -> None:
    """For rows shorter and longer than the radius, none and any centre."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(40, 5)) * rng.lognormal(0, 2, (40, 1))
    vectors[0] = 0
    geometry = Geometry(vectors.mean(axis=0) if shifted else np.zeros(5), radius)
    queries = rng.normal(size=(6, 5))
    products = geometry.queries(queries).astype(float) @ geometry.rows(vectors).astype(float).T
    scores = queries @ vectors.T
    factor = radius * np.linalg.norm(queries, axis=1, keepdims=True)
    expected = (scores - (queries @ geometry.centre)[:, None]) / factor
    np.testing.assert_allclose(products, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert not geometry.queries(np.zeros((1, 5))).any()


def test_searching_everything_is_the_exact_scan(large: tuple[EmbeddingStore, Path]) -> None:
    store, path = large
    assert_exact(AnnIndex.open(path, store), clustered(5, seed=3), 10, ef=10_000)
    assert_exact(AnnIndex.open(path, store), clustered(2, seed=3), 9_999)


def test_measured_recall_is_the_plain_definition(large: tuple[EmbeddingStore, Path]) -> None:
    store, path = large
    index = AnnIndex.open(path, store)
    truth = exact_ends(store, 10, None, threads=1)
    scores = truth.queries @ store.take(np.arange(len(store))).astype(float).T
    for lowest in (False, True):
        ef = 15
        search = index.opponents if lowest else index.proponents
        found = search(truth.queries, 11, ef=ef).rows
        shares = []
        for number, own in enumerate(truth.itself):
            order = [row for row in np.argsort(scores[number] if lowest else -scores[number]) if row != own]
            mine = [row for row in found[number] if row != own][:10]
            shares.append(len(set(order[:10]) & set(mine)) / 10)
        measured = measure_end(index.searcher, truth, ef, lowest=lowest)
        assert measured.recall == pytest.approx(np.mean(shares), abs=1e-6)
        spread = np.std(shares, ddof=1) / np.sqrt(len(shares))
        assert measured.low == pytest.approx(np.mean(shares) - 1.645 * spread, abs=1e-6)
    again = measure_again(index)
    assert not again.missed and again.proponents != index.manifest.measured.proponents  # other rows


STRANGE = {
    "one row": np.full((1, 4), 0.5),
    "all equal": np.ones((50, 4)),
    "all zero": np.zeros((30, 4)),
    "zero rows among others": np.concatenate(
        [np.zeros((5, 4)), np.random.default_rng(0).normal(size=(90, 4))]
    ),
    "signed zeros": np.array([[0.0, 1], [-0.0, 1], [1, 0.0], [1, -0.0]]),
    "copies": np.repeat(np.random.default_rng(1).normal(size=(30, 4)), 40, axis=0),
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_strange_stores(name: str, dtype: str, tmp_path: Path) -> None:
    vectors = STRANGE[name].astype(np.float32)
    store = extend(tmp_path / "s", vectors, dtype=dtype)
    build_index(store, tmp_path / "i", threads=1)
    index = AnnIndex.open(tmp_path / "i", store)
    assert index.manifest.graph.vertices == len(np.unique(vectors + 0.0, axis=0)) and len(index) == len(
        vectors
    )
    queries = np.random.default_rng(2).normal(size=(6, vectors.shape[1]))
    for k in (1, 7, len(vectors), len(vectors) + 5):
        assert_exact(index, queries, k, ef=len(vectors))
        assert (index.proponents(queries, k).scores > -np.inf).all()  # whatever the graph finds, it is k rows
    queries[0] = 0  # every row ties
    assert (
        not index.proponents(queries, 3).scores[0].any() and not index.opponents(queries, 3).scores[0].any()
    )
    exact = attribute(queries, store, k=3)
    found = index.attribute(queries, 3, tail=2)
    assert (
        np.abs(found.group_influence - exact.group_influence) <= found.group_influence_error + ROUNDING
    ).all()


def test_copies_are_found_through_the_graph(tmp_path: Path) -> None:
    """Many copies of many vectors: one vertex each, and every copy comes back, lower rows first."""
    rng = np.random.default_rng(0)
    vectors = clustered(2000)
    rows = rng.permutation(np.concatenate([np.arange(2000), rng.integers(0, 2000, 800), np.full(200, 3)]))
    store = extend(tmp_path / "s", vectors[rows])
    index = build_index(store, tmp_path / "i", threads=1, links=16, ef_construction=100)
    assert index.manifest.graph.vertices == 2000
    queries = np.concatenate([vectors[3][None], clustered(20, seed=5)])
    assert_exact(index, queries, 30, ef=2000)
    places = np.flatnonzero(rows == 3)
    best = index.proponents(vectors[3][None], 600, ef=1000).rows[0]  # through the graph
    assert list(places) == [row for row in best if rows[row] == 3]
    found, exact = index.attribute(queries, 5), attribute(queries, store)
    assert (
        np.abs(found.group_influence - exact.group_influence) <= found.group_influence_error + ROUNDING
    ).all()
    np.testing.assert_allclose(
        found.group_influence, exact.group_influence, rtol=1e-6
    )  # the sample is all rows


def test_a_target_out_of_reach_is_said_and_the_index_kept(tmp_path: Path) -> None:
    store = extend(tmp_path / "s", np.random.default_rng(0).normal(size=(1200, 32)).astype(np.float32))
    with pytest.raises(InputError, match=r"recall@10 0\.\d+ of proponents.*below the target 0.95.*saved"):
        build_index(store, tmp_path / "i", max_ef=12, links=4, ef_construction=10, threads=1)
    index = AnnIndex.open(tmp_path / "i", store)
    measured = index.manifest.measured
    assert not measured.reached and measured.proponents.ef == 12 and 0 < measured.proponents.recall < 0.95
    found = build_index(store, tmp_path / "i", max_ef=4096, threads=1).manifest  # the same graph, other bound
    assert found.measured.reached and found.graph == index.manifest.graph


def test_queries_of_the_user_choose_ef(large: tuple[EmbeddingStore, Path], tmp_path: Path) -> None:
    store, path = large
    shutil.copytree(path, tmp_path / "i")
    queries = np.random.default_rng(1).normal(size=(50, DIMENSION))
    found = build_index(store, tmp_path / "i", queries=queries, source="strangers").manifest.measured
    assert (found.queries, found.source) == (50, "strangers") and found.reached
    with pytest.raises(InputError, match="dimension 3"):
        build_index(store, tmp_path / "i", queries=np.ones((2, 3)))


def test_a_badly_linked_graph_is_searched_wider(large: tuple[EmbeddingStore, Path]) -> None:
    """hnswlib refuses to return fewer than k; the search then keeps more in view, at last everything."""
    store, path = large
    index = AnnIndex.open(path, store)
    graph, seen = index.searcher.graph, []
    hnsw = graph.hnsw

    class Torn:
        element_count = graph.vertices

        def set_ef(self, ef: int) -> None:
            seen.append(ef)
            hnsw.set_ef(ef)

        def knn_query(self, *arguments: object, **options: object) -> object:
            if seen[-1] < limit:
                raise RuntimeError(
                    "Cannot return the results in a contiguous 2D array. Probably ef or M is too small"
                )
            return hnsw.knn_query(*arguments, **options)

    index.searcher.graph = index.searcher.opponent_graph = replace(graph, hnsw=Torn())
    limit = 1000
    index.proponents(clustered(3, seed=1), 10, ef=100)
    assert seen == [100, 200, 400, 800, 1600]
    limit = 100_000
    assert_exact(index, clustered(3, seed=1), 10, ef=100)


def test_calls_from_several_threads(large: tuple[EmbeddingStore, Path]) -> None:
    store, path = large
    index = AnnIndex.open(path, store)
    queries = clustered(60, seed=2)

    def search(number: int) -> np.ndarray:
        return index.opponents(queries[number : number + 1], 5, ef=10 + 90 * (number % 2), threads=1).rows

    before = threadpool_info()
    expected = [search(number) for number in range(60)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(search, range(60)))
    np.testing.assert_array_equal(found, expected)
    assert threadpool_info() == before  # BLAS has its threads back


def test_importing_needs_no_hnswlib() -> None:
    code = "import sys, airrep_infer, airrep_infer.cli; sys.exit('hnswlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0
