"""Rows of any form and layout, from the command line to the store."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import csv, parquet

from airrep_infer.cli import main
from airrep_infer.store.store import EmbeddingStore

ROWS = 600


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


def in_every_form(rows: list[dict[str, Any]], folder: Path) -> dict[str, Path]:
    """The same rows as JSONL and in other forms, each under the name `rows`."""
    for name in ("jsonl", "zst", "csv", "parquet", "saved"):
        (folder / name).mkdir()
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    (folder / "jsonl" / "rows.jsonl").write_bytes(lines)
    with pa.CompressedOutputStream(str(folder / "zst" / "rows.jsonl.zst"), "zstd") as stream:
        stream.write(lines)
    table = pa.Table.from_pylist(rows)
    csv.write_csv(table, folder / "csv" / "rows.csv")
    parquet.write_table(table, folder / "parquet" / "rows.parquet", row_group_size=100)
    saved = folder / "saved" / "rows"
    saved.mkdir()
    with pa.ipc.new_stream(saved / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_format_columns": None}
    (saved / "state.json").write_text(json.dumps(state))
    return {name: next((folder / name).iterdir()) for name in ("jsonl", "zst", "csv", "parquet", "saved")}


def test_p3_gives_the_same_store_in_every_form(p3: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    with (p3 / "examples.jsonl").open(encoding="utf-8") as stream:
        rows = [json.loads(next(stream)) for _ in range(ROWS)]
    stores = {}
    for name, path in in_every_form(rows, tmp_path).items():
        run("embed", path, "--model", tiny_bundle, "-o", tmp_path / f"{name}.store", "--threads", 1)
        files = sorted((tmp_path / f"{name}.store").glob("part-*"))
        stores[name] = [(file.name, file.read_bytes()) for file in files]
        assert len(files) == 2
    assert all(stores[name] == stores["jsonl"] for name in stores)


def test_layouts_are_named_on_the_command_line(tiny_bundle: Path, tmp_path: Path) -> None:
    model = ("--model", tiny_bundle)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"q": "Where?", "chosen": "Paris", "rejected": "Rome", "note": "x"}\n')
    assert "preference pair" in run("embed", pairs, *model, "-o", tmp_path / "no", status=2).output
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"id": "pairs:1", "prompt": "Where?", "response": "Rome", "note": "x"}\n')
    how = ("--field", "prompt=q", "--response", "rejected")
    run("embed", pairs, *model, *how, "-o", tmp_path / "pairs.store")
    run("embed", plain, *model, "-o", tmp_path / "plain.store")
    shas = [next(EmbeddingStore.open(tmp_path / f"{name}.store").rows()).sha for name in ("pairs", "plain")]
    assert shas[0] == shas[1]
    for command in (("attribute", "-k", 1), ("select", "-n", 1, "--rows", pairs)):
        train = tmp_path / "pairs.store"
        made = run(*command, "--train", train, "--query", pairs, *model, *how)
        assert '"pairs:1"' in made.stdout
    index = ("index", tmp_path / "pairs.store", "-o", tmp_path / "index")
    asked = ("--query", pairs, *model)
    assert "preference pair" in run(*index, *asked, status=2).output
    assert "--field is for --query, which is not given" in run(*index, *how, status=2).output
    if importlib.util.find_spec("hnswlib"):
        run(*index, *asked, *how)
    chat = tmp_path / "chat.jsonl"
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    chat.write_text(json.dumps({"messages": turns}) + "\n")
    assert "--last-turn drop" in run("embed", chat, *model, "-o", tmp_path / "no", status=2).output
    run("embed", chat, *model, "--last-turn", "drop", "-o", tmp_path / "chat.store")
    assert (
        "expected ROLE=COLUMN"
        in run("embed", pairs, *model, "--field", "q", "-o", tmp_path / "no", status=2).output
    )


def test_a_folder_that_is_neither_store_nor_rows_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("attribute", "--train", tmp_path / "empty", "--query", tmp_path / "empty", status=2)
    assert "neither a store (no store.json) nor a folder of Parquet or Arrow files" in result.output


@pytest.mark.parametrize("command", ["embed", "attribute", "select", "report"])
def test_the_options_are_in_the_help(command: str) -> None:
    shown = run(command, "--help").output
    assert all(option in shown for option in ("--field", "--response", "--last-turn"))


def test_results_go_to_parquet(tiny_bundle: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [
        {"id": f"r{n}", "text": f"text {n}", "task": f"t{n % 2}", "score": n, "mixed": n or "x"}
        for n in range(6)
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("embed", rows, "--model", tiny_bundle, "-o", tmp_path / "store")
    sides = ("--train", tmp_path / "store", "--query", tmp_path / "store")
    run("attribute", *sides, "-k", 2, "--by", "task", "-o", tmp_path / "out.jsonl")
    run("attribute", *sides, "-k", 2, "--by", "task", "-o", tmp_path / "out.parquet")
    expected = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["query_id"], row["side"], row["rank"], row["row_id"], row["score"]) for row in table] == [
        (value["query_id"], side, rank, row["id"], row["score"])
        for value in expected
        for side in ("proponent", "opponent")
        for rank, row in enumerate(value[f"{side}s"], 1)
    ]
    known = {line["id"]: line for line in lines}
    assert all(row["task"] == known[row["row_id"]]["task"] for row in table)
    assert all(row["field.score"] == known[row["row_id"]]["score"] for row in table)
    assert all(row["mixed"] == str(known[row["row_id"]]["mixed"]) for row in table)
    groups = parquet.read_table(tmp_path / "out.groups.parquet").to_pylist()
    whole = {row["query_id"]: row["influence"] for row in groups if row["group"] is None}
    assert whole == {value["query_id"]: value["group_influence"] for value in expected}
    assert [row["group"] for row in groups[:3]] == [None, "t0", "t1"]
    assert all(row["influence_error"] is None for row in groups)
    run("select", *sides, "-n", 3, "--ids", "-o", tmp_path / "chosen.parquet")
    chosen = parquet.read_table(tmp_path / "chosen.parquet").to_pylist()
    assert [row["rank"] for row in chosen] == [1, 2, 3] and chosen[0]["task"] in ("t0", "t1")


def test_selected_rows_are_whole_in_either_form_and_their_record_names_them(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    lines = [{"text": f"text {n}", "more": {"kept": [n, None]}} for n in range(6)]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sides = ("--train", rows, "--query", rows, "--model", tiny_bundle, "-n", 3)
    run("select", *sides, "-o", tmp_path / "a.jsonl")
    run("select", *sides, "-o", tmp_path / "b.parquet")
    written = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert parquet.read_table(tmp_path / "b.parquet").to_pylist() == written
    for rank, row in enumerate(written, 1):
        original = lines[int(row["id"].removeprefix("rows:")) - 1]
        assert row["rank"] == rank and {key: row[key] for key in original} == original
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["selected"]["rows"] == 3 and record["asked"]["n"] == 3
    assert record["output"]["sha256"] == hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest()
    assert (tmp_path / "b.json").is_file()
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text('{"text": "a", "n": 1}\n{"text": "b", "n": "one"}\n')
    both = ("--train", mixed, "--query", rows, "--model", tiny_bundle, "-n", 2)
    refused = run("select", *both, "-o", tmp_path / "c.parquet", status=2).output
    assert "'n'" in refused and "write .jsonl" in refused
