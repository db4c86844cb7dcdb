"""Gradients brought into an encoder's space: the regression, what it is for, and the folder of queries."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_lm
from click.testing import CliRunner

from airrep_infer.bundle import Calibration
from airrep_infer.cli import main as infer
from airrep_infer.errors import InputError
from airrep_infer.rows import Example
from airrep_infer.store import EmbeddedRows, EmbeddingStore, merge_stores
from airrep_infer.store.listing import write_listing
from airrep_train.cli import main as train
from airrep_train.evaluate import (
    Compared,
    LexicalScorer,
    embed_lines,
    evaluate,
    gradient_queries,
    truth_from_labels,
)
from airrep_train.gradients import QueryMap, query_map

HALF = 2e-3  # relative, of values stored as float16
pytestmark = pytest.mark.usefixtures("one_thread")


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def made(rows: int, seed: int = 0, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Gradients (n, 12), and vectors (n, 6) of an encoder that knows half of their directions, and errs."""
    rng = np.random.default_rng(seed)
    gradients = unit(rng.standard_normal((rows, 12)) * np.geomspace(4, 0.2, 12)).astype(np.float32)
    turned = np.linalg.qr(np.random.default_rng(9).standard_normal((6, 6)))[0]
    vectors = gradients[:, :6] @ turned + noise * rng.standard_normal((rows, 6))
    return gradients, (3 * unit(vectors)).astype(np.float32)


def test_it_is_the_ridge_regression_of_its_formula() -> None:
    gradients, vectors = made(60, noise=0.3)
    fitted = QueryMap.fit(gradients, vectors)
    x = (gradients - gradients.mean(axis=0)).astype(np.float64)
    scatter = x.T @ x
    ridge = 2 * np.linalg.eigvalsh(scatter).mean()
    wanted = np.linalg.solve(scatter + ridge * np.eye(12), x.T @ (vectors - vectors.mean(axis=0)))
    np.testing.assert_allclose(fitted.weights, wanted, atol=1e-5)
    given = fitted(gradients)
    np.testing.assert_allclose(unit(given), unit(x @ wanted), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 3, rtol=1e-5)
    assert fitted.rows == 60


def test_a_row_without_a_gradient_has_no_direction() -> None:
    gradients, vectors = made(60)
    given = QueryMap.fit(gradients, vectors)(np.vstack([gradients[:2], np.zeros((1, 12), np.float32)]))
    assert np.linalg.norm(given[2]) == 0 < np.linalg.norm(given[:2], axis=1).min()


@pytest.mark.parametrize("seed", range(3))
def test_queries_by_gradients_score_embedded_rows_better_than_embedded_queries(seed: int) -> None:
    gradients, vectors = made(2_000, seed, noise=0.4)
    queries = np.arange(100)
    fitted = QueryMap.fit(gradients[100:], vectors[100:])
    wanted = gradients[queries] @ gradients[100:].T

    def agreement(by: np.ndarray) -> float:
        scores = by @ vectors[100:].T
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(scores, wanted, strict=True)]))

    assert agreement(fitted(gradients[queries])) > agreement(vectors[queries]) + 0.05


def test_its_fingerprint_is_of_its_numbers() -> None:
    gradients, vectors = made(60)
    one, same = QueryMap.fit(gradients, vectors), QueryMap.fit(gradients, vectors)
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != QueryMap.fit(gradients, 2 * vectors).fingerprint
    assert one.fingerprint != QueryMap.fit(gradients[:50], vectors[:50]).fingerprint


