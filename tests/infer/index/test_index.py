"""The index against the exact scan and plain formulas; what is refused; what a killed save leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

pytest.importorskip("hnswlib", reason="hnswlib (extra: index) is compiled on installation and optional")

from airrep_infer.encode import EmbeddingSpace
from airrep_infer.errors import BusyError, InputError, StorageError
from airrep_infer.index import AnnIndex, build, opponents
from airrep_infer.index.build import build_index
from airrep_infer.index.folder import MANIFEST, IndexManifest, locked, save_graph
from airrep_infer.index.graph import Geometry
from airrep_infer.index.influence_bound import influence_bounds
from airrep_infer.index.recall import exact_ends, measure_again, measure_end
from airrep_infer.rows.examples import Example
from airrep_infer.score.attribution import attribute
from airrep_infer.score.pooling import attention_pool
from airrep_infer.store.store import EmbeddingStore
from airrep_infer.store.writer import StoreWriter

DIMENSION = 24
EXACT = 1e-12  # relative: float64 sums in another order
ROUNDING = 1e-9


def clustered(count: int, seed: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    """Clusters off the origin whose rows have lengths of a ratio of 5, as real embeddings have."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1234).normal(size=(40, dimension)) + 0.5
    vectors = centres[rng.integers(0, 40, count)] + 0.4 * rng.normal(size=(count, dimension))
    return (vectors * rng.lognormal(0, 0.25, (count, 1))).astype(np.float32)


def extend(
    path: Path, vectors: np.ndarray, *, dtype: str = "float32", fingerprint: str = "ab" * 32
) -> EmbeddingStore:
    """Append vectors to a store, in parts of 700 rows."""
    space = EmbeddingSpace(fingerprint, "fp32", vectors.shape[1])
    with StoreWriter(path, space, pooling_scale=1.0, dtype=dtype, part_rows=700) as writer:
        known = len(EmbeddingStore.open(path))
        names = [f"r{known + number}" for number in range(len(vectors))]
        writer.append([Example(name, None, name) for name in names], vectors)
    return EmbeddingStore.open(path)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddingStore, Path]:
    """5,000 rows and their index, made once; copy the folder before changing it."""
    folder = tmp_path_factory.mktemp("large")
    store = extend(folder / "store", clustered(5000))
    build_index(store, folder / "index", links=16, ef_construction=100, threads=1)
    return store, folder / "index"


def same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=EXACT, atol=EXACT * np.abs(expected).max())


def assert_exact(index: AnnIndex, queries: np.ndarray, k: int, **options: int) -> None:
    """The index finds what the exact scan finds, ties included."""
    exact = attribute(queries, index.store, k=k)
    high, low = index.proponents(queries, k, **options), index.opponents(queries, k, **options)
    np.testing.assert_array_equal(high.rows, exact.proponent_rows)
    np.testing.assert_array_equal(low.rows, exact.opponent_rows)
    same(high.scores, exact.proponent_scores)
    same(low.scores, exact.opponent_scores)


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


def lowest_of(probes: np.ndarray, vectors: np.ndarray, count: int) -> list[np.ndarray]:
    """The plain definition: the rows of the `count` lowest scores of each probe."""
    scores = probes.astype(float) @ vectors.astype(float).T
    return [np.argsort(line, kind="stable")[:count] for line in scores]


