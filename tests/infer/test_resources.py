"""Cores, memory and threads of BLAS that a process may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from airrep_infer import attribute, resources
from airrep_infer.encode import EmbeddingSpace
from airrep_infer.errors import InputError
from airrep_infer.index import build_index, opponents
from airrep_infer.rows import Example
from airrep_infer.score import Groups, TopK
from airrep_infer.score.scan import scan
from airrep_infer.store import StoreWriter


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_blas_gets_its_threads_back() -> None:
    resources._libraries.cache_clear()  # others may have been loaded since
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with resources.one_blas_thread():
            assert blas_threads() == {1}
        assert blas_threads() == before


def test_libraries_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking reads the process' memory map: 5 ms a query beside an index of a million rows."""
    looked = 0
    real = resources.ThreadpoolController

    def look() -> object:
        nonlocal looked
        looked += 1
        return real()

    monkeypatch.setattr(resources, "ThreadpoolController", look)
    resources._libraries.cache_clear()
    vectors = np.random.default_rng(0).standard_normal((50, 8))
    for query in vectors[:5]:
        attribute(query[None], vectors, k=3)
    assert looked == 1
    resources._libraries.cache_clear()


GB = 10**9


def group(root: Path, path: str, files: dict[str, str]) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def own_groups(root: Path, text: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(text)


def test_the_tightest_group_above_a_process_counts(tmp_path: Path) -> None:
    own_groups(tmp_path, "0::/job/step\n")
    group(tmp_path, "job", {"memory.max": f"{8 * GB}\n", "memory.stat": f"anon {3 * GB}\nfile {4 * GB}\n"})
    group(tmp_path, "job/step", {"memory.max": "max\n", "memory.stat": "anon 1\n"})
    assert resources.control_group_room(tmp_path) == 5 * GB
    group(tmp_path, "job/step", {"memory.max": f"{2 * GB}", "memory.stat": f"anon {3 * GB}\n"})
    assert resources.control_group_room(tmp_path) == 0


def test_version_1_and_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    own_groups(tmp_path, "9:name=systemd:/\n4:cpu,memory:/docker/1234\n0::/\n")
    stat = {"memory.stat": f"rss 1\ntotal_rss {GB}\n"}
    group(tmp_path, "memory", {"memory.limit_in_bytes": f"{4 * GB}\n", **stat})
    assert resources.control_group_room(tmp_path) == 3 * GB


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert resources.control_group_room(tmp_path) > 1e18


def test_cores_are_those_of_the_tightest_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(resources, "_ROOT", tmp_path)
    assert resources.available_cores() == 16
    own_groups(tmp_path, "0::/job/step\n")
    group(tmp_path, "job/step", {"cpu.max": "max 100000\n"})
    assert resources.available_cores() == 16
    group(tmp_path, "job", {"cpu.max": "250000 100000\n"})
    assert resources.available_cores() == 3
    group(tmp_path, "job/step", {"cpu.max": "50000 100000\n"})
    assert resources.available_cores() == 1
    group(tmp_path, "job/step", {"cpu.max": "9000000 100000\n"})
    group(tmp_path, "job", {"cpu.max": "damaged"})
    assert resources.available_cores() == 16


@pytest.mark.parametrize("mounted", ["cpu", "cpu,cpuacct"])
def test_cores_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: str) -> None:
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(resources, "_ROOT", tmp_path)
    own_groups(tmp_path, "4:cpu,cpuacct:/docker/1234\n")
    files = {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}
    group(tmp_path, f"{mounted}/docker/1234", files)
    assert resources.available_cores() == 16
    group(tmp_path, mounted, files | {"cpu.cfs_quota_us": "400000\n"})
    assert resources.available_cores() == 4


