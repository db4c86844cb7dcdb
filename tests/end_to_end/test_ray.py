"""A real Ray on this machine, two workers: the results are those of the local engine, deaths included."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from airrep_infer.cli import main
from airrep_infer.encode import encoder as encoder_module
from airrep_infer.encode.encoder import Encoder, WindowEncoder
from airrep_infer.engines import Engine
from airrep_infer.engines import ray as ray_engine
from airrep_infer.errors import InputError
from airrep_infer.score.by_id import attribution_rows
from airrep_infer.score.groups import groups_by_field
from airrep_infer.score.left_out import LeftOut
from airrep_infer.store.embed import embed_files
from airrep_infer.store.sources import EmbeddedRows
from airrep_infer.store.store import EmbeddingStore

ray = pytest.importorskip("ray", reason="Ray is optional: pip install 'airrep[ray]'")

SCORES = 1e-5
WINDOW = 100
ROWS = [
    {
        "id": f"r{n}",
        "task": f"t{n % 3}",
        "input": "What is the capital?",
        "output": "Paris " * (n * 7 % 61 + 1),
    }
    for n in range(3_000)
]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 windows and 3 ranges of a scan, cut in this process: enough for two workers to share."""
    monkeypatch.setattr(encoder_module, "WINDOW_ROWS", WINDOW)
    monkeypatch.setattr(ray_engine, "MAX_BLOCK_ROWS", 1_000)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture(scope="module")
def local(train: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """What the local engine makes of it; do not change it."""
    path = tmp_path_factory.mktemp("local") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_module, "WINDOW_ROWS", WINDOW)
        embed_files([train], Encoder(tiny_bundle, device="cpu"), path, part_rows=500)
    return EmbeddingStore.open(path)


