"""Worker processes and Ray: wherever the work runs, it gives the bytes of the plain run."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray_double import ray_double
from windowed import WINDOW, content, embed, same_rows

from airrep_infer import resources
from airrep_infer.bundle import Bundle
from airrep_infer.encode.encoder import Encoder, cut_windows
from airrep_infer.engines import Engine
from airrep_infer.engines.local import _shares
from airrep_infer.engines.ray import _Rows, _ScanTask
from airrep_infer.engines.ray_cluster import divide_cluster
from airrep_infer.engines.workers import LANES, WindowVectors, WorkerEncoder, WorkerFacts
from airrep_infer.errors import AirRepError, InputError
from airrep_infer.score.attribution import _Pass, attribute
from airrep_infer.score.groups import Groups
from airrep_infer.score.plan import Scanned, ScanPlan
from airrep_infer.store.store import EmbeddingStore


class Worker:
    """A worker that takes its time, differently for every window."""

    def __init__(self, facts: WorkerFacts = WorkerFacts("cpu", "1")) -> None:  # noqa: B008
        self._facts, self.busy, self.most, self.stopped = facts, 0, 0, False
        self._lock = threading.Lock()

    def facts(self) -> WorkerFacts:
        return self._facts

    def embed(self, texts: list[str]) -> WindowVectors:
        with self._lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        time.sleep(sum(map(ord, texts[0])) % 7 / 1000)
        with self._lock:
            self.busy -= 1
        if "bad" in texts:
            raise AirRepError("a worker died")
        numbers = [int(text) for text in texts]
        return WindowVectors(
            np.array(numbers, np.float32)[:, None], np.array([number % 2 for number in numbers], np.uint8)
        )

    def stop(self) -> None:
        self.stopped = True


def test_windows_come_back_in_order_and_are_read_as_needed(tiny_bundle: Path) -> None:
    workers = [Worker(), Worker()]
    encoder = WorkerEncoder(Bundle.open(tiny_bundle), "fp32", workers)
    read = 0

    def rows() -> Iterator[str]:
        nonlocal read
        for read in range(100 * WINDOW):
            yield str(read)

    done = 0
    for window in encoder.embed_windows(cut_windows(rows())):
        assert window.vectors[:, 0].tolist() == [float(row) for row in window.rows]
        assert window.cuts.tolist() == [int(row) % 2 for row in window.rows]
        assert int(window.rows[0]) == done
        done += len(window.rows)
        assert read - done <= 10 * WINDOW
    assert done == 100 * WINDOW and all(worker.most == LANES for worker in workers)
    with pytest.raises(AirRepError, match="died"):
        list(encoder.embed_windows([["1"], ["bad"], ["2"]]))
    encoder.close()
    assert all(worker.stopped for worker in workers)


def test_workers_with_different_software_are_refused(tiny_bundle: Path) -> None:
    workers = [Worker(), Worker(WorkerFacts("cpu", "2"))]
    with pytest.raises(InputError, match=r"1 \(cpu\) and 2 \(cpu\); install the same"):
        WorkerEncoder(Bundle.open(tiny_bundle), "fp32", workers)
    assert all(worker.stopped for worker in workers)


def test_two_processes_fill_the_same_store_and_one_may_die(
    train: Path, whole: EmbeddingStore, tiny_bundle: Path, tmp_path: Path
) -> None:
    engine = Engine(workers=2)
    with engine.encoder(tiny_bundle, device="cpu", threads=3) as encoder:
        assert encoder.placement == "CPUExecutionProvider, 2 workers"
        assert content(embed(train, encoder, tmp_path / "two")) == content(whole)
        processes = [worker._process for worker in encoder._workers]  # type: ignore[attr-defined]
        os.kill(processes[0].pid, signal.SIGKILL)
        with pytest.raises(AirRepError, match=r"killed by SIGKILL.*the same command again") as raised:
            embed(train, encoder, tmp_path / "killed")
        assert raised.value.exit_status == 1
    assert not any(process.is_alive() for process in processes)
    assert same_rows(embed(train, Encoder(tiny_bundle, device="cpu"), tmp_path / "killed"), whole)


def test_what_a_worker_raises_is_the_error_of_the_command(tiny_bundle: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(tiny_bundle, tmp_path / "damaged"))
    (damaged / "encoder.onnx").write_bytes(b"")
    with (
        pytest.raises(InputError, match=r"encoder\.onnx: damaged"),
        Engine(workers=1).encoder(damaged, device="cpu"),
    ):
        pass


def test_each_process_gets_its_gpu(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    asked = []

    def session(_file: str, _options: Any, providers: list[Any], **_rest: Any) -> Any:
        asked.append(providers[0][1]["device_id"])
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr("airrep_infer.session.cuda.obstacle", lambda _ort, _device_id: None)
    with pytest.raises(InputError, match="did not start on GPU 3"):
        Encoder(tiny_bundle, device="cuda", device_id=3)
    assert asked == [3]


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {4, 5, 9, 2, 7}, raising=False)
    assert _shares(5, 2) == [[2, 4], [5, 7, 9]]
    assert [len(share) for share in _shares(8, 3)] == [2, 3, 3]
    with pytest.raises(InputError, match="6 workers need a thread each, and there are 5"):
        Engine(workers=6).encoder(tiny_bundle).__enter__()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "dask"}, "local or ray"),
        ({"workers": 0}, "at least 1"),
        ({"address": "a:6379"}, "--engine ray"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Engine(**options)


@pytest.mark.parametrize("engine", [Engine("ray"), Engine(workers=2)])
def test_the_memory_budget_is_that_of_the_workers_too(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ray_double())
    with engine.encoder(tiny_bundle, device="cpu") as encoder:
        assert encoder.placement == "CPUExecutionProvider, 2 workers"
    resources.limit_memory(0.01)
    try:
        with pytest.raises(InputError, match=r"embedding in batches of 512 tokens needs .* 0.0 GB"):
            engine.encoder(tiny_bundle, device="cpu").__enter__()
    finally:
        resources.limit_memory(None)


def test_without_ray_the_extra_is_named(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for opened in (Engine("ray").encoder(tiny_bundle), Engine("ray").scan()):
        with pytest.raises(InputError, match=r"pip install 'airrep\[ray\]'"):
            opened.__enter__()
    with pytest.raises(InputError, match="threads belongs to engine local"):
        Engine("ray").encoder(tiny_bundle, threads=2).__enter__()


def test_a_cluster_is_divided_so_that_every_share_fits_on_a_node() -> None:
    def cluster(*nodes: float, gpus: int = 0) -> Any:
        return SimpleNamespace(
            cluster_resources=lambda: {"GPU": gpus} if gpus else {},
            nodes=lambda: [{"Alive": True, "Resources": {"CPU": cores} if cores else {}} for cores in nodes],
        )

    for nodes, options, expected in (
        ((0, 8, 16), {}, (2, 8, 0)),
        ((8, 16), {"workers": 5}, (5, 2, 0)),
        ((2,), {"workers": 8}, (8, 1, 0)),
        ((16, 16), {"gpus": 4}, (4, 8, 1)),
        ((16, 16), {"gpus": 4, "workers": 6}, (6, 5, 0.5)),
    ):
        gpus = int(options.pop("gpus", 0))
        share = divide_cluster(cluster(*nodes, gpus=gpus), "auto", **options)
        assert (share.workers, share.threads, share.gpus) == expected
        assert share.device == ("cuda" if gpus else "cpu")
    with pytest.raises(InputError, match="no GPU"):
        divide_cluster(cluster(4), "cuda")


@pytest.mark.parametrize("cuts", [[37], [1, 2, 50, 99], [7, 14, 63]])
@pytest.mark.parametrize("grouped", ["no", "partition", "overlapping"])
def test_ranges_of_a_store_merge_to_the_whole_pass(
    cuts: list[int], grouped: str, whole: EmbeddingStore
) -> None:
    queries = whole.take(range(0, 100, 9)).astype(float)
    groups = None
    if grouped == "partition":
        groups = Groups.from_codes(*whole.groups("task"))
    if grouped == "overlapping":
        groups = Groups.from_members({"a": [0, 5, 99], "b": range(3, 60)})
    expected = attribute(queries, whole, k=5, groups=groups)

    def by_ranges(plan: ScanPlan[Any]) -> Scanned[Any]:
        work = _ScanTask(replace(plan, block_rows=6, threads=1, dtype="float32"), whole, whole)
        ends = [*cuts, len(whole)]
        first, *others = [work.over(*ends_) for ends_ in zip([0, *cuts], ends, strict=True)]
        for other in others:
            first.merge(other)
        return Scanned(first, "float32")

    found = attribute(queries, whole, k=5, groups=groups, scan_with=by_ranges)
    assert np.array_equal(found.proponent_rows, expected.proponent_rows)
    assert np.array_equal(found.opponent_rows, expected.opponent_rows)
    assert np.array_equal(found.proponent_scores, expected.proponent_scores)
    np.testing.assert_allclose(found.group_influence, expected.group_influence, rtol=0, atol=1e-5)
    if groups:
        np.testing.assert_allclose(found.groups, expected.groups, rtol=0, atol=1e-5)


def test_rows_of_a_range_keep_their_numbers(whole: EmbeddingStore) -> None:
    rows = _Rows(whole, 5, 30)
    found = [(first + n, row) for first, block in rows.blocks(4) for n, row in enumerate(block)]
    assert len(rows) == 25 and [number for number, _ in found] == list(range(5, 30))
    assert np.array_equal(np.stack([row for _, row in found]), whole.take(range(5, 30)))


def test_a_node_without_the_store_says_so(whole: EmbeddingStore, train: Path, encoder: Encoder) -> None:
    queries = whole.take([0]).astype(float)

    def work(store: EmbeddingStore) -> _ScanTask[_Pass]:
        plan = ScanPlan(queries, store, lambda: _Pass(1, 3, 1.0, None, None), threads=1)
        return _ScanTask(plan, store, store)

    with pytest.raises(InputError, match=r"nowhere: node .* does not see this store; put it on storage"):
        work(replace(whole, path=whole.path / "nowhere")).over(0, 10)
    other = replace(whole, parts=(replace(whole.parts[0], sha256="0" * 64),))
    with pytest.raises(InputError, match="sees another store"):
        work(other).over(0, 7)
