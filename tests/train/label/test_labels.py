from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from ray_double import ray_double
from tiny_lm import OPTIONS, examples, run_command, run_label, save_gpt2, save_llama, write_run

from airrep_infer import resources
from airrep_infer.errors import BusyError, InputError
from airrep_infer.rows.examples import read_examples
from airrep_train.cli import main
from airrep_train.label import LabelOptions, LossRow, check_labels, label, read_lds, read_losses, read_subsets
from airrep_train.label import run as label_run
from airrep_train.label.labeller import Labeller
from airrep_train.label.resume import LossFile
from airrep_train.label.run import FINISH_SECONDS
from airrep_train.label.tasks import plan_tasks, subset_seed

KILLS = 20 if os.environ.get("AIRREP_SOAK") else 4


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An undisturbed run: rows, plan, target (with dropout), output, seconds; do not change it."""
    folder = tmp_path_factory.mktemp("run")
    rows, plan = write_run(folder)
    target = save_gpt2(folder / "target")
    output = folder / "losses.jsonl"
    start = time.perf_counter()
    summary = run_label(rows, plan, target, output)
    seconds = time.perf_counter() - start
    loaded = read_examples(rows)
    return SimpleNamespace(
        rows=rows,
        plan_file=plan,
        plan=read_subsets(plan, len(loaded)),
        target=target,
        output=output,
        content=output.read_bytes(),
        seconds=seconds,
        summary=summary,
        examples=loaded,
    )


def _label(run: SimpleNamespace, output: Path, **changes: Any) -> Any:
    examples, recipe = changes.pop("examples", run.examples), changes.pop("recipe", OPTIONS)
    of_run = {name: changes.pop(name) for name in ("shard", "limit", "progress") if name in changes}
    options = LabelOptions(changes.pop("target", run.target), device="cpu", **changes)
    return label(examples, run.plan, output, options, recipe, **of_run)


def test_seeds_are_those_of_p3() -> None:
    assert [subset_seed(0, dev_id, n) for dev_id, n in [(0, 0), (0, 39), (1, 0), (4, 7)]] == [
        0,
        39,
        1000,
        4007,
    ]


def test_a_run_is_one_line_a_measurement_in_plan_order(run: SimpleNamespace) -> None:
    rows = [json.loads(line) for line in run.content.splitlines()]
    assert [row["pair_id"] for row in rows[:8]] == [subset.id for subset in run.plan.subsets]
    assert [(row["pair_id"], row["repeat"]) for row in rows[8:]] == [("0-0", 1), ("1-0", 1)]
    assert [row["seed"] for row in rows] == [0, 1, 2, 3, 1000, 1001, 1002, 1003, 1_000_000, 1_001_000]
    assert all(len(row["losses"]) == 6 for row in rows)
    assert (run.summary.tasks, run.summary.labelled, run.summary.resumed) == (10, 10, 0) and run.summary.done


def test_readers_get_the_labels_and_the_repeats_apart(run: SimpleNamespace) -> None:
    splits = read_losses(run.plan, run.output)
    assert [split.dev_id for split in splits] == [0, 1]
    for split in splits:
        assert split.losses.shape == (4, 6) and split.losses.dtype == np.float32
        assert [subset.id for subset in split.subsets] == [f"{split.dev_id}-{n}" for n in range(4)]
        assert split.repeated.tolist() == [0] and split.repeat_losses.shape == (1, 6)
        assert not np.array_equal(split.repeat_losses[0], split.losses[0])  # another order and dropout


def test_more_repeats_than_subsets_are_refused(run: SimpleNamespace, tmp_path: Path) -> None:
    assert len(plan_tasks(run.plan, repeat=4)) == 16
    with pytest.raises(InputError, match="repeat 5 is more than the 4 subsets of split 0; give at most 4"):
        plan_tasks(run.plan, repeat=5)
    fewer = replace(run.plan, subsets=run.plan.subsets[:-1])  # split 1 has three
    with pytest.raises(InputError, match="repeat 4 is more than the 3 subsets of split 1"):
        plan_tasks(fewer, repeat=4)
    with pytest.raises(InputError, match="repeat 99 is more than"):
        _label(run, tmp_path / "losses.jsonl", repeat=99)
    assert not list(tmp_path.iterdir())


def test_limit_then_resume_gives_the_same_file(run: SimpleNamespace, tmp_path: Path) -> None:
    output = tmp_path / "losses.jsonl"
    seen: list[tuple[Any, ...]] = []
    first = _label(run, output, limit=3, progress=lambda *counted: seen.append(counted))
    assert (first.labelled, first.done) == (3, False)
    assert seen == [("base", n, 2) for n in range(3)] + [("label", n, 8) for n in range(4)]
    second = _label(run, output, repeat=1)
    assert (second.resumed, second.labelled, second.done) == (3, 7, True)
    assert output.read_bytes() == run.content
    assert _label(run, output, repeat=1).labelled == 0
    assert output.read_bytes() == run.content


@pytest.mark.parametrize("tail", [b'{"pair_id": "1-', b'{"pair_id": "1-0"}', b"\0\0\0", "é".encode()[:1]])
def test_an_unfinished_last_line_is_cut_off(run: SimpleNamespace, tmp_path: Path, tail: bytes) -> None:
    output = tmp_path / "losses.jsonl"
    _label(run, output, limit=2)
    output.write_bytes(output.read_bytes() + tail)
    with pytest.raises(InputError, match=r"losses.jsonl:3: (not .*a label run was killed|pair_id|dev_id)"):
        read_losses(run.plan, output, partial=True)
    assert _label(run, output, repeat=1).resumed == 2
    assert output.read_bytes() == run.content


def test_shards_together_are_the_whole(run: SimpleNamespace, tmp_path: Path) -> None:
    outputs = [tmp_path / f"losses-{part}.jsonl" for part in (1, 2, 3)]
    for part, output in enumerate(outputs, 1):
        _label(run, output, shard=(part, 3), repeat=1)
    joined = b"".join(output.read_bytes() for output in outputs)
    assert sorted(joined.splitlines()) == sorted(run.content.splitlines())
    (tmp_path / "all.jsonl").write_bytes(joined)
    whole = read_losses(run.plan, run.output)
    for together in (read_losses(run.plan, *outputs), read_losses(run.plan, tmp_path / "all.jsonl")):
        for split, other in zip(whole, together, strict=True):
            assert np.array_equal(split.losses, other.losses)
    with pytest.raises(InputError, match="shard was '1/3', now '2/3'"):
        _label(run, outputs[0], shard=(2, 3))
    with pytest.raises(InputError, match="expected I/N"):
        plan_tasks(run.plan, shard=(4, 3))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recipe": replace(OPTIONS, learning_rate=2e-5)}, "learning_rate was 0.001, now 2e-05"),
        ({"recipe": replace(OPTIONS, seed=9)}, "seed was 0, now 9"),
        ({"examples": [*examples()[:-1], examples()[0]]}, "examples was"),
        ({"target": None}, "target was"),
    ],
)
def test_other_settings_are_refused(
    run: SimpleNamespace, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    output = tmp_path / "losses.jsonl"
    _label(run, output, limit=1)
    if "target" in change:
        change = {"target": save_llama(tmp_path / "other")}
    with pytest.raises(InputError, match=f"{reason}.*use those, or another -o"):
        _label(run, output, **change)


def test_an_output_of_unknown_origin_is_refused(run: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "losses.jsonl").write_bytes(run.content)
    with pytest.raises(InputError, match=r"exists without losses\.jsonl\.run\.json"):
        _label(run, tmp_path / "losses.jsonl")


def test_two_runs_do_not_share_an_output(run: SimpleNamespace, tmp_path: Path) -> None:
    file = LossFile(tmp_path / "losses.jsonl", run.plan)
    with pytest.raises(BusyError, match="another label run is writing to it"):
        _label(run, tmp_path / "losses.jsonl")
    file.close()


def test_killed_at_random_moments_it_ends_with_the_same_file(run: SimpleNamespace, tmp_path: Path) -> None:
    """SIGKILL in real processes, forked from a server that has torch loaded, so that moments are many."""
    arguments = (run.rows, run.plan_file, run.target)
    moments = random.Random(0)
    output = tmp_path / "losses.jsonl"
    forked.start(run_label, *arguments, tmp_path / "warm-up.jsonl").join()
    rounds = killed = 0
    while killed < KILLS:
        process = forked.start(run_label, *arguments, output)
        process.join(moments.uniform(0, 1.2 * run.seconds))
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        elif process.exitcode == 0:  # finished before its moment: begin anew
            assert output.read_bytes() == run.content
            rounds += 1
            output.unlink()
        assert process.exitcode in (0, -signal.SIGKILL)
        assert rounds < 10 * KILLS
    run_label(*arguments, output)
    assert output.read_bytes() == run.content


def test_the_label_command_survives_sigkill(run: SimpleNamespace, tmp_path: Path) -> None:
    output = tmp_path / "losses.jsonl"
    flags = "--batch-size 4 --max-length 64 --dtype float32 --lr 1e-3 --repeat 1 --device cpu".split()  # noqa: SIM905
    arguments = ["label", str(run.rows), "--subsets", str(run.plan_file), "--target", run.target]
    arguments += ["-o", str(output), *flags]
    process = forked.start(run_command, arguments)
    while not (output.exists() and output.stat().st_size) and process.is_alive():
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert output.read_bytes() == run.content
    assert result.stdout == "" and "10 of 10 labelled" in result.stderr and "%|" not in result.stderr


@pytest.mark.parametrize("seconds", [FINISH_SECONDS, 0.05])
def test_sigterm_leaves_the_measurement_in_flight_some_seconds(
    run: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    output = tmp_path / "losses.jsonl"
    flags = "--batch-size 4 --max-length 64 --dtype float32 --lr 1e-3 --repeat 1 --device cpu".split()  # noqa: SIM905
    arguments = ["label", str(run.rows), "--subsets", str(run.plan_file), "--target", run.target]
    arguments += ["-o", str(output), *flags]
    measure, measured = Labeller.measure, 0

    def stopped_in_the_third_label(labeller: Labeller, task: Any) -> LossRow:
        nonlocal measured
        measured += 1
        if measured == 5:  # the third label, after the base losses of two splits
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        return measure(labeller, task)

    monkeypatch.setattr(Labeller, "measure", stopped_in_the_third_label)
    monkeypatch.setattr(label_run, "FINISH_SECONDS", seconds)
    stopped = CliRunner().invoke(main, arguments)
    assert stopped.exit_code == 143 and "run the same command again to resume" in stopped.stderr
    assert output.read_bytes().count(b"\n") == (3 if seconds == FINISH_SECONDS else 2)
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert output.read_bytes() == run.content
    assert (signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM)) == (
        (0, 0),
        signal.SIG_DFL,
    )


def test_command_errors_are_one_line_and_status_2(run: SimpleNamespace, tmp_path: Path) -> None:
    arguments = ["label", str(run.rows), "--subsets", str(run.plan_file), "-o", str(tmp_path / "l.jsonl")]
    result = CliRunner().invoke(main, [*arguments, "--target", str(tmp_path / "none")])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ") and "not a model folder" in result.stderr
    result = CliRunner().invoke(main, [*arguments, "--target", run.target, "--shard", "3/2"])
    assert result.exit_code == 2 and "'3/2' is not I/N" in result.stderr
    assert "Example: airrep-train label" in CliRunner().invoke(main, ["label", "--help"]).output


def test_a_loss_without_response_tokens_is_null(run: SimpleNamespace, tmp_path: Path) -> None:
    rows = list(run.examples)
    lost = int(run.plan.dev[0][2])
    rows[lost] = replace(rows[lost], prompt="long " * 60)
    output = tmp_path / "losses.jsonl"
    options = replace(OPTIONS, template="published-1")  # whose prompts can leave no room
    summary = label(rows, run.plan, output, LabelOptions(run.target, device="cpu"), options, limit=2)
    assert summary.unknown == 2
    assert json.loads(output.read_text().splitlines()[0])["losses"][2] is None
    split = read_losses(run.plan, output, partial=True)[0]
    assert np.isnan(split.losses).sum(axis=0).tolist() == [0, 0, 2, 0, 0, 0]


# --- readers ---------------------------------------------------------------------------------------


def _row(pair_id: str, **changes: Any) -> dict[str, Any]:
    return {"pair_id": pair_id, "dev_id": int(pair_id[0]), "losses": [1.0, 2, 3, 4, 5, 6], **changes}


def test_the_published_folder_is_read(run: SimpleNamespace, tmp_path: Path) -> None:
    for subset in run.plan.subsets:
        content = json.dumps({**_row(subset.id), "mean_loss": 3.5}).replace("2,", "NaN,")
        (tmp_path / f"loss-{subset.id}.json").write_text(content)
    splits = read_losses(run.plan, tmp_path)
    assert np.array_equal(splits[1].losses, [[1, np.nan, 3, 4, 5, 6]] * 4, equal_nan=True)
    (tmp_path / "loss-1-3.json").write_text('{"pair_id": "1-3", ')
    with pytest.raises(InputError, match=r"loss-1-3.json: not valid JSON"):
        read_losses(run.plan, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no loss-<id>\.json files"):
        read_losses(run.plan, tmp_path / "empty")


def test_a_damaged_digit_of_a_loss_is_found(run: SimpleNamespace, tmp_path: Path) -> None:
    lines = run.content.splitlines(keepends=True)
    place = lines[2].index(b'"losses": [') + len(b'"losses": [') + 3
    lines[2] = (
        lines[2][:place] + (b"1" if lines[2][place : place + 1] != b"1" else b"2") + lines[2][place + 1 :]
    )
    damaged = tmp_path / "losses.jsonl"
    damaged.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=r"losses\.jsonl:3: damaged: .*label again"):
        read_losses(run.plan, damaged)
    rows = [json.loads(line) for line in run.content.splitlines()]
    damaged.write_text(
        "".join(json.dumps({k: v for k, v in row.items() if k != "sha"}) + "\n" for row in rows)
    )
    for before, after in zip(read_losses(run.plan, run.output), read_losses(run.plan, damaged), strict=True):
        np.testing.assert_array_equal(before.losses, after.losses)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (_row("0-9"), "pair_id '0-9' is not among the 8 subsets"),
        (_row("0-1", dev_id=1), "dev_id is 1, but subset '0-1' has dev_id 0"),
        (_row("0-1", losses=[1.0] * 5), "5 losses, but the dev set 0 has 6 examples"),
        (_row("0-1", losses=["1"] * 6), 'losses must hold numbers or null, found "1"'),
        (_row("0-1", losses=None), "losses must be a list of numbers"),
        (_row("0-0"), "a second measurement of '0-0', first at .*:1"),
        ({"losses": [1]}, r"pair_id must be a string that is not empty, got nothing \(keys: losses\)"),
    ],
)
def test_a_bad_loss_row_names_file_line_and_reason(
    run: SimpleNamespace, tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text(f"{json.dumps(_row('0-0'))}\n{json.dumps(row)}\n")
    with pytest.raises(InputError, match=rf"l\.jsonl:2: {reason}"):
        read_losses(run.plan, path)


def test_missing_labels_are_refused_unless_partial(run: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text(f"{json.dumps(_row('1-2', losses=[None, 1e400, 3, 4, 5, 6]))}\n")
    with pytest.raises(InputError, match=r"7 of 8 .* \(first: '0-0'\); finish the label run$"):
        read_losses(run.plan, path)
    with pytest.raises(InputError, match=r"finish the label run, or train on them$"):
        read_losses(run.plan, path, otherwise="train on them")

    (split,) = read_losses(run.plan, path, partial=True)
    assert split.dev_id == 1 and [subset.id for subset in split.subsets] == ["1-2"]
    assert np.isnan(split.losses[0]).tolist() == [True, True, False, False, False, False]


def test_a_row_reads_back_bit_by_bit(run: SimpleNamespace, tmp_path: Path) -> None:
    losses = np.random.default_rng(0).lognormal(size=6).astype(np.float32) * np.float32(1e-3)
    file = LossFile(tmp_path / "l.jsonl", run.plan)
    file.append(LossRow("0-1", 0, losses, 5, 1))
    file.append(LossRow("0-0", 0, losses, 5))
    file.sort([("0-0", 0)])
    file.close()
    again = LossFile(tmp_path / "l.jsonl", run.plan)
    assert list(again.rows) == [("0-0", 0), ("0-1", 1)]
    assert np.array_equal(again.rows["0-1", 1].losses, losses)
    again.close()


def test_lds_ground_truth(tmp_path: Path) -> None:
    path = tmp_path / "lds.jsonl"
    rows = [{"train_subset": [0, 4], "test_loss": [1.0, 2.0]}, {"train_subset": [3], "test_loss": [0, None]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    truth = read_lds(path, 5, 2)
    assert [subset.tolist() for subset in truth.subsets] == [[0, 4], [3]]
    assert np.array_equal(truth.losses, [[1, 2], [0, np.nan]], equal_nan=True)
    with pytest.raises(InputError, match=r"lds\.jsonl:1: 2 losses in test_loss, but there are 3 queries"):
        read_lds(path, 5, 3)
    with pytest.raises(InputError, match=r"lds\.jsonl:1: train_subset holds 4, but there are 4 examples"):
        read_lds(path, 4, 2)


# --- Ray -------------------------------------------------------------------------------------------


def test_without_ray_the_extra_is_named(
    run: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'airrep\[ray\]'"):
        _label(run, tmp_path / "losses.jsonl", engine="ray")
    with pytest.raises(InputError, match="workers belongs to engine ray"):
        _label(run, tmp_path / "losses.jsonl", workers=2)


def test_ray_gives_the_same_file_though_tasks_end_out_of_order(
    run: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ray_double())
    output = tmp_path / "losses.jsonl"
    assert _label(run, output, engine="ray", repeat=1, limit=4).labelled == 4
    assert not run.content.startswith(output.read_bytes())
    summary = _label(run, output, engine="ray", repeat=1)
    assert (summary.resumed, summary.labelled) == (4, 6)
    assert output.read_bytes() == run.content


def test_the_memory_budget_is_that_of_every_worker_on_ray(
    run: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ray_double())
    resources.limit_memory(0.00001)
    try:
        with pytest.raises(InputError, match=r"fine-tuning .* and the budget is .*--memory"):
            _label(run, tmp_path / "losses.jsonl", engine="ray")
    finally:
        resources.limit_memory(None)


def _ray_workers() -> set[int]:
    """The process ids of the actors that run on this machine."""
    processes = psutil.process_iter(["pid", "cmdline"])
    titles = {process.info["pid"]: process.info["cmdline"] or [""] for process in processes}
    return {pid for pid, title in titles.items() if title[0].startswith("ray::_Worker")}


def test_a_real_ray_gives_the_same_file_though_a_worker_is_killed(
    run: SimpleNamespace, tmp_path: Path
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is optional: pip install 'airrep[ray]'")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    killed: list[int] = []

    def kill(stage: str, done: int, _total: int | None) -> None:
        if stage == "label" and done == 1:
            killed.append(max(_ray_workers()))
            os.kill(killed[0], signal.SIGKILL)

    try:
        _label(run, tmp_path / "losses.jsonl", engine="ray", workers=2, repeat=1, progress=kill)
    finally:
        ray.shutdown()
    assert (tmp_path / "losses.jsonl").read_bytes() == run.content and len(killed) == 1


def test_labels_are_checked_against_what_their_run_recorded(run: SimpleNamespace, tmp_path: Path) -> None:
    output = tmp_path / "losses.jsonl"
    _label(run, output, limit=1)
    assert check_labels(run.examples, run.plan, [output]) == []
    with pytest.raises(InputError, match=r"losses\.jsonl: labels of other examples \(sha256 "):
        check_labels(run.examples[::-1], run.plan, [output])
    fewer = replace(run.plan, subsets=run.plan.subsets[1:])
    with pytest.raises(InputError, match="labels of other subsets"):
        check_labels(run.examples, fewer, [output])
    other = tmp_path / "other.jsonl"
    other.write_bytes(output.read_bytes())
    (note,) = check_labels(run.examples, run.plan, [output, other])  # as the published code leaves it
    assert "other.jsonl: no record of the label run" in note
    record = json.loads(Path(f"{output}.run.json").read_text())
    shard = tmp_path / "other.jsonl.run.json"
    shard.write_text(json.dumps({**record, "shard": "2/2"}))
    assert check_labels(run.examples, run.plan, [output, other]) == []
    shard.write_text(json.dumps({**record, "epochs": 9}))
    with pytest.raises(InputError, match=r"another target or recipe than .*epochs was 1 there, here 9"):
        check_labels(run.examples, run.plan, [output, other])
