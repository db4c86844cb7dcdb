"""`airrep-infer index` and `attribute --index` as a user meets them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from airrep_infer.cli import main
from airrep_infer.encode import EmbeddingSpace
from airrep_infer.index.folder import IndexManifest
from airrep_infer.rows.examples import Example
from airrep_infer.store.store import EmbeddingStore
from airrep_infer.store.writer import StoreWriter

DIMENSION = 16


@pytest.fixture(autouse=True)
def hnswlib(request: pytest.FixtureRequest) -> None:
    if "without_hnswlib" not in request.node.name:
        pytest.importorskip(
            "hnswlib", reason="hnswlib (extra: index) is compiled on installation and optional"
        )


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result, *words: object) -> None:
    """Status 2 and one line on stderr that says what."""
    assert result.exit_code == 2, (result.output, result.exception)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in result.stderr
    assert result.stdout == ""
    for word in words:
        assert str(word) in errors[0], (word, errors[0])


def rows_of(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


def extend(path: Path, count: int, fingerprint: str = "ab" * 32) -> Path:
    """A store with `count` more rows."""
    with StoreWriter(path, EmbeddingSpace(fingerprint, "fp32", DIMENSION), pooling_scale=1.0) as writer:
        known = len(EmbeddingStore.open(path))
        vectors = np.random.default_rng(known).normal(size=(count, DIMENSION)).astype(np.float32)
        names = [f"r{known + number}" for number in range(count)]
        writer.append([Example(name, None, name, {"task": name[-1]}) for name in names], vectors)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return extend(tmp_path / "store", 500)


@pytest.fixture
def index(store: Path, tmp_path: Path) -> Path:
    result = run("index", store, "-o", tmp_path / "index", "--threads", 1, "--links", 16)
    assert result.exit_code == 0, result.output
    assert "500 rows, recall@10 0.9" in result.stderr and "1000" not in result.stderr
    return tmp_path / "index"


def test_attribute_with_an_index(store: Path, index: Path, tmp_path: Path) -> None:
    query = extend(tmp_path / "query", 20)
    common = ("attribute", "--train", store, "--query", query, "-k", 5)
    exact, found = run(*common), run(*common, "--index", index)
    assert "recall@10" in found.stderr and "off by at most" in found.stderr
    right = total = 0
    for one, other in zip(rows_of(exact), rows_of(found), strict=True):
        assert list(other) == [
            "query_id",
            "group_influence",
            "group_influence_error",
            "proponents",
            "opponents",
        ]
        assert one["query_id"] == other["query_id"]
        off = abs(one["group_influence"] - other["group_influence"])
        assert off <= other["group_influence_error"] + 1e-9
        for end in ("proponents", "opponents"):
            scores = {hit["id"]: hit["score"] for hit in one[end]}
            assert len(other[end]) == 5
            for hit in other[end]:
                total += 1
                if hit["id"] in scores:
                    right += 1
                    assert hit["score"] == pytest.approx(scores[hit["id"]], rel=1e-12)
    assert right / total > 0.9
    wide = rows_of(run(*common, "--index", index, "--tail", 500))  # nothing is left to estimate
    assert max(row["group_influence_error"] for row in wide) < 1e-12
    output = tmp_path / "out.jsonl"
    written = run(*common, "--index", index, "-o", output)
    assert written.stdout == "" and [json.loads(line) for line in output.read_text().splitlines()] == rows_of(
        found
    )


def test_describe_verify_and_grow(store: Path, index: Path) -> None:
    facts = json.loads(run("info", index, "--json", "--verify").stdout)
    assert (
        facts["kind"] == "index"
        and facts["rows"] == 500
        and facts["graph"]["links"] == 16
        and facts["verified"]
    )
    assert facts["measured"]["target"] == 0.95 and facts["measured"]["proponents"]["recall"] > 0.95
    assert "opponents" in run("info", index).stdout
    verified = run("index", store, "-o", index, "--verify")
    assert verified.exit_code == 0 and "recall@10" in verified.stderr
    before = IndexManifest.open(index)
    extend(store, 200)
    refused(run("attribute", "--train", store, "--query", store, "--index", index), "500 of the 700", "index")
    refused(run("index", store, "-o", index, "--verify"), "500 of the 700")
    grown = run("index", store, "-o", index)
    assert grown.exit_code == 0 and "700 rows" in grown.stderr
    assert len(rows_of(run("attribute", "--train", store, "--query", store, "--index", index))) == 700
    after = IndexManifest.open(index)
    assert after.graph.radius == before.graph.radius and after.rows == 700
    content = bytearray((index / after.graph.file.name).read_bytes())
    content[5000] ^= 1
    (index / after.graph.file.name).write_bytes(content)
    refused(run("info", index, "--verify"), after.graph.file.name)
    refused(run("attribute", "--train", store, "--query", store, "--index", index), after.graph.file.name)


def test_examples_as_queries(tiny_bundle: Path, tmp_path: Path) -> None:
    examples = tmp_path / "rows.jsonl"
    rows = [{"id": f"r{n}", "input": "What is the capital?", "output": "Paris " * (n + 1)} for n in range(40)]
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    store, index = tmp_path / "s", tmp_path / "i"
    assert run("embed", examples, "--model", tiny_bundle, "-o", store).exit_code == 0
    refused(run("index", store, "-o", index, "--query", examples), "--model")
    made = run("index", store, "-o", index, "--query", examples, "--model", tiny_bundle)
    assert made.exit_code == 0 and f"40 rows of {examples}" in made.stderr
    again = run("index", store, "-o", index, "--query", examples, "--model", tiny_bundle, "--verify")
    assert again.exit_code == 0 and f"40 rows of {examples}" in again.stderr
    found = run("attribute", "--train", store, "--query", examples, "--model", tiny_bundle, "--index", index)
    assert [row["query_id"] for row in rows_of(found)] == [row["id"] for row in rows]


def test_refusals(store: Path, index: Path, tmp_path: Path) -> None:
    common = ("attribute", "--train", store, "--query", store)
    for option in (("--by", "task"), ("--groups", store / "store.json")):
        refused(run(*common, "--index", index, *option), "--index", "groups")
    refused(run(*common, "--tail", 5), "--tail", "--index")
    refused(run(*common, "--index", store), store, "not an index")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    refused(run("attribute", "--train", rows, "--query", store, "--index", index), "rows.jsonl", "store")
    other = extend(tmp_path / "other", 500, fingerprint="cd" * 32)
    refused(run("attribute", "--train", other, "--query", other, "--index", index), "different encoders")
    refused(run("index", other, "-o", index), "different encoders")
    refused(run("index", store, "-o", index, "--query", other), "different encoders")
    refused(run("index", store, "-o", index, "--links", 8), "links 16", "--rebuild")
    refused(run("index", store, "-o", index, "--verify", "--rebuild", "--max-ef", 9), "is for making")
    refused(run("index", store, "-o", tmp_path / "none", "--verify"), "not an index")
    refused(run("index", tmp_path / "none", "-o", index), "no such store")
    refused(run("index", store, "-o", tmp_path), tmp_path, "not an index, and not empty")
    refused(run("info", index, "--parquet", tmp_path / "x.parquet"), "index")
    # One thread: the graph depends on the order of insertion, and one that falls apart is searched whole.
    poor = ("--max-ef", 10, "--links", 2, "--ef-construction", 2, "--threads", 1)
    low = run("index", store, "-o", tmp_path / "low", *poor)
    refused(low, "below the target 0.95", "saved", "--rebuild")
    assert len(rows_of(run(*common, "--index", tmp_path / "low"))) == 500
    refused(run("index", store, "-o", tmp_path / "low", "--recall", 2), "recall")


def test_without_hnswlib_the_error_names_the_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    store = extend(tmp_path / "store", 30)
    refused(run("index", store, "-o", tmp_path / "index"), "pip install 'airrep[index]'")
    assert not (tmp_path / "index").exists()


def test_help_has_an_example() -> None:
    result = run("index", "--help")
    assert result.exit_code == 0 and "airrep-infer index train.store" in result.stdout
