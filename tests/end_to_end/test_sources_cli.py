"""`--train` and `--query` more than once: stores and files of examples are used as if they were one store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from airrep_infer.cli import main
from airrep_infer.encode import Encoder
from airrep_infer.errors import InputError
from airrep_infer.store import EmbeddingStore, embed_files, merge_stores
from airrep_infer.store.merge import join_stores

ROWS = [
    {"id": f"r{n}", "task": f"t{n % 3}", "prompt": f"Row {n}?", "response": "Paris " * (n + 1)}
    for n in range(12)
]


def run(*words: object, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exit_code == status, result.output
    return result


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows 0 to 4 and 5 to 8 as the stores a and b, those after them as examples, and all as one store."""
    folder = tmp_path_factory.mktemp("sources")
    for name, rows in (("a", ROWS[:5]), ("b", ROWS[5:9]), ("c", ROWS[9:]), ("all", ROWS)):
        examples = write(folder / f"{name}.jsonl", rows)
        run("embed", examples, "--model", tiny_bundle, "-o", folder / name, "--part-rows", 3)
    return folder


def several(option: str, *sources: Path) -> list[object]:
    return [word for source in sources for word in (option, source)]


def test_several_are_attributed_to_as_one(folder: Path, tiny_bundle: Path) -> None:
    parts = several("--train", folder / "a", folder / "b", folder / "c.jsonl")
    ask = ["--query", folder / "c", "-k", 12, "--by", "task", "--model", tiny_bundle]
    made = [json.loads(line) for line in run("attribute", *parts, *ask).stdout.splitlines()]
    whole = [
        json.loads(line) for line in run("attribute", "--train", folder / "all", *ask).stdout.splitlines()
    ]
    for row, expected in zip(made, whole, strict=True):
        assert {hit["id"] for hit in row["proponents"]} == {f"r{n}" for n in range(12)}
        scores = ({hit["id"]: hit["score"] for hit in each["proponents"]} for each in (row, expected))
        assert next(scores) == pytest.approx(next(scores), abs=1e-5)
        assert row["groups"] == pytest.approx(expected["groups"], abs=1e-5)


def test_several_queries(folder: Path, tiny_bundle: Path) -> None:
    queries = several("--query", folder / "a.jsonl", folder / "c.jsonl", folder / "b")
    made = run("attribute", "--train", folder / "all", *queries, "--model", tiny_bundle).stdout.splitlines()
    # Rows of stores come first.
    assert [json.loads(line)["query_id"] for line in made] == [
        f"r{n}" for n in (5, 6, 7, 8, 0, 1, 2, 3, 4, 9, 10, 11)
    ]
    twice = several("--query", folder / "a", folder / "a.jsonl")
    refused = run("attribute", "--train", folder / "all", *twice, "--model", tiny_bundle, status=2).output
    assert "id 'r0' is in" in refused and "rename it" in refused


def test_selection_writes_the_rows_of_all(folder: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    parts = several("--train", folder / "a", folder / "b", folder / "c.jsonl")
    rows = several("--rows", folder / "b.jsonl", folder / "a.jsonl")
    ask = ["--query", folder / "b", "-n", 12, "--model", tiny_bundle, "-o", tmp_path / "out.jsonl"]
    run("select", *parts, *rows, *ask)
    made = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    chosen = {row["id"]: row for row in made}
    assert all(chosen[row["id"]].items() >= row.items() for row in ROWS)
    assert "is a store, which has none; give --rows" in run("select", *parts, *ask, status=2).output
    assert "is an input" in run("select", *parts, *rows, *ask[:-1], folder / "b.jsonl", status=2).output


def test_what_cannot_be_joined(folder: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    run("embed", folder / "b.jsonl", "--model", tiny_bundle, "-o", half, "--dtype", "float16")
    ask = ["--query", folder / "c", "--model", tiny_bundle]

    def refused(*train: Path, more: tuple[object, ...] = ()) -> str:
        return run("attribute", *several("--train", *train), *ask, *more, status=2).output

    assert f"id 'r0' is in {folder / 'a'} and again in {folder / 'all'}" in refused(
        folder / "a", folder / "all"
    )
    assert f"id 'r5' is in {folder / 'b'} and again in {folder / 'b.jsonl'}" in refused(
        folder / "b", folder / "b.jsonl"
    )
    assert "dtype float32" in refused(folder / "a", half)
    run("attribute", *several("--train", half, folder / "a.jsonl"), *ask)  # embedded in float16, too
    both = (folder / "a", folder / "b")
    assert "needs one store that all nodes see" in refused(*both, more=("--engine", "ray"))
    assert "is not one store" in refused(*both, more=("--index", tmp_path))


def test_a_joined_store_is_what_a_merged_one_is(folder: Path, tmp_path: Path) -> None:
    stores = [EmbeddingStore.open(folder / name) for name in ("a", "b", "c")]
    joined = join_stores(stores, ["a", "b", "c"])
    merged = merge_stores([store.path for store in stores], tmp_path / "merged")
    assert (joined.fingerprint, len(joined)) == (merged.fingerprint, 12)
    numbers = [11, 0, 5, 4, 9]
    assert joined.ids(numbers) == merged.ids(numbers) == [f"r{n}" for n in numbers]
    assert joined.take(numbers).tobytes() == merged.take(numbers).tobytes()
    assert list(joined.rows()) == list(merged.rows())


def test_a_joined_store_notices_that_one_was_replaced(tiny_bundle: Path, tmp_path: Path) -> None:
    for name, rows in (("a", ROWS[:5]), ("b", ROWS[5:9])):
        embed_files([write(tmp_path / f"{name}.jsonl", rows)], Encoder(tiny_bundle), tmp_path / name)
    joined = join_stores([EmbeddingStore.open(tmp_path / name) for name in ("a", "b")], ["a", "b"])
    changed = [{**row, "response": row["response"] + "!"} for row in ROWS[5:9]]
    embed_files([write(tmp_path / "b.jsonl", changed)], Encoder(tiny_bundle), tmp_path / "b")
    joined.take([0, 4])
    with pytest.raises(InputError, match=rf"{tmp_path}/b: a new version of the store was put in place"):
        joined.take([8])