@pytest.fixture
def queries(tiny_bundle: Path, tmp_path: Path) -> EmbeddedRows:
    (tmp_path / "query.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:40]))
    embed_files([tmp_path / "query.jsonl"], Encoder(tiny_bundle, device="cpu"), tmp_path / "queries")
    return EmbeddedRows.of_store(EmbeddingStore.open(tmp_path / "queries"))


def content(store: Path) -> dict[str, bytes]:
    return {child.name: child.read_bytes() for child in store.iterdir() if child.name != ".lock"}


def worker_pids(encoder: WindowEncoder) -> list[int]:
    actors = [worker._handle for worker in encoder._workers]  # type: ignore[attr-defined]
    return ray.get([actor.__ray_call__.remote(lambda _host: os.getpid()) for actor in actors])  # type: ignore[no-any-return]


def kill_a_worker() -> bool:
    """Kill the first process that embeds on Ray as soon as there is one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for process in psutil.process_iter(["pid", "cmdline"]):
            if (process.info["cmdline"] or [""])[0].startswith("ray::EncoderHost.embed"):
                os.kill(process.info["pid"], signal.SIGKILL)
                return True
        time.sleep(0.01)
    return False


def test_workers_that_are_killed_lose_nothing(
    train: Path, local: EmbeddingStore, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Each worker gets a SIGKILL while it has windows at work; the store is the local one, byte for byte."""
    embedded = 0
    with Engine("ray", workers=2).encoder(tiny_bundle, device="cpu") as encoder:
        assert encoder.placement == "CPUExecutionProvider, 2 workers"
        before = worker_pids(encoder)
        victims = dict(zip((WINDOW, 15 * WINDOW), before, strict=True))

        def kill(_stage: str, done: int, _total: int | None) -> None:
            nonlocal embedded
            embedded = done
            if done in victims:
                os.kill(victims.pop(done), signal.SIGKILL)

        summary = embed_files([train], encoder, tmp_path / "ray", part_rows=500, progress=kill)
        after = worker_pids(encoder)
    assert (summary.added, embedded, victims) == (len(ROWS), len(ROWS), {})
    assert not set(before) & set(after)
    assert content(tmp_path / "ray") == content(local.path)


def test_attributions_are_those_of_one_process(local: EmbeddingStore, queries: EmbeddedRows) -> None:
    groups = groups_by_field(local, "task")
    expected = list(attribution_rows(local, queries, k=7, groups=groups))
    seen: list[tuple[str, int, int | None]] = []
    with Engine("ray", workers=2).scan() as scan:
        found = list(
            attribution_rows(
                local,
                queries,
                k=7,
                groups=groups,
                scan_with=scan,
                progress=lambda *report: seen.append(report),
            )
        )
        with pytest.raises(InputError, match="threads belongs to engine local"):
            list(attribution_rows(local, queries, k=7, threads=2, scan_with=scan))
    assert seen == [("attribute", done, 3_000) for done in range(0, 4_000, 1_000)]
    for one, other in zip(found, expected, strict=True):
        for end, other_end in ((one.proponents, other.proponents), (one.opponents, other.opponents)):
            assert [scored.id for scored in end] == [scored.id for scored in other_end]
            scores = [[scored.score for scored in rows] for rows in (end, other_end)]
            np.testing.assert_allclose(*scores, rtol=0, atol=SCORES)
        assert one.group_influence == pytest.approx(other.group_influence, abs=SCORES)
        assert one.groups == pytest.approx(other.groups, abs=SCORES)


def test_rows_that_queries_leave_out_are_left_out_on_ray_too(
    local: EmbeddingStore, queries: EmbeddedRows
) -> None:
    own = [local.ids([n])[0] for n in range(5)]
    asked = replace(EmbeddedRows.of_ids(local, own), source="five rows")
    for left_out in (LeftOut.of(local, asked, itself=True), LeftOut.of(local, asked, field="task")):
        groups = groups_by_field(local, "task")
        expected = list(attribution_rows(local, asked, k=4, groups=groups, left_out=left_out))
        with Engine("ray", workers=2).scan() as scan:
            found = list(
                attribution_rows(local, asked, k=4, groups=groups, left_out=left_out, scan_with=scan)
            )
        for one, other in zip(found, expected, strict=True):
            assert [hit.id for hit in one.proponents] == [hit.id for hit in other.proponents]
            assert one.query_id not in [hit.id for hit in one.proponents]
            assert one.group_influence == pytest.approx(other.group_influence, abs=SCORES)
            assert one.groups == pytest.approx(other.groups, abs=SCORES)


def test_the_commands_agree_and_say_what_is_wrong(
    train: Path, local: EmbeddingStore, tiny_bundle: Path, tmp_path: Path
) -> None:
    def run(*arguments: object) -> Any:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert "Traceback" not in result.output and result.exit_code in (0, 2)
        return result

    ray_options = ["--engine", "ray", "--workers", "2"]
    made = tmp_path / "ray"
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_a_worker)
        result = run("embed", train, "--model", tiny_bundle, "-o", made, "--part-rows", "500", *ray_options)
        assert killed.result()
    assert "3000 rows, 3000 added" in result.stderr and content(made) == content(local.path)
    assert result.stdout == ""  # where Ray prints that a worker died, but for us
    query = tmp_path / "query.jsonl"
    query.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    sides = ["--train", made, "--query", query, "--model", tiny_bundle, "-k", "2"]
    spread, here = run("attribute", *sides, *ray_options), run("attribute", *sides)
    assert [json.loads(line)["proponents"] for line in spread.stdout.splitlines()] == [
        json.loads(line)["proponents"] for line in here.stdout.splitlines()
    ]
    for arguments, reason in (
        (["--device", "cuda"], "the Ray cluster has no GPU"),
        (["--precision", "int8"], "no precision 'int8'"),
        (["--ray-address", "127.0.0.1:1"], "connected to the Ray at"),
        (["--memory", "0.01"], "embedding in batches of 512 tokens needs"),
    ):
        failed = run("embed", query, "--model", tiny_bundle, "-o", tmp_path / "x", *ray_options, *arguments)
        assert failed.exit_code == 2 and reason in failed.stderr and not (tmp_path / "x").exists()


def test_nobody_waits_for_a_cluster_that_is_not_there(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"text": "x"}\n')
    command = f"embed {tmp_path}/q.jsonl --model {tiny_bundle} -o {tmp_path}/x --engine ray".split()
    command = [sys.executable, "-m", "airrep_infer", *command, "--ray-address", "127.0.0.1:1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2 and not (tmp_path / "x").exists()
    assert result.stderr.count("\n") == 1 and "no Ray cluster can be reached at 127.0.0.1:1" in result.stderr


def test_an_error_in_a_worker_is_the_error_of_the_command(
    local: EmbeddingStore, queries: EmbeddedRows, tmp_path: Path
) -> None:
    """A part that was damaged after the store was opened: the worker's message, not its traceback."""
    store = EmbeddingStore.open(shutil.copytree(local.path, tmp_path / "damaged"))
    part = store.path / store.parts[-1].file
    part.write_bytes(part.read_bytes()[:-4])
    with (
        Engine("ray", workers=2).scan() as scan,
        pytest.raises(InputError, match=r"^\S+part-00005\.npy: \d+ bytes, expected \d+; damaged"),
    ):
        list(attribution_rows(store, queries, k=7, scan_with=scan))
