from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_lm import OPTIONS, save_llama, write_run

from airrep_infer.errors import InputError
from airrep_infer.rows.examples import read_examples
from airrep_train.label import LabelOptions, base_path, label, read_losses, read_subsets
from airrep_train.target import Target

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Rows, plan and target of a label run."""
    folder = tmp_path_factory.mktemp("base")
    rows, plan = write_run(folder)
    examples = read_examples(rows)
    target = save_llama(folder / "target")
    start = SimpleNamespace(examples=examples, plan=read_subsets(plan, len(examples)), target=target)
    start.folder = folder / "run"
    start.folder.mkdir()
    _label(start, start.folder / "losses.jsonl", limit=5)  # of both splits
    return start


@pytest.fixture
def output(start: SimpleNamespace, tmp_path: Path) -> Path:
    """The losses of five subsets, with the base losses beside them."""
    return Path(shutil.copytree(start.folder, tmp_path / "run")) / "losses.jsonl"


def _label(start: SimpleNamespace, output: Path, **options: Any) -> None:
    label(start.examples, start.plan, output, LabelOptions(start.target, device="cpu"), OPTIONS, **options)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_base_losses_are_those_of_the_target_as_it_was_loaded(start: SimpleNamespace, output: Path) -> None:
    target = Target(start.target, OPTIONS, "cpu")
    splits = read_losses(start.plan, output, partial=True)
    for row, split in zip(_rows(output.with_name("base_losses.jsonl")), splits, strict=True):
        expected = target.losses(target.rows([start.examples[line] for line in split.dev]))
        assert row["dev_id"] == split.dev_id and np.array_equal(np.float32(row["losses"]), expected)
        assert split.base is not None and np.array_equal(split.base, expected)
        assert (split.losses != expected).all()  # after fine-tuning they are others


def test_what_is_measured_is_not_measured_again(start: SimpleNamespace, output: Path) -> None:
    whole = base_path(output).read_bytes()
    base_path(output).write_bytes(whole.splitlines(keepends=True)[0])  # killed after the first split
    seen: list[tuple[str, int, int | None]] = []
    _label(start, output, limit=1, progress=lambda *counted: seen.append(counted))
    assert [counted for counted in seen if counted[0] == "base"] == [("base", 1, 2), ("base", 2, 2)]
    assert base_path(output).read_bytes() == whole


def test_the_first_shard_measures_them_for_all(start: SimpleNamespace, tmp_path: Path) -> None:
    shards = [tmp_path / f"losses.{part}.jsonl" for part in (1, 2)]
    for part, losses in enumerate(shards, 1):
        _label(start, losses, shard=(part, 2), limit=2)
    assert base_path(shards[0]).exists() and not base_path(shards[1]).exists()
    assert all(split.base is not None for split in read_losses(start.plan, *shards, partial=True))
    base_path(shards[1]).write_text('{"dev_id": 0, "losses": [1, 2, 3, 4, 5, 6]}\n')
    with pytest.raises(InputError, match="other base losses of split 0"):
        read_losses(start.plan, *shards, partial=True)


def test_losses_without_base_losses_are_read_as_before(start: SimpleNamespace, output: Path) -> None:
    base_path(output).unlink()
    assert all(split.base is None for split in read_losses(start.plan, output, partial=True))
    base_path(output).write_text('{"dev_id": 1, "losses": [5, null, 4, 3, 2, 1]}\n')  # of another program
    splits = read_losses(start.plan, output, partial=True)
    assert splits[0].base is None and splits[1].base is not None
    assert np.array_equal(splits[1].base, np.float32([5, np.nan, 4, 3, 2, 1]), equal_nan=True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"dev_id": 7, "losses": [1, 2, 3, 4, 5, 6]}', "dev_id 7 is not among the splits [0, 1]"),
        ('{"dev_id": 0, "losses": [1, 2]}', "2 losses, but the dev set 0 has 6 examples"),
        ('{"dev_id": 0, "losses": [1, 2, 3, 4, 5, 6], "sha": "12"}', "damaged"),
        ('{"dev_id": 0, "losses": [1, 2, 3, 4, 5, 6]}\n' * 2, "a second time"),
    ],
)
def test_a_bad_row_is_named(start: SimpleNamespace, output: Path, line: str, said: str) -> None:
    base_path(output).write_text(f"{line.strip()}\n")
    with pytest.raises(InputError) as raised:
        read_losses(start.plan, output, partial=True)
    assert str(base_path(output)) in str(raised.value) and said in str(raised.value)


def test_base_losses_of_other_settings_are_not_taken(
    start: SimpleNamespace, output: Path, tmp_path: Path
) -> None:
    output.unlink()
    other = SimpleNamespace(**{**vars(start), "target": save_llama(tmp_path / "other", tied=False)})
    with pytest.raises(InputError, match="measured with other settings"):
        _label(other, output, limit=1)