@pytest.fixture
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One probe in 20 of 5,000 rows, each with its 30 lowest: the opponents are a part of the rows."""
    monkeypatch.setattr(opponents, "PROBES", 250)
    monkeypatch.setattr(build, "LOWEST", 30)


@pytest.fixture
def far(few_probes: None, tmp_path: Path) -> AnnIndex:
    return build_index(
        extend(tmp_path / "far", clustered(5000)), tmp_path / "fi", links=8, ef_construction=50, threads=2
    )


def test_opponents_are_the_lowest_rows_of_the_probes(far: AnnIndex) -> None:
    vectors = far.store.take(np.arange(5000))
    probes = np.arange(0, 5000, 20)
    np.testing.assert_array_equal(far.searcher.arrays.probes, probes)
    expected = lowest_of(vectors[probes], vectors, 30)
    assert set(far.searcher.opponent_graph.row_numbers().tolist()) == set(np.concatenate(expected).tolist())
    assert far.manifest.opponent_graph.vertices == len(far.searcher.opponent_graph.row_numbers()) < 2500
    scores = np.stack([np.sort(vectors[p].astype(float) @ vectors.T)[:30] for p in probes])
    np.testing.assert_allclose(far.searcher.arrays.lowest, scores, rtol=1e-5, atol=1e-5)


def test_opponents_hold_the_opponents_of_other_queries(far: AnnIndex) -> None:
    queries = clustered(300, seed=9)
    exact = attribute(queries, far.store, k=10)
    assert np.isin(exact.opponent_rows, far.searcher.opponent_graph.row_numbers()).mean() > 0.97
    found = far.opponents(queries, 10)
    assert np.isin(found.rows, far.searcher.opponent_graph.row_numbers()).all()
    # The same effort in the graph of all rows finds fewer.
    far.searcher.opponent_graph = far.searcher.graph
    shares = [
        np.mean([len(set(a) & set(b)) / 10 for a, b in zip(hits.rows, exact.opponent_rows, strict=True)])
        for hits in (found, far.opponents(queries, 10))
    ]
    assert shares[0] > shares[1] + 0.02, shares


def test_more_opponents_than_a_probe_has_are_exact(far: AnnIndex) -> None:
    queries = clustered(4, seed=9)
    exact = attribute(queries, far.store, k=31)
    np.testing.assert_array_equal(far.opponents(queries, 31).rows, exact.opponent_rows)
    assert not np.array_equal(far.opponents(queries, 30, ef=30).rows, exact.opponent_rows[:, :30])


def test_an_index_for_a_larger_k_has_more_of_a_probe(few_probes: None, tmp_path: Path) -> None:
    index = build_index(extend(tmp_path / "s", clustered(1000)), tmp_path / "i", k=40, threads=1)
    assert index.searcher.arrays.lowest.shape[1] == 80


def test_added_rows_become_opponents_as_if_they_had_been_there(few_probes: None, tmp_path: Path) -> None:
    """Old probes find new opponents, new ones old and new; copies are neither; what was one stays one."""
    vectors = clustered(5000)
    vectors[4000:4400] = -1.5 * vectors[:400]  # far lower than all before
    vectors[4400:4500] = vectors[:100]
    store = extend(tmp_path / "s", vectors[:2000])
    first = build_index(store, tmp_path / "i", links=8, ef_construction=50, threads=1)
    before = set(first.searcher.opponent_graph.row_numbers().tolist())
    assert len(first.searcher.arrays.probes) == 250  # one in 8
    grown = build_index(extend(tmp_path / "s", vectors[2000:]), tmp_path / "i", threads=1)
    probes = np.concatenate([np.arange(0, 2000, 8), np.arange(2000, 5000, 20)])
    probes = probes[(probes < 4400) | (probes >= 4500)]
    np.testing.assert_array_equal(grown.searcher.arrays.probes, probes)
    distinct = np.delete(np.arange(5000), np.arange(4400, 4500))
    lists = lowest_of(vectors[probes], vectors[distinct], 30)
    expected = set(distinct[np.concatenate(lists)].tolist())
    assert expected & set(range(4000, 4400)) and before - expected  # some came, some would have gone
    for index in (grown, AnnIndex.open(tmp_path / "i", grown.store)):
        assert set(index.searcher.opponent_graph.row_numbers().tolist()) == before | expected
        assert index.manifest.opponent_graph.vertices == len(before | expected)
    scores = np.sort(vectors[probes].astype(float) @ vectors[distinct].T, axis=1)[:, :30]
    np.testing.assert_allclose(grown.searcher.arrays.lowest, scores, rtol=1e-5, atol=1e-5)


def test_fewer_rows_than_a_probe_may_have(tmp_path: Path) -> None:
    """Infinity stands for what is not there, and gives way to rows that come."""
    vectors = clustered(300)
    store = extend(tmp_path / "s", vectors[:20])
    small = build_index(store, tmp_path / "i", threads=1)
    assert (
        small.searcher.arrays.lowest.shape == (20, 200)
        and (small.searcher.arrays.lowest[:, 20:] == np.inf).all()
    )
    assert small.manifest.opponent_graph.vertices == 20
    grown = build_index(extend(tmp_path / "s", vectors[20:]), tmp_path / "i", threads=1)
    assert np.isfinite(grown.searcher.arrays.lowest).all() and len(grown.searcher.arrays.probes) == 300
    expected = np.concatenate(lowest_of(vectors, vectors, 200))
    assert set(grown.searcher.opponent_graph.row_numbers().tolist()) == set(expected.tolist())


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
        for number, own in enumerate(truth.own):
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


@st.composite
def ends(draw: st.DrawFn) -> tuple[np.ndarray, int, float]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(3, 400))
    shape = draw(st.sampled_from(["normal", "skewed", "two values", "equal"]))
    scores = {
        "normal": rng.normal(size=(3, count)),
        "skewed": rng.lognormal(0, 1, (3, count)) - 1,
        "two values": rng.choice([-1.0, 2.0], (3, count)),
        "equal": np.full((3, count), 0.7),
    }[shape]
    scale = draw(st.sampled_from([0.01, 1.0, 5.0, 100.0]))
    tail = draw(st.integers(1, max(1, (count - 1) // 2)))
    return (
        np.sort(scores * scale + draw(st.sampled_from([-3.0, 0.0, 1.0])), axis=1),
        tail,
        draw(st.sampled_from([0.0, 0.3, 1.0, 10.0])),
    )


@settings(max_examples=300, deadline=None)
@given(ends())
def test_bounds_hold_whatever_lies_between(problem: tuple[np.ndarray, int, float]) -> None:
    scores, tail, beta = problem
    outer = np.concatenate([scores[:, :tail], scores[:, -tail:]], axis=1)
    between = scores[:, tail:-tail]
    others = np.full(3, float(between.shape[1]))
    mean = between.mean(axis=1) if between.size else np.full(3, np.nan)
    low, high = scores[:, tail - 1], scores[:, -tail]
    lower, upper = influence_bounds(outer, np.ones_like(outer), low, high, others, mean, beta)
    slack = ROUNDING * np.abs(scores).max()
    exact = attention_pool(scores, beta)
    assert (lower - slack <= exact).all() and (exact <= upper + slack).all()
    assert (lower >= scores[:, 0] - slack).all() or beta > 0
    if not between.size or beta == 0:  # nothing unknown: the bound is the value
        np.testing.assert_allclose(upper, lower, atol=1e-6 * np.abs(scores).max() + 1e-12)
    # The worst that two values in between can do with the given mean; the bounds may not cut it off.
    for split in (0.1, 0.5, 0.9):
        if not between.size:
            break
        reach = np.minimum((mean - low) / split, (high - mean) / (1 - split))
        values = np.stack([mean - split * reach, mean + (1 - split) * reach], axis=1)
        both = np.concatenate([outer, values], axis=1)
        weights = np.concatenate(
            [np.ones_like(outer), others[:, None] * np.array([1 - split, split])], axis=1
        ) * np.exp(beta * (np.abs(both) - np.abs(both).max(axis=1, keepdims=True)))
        worst = (weights * both).sum(axis=1) / weights.sum(axis=1)
        assert (lower - slack <= worst).all() and (worst <= upper + slack).all()


def test_bounds_are_as_tight_as_two_values_allow() -> None:
    """Against a grid search over all pairs of values with the mean, which contains the worst case."""
    rng = np.random.default_rng(0)
    for beta, scale in ((1.0, 0.2), (1.0, 2.0), (3.0, 1.0)):
        scores = np.sort(rng.normal(0.3, scale, (1, 500)), axis=1)
        outer, between = np.concatenate([scores[:, :20], scores[:, -20:]], axis=1), scores[:, 20:-20]
        low, high, mean, m = scores[:, 19], scores[:, -20], between.mean(axis=1), np.full(1, 460.0)
        lower, upper = influence_bounds(outer, np.ones_like(outer), low, high, m, mean, beta)
        below, above = np.meshgrid(np.linspace(low[0], mean[0], 400), np.linspace(mean[0], high[0], 400))
        share = np.divide(mean[0] - below, above - below, out=np.zeros_like(below), where=above > below)
        known, left, right = (np.exp(beta * np.abs(values)) for values in (outer, below, above))
        numerator = (known * outer).sum() + 460 * ((1 - share) * left * below + share * right * above)
        reached = numerator / (known.sum() + 460 * ((1 - share) * left + share * right))
        width = reached.max() - reached.min()
        assert upper[0] == pytest.approx(reached.max(), abs=0.01 * width)
        assert lower[0] == pytest.approx(reached.min(), abs=0.01 * width)


def test_influence_is_estimated_within_its_error(large: tuple[EmbeddingStore, Path]) -> None:
    store, path = large
    index = AnnIndex.open(path, store)
    queries = np.concatenate([clustered(300, seed=11), 0.05 * clustered(300, seed=12)])  # > 256: two chunks
    measured = index.manifest.measured
    exact = attribute(queries, store, k=50)
    complete = np.ones(600, bool)  # the bound assumes that the ends are
    for search, end, rows in (
        (index.proponents, measured.proponents, exact.proponent_rows),
        (index.opponents, measured.opponents, exact.opponent_rows),
    ):
        tails = search(queries, 50, ef=max(end.ef, 100)).rows
        complete &= [set(a) == set(b) for a, b in zip(tails, rows, strict=True)]
    assert complete.sum() > 100
    for beta in (0.0, 1.0, 4.0):
        exact = attribute(queries, store, k=10, pooling_scale=beta)
        found = index.attribute(queries, 10, pooling_scale=beta, tail=50)
        off = np.abs(found.group_influence - exact.group_influence)
        assert (off <= found.group_influence_error + ROUNDING)[complete].all()
        assert (off <= found.group_influence_error + ROUNDING).mean() > 0.95
        narrow = index.attribute(queries, 10, pooling_scale=beta, tail=10)
        assert found.group_influence_error.mean() <= narrow.group_influence_error.mean() + ROUNDING
        # The estimate is far better than the worst case, and than the ends alone.
        assert off.mean() <= 0.02 * np.abs(exact.group_influence).mean() + ROUNDING
    assert len(found) == 600 and len(found[5].proponents) == 10


def test_adding_rows(tmp_path: Path) -> None:
    """Only the new rows are added, longer than any before and copies of old ones among them."""
    vectors = clustered(1500)
    store = extend(tmp_path / "s", vectors[:1000])
    build_index(store, tmp_path / "i", links=16, ef_construction=100, threads=1)
    first = IndexManifest.open(tmp_path / "i")
    new = np.concatenate([vectors[1000:] * 3, vectors[:50]])
    grown = extend(tmp_path / "s", new)
    with pytest.raises(InputError, match=r"has 1000 of the 1550 rows.*airrep-infer index"):
        AnnIndex.open(tmp_path / "i", grown)
    assert len(AnnIndex.open(tmp_path / "i", store)) == 1000  # the view from before it grew
    told: list[tuple[str, int, int | None]] = []
    build_index(grown, tmp_path / "i", threads=1, progress=lambda *stage: told.append(stage))
    totals = {name: total for name, _, total in told}
    # 50 are copies; 500 new probes look at all 1,500 distinct rows, 1,000 old ones at the 500 new.
    assert totals == {
        "index rows": 550,
        "find opponents": 2000,
        "index opponents": totals["index opponents"],
        "measure": 1550,
    }
    for name, total in totals.items():
        done = [done for stage, done, _ in told if stage == name]
        assert done == sorted(done) and (done[0], done[-1]) == (0, total)
    index = AnnIndex.open(tmp_path / "i", grown)
    manifest = index.manifest
    graph, old = manifest.graph, first.graph
    assert (manifest.rows, graph.vertices, graph.links) == (1550, 1500, 16)
    assert graph.radius == old.radius
    assert graph.file != old.file and manifest.opponent_graph.file != first.opponent_graph.file
    names = sorted(child.name for child in (tmp_path / "i").iterdir())
    assert names == sorted([".lock", MANIFEST, *(one.name for one in manifest.files)])
    queries = clustered(200, seed=5)
    exact = attribute(queries, grown, k=10)
    for hits, rows in (
        (index.proponents(queries), exact.proponent_rows),
        (index.opponents(queries), exact.opponent_rows),
    ):
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(hits.rows, rows, strict=True)]) > 0.93
    same(
        queries.astype(float) @ index.searcher.arrays.total,
        queries.astype(float) @ grown.take(range(1550)).sum(axis=0, dtype=float),
    )

    told.clear()
    again = build_index(grown, tmp_path / "i", progress=lambda *stage: told.append(stage))
    assert again.manifest == manifest and not told  # nothing to do
    higher = build_index(grown, tmp_path / "i", recall=0.99, threads=1).manifest  # measured again, no more
    assert higher.graph == manifest.graph and higher.measured.opponents.ef > manifest.measured.opponents.ef
    for options, word in (({"links": 8}, "links 16"), ({"ef_construction": 7}, "ef_construction 100")):
        with pytest.raises(InputError, match=f"{word}.*--rebuild"):
            build_index(grown, tmp_path / "i", **options)
    rebuilt = build_index(grown, tmp_path / "i", rebuild=True, links=8, threads=1).manifest
    assert (rebuilt.graph.links, rebuilt.opponent_graph.links) == (
        8,
        24,
    ) and rebuilt.graph.radius != graph.radius


def test_one_thread_makes_the_same_graph_twice(tmp_path: Path) -> None:
    store = extend(tmp_path / "s", clustered(1000))
    hashes = {
        tuple(
            one.sha256
            for one in build_index(
                store, tmp_path / name, links=8, ef_construction=50, threads=1
            ).manifest.files
        )
        for name in "ab"
    }
    assert len(hashes) == 1
    for threads in (0, 1.5):
        with pytest.raises(InputError, match="threads"):
            build_index(store, tmp_path / "c", threads=threads)
    index = AnnIndex.open(tmp_path / "a", store)
    assert_exact(index, clustered(50, seed=4), 10, ef=999, threads=3)


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


@pytest.mark.parametrize("what", [0, 1, 2], ids=["graph", "hubs", "arrays"])
@pytest.mark.parametrize("how", ["byte", "cut", "gone"])
def test_damaged_files(what: int, how: str, large: tuple[EmbeddingStore, Path], tmp_path: Path) -> None:
    store, path = large
    folder = shutil.copytree(path, tmp_path / "i")
    file = folder / IndexManifest.open(folder).files[what].name
    content = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content if how == "byte" else content[:-1])
    with pytest.raises(InputError, match=file.name):
        AnnIndex.open(folder, store)


def test_damaged_or_foreign_manifests(large: tuple[EmbeddingStore, Path], tmp_path: Path) -> None:
    store, path = large
    folder = shutil.copytree(path, tmp_path / "i")
    file = folder / MANIFEST
    original = json.loads(file.read_text())
    for change, words in (
        ({"rows": 4999}, "sha256"),
        ({"graph": {**original["graph"], "vertices": 4999}}, "sha256"),
        ({"space": {**original["space"], "dimension": DIMENSION + 8}}, "sha256"),
        ({"hubs": {**original["hubs"], "radius": 1.0}}, "sha256"),
        ({"format_version": 99}, "format version 99"),
        ({"kind": "airrep-store"}, "airrep-store"),
    ):
        file.write_text(json.dumps({**original, **change}))
        with pytest.raises(InputError, match=words):
            AnnIndex.open(folder, store)
    file.write_text("{")
    with pytest.raises(InputError, match=MANIFEST):
        AnnIndex.open(folder, store)
    with pytest.raises(InputError, match=MANIFEST):
        build_index(store, folder)
    small = extend(tmp_path / "small", clustered(50))
    assert len(build_index(small, folder, rebuild=True, threads=1)) == 50  # nothing of the old one is read
    with pytest.raises(InputError, match="not an index"):
        AnnIndex.open(tmp_path / "nowhere", store)


def test_other_stores(large: tuple[EmbeddingStore, Path], tmp_path: Path) -> None:
    store, path = large
    vectors = store.take(np.arange(len(store)))
    vectors[17] *= 1.001
    changed = extend(tmp_path / "changed", vectors)
    shorter = extend(tmp_path / "shorter", vectors[:700])
    for other in (changed, shorter):
        for use in (AnnIndex.open, lambda path, store: build_index(store, path)):
            with pytest.raises(InputError, match="another store"):
                use(path, other)
    with pytest.raises(InputError, match="different encoders"):
        AnnIndex.open(path, extend(tmp_path / "model", vectors, fingerprint="cd" * 32))
    with pytest.raises(InputError, match="different encoders"):
        AnnIndex.open(path, extend(tmp_path / "wide", np.pad(vectors, ((0, 0), (0, 8)))))


def test_unusable_folders_and_options(large: tuple[EmbeddingStore, Path], tmp_path: Path) -> None:
    store, path = large
    (tmp_path / "file").write_text("x")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    for name, words in (("file", "is a file"), ("notes", "todo.txt")):
        with pytest.raises(InputError, match=words):
            build_index(store, tmp_path / name)
    for options, words in (
        ({"recall": 0.0}, "recall"),
        ({"recall": 1.1}, "recall"),
        ({"k": 0}, "k must be"),
        ({"links": 1}, "links"),
        ({"max_ef": 0}, "max_ef"),
    ):
        with pytest.raises(InputError, match=words):
            build_index(store, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
    index = AnnIndex.open(path, store)
    with pytest.raises(InputError, match="NaN"):
        index.proponents(np.full((1, DIMENSION), np.nan))
    with pytest.raises(InputError, match="dimension 3"):
        index.attribute(np.ones((1, 3)))
    with pytest.raises(InputError, match="tail"):
        index.attribute(np.ones((1, DIMENSION)), tail=0)


def test_one_writer_at_a_time(large: tuple[EmbeddingStore, Path], tmp_path: Path) -> None:
    store, path = large
    folder = shutil.copytree(path, tmp_path / "i")
    with locked(folder), pytest.raises(BusyError, match="another process"):
        build_index(store, folder, recall=0.9)
    assert len(AnnIndex.open(folder, store)) == len(store)


def test_a_graph_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    """hnswlib's own save does not notice a full disk."""

    class Short:
        def save_index(self, path: str) -> None:
            Path(path).write_bytes(b"x" * 10)

        def index_file_size(self) -> int:
            return 11

    with pytest.raises(StorageError, match="space"):
        save_graph(tmp_path, Short(), "graph")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from airrep_infer.index.build import build_index
