"""Joining the shards of a gradient run: again, after a kill, and under the map of another folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_lm
from click.testing import CliRunner

from airrep_infer.errors import InputError
from airrep_train.cli import main
from airrep_train.gradients import GradientOptions, join_gradients, ms_a_row, open_gradients, take_gradients
from airrep_train.gradients import run as run_module
from airrep_train.gradients.mapping import GradientMap
from airrep_train.gradients.warm_up import WarmUp
from airrep_train.target import TargetOptions

OPTIONS = GradientOptions(
    layers="all", rank=3, dims=5, max_length=64, dtype="float32", warm_up=8, checkpoints=2, warm_up_rate=1e-3
)
UNSET = replace(OPTIONS, warm_up=None, checkpoints=None, warm_up_rate=None)
STEPS = ("merge_stores", "join_times", "start_folder", "map_and_store")
"""What a join does, in its order; a kill may come before and after each."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_lm.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def shards(llama: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two, of 12 rows, after one warm-up."""
    folder = tmp_path_factory.mktemp("shards")
    rows = tiny_lm.write_rows(folder / "rows.jsonl", tiny_lm.examples(12))
    first, second = folder / "1", folder / "2"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("airrep_infer.encode.encoder.WINDOW_ROWS", 4)
        take_gradients([rows], TargetOptions(llama, "cpu"), first, OPTIONS, shard=(1, 2))
        take_gradients([rows], TargetOptions(llama, "cpu"), second, OPTIONS, shard=(2, 2), warm_up_of=first)
    return [first, second]


