"""Whoever embeds examples says what the token limit cut: every command and option, and the Python calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from airrep_infer.cli import main
from airrep_infer.encode import Encoder
from airrep_infer.rows.token_limit import CutCounts
from airrep_infer.store import EmbeddedRows, embed_rows, open_source

LONG = "word " * 400
CUT = "2 rows were cut to the token limit, of 1 the response too"


def write(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps({"id": f"r{n}", **row}) + "\n" for n, row in enumerate(rows)))
    return path


@pytest.fixture(scope="module")
def folder(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of which two are cut and rows of which none is, and stores of both."""
    folder = tmp_path_factory.mktemp("cut")
    short = {"prompt": "short", "response": "short"}
    write(folder / "long.jsonl", {"prompt": LONG, "response": "a"}, {"prompt": "b", "response": LONG}, short)
    write(folder / "short.jsonl", short, {"prompt": "a", "response": "b"}, {"text": "c"})
    for name in ("long", "short"):
        stderr = run(tiny_bundle, f"embed {folder}/{name}.jsonl -o {folder}/{name}.store")
        assert (CUT in stderr) == (name == "long")
    return folder


def run(bundle: Path, line: str, *more: object) -> str:
    """What a command says on stderr."""
    result = CliRunner().invoke(main, [*line.split(), "--model", str(bundle), *map(str, more)])
    assert result.exit_code == 0, result.output
    return result.stderr


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("attribute --train short.store --query long.jsonl", "--query"),
        ("attribute --train long.jsonl --query short.store", "--train"),
        ("attribute --train short.store --train long.jsonl --query-id r0", "--train"),
        ("attribute --train short.store --query short.store --contrast long.jsonl", "--contrast"),
        ("select --ids -n 2 --train long.jsonl --query short.store", "--train"),
        ("select --ids -n 2 --train short.store --query long.jsonl", "--query"),
        ("index short.store -o new.index --recall 0.1 -k 1 --query long.jsonl", "--query"),
    ],
)
def test_what_is_cut_is_said(
    line: str, option: str, folder: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if line.startswith("index"):
        pytest.importorskip("hnswlib", reason="hnswlib (extra: index) is compiled and optional")
    monkeypatch.chdir(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    if "--train short.store --train long.jsonl" in line:  # ids must differ
        rows = [json.loads(text) for text in (folder / "long.jsonl").read_text().splitlines()]
        (tmp_path / "long.jsonl").unlink()
        lines = [json.dumps({**row, "id": f"x{n}"}) for n, row in enumerate(rows)]
        (tmp_path / "long.jsonl").write_text("\n".join(lines))
    said = run(tiny_bundle, line).splitlines()
    assert said.count(f"{option} long.jsonl: {CUT}") == 1, said
    assert sum("token limit" in text for text in said) == 1


def test_where_nothing_is_cut_nothing_is_said(folder: Path, tiny_bundle: Path) -> None:
    """Of a store neither: `embed` said it."""
    for train, query in (("short.jsonl", "short.store"), ("long.store", "short.jsonl")):
        line = f"attribute --train {folder}/{train} --query {folder}/{query}"
        assert "token limit" not in run(tiny_bundle, line)


def test_python_callers_learn_of_it(folder: Path, tiny_bundle: Path) -> None:
    encoder = Encoder(tiny_bundle)
    told: list[str] = []
    rows = embed_rows([folder / "long.jsonl"], lambda: encoder, "the goal", notice=told.append)
    assert rows.cut == CutCounts(2, 1) and told == [f"the goal {folder}/long.jsonl: {CUT}"]
    assert embed_rows([folder / "short.jsonl"], lambda: encoder, "x", notice=told.append).cut == CutCounts()
    assert embed_rows([folder / "long.jsonl"], lambda: encoder, "x").cut == CutCounts(2, 1)
    assert embed_rows([folder / "long.store"], lambda: encoder, "x", notice=told.append).cut == CutCounts(
        2, 1
    )
    with open_source([folder / "long.jsonl"], lambda: encoder, "the pool", notice=told.append) as store:
        assert store.cut == CutCounts(2, 1)
        assert EmbeddedRows.of_ids(store, ["r2"]).cut is None  # a store does not know which rows were cut
    assert told[1:] == [f"the pool {folder}/long.jsonl: {CUT}"]
    assert CutCounts.together([CutCounts(2, 1), CutCounts(1, 0)]) == CutCounts(3, 1)
    assert CutCounts.together([CutCounts(2, 1), None]) is None
    assert CutCounts.together([]) == CutCounts()
