"""Where standard error is no terminal, every long command says what it does and how far it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airrep_export.cli import main as export
from click.testing import CliRunner

from airrep_infer import progress
from airrep_infer.cli import main


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int | None]]:
    """What is reported where lines are written; empty without a `show_progress`."""
    reported: list[tuple[str, int, int | None]] = []

    class Lines(progress._Lines):
        def __call__(self, stage: str, done: int, total: int | None, /) -> None:
            reported.append((stage, done, total))
            super().__call__(stage, done, total)

    monkeypatch.setattr(progress, "_Lines", Lines)
    return reported


def run(stages: list[Any], *words: object, command: Any = main) -> list[str]:
    """The stages of a command; the last report of each says that all is done."""
    stages.clear()
    result = CliRunner().invoke(command, [*map(str, words)])
    assert result.exit_code == 0, result.output
    last = {stage: (done, total) for stage, done, total in stages}
    assert all(done == total for done, total in last.values())
    return list(last)


def test_every_long_command_reports(stages: list[Any], tiny_bundle: Path, tmp_path: Path) -> None:
    rows = [{"id": f"r{n}", "prompt": f"Row {n}?", "response": "Paris " * (n + 1)} for n in range(30)]
    for name, part in (("a", rows[:15]), ("b", rows[15:]), ("changed", rows[5:15])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    a, b, store = tmp_path / "a", tmp_path / "b", tmp_path / "s"
    for path in (a, b):
        embed = "embed", f"{path}.jsonl", "--model", tiny_bundle, "-o", path, "--part-rows", 5
        assert run(stages, *embed) == ["embed"]
    assert run(stages, "embed", tmp_path / "changed.jsonl", *embed[2:4], "-o", a, "--prune")[-1] == "update"
    assert run(stages, "merge", a, b, "-o", store) == ["merge"]
    assert run(stages, "compact", store) == ["compact"]
    assert run(stages, "info", store, "--verify", "--parquet", tmp_path / "s.parquet") == [
        "verify",
        "parquet",
    ]
    sides = "--train", store, "--query", b
    assert run(stages, "attribute", *sides, "--scores", tmp_path / "s.npy") == ["scores", "attribute"]
    examples = "--train", tmp_path / "b.jsonl", "--query", tmp_path / "a.jsonl", "--model", tiny_bundle
    assert run(stages, "attribute", *examples) == ["embed --train", "embed --query", "attribute"]
    assert run(stages, "select", *sides, "-n", 3, "--ids") == ["select"]
    assert run(stages, "index", store, "-o", tmp_path / "index", "-k", 3)[:1] == ["index rows"]


def test_an_export_reports(stages: list[Any], encoder_folder: Any, tmp_path: Path) -> None:
    arguments = encoder_folder("bert"), "--untrained", "-o", tmp_path / "bundle"
    assert run(stages, *arguments, command=export) == ["export"]
