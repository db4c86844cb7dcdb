"""All scores on disk: the plain product in float16, its ids, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from airrep_infer.cli import main
from airrep_infer.encode import EmbeddingSpace
from airrep_infer.errors import InputError
from airrep_infer.rows.examples import Example
from airrep_infer.score import dense, write_scores
from airrep_infer.store import EmbeddingStore, StoreRow
from airrep_infer.store.sources import EmbeddedRows
from airrep_infer.store.writer import StoreWriter

HALF = 2.0**-10  # twice the rounding of a float16, relative


def make_store(path: Path, vectors: np.ndarray, dtype: str = "float32") -> EmbeddingStore:
    space = EmbeddingSpace("ab" * 32, "fp32", vectors.shape[1])
    with StoreWriter(path, space, pooling_scale=1.0, dtype=dtype, part_rows=70) as writer:
        writer.append([Example(f"r{n}", None, f"text {n}") for n in range(len(vectors))], vectors)
    return EmbeddingStore.open(path)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[EmbeddingStore, EmbeddedRows]:
    rng = np.random.default_rng(0)
    train = make_store(tmp_path / "train", rng.normal(size=(200, 8)).astype(np.float32), "float16")
    queries = make_store(tmp_path / "queries", rng.normal(size=(7, 8)).astype(np.float32))
    return train, EmbeddedRows.of_store(queries)


@pytest.mark.parametrize("at_once", [1, 7 * 33, 1 << 23])
def test_every_score_is_the_product(
    at_once: int, sides: tuple[EmbeddingStore, EmbeddedRows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, queries = sides
    monkeypatch.setattr(dense, "SCORES_AT_ONCE", at_once)
    told: list[tuple[str, int, int | None]] = []
    write_scores(train, queries, tmp_path / "s.npy", progress=lambda *report: told.append(report))
    found = np.load(tmp_path / "s.npy")
    expected = queries.vectors.astype(float) @ train.take(np.arange(200)).astype(float).T
    assert found.dtype == np.float16 and found.shape == (7, 200)
    np.testing.assert_allclose(found, expected, rtol=HALF, atol=1e-6)
    ids = json.loads((tmp_path / "s.ids.json").read_text())
    assert ids == {"queries": [f"r{n}" for n in range(7)], "rows": [f"r{n}" for n in range(200)]}
    assert told[0] == ("scores", 0, 200) and told[-1] == ("scores", 200, 200)


@pytest.mark.parametrize("at_once", [7 * 33, 1 << 23])
def test_the_table_has_every_score(
    at_once: int, sides: tuple[EmbeddingStore, EmbeddedRows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional")
    train, queries = sides
    monkeypatch.setattr(dense, "SCORES_AT_ONCE", at_once)
    write_scores(train, queries, tmp_path / "s.parquet")
    table = parquet.read_table(tmp_path / "s.parquet")
    assert table["row_id"].to_pylist() == [f"r{n}" for n in range(200)]
    expected = queries.vectors.astype(float) @ train.take(np.arange(200)).astype(float).T
    for number, line in enumerate(expected):
        np.testing.assert_allclose(table[f"r{number}"].to_numpy(), line, rtol=1e-5, atol=1e-5)
    named = replace(queries, rows=(StoreRow("row_id", "0" * 16, {}), *queries.rows[1:]))
    with pytest.raises(InputError, match="a query is called 'row_id'"):
        write_scores(train, named, tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


def test_a_score_that_no_float16_holds_leaves_the_old_files(
    sides: tuple[EmbeddingStore, EmbeddedRows], tmp_path: Path
) -> None:
    train, queries = sides
    write_scores(train, queries, tmp_path / "s.npy")
    before = (tmp_path / "s.npy").read_bytes(), (tmp_path / "s.ids.json").read_bytes()
    long = EmbeddedRows("long", queries.space, queries.rows, queries.vectors * 1e5)
    with pytest.raises(InputError, match="float16 ends at 65504"):
        write_scores(train, long, tmp_path / "s.npy")
    assert ((tmp_path / "s.npy").read_bytes(), (tmp_path / "s.ids.json").read_bytes()) == before
    with pytest.raises(InputError, match="ends so"):
        write_scores(train, queries, tmp_path / "s.csv")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["attribute", *map(str, arguments)])


def test_the_command(sides: tuple[EmbeddingStore, EmbeddedRows], tmp_path: Path) -> None:
    train, queries = sides
    store = ["--train", train.path]
    result = run(*store, "--query", queries.source, "-k", 1, "--scores", tmp_path / "s.npy")
    assert result.exit_code == 0, result.output
    scores = np.load(tmp_path / "s.npy")
    for line, row in zip(scores, map(json.loads, result.stdout.splitlines()), strict=True):
        assert row["proponents"][0]["score"] == pytest.approx(line.max(), rel=HALF)
    for options, words in (
        (["--index", tmp_path], "excludes --index"),
        (["--device", "cuda"], "--device cuda"),
        (["--engine", "ray"], "--engine ray"),
    ):
        refused = run(*store, "--query", queries.source, "--scores", tmp_path / "t.npy", *options)
        assert refused.exit_code == 2 and words in refused.stderr and not (tmp_path / "t.npy").exists()


def test_rows_of_the_store_as_queries(sides: tuple[EmbeddingStore, EmbeddedRows], tmp_path: Path) -> None:
    train, _ = sides
    store = ["--train", train.path, "-k", 3]
    result = run(*store, "--query-id", "r150", "--query-id", "r3")
    assert result.exit_code == 0, result.output
    everything = {
        row["query_id"]: row
        for row in map(json.loads, run(*store, "--query", train.path).stdout.splitlines())
    }
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["query_id"] for row in rows] == ["r150", "r3"]
    for row in rows:
        assert row["proponents"] == everything[row["query_id"]]["proponents"]
    for options, words in (
        (["--query-id", "nobody"], "no row with id 'nobody'"),
        (["--query-id", "r1", "--query-id", "r1"], "given twice"),
        (["--query-id", "r1", "--query", train.path], "one of them"),
        ([], "one of them"),
    ):
        refused = run(*store, *options)
        assert refused.exit_code == 2 and words in refused.stderr
