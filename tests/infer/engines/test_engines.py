"""Shards, merging and worker processes: every way to divide the work gives the bytes of the plain run."""

from __future__ import annotations

import errno
import json
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
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from airrep_infer.bundle import Bundle
from airrep_infer.cli import main
from airrep_infer.encode import encoder as encoder_module
from airrep_infer.encode.encoder import Encoder, cut_windows
from airrep_infer.engines import Engine
from airrep_infer.engines.local import _shares
from airrep_infer.engines.ray import _Rows, _ScanTask
from airrep_infer.engines.ray_cluster import divide_cluster
from airrep_infer.engines.workers import LANES, WindowVectors, WorkerEncoder, WorkerFacts
from airrep_infer.errors import AirRepError, InputError, StorageError
from airrep_infer.rows.examples import Example, ExampleReader
from airrep_infer.score.attribution import _Pass, attribute
from airrep_infer.score.groups import Groups
from airrep_infer.score.plan import Scanned, ScanPlan
from airrep_infer.store.embed import embed_files
from airrep_infer.store.listing import Shard, write_listing
from airrep_infer.store.merge import merge_stores
from airrep_infer.store.shards import ShardReader, windows_to_embed
from airrep_infer.store.store import EmbeddingStore
from airrep_infer.store.writer import StoreWriter

WINDOW = 16
ROWS = [
    {
        "id": f"r{n}",
        "task": f"t{n % 3}",
        "input": "What is the capital?",
        "output": "Paris " * (n * 7 % 23 + 1),
    }
    for n in range(100)
]


@pytest.fixture(autouse=True)
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "WINDOW_ROWS", WINDOW)


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Path) -> Encoder:
    return Encoder(tiny_bundle, device="cpu", threads=2)


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write(tmp_path / "train.jsonl", ROWS)


@pytest.fixture
def whole(train: Path, encoder: Encoder, tmp_path: Path) -> EmbeddingStore:
    """The plain run, in parts that do not end where windows do."""
    return embed(train, encoder, tmp_path / "whole")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def embed(examples: Path, encoder: Any, output: Path, **options: Any) -> EmbeddingStore:
    embed_files([examples], encoder, output, **{"part_rows": 7, **options})
    return EmbeddingStore.open(output)


def content(store: EmbeddingStore) -> dict[str, bytes]:
    return {child.name: child.read_bytes() for child in store.path.iterdir() if child.name != ".lock"}


def shards(train: Path, encoder: Encoder, folder: Path, count: int, **options: Any) -> list[EmbeddingStore]:
    return [
        embed(train, encoder, folder / f"part-{part}.store", shard=(part, count), **options)
        for part in range(1, count + 1)
    ]


def same_rows(store: EmbeddingStore, other: EmbeddingStore) -> bool:
    numbers = range(len(other))
    return list(store.rows()) == list(other.rows()) and np.array_equal(
        store.take(numbers), other.take(numbers)
    )


# --- Windows -----------------------------------------------------------------------------------------


@given(rows=st.integers(1, 60), known=st.sets(st.integers(0, 59)), prefix=st.integers(0, 60))
def test_new_rows_keep_their_company(rows: int, known: set[int], prefix: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_module, "WINDOW_ROWS", WINDOW)
        names = [str(number) for number in range(rows)]
        plain = {name: window for window in cut_windows(names) for name in window}
        # As a killed run leaves it: a prefix is there.
        skipped: list[int] = []
        stopped = set(names[:prefix])
        windows = list(windows_to_embed(cut_windows(names), stopped.__contains__, skipped.append))  # type: ignore[type-var, arg-type]
        assert all(window == plain[window[0]] for window in windows)
        assert set(names) - stopped <= {name for window in windows for name in window}
        assert sum(map(len, windows)) + sum(skipped) == rows
        # Known rows anywhere: no new row is left out or comes twice, and windows are full.
        there = {str(number) for number in known}
        skipped.clear()
        windows = list(windows_to_embed(cut_windows(names), there.__contains__, skipped.append))  # type: ignore[type-var, arg-type]
        assert [name for window in windows for name in window if name not in there] == [
            name for name in names if name not in there
        ]
        assert sum(map(len, windows)) + sum(skipped) == rows
        assert all(len(window) == WINDOW for window in windows[1:-1])