def test_free_memory_is_what_all_of_them_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < resources.free_memory() < 1 << 50
    monkeypatch.setattr(resources, "_ROOT", tmp_path)
    assert resources.free_memory() == 1 << 62  # a system that says nothing
    own_groups(tmp_path, "0::/\n")
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {6 * GB // 1024} kB\n")
    assert resources.free_memory() == 6 * GB // 1024 * 1024
    group(tmp_path, "", {"memory.max": f"{3 * GB}\n", "memory.stat": f"anon {GB}\n"})
    assert resources.free_memory() == 2 * GB
    assert resources.memory_budget() == 8 * GB // 5


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_asked_bytes", 10 * GB)


def test_what_does_not_fit_is_refused_with_its_figure(budget: None) -> None:
    resources.check_memory(10 * GB, "this", "that")
    with pytest.raises(InputError) as caught:
        resources.check_memory(17_500_000_000, "-k 100000 of 1000 queries", "lower -k")
    assert str(caught.value) == (
        "-k 100000 of 1000 queries needs 17.5 GB of memory and the budget is 10.0 GB; lower -k, "
        "or raise the budget with --memory"
    )


def test_threads_are_as_many_as_fit(budget: None) -> None:
    assert resources.threads_within_memory(16, GB, 4 * GB, "", "") == 6
    assert resources.threads_within_memory(3, GB, 4 * GB, "", "") == 3
    with pytest.raises(InputError, match=r"it needs 11.0 GB of memory and the budget is 10.0 GB; less"):
        resources.threads_within_memory(16, 7 * GB, 4 * GB, "it", "less")


def test_a_large_k_is_refused_or_takes_fewer_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).standard_normal((3000, 8)).astype(np.float32)
    whole = attribute(vectors[:100], vectors, k=3000, threads=4)
    assert whole.proponent_rows.shape == (100, 3000)
    resources.limit_memory(0.08)
    try:
        assert attribute(vectors[:100], vectors, k=3000, threads=4).proponent_rows.shape == (100, 3000)
        with pytest.raises(InputError, match=r"k = 3000 of 2000 queries needs .* 0.1 GB; ask"):
            attribute(vectors[:2000], vectors, k=3000, threads=4)
        # Only as many as there are rows count.
        assert attribute(vectors[:10], vectors, k=10**9).proponent_rows.shape == (10, 3000)
    finally:
        resources.limit_memory(None)


def test_many_threads_and_groups_stay_within_the_budget() -> None:
    """Every thread pools every group of every query for itself."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((4000, 8)).astype(np.float32)
    groups = Groups.from_codes([f"g{n}" for n in range(2000)], np.arange(4000) % 2000)
    queries = vectors[:200]
    whole = attribute(queries, vectors, groups=groups, threads=16)
    resources.limit_memory(0.08)
    try:
        seen: list[int] = []

        def scan_with(plan: Any) -> Any:
            seen.append(plan.workers(100))
            return scan(plan)

        fewer = attribute(queries, vectors, groups=groups, threads=16, scan_with=scan_with)
        assert 1 <= seen[0] < 16
        with pytest.raises(InputError, match=r"k = 10 of 1000 queries and 2000 groups needs .*fewer groups"):
            attribute(vectors[:1000], vectors, groups=groups, threads=16)
    finally:
        resources.limit_memory(None)
    assert whole.groups is not None and fewer.groups is not None
    np.testing.assert_allclose(fewer.groups, whole.groups, rtol=1e-5, atol=1e-7)


def test_links_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("hnswlib")
    from airrep_infer.index.graph import Geometry, Graph

    geometry = Geometry(np.zeros(8), 1.0)
    with pytest.raises(InputError, match=r"a graph of 3000 rows with 10000000 links each needs 240.0 GB"):
        Graph.empty(geometry, 3000, 10_000_000, 200)


def test_an_index_measured_with_a_huge_k_takes_what_its_rows_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hnswlib")
    vectors = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    examples = [Example(str(n), None, str(n)) for n in range(300)]
    with StoreWriter(tmp_path / "s", EmbeddingSpace("ab" * 32, "fp32", 4), pooling_scale=1.0) as writer:
        writer.append(examples, vectors)
    asked: list[int] = []

    class Counted(TopK):
        def __init__(self, lists: int, k: int) -> None:
            asked.append(k)
            super().__init__(lists, k)

    monkeypatch.setattr(opponents, "TopK", Counted)
    built = build_index(tmp_path / "s", tmp_path / "i", k=100_000, threads=1)
    assert asked and max(asked) == 300
    assert built.searcher.arrays.lowest.shape == (300, 300)
    assert built.attribute(vectors[:3], k=10**9, tail=10**9).proponent_rows.shape == (3, 300)
    resources.limit_memory(0.001)
    try:
        with pytest.raises(InputError, match=r"the 300 lowest rows of 300 probes needs .* lower -k"):
            build_index(tmp_path / "s", tmp_path / "other", k=100_000, threads=1)
        with pytest.raises(InputError, match=r"k = 300 of 300 queries needs .* lower k or fewer queries"):
            built.attribute(vectors, k=300)
    finally:
        resources.limit_memory(None)
