"""A name that is no file or folder is named as that, whichever option looks at it first."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from airrep_infer.cli import main as infer
from airrep_train.cli import main as train


@pytest.mark.parametrize(
    "command",
    [
        "select --train none --rows rows.jsonl --query rows.jsonl -n 1",
        "select --train rows.jsonl --query none -n 1",
        "select --train rows.jsonl --query rows.jsonl --exclude none -n 1",
        "select --train rows.jsonl --query rows.jsonl --tokens 9 --tokenizer none",
        "attribute --train none --rows rows.jsonl --evidence --query rows.jsonl",
        "attribute --train none --index none --query rows.jsonl",
        "attribute --train none --engine ray --query rows.jsonl",
        "attribute --train none --query-id a --model rows.jsonl",
        "attribute --train rows.jsonl --query rows.jsonl --model rows.jsonl --groups none",
        "attribute --train rows.jsonl --query rows.jsonl --contrast none",
        "index rows.jsonl --query none -o out",
        "report rows.jsonl --train rows.jsonl --query rows.jsonl --verify none -o page.html",
        "embed rows.jsonl --model none -o out",
    ],
)
def test_infer(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(infer, command, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "command",
    [
        "label rows.jsonl --subsets none --target t -o losses.jsonl",
        "fit rows.jsonl --subsets none --losses rows.jsonl --base b -o out",
        "fit rows.jsonl --teacher none --base b -o out",
        "verify rows.jsonl --query none --target t --rows rows.jsonl -o out",
        "verify rows.jsonl --query rows.jsonl --control none --target t --rows rows.jsonl -o out",
        "evaluate rows.jsonl --subsets none --losses rows.jsonl --model m",
    ],
)
def test_train(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(train, command, tmp_path, monkeypatch)


def check(
    main: object, command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str = "none"
) -> None:
    monkeypatch.chdir(folder)
    (folder / "rows.jsonl").write_text('{"id": "a", "text": "a"}\n')
    result = CliRunner().invoke(main, command.split())  # type: ignore[arg-type]
    assert result.exit_code == 2 and result.stderr == f"error: {missing}: no such file or folder\n"
    assert [path.name for path in folder.iterdir()] == ["rows.jsonl"]