@pytest.mark.parametrize("complete", [1, 3, 5, 14])
def test_a_killed_run_goes_on_to_the_same_bytes(
    complete: int, train: Path, whole: EmbeddingStore, encoder: Encoder, tmp_path: Path
) -> None:
    """A kill leaves complete parts of 7 rows; windows of 16 rows do not end there."""
    expected = content(whole)
    stopped = Path(shutil.copytree(whole.path, tmp_path / "stopped"))
    write_listing(stopped, replace(whole.listing, parts=whole.parts[:complete]))
    assert content(embed(train, encoder, stopped)) == expected


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_no_bit(
    threads: int, train: Path, whole: EmbeddingStore, tiny_bundle: Path, tmp_path: Path
) -> None:
    other = Encoder(tiny_bundle, device="cpu", threads=threads)
    assert content(embed(train, other, tmp_path / "other")) == content(whole)


# --- Shards and merging ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_merged_shards_are_the_whole_bit_by_bit(
    count: int, train: Path, whole: EmbeddingStore, encoder: Encoder, tmp_path: Path
) -> None:
    parts = shards(train, encoder, tmp_path, count)
    sizes = [len(part) for part in parts]
    assert sum(sizes) == len(ROWS) and max(sizes) - min(sizes) <= 2 * WINDOW
    merged = merge_stores([part.path for part in reversed(parts)], tmp_path / "merged")
    assert same_rows(merged, whole) and merged.shard is None
    merged.verify()
    assert sorted(child.name for child in tmp_path.iterdir() if child.name.startswith(".")) == []
    # What it is made of may go, and it is a store like any other.
    for part in parts:
        shutil.rmtree(part.path)
    merged.verify()
    assert embed_files([train], encoder, merged.path).added == 0


def test_a_shard_goes_on_and_is_not_mixed_with_another(train: Path, encoder: Encoder, tmp_path: Path) -> None:
    (store, _) = shards(train, encoder, tmp_path, 2)
    assert store.shard == Shard(1, 2, 0, 3 * WINDOW)
    expected = content(store)
    write_listing(store.path, replace(store.listing, parts=store.parts[:3]))
    assert content(embed(train, encoder, store.path, shard=(1, 2))) == expected
    for other in ((2, 2), (1, 3), None):
        with pytest.raises(
            InputError, match=r"holds shard 1/2 \(48 rows from row 0\), asked.*another folder"
        ):
            embed(train, encoder, store.path, shard=other)
    assert content(store) == expected


def test_bad_rows_go_to_the_shard_they_lie_in(encoder: Encoder, tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in ROWS[: 4 * WINDOW]]
    for at in (0, 5, 30, 31, 40, len(lines)):
        lines.insert(at, "bad" + str(at))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines) + "\n")
    reader = ExampleReader([file], on_error="skip")
    list(reader)
    expected = [reject.line for reject in reader.rejected]
    assert len(expected) == 6
    found = []
    for part in range(1, 4):
        shard = ShardReader(ExampleReader([file], on_error="skip"), (part, 3))
        rows = sum(map(len, shard))
        assert rows == shard.shard.rows
        found += [reject.line for reject in shard.rejected]
    assert found == expected
    with pytest.raises(InputError, match="read twice"):
        ShardReader(ExampleReader(["-"]), (1, 2))
    with pytest.raises(InputError, match=r"shard 3/2: expected I/N"):
        ShardReader(reader, (3, 2))
    (tmp_path / "none.jsonl").write_text("bad\n")
    with pytest.raises(InputError, match=r"no usable row.*none\.jsonl:1"):
        ShardReader(ExampleReader([tmp_path / "none.jsonl"], on_error="skip"), (1, 2))


