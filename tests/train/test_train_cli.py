"""airrep-train as a user meets it: help with examples, and the promised exit statuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_lm import write_run

from airrep_infer.errors import StorageError
from airrep_train.cli import main
from airrep_train.pipeline import PipelineRun


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """examples.jsonl and subsets.jsonl, in the working folder."""
    write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(line: str) -> Result:
    return CliRunner().invoke(main, line.split())


@pytest.mark.parametrize("name", [*main.commands, ""])
def test_help_has_an_example(name: str) -> None:
    for flag in ("--help", "-h"):
        result = invoke(f"{name} {flag}")
        assert result.exit_code == 0
        assert (
            f"Example: airrep-train {name}" in result.output if name else "airrep-train fit" in result.output
        )


def test_the_commands_are_those_of_the_design() -> None:
    assert list(main.commands) == ["sample", "label", "gradients", "fit", "evaluate", "verify", "run"]
    assert invoke("--version").output.startswith("airrep-train, version ")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("sample none.jsonl -o s", "none.jsonl: no such file"),
        ("sample examples.jsonl -o s", "but there are 40 examples; lower one of them"),
        ("sample examples.jsonl -o s --splits 0", "splits must be at least 1, got 0"),
        ("label examples.jsonl --subsets none --target t -o l", "none: no such file"),
        ("label examples.jsonl --subsets subsets.jsonl --target ./t -o l", "./t: not a model folder"),
        (
            "label examples.jsonl --subsets subsets.jsonl --target t -o l --epochs 0",
            "epochs must be at least 1",
        ),
        (
            "fit examples.jsonl --subsets subsets.jsonl --losses none --base b -o c",
            "none: no such",
        ),
        (
            "fit examples.jsonl --subsets subsets.jsonl --losses l --base b -o c --patience 0",
            "patience must be",
        ),
        ("evaluate examples.jsonl --subsets none --losses l --model m", "none: no such file"),
        ("run none.toml", "none.toml: cannot read: No such file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(folder: Path, line: str, reason: str) -> None:
    result = invoke(line)
    assert result.exit_code == 2 and result.stdout == "", (result.output, result.exception)
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and reason in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["examples.jsonl", "subsets.jsonl"]


@pytest.mark.parametrize(
    "line", ["sample x --splits many -o s", "label x", "fit", "evaluate --model m", "run", "no"]
)
def test_bad_usage_is_status_2(line: str) -> None:
    result = invoke(line)
    assert result.exit_code == 2 and result.stdout == "" and "Error: " in result.stderr


def test_an_output_that_cannot_be_made_is_status_2(folder: Path) -> None:
    sizes = "--splits 1 --dev-size 4 --pool-size 9 --subset-size 3 --subsets 2"
    result = invoke(f"sample examples.jsonl -o none/subsets.jsonl {sizes}")
    assert result.exit_code == 2 and "none: no such folder; make it" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("failure", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume"),
        (StorageError("out: cannot write: disk full"), 1, "error: out: cannot write: disk full"),
    ],
)
def test_a_run_that_fails_says_so_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, status: int, words: str
) -> None:
    def fail(_: PipelineRun) -> None:
        raise failure

    monkeypatch.setattr(PipelineRun, "run", fail)
    text = 'examples = "examples.jsonl"\noutput = "out"\nsubsets = "s"\nlosses = ["l"]\n[fit]\nbase = "b"\n'
    (folder / "p.toml").write_text(text)
    result = invoke("run p.toml")
    assert (result.exit_code, result.stderr, result.stdout) == (status, f"{words}\n", "")