calls = 0
def dying(real):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call
store, index = sys.argv[1:3]
os.fsync, os.replace, os.rename, os.unlink = map(dying, (os.fsync, os.replace, os.rename, os.unlink))
build_index(store, index, threads=1)
"""


def test_killed_while_saving_it_leaves_an_index(tmp_path: Path) -> None:
    """SIGKILL in a real process before every fsync, rename and removal of a save, until one survives."""
    vectors = clustered(400)
    old = extend(tmp_path / "s", vectors[:300])
    build_index(old, tmp_path / "before", links=4, ef_construction=20, threads=1)
    new = extend(tmp_path / "s", vectors[300:])
    survived: list[int] = []
    for moment in range(1, 40):
        folder = shutil.copytree(tmp_path / "before", tmp_path / f"i{moment}")
        command = [sys.executable, "-c", KILLED, str(new.path), str(folder), str(moment)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        rows = IndexManifest.open(folder).rows
        assert_exact(AnnIndex.open(folder, old if rows == 300 else new), vectors[:2], 5, ef=400)
        survived.append(rows)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr
        index = build_index(new, folder, threads=1)
        assert_exact(index, vectors[:2], 5, ef=400)
        assert len(list(folder.iterdir())) == 5  # lock, manifest and its three files: nothing is left over
    # Some were killed before the manifest was replaced, some after.
    assert process.returncode == 0 and moment > 8 and set(survived[:-1]) == {300, 400}


def test_importing_needs_no_hnswlib() -> None:
    code = "import sys, airrep_infer, airrep_infer.cli; sys.exit('hnswlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0