def test_what_does_not_belong_together_is_not_merged(train: Path, encoder: Encoder, tmp_path: Path) -> None:
    one, two, three = (part.path for part in shards(train, encoder, tmp_path, 3))
    plain = embed(train, encoder, tmp_path / "plain").path
    grown = write(tmp_path / "grown.jsonl", [*ROWS, *({**row, "id": f"{row['id']}+"} for row in ROWS)])
    of_grown = embed(grown, encoder, tmp_path / "of-grown", shard=(2, 3)).path
    half = embed(train, encoder, tmp_path / "half", dtype="float16").path
    unfinished = EmbeddingStore.open(shutil.copytree(two, tmp_path / "unfinished"))
    write_listing(unfinished.path, replace(unfinished.listing, parts=unfinished.parts[:2]))
    foreign = tmp_path / "foreign"
    space = replace(encoder.space, precision="int8")
    with StoreWriter(foreign, space, pooling_scale=encoder.bundle.pooling_scale) as writer:
        writer.append([Example("f", None, "f")], np.ones((1, space.dimension), np.float32))
    for stores, reason in (
        ([], "name at least one"),
        ([one, three], r"expected the 3 shards 1/3 to 3/3, each once; got 1/3, 3/3"),
        ([one, two, two, three], "got 1/3, 2/3, 2/3, 3/3"),
        (
            [one, unfinished.path, three],
            r"unfinished: 14 rows, expected those of shard 2/3 \(32 rows.*embed command again to finish it",
        ),
        ([one, of_grown, three], r"of-grown: shard 2/3 .* does not follow .* ends at row 32"),
        ([one, two, three, plain], "plain is not a shard"),
        ([plain, plain], r"id 'r0' is in .*plain and again in .*plain"),
        ([plain, foreign], "int8.*different encoders"),
        ([plain, half], "dtype float32 and .*half float16"),
        ([plain, tmp_path / "nothing"], "no such store"),
    ):
        with pytest.raises(InputError, match=reason):
            merge_stores(stores, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()
    with pytest.raises(InputError, match="plain: exists already"):
        merge_stores([one, two, three], plain)


def test_plain_stores_are_joined_in_the_order_given(encoder: Encoder, tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{at}.jsonl", ROWS[at : at + 30]) for at in (60, 0)]
    stores = [embed(part, encoder, part.with_suffix(".store")) for part in parts]
    merged = merge_stores([store.path for store in stores], tmp_path / "new" / "merged")
    assert [row.id for row in merged.rows()] == [f"r{n}" for n in (*range(60, 90), *range(30))]
    assert merge_stores([merged.path], tmp_path / "again").fingerprint == merged.fingerprint


def test_where_links_cannot_be_made_files_are_copied(
    train: Path, whole: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (whole.path / "part-00000.npy").stat().st_nlink == 1
    merged = merge_stores([whole.path], tmp_path / "linked")
    assert (merged.path / "part-00000.npy").stat().st_nlink == 2

    def fail(code: int) -> Any:
        def link(_source: Path, target: Path) -> None:
            if target.name.startswith("part-00001"):
                raise OSError(code, os.strerror(code))
            shutil.copyfile(_source, target)

        return link

    monkeypatch.setattr(os, "link", fail(errno.EXDEV))
    merged = merge_stores([whole.path], tmp_path / "copied")
    assert (merged.path / "part-00001.npy").stat().st_nlink == 1
    merged.verify()
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "link", fail(errno.ENOSPC))
    with pytest.raises(StorageError, match=r"failed: cannot write: No space left"):
        merge_stores([whole.path], tmp_path / "failed")
    assert sorted(tmp_path.iterdir()) == before


def test_the_commands(train: Path, whole: EmbeddingStore, tiny_bundle: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    parts = [tmp_path / f"{part}.store" for part in (1, 2)]
    for number, part in enumerate(parts, 1):
        result = run("embed", train, "--model", tiny_bundle, "-o", part, "--shard", f"{number}/2")
        assert result.exit_code == 0, result.output
    assert json.loads(run("info", parts[1], "--json").stdout)["shard"]["first"] == 3 * WINDOW
    result = run("merge", parts[1], parts[0], "-o", tmp_path / "merged")
    assert result.exit_code == 0 and "100 rows of 2 stores" in result.stderr and result.stdout == ""
    assert same_rows(EmbeddingStore.open(tmp_path / "merged"), whole)
    for arguments, reason in (
        (["embed", train, "--model", tiny_bundle, "-o", tmp_path / "x", "--shard", "3/2"], "not I/N"),
        (
            ["embed", train, "--model", tiny_bundle, "-o", tmp_path / "x", "--ray-address", "a:1"],
            "--engine ray",
        ),
        (["merge", parts[0], "-o", tmp_path / "x"], "got 1/2"),
        (["attribute", "--train", train, "--query", train, "--engine", "ray"], "needs a store"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and reason in result.stderr and not (tmp_path / "x").exists()
    assert "merge part-*.store" in run("merge", "--help").stdout


# --- Workers -----------------------------------------------------------------------------------------


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


# --- Ray, without Ray --------------------------------------------------------------------------------


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
        work = _ScanTask(replace(plan, block_rows=6, threads=1, dtype="float32"), whole)
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
        return _ScanTask(plan, store)

    with pytest.raises(InputError, match=r"nowhere: node .* does not see this store; put it on storage"):
        work(replace(whole, path=whole.path / "nowhere")).over(0, 10)
    other = replace(whole, parts=(replace(whole.parts[0], sha256="0" * 64),))
    with pytest.raises(InputError, match="sees another store"):
        work(other).over(0, 7)
