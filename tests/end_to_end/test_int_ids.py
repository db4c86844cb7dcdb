"""Ids that are numbers stay numbers, from the rows to every output and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from airrep_infer import EmbeddingStore, Encoder
from airrep_infer.cli import main
from airrep_infer.errors import InputError
from airrep_infer.rows import read_attributions, read_examples
from airrep_infer.store import embed_files
from airrep_train.evaluate.given_scores import FileScorer
from airrep_train.verify.named_rows import read_named_rows

ROWS: list[dict[str, Any]] = [
    {"id": 100 - n, "prompt": f"question {'a' * n}", "response": f"answer {n}", "task": n % 2}
    for n in range(8)
]


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ids")
    write(folder / "rows.jsonl", ROWS)
    embed_files([folder / "rows.jsonl"], Encoder(tiny_bundle, device="cpu"), folder / "s", part_rows=5)
    sides = ("--train", folder / "s", "--query", folder / "s")
    run("attribute", *sides, "-k", 3, "-o", folder / "out.jsonl", "--scores", folder / "all.npy")
    return folder


def test_attributions_read_back(folder: Path) -> None:
    store = EmbeddingStore.open(folder / "s")
    ids = [row["id"] for row in ROWS]
    assert store.ids(range(8)) == ids
    written = lines(folder / "out.jsonl")
    assert [row["query_id"] for row in written] == ids
    assert all(isinstance(hit["id"], int) for row in written for hit in row["proponents"])
    assert [row.to_json() for _, row in read_attributions(folder / "out.jsonl")] == written
    named = read_named_rows(folder / "out.jsonl", 8, k=3)
    assert set(named) <= {str(name) for name in ids}
    by_hand = run("attribute", "--train", folder / "s", "--query-id", 97, "-k", 1, "--by", "task").stdout
    assert json.loads(by_hand)["query_id"] == 97 and set(json.loads(by_hand)["groups"]) == {"0", "1"}
    run(
        *("report", folder / "out.jsonl", "--train", folder / "rows.jsonl"),
        *("--query", folder / "rows.jsonl", "-o", folder / "page.html"),
    )


def test_tables_have_integer_columns(folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    sides = ("--train", folder / "s", "--query", folder / "s")
    run("attribute", *sides, "-k", 2, "-o", folder / "out.parquet")
    run("select", *sides, "-n", 3, "--ids", "-o", folder / "chosen.parquet")
    run("info", folder / "s", "--parquet", folder / "s.parquet")
    for name, columns in (
        ("out.parquet", ("query_id", "row_id", "task")),
        ("out.groups.parquet", ("query_id",)),
        ("chosen.parquet", ("row_id", "reason")),
        ("s.parquet", ("id",)),
    ):
        schema = parquet.read_schema(folder / name)
        assert {str(schema.field(column).type) for column in columns} == {"int64"}, name


def test_selections_index_and_scores(folder: Path) -> None:
    sides = ("--train", folder / "s", "--query", folder / "s")
    run("select", *sides, "-n", 3, "--ids", "-o", folder / "ids.jsonl")
    assert all(isinstance(row["id"], int) for row in lines(folder / "ids.jsonl"))
    run("select", *sides, "-n", 3, "--rows", folder / "rows.jsonl", "-o", folder / "rows-3.jsonl")
    assert {row["id"] for row in lines(folder / "rows-3.jsonl")} <= {row["id"] for row in ROWS}
    excluded = ("--exclude", folder / "ids.jsonl", "--ids")
    run("select", *sides, "-n", 3, *excluded, "-o", folder / "others.jsonl")
    taken, others = ({row["id"] for row in lines(folder / f"{name}.jsonl")} for name in ("ids", "others"))
    assert len(others) == 3 and not taken & others
    listing = json.loads((folder / "all.ids.json").read_text())
    assert listing["rows"] == [row["id"] for row in ROWS]
    examples = read_examples(folder / "rows.jsonl")
    assert FileScorer.open(folder / "all.npy", examples).rows == {
        str(row["id"]): n for n, row in enumerate(ROWS)
    }
    (folder / "groups.jsonl").write_text('{"group": "g", "ids": [100, "97"]}\n')
    grouped = run("attribute", *sides, "-k", 1, "--groups", folder / "groups.jsonl").stdout
    assert list(json.loads(grouped.splitlines()[0])["groups"]) == ["g"]


def test_a_number_and_its_text_are_one_id(folder: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    both = write(tmp_path / "both.jsonl", [ROWS[0], {**ROWS[1], "id": "100"}])
    with pytest.raises(InputError, match=r"both.jsonl:2: duplicate id '100', first at .*both.jsonl:1"):
        read_examples(both)
    # A store of an earlier version, which knew texts only, follows.
    old = write(tmp_path / "rows.jsonl", [{**row, "id": str(row["id"])} for row in ROWS])
    encoder = Encoder(tiny_bundle, device="cpu")
    embed_files([old], encoder, tmp_path / "s", part_rows=5)
    summary = embed_files([folder / "rows.jsonl"], encoder, tmp_path / "s", part_rows=5)
    assert (summary.added, summary.changes.updated, summary.changes.replaced) == (0, 8, 0)
    assert EmbeddingStore.open(tmp_path / "s").fingerprint == EmbeddingStore.open(folder / "s").fingerprint