@pytest.fixture(scope="module")
def others(llama: str, shards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder of other rows after the same warm-up, and so with another map."""
    folder = tmp_path_factory.mktemp("others")
    rows = tiny_lm.write_rows(folder / "rows.jsonl", tiny_lm.examples(20)[8:])
    take_gradients([rows], TargetOptions(llama, "cpu"), folder / "grads", UNSET, warm_up_of=shards[0])
    return folder / "grads"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_shards_of_before_the_template_was_named_are_joined_twice(shards: list[Path], tmp_path: Path) -> None:
    older = [Path(shutil.copytree(shard, tmp_path / shard.name)) for shard in shards]
    for shard in older:
        settings = json.loads((shard / "gradients.json").read_text())
        del settings["template"]
        (shard / "gradients.json").write_text(json.dumps(settings))
    for _ in range(2):
        join_gradients(older, tmp_path / "joined")
        assert len(open_gradients(tmp_path / "joined")) == 12


def test_a_join_that_is_repeated_changes_nothing(shards: list[Path], tmp_path: Path) -> None:
    arguments = ["gradients", *(part for shard in shards for part in ("--join", str(shard)))]
    arguments += ["-o", str(tmp_path / "joined")]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.stderr
    before = contents(tmp_path / "joined")
    assert json.loads(before["time.json"])["rows"] == 12 and "warm-up/warm_up.json" in before
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 0, again.stderr
    assert contents(tmp_path / "joined") == before


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [*STEPS, "copy_into"])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_join_that_was_killed_is_finished_by_the_same_command(
    shards: list[Path],
    others: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    after: bool,
    mapped: bool,
) -> None:
    whole, killed, by = tmp_path / "whole", tmp_path / "killed", others if mapped else None
    join_gradients(shards, whole, mapped_by=by)
    place = WarmUp if step == "copy_into" else run_module
    plain = getattr(place, step)

    def kill(*args: object, **kwargs: object) -> None:
        if after:
            plain(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(place, step, kill)
        with pytest.raises(KeyboardInterrupt):
            join_gradients(shards, killed, mapped_by=by)
    if not (after and step == "map_and_store"):
        with pytest.raises(InputError, match=r"not a gradient folder|not complete"):
            open_gradients(killed)
    assert join_gradients(shards, killed, mapped_by=by).count == 12
    assert contents(killed) == contents(whole)


def test_a_joined_folder_says_which_map_it_has_and_is_continued_with_it(
    llama: str, shards: list[Path], others: Path, tmp_path: Path
) -> None:
    joined = tmp_path / "joined"
    join_gradients(shards, joined, mapped_by=others)
    assert open_gradients(joined).space == open_gradients(others).space
    fingerprint = GradientMap.load(others / "map").fingerprint
    assert json.loads((joined / "gradients.json").read_text())["map"] == fingerprint
    rows = tiny_lm.write_rows(tmp_path / "rows.jsonl", tiny_lm.examples(13))
    taken = take_gradients([rows], TargetOptions(llama, "cpu"), joined, UNSET, mapped_by=others)
    assert (taken.count, taken.added) == (13, 1)
    with pytest.raises(InputError, match=f"map was '{fingerprint}', now None"):
        take_gradients([rows], TargetOptions(llama, "cpu"), joined, UNSET)


def test_another_map_is_refused_before_anything_is_written(
    shards: list[Path], others: Path, tmp_path: Path
) -> None:
    joined = tmp_path / "joined"
    join_gradients(shards, joined)
    before = contents(joined)
    with pytest.raises(InputError, match="map was None, now '"):
        join_gradients(shards, joined, mapped_by=others)
    assert contents(joined) == before


def test_a_folder_that_an_earlier_version_joined_is_continued(
    llama: str, shards: list[Path], others: Path, tmp_path: Path
) -> None:
    """It wrote down that there was no map, and mapped by the one that was named."""
    joined = tmp_path / "joined"
    join_gradients(shards, joined, mapped_by=others)
    settings = json.loads((joined / "gradients.json").read_text())
    (joined / "gradients.json").write_text(json.dumps({**settings, "map": None}))
    assert join_gradients(shards, joined, mapped_by=others).count == 12
    rows = tiny_lm.write_rows(tmp_path / "rows.jsonl", tiny_lm.examples(13))
    assert take_gradients([rows], TargetOptions(llama, "cpu"), joined, UNSET, mapped_by=others).added == 1


def test_nothing_is_joined_into_a_folder_of_something_else(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not a gradient folder, and not empty"):
        join_gradients(shards, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_another_warm_up_is_not_replaced(
    llama: str, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tiny_lm.write_rows(tmp_path / "rows.jsonl", tiny_lm.examples(12))
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "GradientCapture", lambda *_args, **_kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "begun", replace(OPTIONS, seed=3))
    before = contents(tmp_path / "begun")
    with pytest.raises(InputError, match="has another warm-up than"):
        join_gradients(shards, tmp_path / "begun")
    assert contents(tmp_path / "begun") == before


def test_a_map_of_other_gradients_is_refused_before_anything_is_written(
    llama: str, shards: list[Path], tmp_path: Path
) -> None:
    rows = tiny_lm.write_rows(tmp_path / "rows.jsonl", tiny_lm.examples(12))
    without = replace(UNSET, warm_up=0)
    take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "plain", without)
    with pytest.raises(InputError, match="its map is for gradients of another target"):
        join_gradients(shards, tmp_path / "joined", mapped_by=tmp_path / "plain")
    assert not (tmp_path / "joined").exists()


def test_shards_joined_with_a_map_give_the_vectors_of_one_run_with_it(
    llama: str, shards: list[Path], others: Path, tmp_path: Path
) -> None:
    rows = tiny_lm.write_rows(tmp_path / "rows.jsonl", tiny_lm.examples(12))
    take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "one", UNSET, mapped_by=others)
    join_gradients(shards, tmp_path / "joined", mapped_by=others)
    one, joined = (open_gradients(tmp_path / name).take(np.arange(12)) for name in ("one", "joined"))
    np.testing.assert_allclose(joined, one, atol=2e-3)  # stored as float16


@pytest.mark.parametrize(
    "content", ['{"rows": 12}', '{"rows": "many", "seconds": 1}', '{"rows": 1, "seconds": null}']
)
def test_a_damaged_time_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "time.json").write_text(content)
    with pytest.raises(InputError, match=r"time\.json: damaged: .*; delete it"):
        ms_a_row([tmp_path])
