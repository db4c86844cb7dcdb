"""`attribute --evidence` over stores looks at the texts that were embedded, on both sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from airrep_infer.cli import main

TRAIN = [
    {"id": 1, "text": "We never refund broken goods."},
    {"id": 2, "text": "The sky is blue and the sea is too."},
]
QUERIES = [{"id": 1, "text": "Look: the sky is blue"}, {"id": "q", "text": "Do you refund broken goods?"}]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*words: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == status, result.output
    return result.stdout if status == 0 else result.stderr


@pytest.fixture
def sides(tiny_bundle: Path, tmp_path: Path) -> list[object]:
    for name, rows in (("train", TRAIN), ("queries", QUERIES)):
        file = write(tmp_path / f"{name}.jsonl", rows)
        run("embed", file, "--model", tiny_bundle, "-o", tmp_path / f"{name}.store")
    stores = ("--train", tmp_path / "train.store", "--query", tmp_path / "queries.store")
    return ["attribute", *stores, "--model", tiny_bundle, "--evidence"]


@pytest.mark.parametrize("files", [("train", "queries"), ("queries", "train")])
def test_an_id_of_both_sides_has_a_text_on_each(
    sides: list[object], tmp_path: Path, files: tuple[str, str]
) -> None:
    rows = [word for name in files for word in ("--rows", tmp_path / f"{name}.jsonl")]
    by_id = {}
    for line in run(*sides, *rows).splitlines():
        row = json.loads(line)
        by_id[row["query_id"]] = {hit["id"]: hit["evidence"] for hit in row["proponents"]}
    assert set(by_id[1]) | set(by_id["q"]) == {1, 2}
    for hits in by_id.values():
        for name, evidence in hits.items():
            assert [text for text, _ in evidence["sentences"]] == [TRAIN[int(name) - 1]["text"]]
    if 2 in by_id[1]:
        assert by_id[1][2]["spans"] == ["The sky is blue"]
    if 1 in by_id["q"]:
        assert by_id["q"][1]["spans"] == ["refund broken goods"]


def test_other_texts_of_the_queries_are_refused(sides: list[object], tmp_path: Path) -> None:
    train, queries = tmp_path / "train.jsonl", tmp_path / "queries.jsonl"
    other = write(tmp_path / "other.jsonl", [{"id": 1, "text": "hello there my friend"}, QUERIES[1]])
    refused = run(*sides, "--rows", train, "--rows", other, status=2)
    assert "the text of id '1' is not what was embedded" in refused
    # The training row of the same id is no answer.
    just_one = write(tmp_path / "one.jsonl", [QUERIES[1]])
    refused = run(*sides, "--rows", train, "--rows", just_one, status=2)
    assert "train.jsonl:1: the text of id '1' is not what was embedded" in refused
    refused = run(*sides, "--rows", queries, status=2)
    assert "queries.jsonl" in refused


def test_another_white_space_of_a_prompt_is_another_text(tiny_bundle: Path, tmp_path: Path) -> None:
    """The hash of the first stores ignores it, on which the vectors of this encoder depend."""
    row = {"id": 1, "prompt": "Who cooks on Sundays?", "response": "Our uncle does."}
    train = write(tmp_path / "train.jsonl", [row])
    run("embed", train, "--model", tiny_bundle, "-o", tmp_path / "s")
    ask = ("attribute", "--train", tmp_path / "s", "--query", train, "--model", tiny_bundle, "--evidence")
    run(*ask, "--rows", train)
    other = write(tmp_path / "other.jsonl", [{**row, "prompt": "Who cooks\non Sundays?"}])
    refused = run(*ask, "--rows", other, status=2)
    assert "other.jsonl:1: the text of id '1' is not what was embedded" in refused
