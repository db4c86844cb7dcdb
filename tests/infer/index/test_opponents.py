"""Opponents in an index: the lowest rows of its probes, and what adding rows does to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from indexed import assert_exact, clustered, extend, same

pytest.importorskip("hnswlib", reason="hnswlib (extra: index) is compiled on installation and optional")

from airrep_infer.errors import InputError
from airrep_infer.index import AnnIndex, build, opponents
from airrep_infer.index.build import build_index
from airrep_infer.index.folder import MANIFEST, IndexManifest
from airrep_infer.score import attribute


def lowest_of(probes: np.ndarray, vectors: np.ndarray, count: int) -> list[np.ndarray]:
    """The plain definition: the rows of the `count` lowest scores of each probe."""
    scores = probes.astype(float) @ vectors.astype(float).T
    return [np.argsort(line, kind="stable")[:count] for line in scores]


def patch_probes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(opponents, "PROBES", 250)
    patch.setattr(build, "LOWEST", 30)


@pytest.fixture
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One probe in 20 of 5,000 rows, each with its 30 lowest: the opponents are a part of the rows."""
    patch_probes(monkeypatch)


@pytest.fixture(scope="module")
def made_far(tmp_path_factory: pytest.TempPathFactory) -> AnnIndex:
    folder = tmp_path_factory.mktemp("far")
    store = extend(folder / "store", clustered(5000))
    with pytest.MonkeyPatch.context() as patch:
        patch_probes(patch)
        return build_index(store, folder / "index", links=8, ef_construction=50, threads=2)


@pytest.fixture
def far(made_far: AnnIndex, few_probes: None) -> AnnIndex:
    return AnnIndex.open(made_far.path, made_far.store)


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