def worded(count: int) -> list[Example]:
    """Rows of words that differ, for the tiny encoder and its few letters, too."""
    rng = np.random.default_rng(4)
    words = ["".join(rng.choice(list("abcdefghimnorst"), 6)) for _ in range(2 * count)]
    return [Example(f"r{n}", f"Say {words[2 * n]}.", words[2 * n + 1]) for n in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """40 labelled rows of a tiny target, their gradients and embeddings, and five queries."""
    folder = tmp_path_factory.mktemp("made")
    _, rows, _ = tiny_lm.label_and_take_gradients(folder, worded(40))
    run(infer, "embed", rows, "--model", tiny_bundle, "-o", folder / "train.store")
    queries = [replace(row, id=f"q{row.id}", response=row.response[::-1]) for row in worded(5)]
    tiny_lm.write_rows(folder / "queries.jsonl", queries)
    return folder


def run(command: object, *arguments: object, fails: str | None = None) -> str:
    result = CliRunner().invoke(command, list(map(str, arguments)))  # type: ignore[arg-type]
    assert result.exit_code == (2 if fails else 0), result.stderr
    assert (fails or "") in result.stderr
    return result.stderr


def take(folder: Path, output: Path, *arguments: object, fails: str | None = None) -> str:
    """The gradients of the queries."""
    common = ["--target", folder / "target", "--rank", 2, "--max-length", 64]
    common += ["--dtype", "float32", "--device", "cpu", "-o", output]
    return run(train, "gradients", folder / "queries.jsonl", *common, *arguments, fails=fails)


def test_queries_by_gradients_are_asked_of_an_ordinary_store(
    folder: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_map, "LEAST_ROWS", 40)
    output, store = tmp_path / "queries", EmbeddingStore.open(folder / "train.store")
    asked = ("--map", folder / "grads", "--into", store.path)
    said = take(folder, output, *asked)
    assert f"{output}/embedded: queries to {store.path}, by a map of 40 rows that {folder}/grads" in said
    queries = EmbeddingStore.open(output / "embedded")
    assert (queries.space, queries.pooling_scale, len(queries)) == (store.space, store.pooling_scale, 5)
    assert queries.query_map == queries.describe()["query_map"]

    fitted = QueryMap.fit(
        *(EmbeddingStore.open(path).take(range(40)) for path in (folder / "grads/store", store.path))
    )
    wanted = fitted(EmbeddingStore.open(output / "store").take(range(5)))
    np.testing.assert_allclose(queries.take(range(5)), wanted, atol=HALF)

    run(infer, "attribute", "--train", store.path, "--query", queries.path, "-k", 40, "-o", tmp_path / "out")
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [row["query_id"] for row in found] == [f"qr{n}" for n in range(5)]
    best = store.ids(np.argsort(-(wanted[2] @ store.take(range(40)).T))[:3])
    assert [hit["id"] for hit in found[2]["proponents"][:3]] == best

    listed = (queries.path / "store.json").stat().st_mtime_ns
    take(folder, output, *asked)
    assert (queries.path / "store.json").stat().st_mtime_ns == listed

    # What the bundle may change without changing the space changes the queries too.
    write_listing(store.path, replace(store.listing, pooling_scale=0.25))
    take(folder, output, *asked)
    assert EmbeddingStore.open(output / "embedded").pooling_scale == 0.25 != store.pooling_scale
    write_listing(store.path, store.listing)
    take(folder, output, *asked)

    mixed = "of texts by the encoder"
    run(
        infer,
        *("embed", folder / "queries.jsonl", "--model", tiny_bundle, "-o", queries.path),
        fails="which is a gradient folder",
    )
    run(
        infer,
        *("embed", folder / "queries.jsonl", "--model", tiny_bundle),
        *("-o", shutil.copytree(queries.path, tmp_path / "copy")),
        fails=mixed,
    )
    with pytest.raises(InputError, match=mixed):
        merge_stores([queries.path, store.path], tmp_path / "both")
    take(folder, tmp_path / "again", "--map", folder / "grads", "--into", queries.path, fails="of gradients")


def test_a_store_that_cannot_be_asked_is_refused_before_any_gradient(folder: Path, tmp_path: Path) -> None:
    output, store = tmp_path / "queries", folder / "train.store"
    take(folder, output, "--into", store, fails="--into needs --map")
    few = "have 40 rows in common, a map of queries needs 500"
    take(folder, output, "--map", folder / "grads", "--into", store, fails=few)
    take(folder, output, "--map", folder / "grads", "--into", tmp_path / "none", fails="none: no such")
    assert not output.exists()


def test_nats_are_not_predicted_for_them_and_that_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_map, "LEAST_ROWS", 40)
    calibrated = tmp_path / "train.store"
    shutil.copytree(folder / "train.store", calibrated)
    known = Calibration(0.5, 0.4, 0.7, one_deviation=0.6, subset_rows=8)
    store = EmbeddingStore.open(calibrated)
    write_listing(calibrated, replace(store.listing, calibration=known))
    take(folder, tmp_path / "queries", "--map", folder / "grads", "--into", calibrated)
    queries = tmp_path / "queries/embedded"
    assert not EmbeddedRows.of_store(EmbeddingStore.open(queries)).calibrated
    for query, predicted in ((queries, False), (calibrated, True)):
        said = run(infer, "attribute", "--train", calibrated, "--query", query, "-o", tmp_path / "out")
        assert ("no nats are predicted" in said) != predicted
        (hit, *_) = json.loads((tmp_path / "out").read_text().splitlines()[0])["proponents"]
        assert ("predicted_nats" in hit) == predicted


def test_evaluate_measures_them(folder: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = truth_from_labels(folder / "examples.jsonl", folder / "subsets.jsonl", [folder / "losses.jsonl"])
    examples, queries, store = truth.examples, truth.queries(), folder / "train.store"
    how: Compared = {"baselines": ["gradient-queries", "gradients"], "gradients": [folder / "grads"]}
    with pytest.raises(InputError, match="have 34 rows in common, a map of queries needs 500"):
        evaluate([store], truth, **how)
    monkeypatch.setattr(query_map, "LEAST_ROWS", 34)
    result = evaluate([store], truth, **how)

    # The map is of all rows that are no query, also of those that are in no subset.
    others = np.setdiff1d(np.arange(40), queries)
    assert len(np.setdiff1d(others, truth.lines()))
    gradients, rows = (EmbeddingStore.open(path).take(range(40)) for path in (folder / "grads/store", store))
    fitted = QueryMap.fit(gradients[others], rows[others])
    scorer = gradient_queries(
        embed_lines([store], examples, np.arange(40)), [folder / "grads"], examples, queries
    )
    wanted = fitted(gradients[queries]) @ rows[others[:7]].T
    (block,) = scorer.scores(queries, others[:7])
    np.testing.assert_allclose(block, wanted, atol=1e-4 * np.abs(wanted).max())
    assert result.baselines["gradient-queries"].mean == pytest.approx(evaluate(scorer, truth).mean)
    assert result.mean == evaluate([store], truth).mean
    by_bundle = evaluate(tiny_bundle, truth, **how)
    assert by_bundle.baselines["gradient-queries"].mean == pytest.approx(
        result.baselines["gradient-queries"].mean, abs=0.05
    )


def test_evaluate_asks_for_what_it_needs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = truth_from_labels(folder / "examples.jsonl", folder / "subsets.jsonl", [folder / "losses.jsonl"])
    with pytest.raises(InputError, match="'gradient-queries' needs a gradient folder"):
        evaluate([folder / "train.store"], truth, baselines=["gradient-queries"])
    by_texts = LexicalScorer("bm25", truth.examples)
    with pytest.raises(InputError, match="needs a model with vectors of rows"):
        evaluate(by_texts, truth, baselines=["gradient-queries"], gradients=[folder / "grads"])
