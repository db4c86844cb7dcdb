"""What the code of commit a04a27c wrote opens today and gives the numbers that it gave then.

The files of `tests/data/legacy` are copied first: opening may leave a lock behind.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from airrep_infer import EmbeddingStore, Encoder, read_examples
from airrep_infer.cli import main as infer
from airrep_train.cli import main as train

LEGACY = Path(__file__).resolve().parents[1] / "data" / "legacy"
FIT = ("--base", "encoder", "--epochs", 2, "--subsets-per-step", 3, "--lr", 0.01, "--max-tokens", 320)
LABEL = ("--target", "target", "--batch-size", 4, "--max-length", 128, "--dtype", "float32", "--lr", 0.001)
VECTORS = 1e-5  # of entries up to 1.3, of the published layout: float32 sums in another order
SCORES = 5e-4  # of scores around 10
LOSSES = 1e-3  # of nats, after two steps of AdamW


@pytest.fixture
def legacy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The current folder becomes a copy of the old files; returns what the old code computed."""
    shutil.copytree(LEGACY, tmp_path / "legacy")
    monkeypatch.chdir(tmp_path / "legacy")
    expected: dict[str, Any] = json.loads(Path("expected.json").read_text())
    return expected


def run(command: Any, *arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def contents(folder: str) -> dict[str, bytes]:
    return {
        str(file): file.read_bytes()
        for file in Path(folder).rglob("*")
        if file.is_file() and file.stat().st_size
    }


def same_attributions(made: list[dict[str, Any]], before: list[dict[str, Any]]) -> None:
    """Same queries, ids and keys; numbers to `SCORES`."""
    assert len(made) == len(before) > 0
    for new, old in zip(made, before, strict=True):
        assert list(new) == list(old) and new["query_id"] == old["query_id"]
        for end in ("proponents", "opponents"):
            assert [hit["id"] for hit in new[end]] == [hit["id"] for hit in old[end]]
            scores = [[hit["score"] for hit in row[end]] for row in (new, old)]
            np.testing.assert_allclose(*scores, atol=SCORES)
        assert new["group_influence"] == pytest.approx(old["group_influence"], abs=SCORES)
        assert new.get("groups", {}) == pytest.approx(old.get("groups", {}), abs=SCORES)


def stored_vectors(expected: dict[str, Any], name: str) -> NDArray[np.float64]:
    return np.array(expected[name], dtype=np.float64)


def test_a_store_opens_with_its_vectors_and_takes_new_rows(legacy: dict[str, Any]) -> None:
    before = contents("store")
    store = EmbeddingStore.open("store")
    assert store.fingerprint == legacy["fingerprint"]
    assert store.ids(range(len(store))) == [f"r{n}" for n in range(36)]
    run(infer, "info", "store", "--verify")
    embed = ("embed", "rows.jsonl", "--model", "bundle", "-o", "store", "--device", "cpu")
    run(infer, *embed)
    after = contents("store")
    parts = [name for name in before if "part-" in name]
    assert parts and all(after[name] == before[name] for name in parts), "known rows were embedded again"
    assert len(EmbeddingStore.open("store")) == 36
    with Path("rows.jsonl").open("a") as stream:
        stream.write('{"id": "new", "text": "Paris"}\n')
    run(infer, *embed)
    assert EmbeddingStore.open("store").ids([0, 35, 36]) == ["r0", "r35", "new"]


def test_a_bundle_gives_the_vectors_it_gave(legacy: dict[str, Any]) -> None:
    encoder = Encoder("bundle", device="cpu")
    vectors = encoder.embed(read_examples("rows.jsonl", "queries.jsonl"))
    np.testing.assert_allclose(vectors[:36], stored_vectors(legacy, "store"), atol=VECTORS)
    np.testing.assert_allclose(vectors, stored_vectors(legacy, "checkpoint"), atol=VECTORS)


def test_attributions_are_those_of_before_and_the_report_reads_old_ones(legacy: dict[str, Any]) -> None:
    ask = ("attribute", "--train", "store", "--query", "queries.jsonl", "--model", "bundle", "-k", 3)
    run(infer, *ask, "--by", "topic", "--device", "cpu", "-o", "now.jsonl")
    same_attributions(lines("now.jsonl"), lines("attributions.jsonl"))
    page = ("report", "attributions.jsonl", "--train", "rows.jsonl", "--query", "queries.jsonl")
    run(infer, *page, "-o", "page.html")
    assert "capital of" in Path("page.html").read_text(encoding="utf-8")


def test_rows_that_are_known_by_their_former_hash_have_their_texts(legacy: dict[str, Any]) -> None:
    """The hash was of the text with its white space collapsed: that of a prompt of two lines differs."""
    rows = read_examples("rows.jsonl")
    known = [row.sha for row in EmbeddingStore.open("store").rows()]
    former = [row for row, sha in zip(rows, known, strict=True) if row.sha != sha]
    assert former
    query = {"id": "q", "prompt": former[0].prompt, "response": former[0].response}
    Path("q.jsonl").write_text(json.dumps(query) + "\n")
    sides = ("--train", "store", "--query", "q.jsonl", "--model", "bundle", "--device", "cpu")

    def proponents(*options: object) -> dict[str, Any]:
        (row,) = map(json.loads, run(infer, "attribute", *sides, "-k", 36, *options).stdout.splitlines())
        return {hit["id"]: hit for hit in row["proponents"]}

    assert len(proponents()) == 36
    assert not any("sha" in hit for hit in proponents().values())  # it may not be that of the whole text
    assert set(proponents()) - set(proponents("--exclude-self")) == {former[0].id}
    evidence = proponents("--evidence", "--rows", "rows.jsonl")[former[0].id]["evidence"]
    assert evidence["spans"][0] in former[0].response
    for budget in (("-n", 36), ("--tokens", 100_000)):
        selected = run(infer, "select", *sides, "--rows", "rows.jsonl", *budget).stdout.splitlines()
        assert len(selected) == 36


def test_rows_keep_their_former_hash_wherever_their_store_goes(legacy: dict[str, Any]) -> None:
    def check(store: str) -> None:
        assert EmbeddingStore.open(store).former_hashes
        sides = ("--train", store, "--query", "queries.jsonl", "--model", "bundle", "--device", "cpu")
        selected = run(infer, "select", *sides, "--rows", "rows.jsonl", "-n", 30).stdout.splitlines()
        assert len(selected) == 30

    run(infer, "merge", "store", "-o", "merged")
    check("merged")
    run(infer, "compact", "store")
    check("store")
    kept = lines("rows.jsonl")
    kept[0]["response"] = "Changed."
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    run(infer, "embed", "rows.jsonl", "--model", "bundle", "-o", "store", "--device", "cpu")
    check("store")
    join = ("attribute", "--train", "store", "--query", "store", "--model", "bundle", "--device", "cpu")
    run(infer, *join, "--evidence", "--rows", "rows.jsonl", "-k", 2, "-o", "explained.jsonl")
    assert len(lines("explained.jsonl")) == 36


def test_an_index_opens_and_finds_what_it_found(legacy: dict[str, Any]) -> None:
    pytest.importorskip("hnswlib", reason="the index needs hnswlib, which was not compiled here")
    from airrep_infer import AnnIndex

    ask = ("attribute", "--train", "store", "--query", "queries.jsonl", "--model", "bundle", "-k", 3)
    run(infer, *ask, "--index", "index", "--device", "cpu", "-o", "now.jsonl")
    same_attributions(lines("now.jsonl"), lines("indexed.jsonl"))
    # So few rows are scanned exactly when 100 of each end are wanted; three of them come from the graph.
    index = AnnIndex.open("index", "store")
    queries = Encoder("bundle", device="cpu").embed(read_examples("queries.jsonl"))
    rows = index.proponents(queries, k=3).rows
    wanted = [[int(hit["id"][1:]) for hit in row["proponents"]] for row in lines("indexed.jsonl")]
    assert np.mean([len(set(a) & set(b)) / 3 for a, b in zip(rows.tolist(), wanted, strict=True)]) > 0.8


def test_a_checkpoint_exports_with_the_vectors_it_had(legacy: dict[str, Any]) -> None:
    from airrep_export.bundle import export_bundle

    bundle = export_bundle("checkpoint", Path("again")).path
    vectors = Encoder(bundle, device="cpu").embed(read_examples("rows.jsonl", "queries.jsonl"))
    np.testing.assert_allclose(vectors, stored_vectors(legacy, "checkpoint"), atol=VECTORS)


@pytest.mark.usefixtures("one_thread")
def test_a_stopped_label_run_resumes(legacy: dict[str, Any]) -> None:
    before = Path("losses.jsonl").read_bytes()
    label = ("label", "rows.jsonl", "--subsets", "subsets.jsonl", *LABEL, "--repeat", 1, "--device", "cpu")
    run(train, *label, "-o", "losses.jsonl")
    assert Path("losses.jsonl").read_bytes().startswith(before)
    made, wanted = lines("losses.jsonl"), lines("whole.jsonl")
    assert len(made) == len(wanted) > len(before.splitlines())
    for new, old in zip(made, wanted, strict=True):
        new.pop("sha", None)  # rows of now have one
        assert {**new, "losses": 0} == {**old, "losses": 0}
        np.testing.assert_allclose(new["losses"], old["losses"], atol=LOSSES)


def test_a_label_run_evaluates_to_the_same_lds(legacy: dict[str, Any]) -> None:
    evaluate = ("evaluate", "rows.jsonl", "--subsets", "subsets.jsonl", "--losses", "whole.jsonl")
    run(train, *evaluate, "--model", "bundle", "--json", "now.json")
    new, old = (json.loads(Path(name).read_text()) for name in ("now.json", "evaluation.json"))
    assert new["lds"]["mean"] == pytest.approx(old["lds"]["mean"], abs=1e-9)
    assert {key: new["lds"][key] for key in ("queries", "subsets")} == {"queries": 4, "subsets": 5}


@pytest.mark.usefixtures("one_thread")
def test_a_finished_fit_run_is_known_and_a_stopped_one_resumes(legacy: dict[str, Any]) -> None:
    from safetensors.numpy import load_file

    finished = contents("checkpoint")
    fit = ("fit", "rows.jsonl", "--subsets", "subsets.jsonl", "--losses", "whole.jsonl", *FIT)
    run(train, *fit, "-o", "checkpoint")
    assert contents("checkpoint") == finished, "a finished run was done again"

    run(train, *fit, "-o", "stopped")
    metrics = lines("stopped/training/metrics.jsonl")
    old = lines("checkpoint/training/metrics.jsonl")
    assert [(row["epoch"], row["step"]) for row in metrics] == [(row["epoch"], row["step"]) for row in old]
    result = json.loads(Path("stopped/training/result.json").read_text())
    for key in ("epochs", "best_epoch"):
        assert result[key] == legacy["fit"][key]
    assert result["lds"] == pytest.approx(legacy["fit"]["lds"], abs=1e-6)
    weights, before = (load_file(Path(name) / "model.safetensors") for name in ("stopped", "checkpoint"))
    assert weights.keys() == before.keys()
    for name in before:
        np.testing.assert_allclose(weights[name], before[name], atol=1e-3, err_msg=name)
    assert not os.path.lexists("stopped/training/state.pt")
