"""An option that a command would not look at is refused: of embedding and reading, where all are stores."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from named_store import write_store

from airrep_infer.cli import main
from airrep_infer.store import EmbeddingStore

STORES = "--train train --query train"
EMBEDDING = ["--precision int8", "--precision fp32", "--batch-tokens 77"]
READING = ["--field prompt=x", "--response rejected", "--last-turn drop"]
NOT_EMBEDDED = "is for examples that are embedded; none are given: leave it out"
NOT_READ = "is for rows that are read from examples; none are given: leave it out"
NO_QUERY = "is for --query, which is not given: leave it out"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of 40 rows, and a file of examples."""
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "train", 40)
    (tmp_path / "rows.jsonl").write_text(
        "".join(f'{{"id": "r{n}", "text": "text {n}"}}\n' for n in range(40))
    )
    (tmp_path / "ids.txt").write_text("r3\n")
    (tmp_path / "b").mkdir()
    return tmp_path


def run(line: str) -> Result:
    return CliRunner().invoke(main, line.split())


def refused(line: str, words: str) -> None:
    result = run(line)
    assert (result.exit_code, result.stdout) == (2, ""), (line, result.output)
    assert words in result.stderr and result.stderr.count("\n") == 1, (line, result.stderr)


@pytest.mark.parametrize("option", [*EMBEDDING, *READING, "--workers 2"])
def test_of_stores_nothing_is_embedded_or_read(here: Path, option: str) -> None:
    name, why = option.split()[0], NOT_READ if option in READING else NOT_EMBEDDED
    refused(f"attribute {STORES} {option}", f"{name} {why}")
    refused(f"attribute --train train --query-id r3 {option}", f"{name} {why}")
    refused(f"attribute {STORES} --contrast train {option}", f"{name} {why}")
    if name != "--workers":
        refused(f"select {STORES} -n 2 --ids {option}", f"{name} {why}")
        assert not run(f"select {STORES} -n 2 --ids").stderr


@pytest.mark.parametrize("option", [*EMBEDDING, *READING])
@pytest.mark.parametrize("side", ["--train rows.jsonl --query train", "--train train --query rows.jsonl"])
def test_where_something_is_embedded_the_options_are_used(here: Path, side: str, option: str) -> None:
    for command in ("attribute", "select -n 2 --ids"):
        result = run(f"{command} {side} {option}")
        assert "leave it out" not in result.stderr, result.stderr
    assert (
        "leave it out"
        not in run(f"attribute --train train --query train --contrast rows.jsonl {option}").stderr
    )


def test_the_device_is_of_the_scan_or_of_embedding(here: Path) -> None:
    assert run(f"attribute {STORES} --device cpu").exit_code == 0
    assert run(f"attribute {STORES} --threads 1").exit_code == 0
    refused(f"attribute {STORES} --index b --device cpu", f"--device {NOT_EMBEDDED}")
    refused(f"attribute {STORES} --engine ray --device cpu", f"--device {NOT_EMBEDDED}")
    refused(f"select {STORES} -n 2 --ids --device cpu", f"--device {NOT_EMBEDDED}")


@pytest.mark.parametrize("option", READING)
def test_the_texts_of_a_store_are_read(here: Path, option: str) -> None:
    """--rows, --tokens and --exclude read rows, so that the options of reading are for them."""
    for used in (
        "--rows rows.jsonl",
        "--ids --exclude rows.jsonl --rows rows.jsonl",
    ):
        assert "leave it out" not in run(f"select {STORES} -n 2 {used} {option}").stderr
    evidence = f"attribute {STORES} --evidence --rows rows.jsonl --model b {option}"
    assert "leave it out" not in run(evidence).stderr
    assert "leave it out" not in run(f"{evidence} --precision int8 --workers 2").stderr


def test_texts_that_nothing_looks_at(here: Path) -> None:
    refused(f"select {STORES} -n 2 --ids --rows rows.jsonl", "--rows is for rows that are written in full")
    by_id = f"select {STORES} -n 2 --ids --exclude ids.txt"
    assert run(by_id).exit_code == 0
    refused(f"{by_id} --rows rows.jsonl", "--rows is for rows that are written in full")
    for option in READING:
        refused(f"{by_id} {option}", f"{option.split()[0]} {NOT_READ}")


@pytest.mark.parametrize("option", ["--model b", "--precision int8", *READING])
def test_an_index_without_queries(here: Path, option: str) -> None:
    name = option.split()[0]
    refused(f"index train -o x {option}", f"{name} {NO_QUERY}")
    refused(f"index train -o x --verify {option}", f"{name} {NO_QUERY}")
    assert not (here / "x").exists()
    if name != "--model":
        refused(f"index train -o x --query train {option}", f"{name} is for ")


@pytest.mark.parametrize(
    "option", ["--recall .9", "-k 3", "--links 4", "--ef-construction 9", "--max-ef 9", "--rebuild"]
)
def test_verify_makes_no_index(here: Path, option: str) -> None:
    name = option.split()[0]
    refused(
        f"index train -o x --verify {option}", f"{name} is for making an index, and --verify only measures"
    )


def test_a_bundle_that_did_not_make_the_queries(here: Path, tiny_bundle: Path) -> None:
    pytest.importorskip("hnswlib", reason="hnswlib (extra: index) is compiled on installation and optional")
    refused(f"index train -o x --query train --model {tiny_bundle}", "use the store's own bundle")
    assert not (here / "x").exists() and len(EmbeddingStore.open("train")) == 40
