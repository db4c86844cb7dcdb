"""The answers of the arms are made again where what they depend on is another, and kept where it is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_lm import save_llama
from tiny_verify import NAMED, QUERIES, RECIPE, ROWS

from airrep_infer.rows import Example
from airrep_train.label import LabelOptions
from airrep_train.target import FineTuneOptions
from airrep_train.verify import VerifyOptions, VerifyRows, verify
from airrep_train.verify import answers as module

pytestmark = pytest.mark.usefixtures("one_thread")


class Run:
    """A verify folder and how it is made; `made` counts how often answers were."""

    def __init__(self, target: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.target, self.folder, self.made = target, folder, 0
        load = module.Target

        def counting(*arguments: object) -> object:
            self.made += 1
            return load(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "Target", counting)

    def verify(
        self,
        tokens: int | None,
        recipe: FineTuneOptions = RECIPE,
        queries: list[Example] = QUERIES,
        target: str | None = None,
    ) -> str:
        options = VerifyOptions(seeds=1, against=())
        if tokens is not None:
            options = replace(options, generate=True, answer_tokens=tokens)
        source = LabelOptions(target or self.target, device="cpu")
        run = verify(VerifyRows(ROWS, queries, NAMED), source, self.folder, options, recipe)
        assert run.verdict is not None
        return run.answers

    @property
    def file(self) -> Path:
        return self.folder / "answers.jsonl"

    @property
    def record(self) -> Path:
        return self.folder / "answers.jsonl.run.json"

    def answers(self) -> list[str]:
        return [json.loads(line)["answers"]["reference"] for line in self.file.read_text().splitlines()]

    def forget_losses(self) -> None:
        for file in self.folder.glob("losses*"):
            file.unlink()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(save_llama(tmp_path / "target"), tmp_path / "v", monkeypatch)


def test_other_tokens_give_other_answers(run: Run) -> None:
    assert run.verify(2) == "written"
    short = run.answers()
    assert run.verify(2) == "kept: made with the same settings" and run.made == 1
    assert run.verify(9) == "made again (answer_tokens was 2, now 9)" and run.made == 2
    assert all(len(long) > len(answer) for long, answer in zip(run.answers(), short, strict=True))
    assert run.verify(9).startswith("kept") and run.verify(None) == "" and run.made == 2


@pytest.mark.parametrize("change", ["recipe", "queries", "target"])
def test_what_the_losses_depend_on_the_answers_depend_on(run: Run, change: str, tmp_path: Path) -> None:
    run.verify(2)
    run.forget_losses()  # a folder with losses refuses other settings
    changed = {
        "recipe": {"recipe": replace(RECIPE, learning_rate=1e-3)},
        "queries": {"queries": [replace(query, prompt="Colour 1?") for query in QUERIES]},
        "target": {"target": save_llama(tmp_path / "other", tied=False)},
    }[change]
    left = run.verify(None, **changed)  # type: ignore[arg-type]
    assert left.startswith("left as it is, and perhaps not of this run (") and run.made == 1
    said = run.verify(2, **changed)  # type: ignore[arg-type]
    what = {"recipe": "learning_rate was 0.003, now 0.001", "queries": "examples was", "target": "target was"}
    assert said.startswith("made again (") and what[change] in said and run.made == 2
    assert run.verify(2, **changed).startswith("kept")  # type: ignore[arg-type]


def test_answers_without_a_record_are_made_again(run: Run) -> None:
    """Earlier versions wrote none, so nobody knows how long their answers may be."""
    run.verify(2)
    run.record.unlink()
    assert "no record of its settings" in run.verify(None) and run.made == 1
    assert run.verify(2) == "made again (no record of its settings, as earlier versions wrote none)"
    assert run.made == 2 and run.record.exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("record", "{", "the record of its settings is damaged"),
        ("file", '{"query_id": "q0", "answers": {}}\n', "changed since it was written"),
    ],
)
def test_a_record_vouches_for_its_own_answers(run: Run, file: str, content: str, message: str) -> None:
    """A run that was killed between the two files leaves an old record beside new answers."""
    run.verify(2)
    answers = run.file.read_bytes()
    getattr(run, file).write_text(content)
    assert run.verify(2) == f"made again ({message})"
    assert run.file.read_bytes() == answers and run.verify(2).startswith("kept")
