"""Baselines from a gradient folder against plain products, and scores from files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_lm
import torch
from bergson_folder import write_bergson

from airrep_infer.encode import EmbeddingSpace
from airrep_infer.errors import InputError
from airrep_infer.rows import Example
from airrep_infer.rows.examples import read_examples
from airrep_infer.rows.template import published_sha
from airrep_infer.store import EmbeddingStore, StoreWriter
from airrep_train.evaluate import evaluate, truth_from_labels
from airrep_train.evaluate.embeddings import stored_hashes
from airrep_train.evaluate.given_scores import FileScorer, gradient_scorer
from airrep_train.gradients import RMS_FIELD, GradientOptions, open_gradients, take_gradients
from airrep_train.target import TargetOptions

HALF = 2e-3  # relative, of values stored as float16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Path]:
    """Examples, subsets, losses and a gradient folder of a tiny target."""
    folder = tmp_path_factory.mktemp("made")
    target = tiny_lm.save_llama(folder / "target")
    rows, plan = tiny_lm.write_run(folder)
    tiny_lm.run_label(rows, plan, target, folder / "losses.jsonl")
    options = GradientOptions(rank=3, dims=6, max_length=64, dtype="float32")
    take_gradients([rows], TargetOptions(target, "cpu"), folder / "grads", options)
    return rows, plan, folder / "losses.jsonl", folder / "grads"


def test_each_baseline_is_its_product(made: tuple[Path, ...]) -> None:
    examples = read_examples(made[0])
    lines = np.array([2, 5, 7, 30])
    queries, pool = lines[:1], lines[1:]
    raw = open_gradients(made[3], "raw")
    rms = np.array([row.fields[RMS_FIELD] for row in raw.rows()])
    gradients = raw.take(lines) * rms[lines][:, None]
    dots = gradients[0] @ gradients[1:].T
    norms = np.linalg.norm(gradients, axis=1)
    mapped = open_gradients(made[3]).take(lines)
    expected = {
        "graddot": dots,
        "gradcos": dots / norms[0] / norms[1:],
        "gradients": mapped[0] @ mapped[1:].T,
    }
    for name, wanted in expected.items():
        (block,) = gradient_scorer(name, [made[3]], examples, lines).scores(queries, pool)
        np.testing.assert_allclose(block[0], wanted, atol=2 * HALF * np.abs(wanted).max())


def test_rows_of_the_first_stores_are_known_by_their_former_hash(tmp_path: Path) -> None:
    rows = [Example("a", "two  spaces", "r"), Example("b", "plain", "r"), Example("c", "other", "r")]
    for former in (False, True):
        path = tmp_path / f"{former}"
        with StoreWriter(
            path, EmbeddingSpace("ab" * 32, "fp32", 1), pooling_scale=1.0, former_hashes=former
        ) as writer:
            writer.append([Example("a", "two spaces", "r"), rows[1]], np.ones((2, 1), np.float32))
        store = EmbeddingStore.open(path)
        known = {row.sha for row in store.rows()}
        expected = [published_sha(rows[0]) if former else None, rows[1].sha, None]
        assert stored_hashes([store], rows, known) == expected


def test_evaluate_takes_them_beside_each_other(made: tuple[Path, ...], tmp_path: Path) -> None:
    truth = truth_from_labels(made[0], made[1], [made[2]])
    scores = tmp_path / "mine.npy"
    split = truth.splits[0]
    ids = [example.id for example in truth.examples]
    store = open_gradients(made[3])
    vectors = store.take(np.arange(len(store)))
    np.save(scores, (vectors[split.dev] @ vectors.T).astype(np.float16))
    listing = {"queries": [ids[line] for line in split.dev], "rows": ids}
    scores.with_suffix(".ids.json").write_text(json.dumps(listing))
    result = evaluate(
        [made[3] / "store"],
        truth,
        baselines=["gradients", "gradcos", "graddot+mean", "gradients+mean"],
        gradients=[made[3]],
        scores=[scores],
    )
    # The gradient folder says how long it took; the model's vectors were found in a store, which does not.
    assert list(result.ms_a_row) == ["gradients", "gradcos", "graddot+mean", "gradients+mean"]
    taken = json.loads((made[3] / "time.json").read_text())
    assert taken["rows"] == len(store)
    assert result.ms_a_row["gradcos"] == pytest.approx(1000 * taken["seconds"] / taken["rows"])
    assert "milliseconds a row: gradients " in result.table()
    assert result.baselines["gradients"].difference == pytest.approx(0, abs=1e-6)
    by_file = result.baselines[str(scores)].mean
    assert by_file == pytest.approx(result.baselines["gradients+mean"].mean, abs=0.1)
    with pytest.raises(InputError, match="needs a gradient folder: give it with --gradients"):
        evaluate([made[3] / "store"], truth, baselines=["gradcos"])


def write_scores(folder: Path, scores: np.ndarray, **ids: object) -> Path:
    path = folder / "s.npy"
    np.save(path, scores)
    path.with_suffix(".ids.json").write_text(json.dumps(ids))
    return path


def test_scores_are_found_by_id(tmp_path: Path) -> None:
    examples = tiny_lm.examples(4)
    scores = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = write_scores(tmp_path, scores, queries=["r3", "r0"], rows=["r2", "r1", "r0"])
    (block,) = FileScorer.open(path, examples).scores(np.array([0]), np.array([1, 2]))
    np.testing.assert_array_equal(block, [[4, 3]])
    with pytest.raises(InputError, match=r"no scores of row 'r3' \(1 of 2 are missing\)"):
        list(FileScorer.open(path, examples).scores(np.array([0]), np.array([1, 3])))


def test_scores_are_read_as_less_and_date_lm_write_them(tmp_path: Path) -> None:
    examples = tiny_lm.examples(4)
    less = tmp_path / "influence_score.pt"
    torch.save(torch.arange(6.0).reshape(3, 2), less)  # (rows, queries)
    ids = {"queries": ["r3", "r0"], "rows": ["r2", "r1", "r0"]}
    less.with_suffix(".ids.json").write_text(json.dumps(ids))
    (block,) = FileScorer.open(less, examples).scores(np.array([0]), np.array([1, 2]))
    np.testing.assert_array_equal(block, [[3, 1]])
    torch.save(torch.arange(3.0), less)
    less.with_suffix(".ids.json").write_text(json.dumps(ids | {"queries": ["r0"]}))
    one = write_scores(tmp_path, np.arange(3.0), **(ids | {"queries": ["r0"]}))
    for path in (less, one):
        (block,) = FileScorer.open(path, examples).scores(np.array([0]), np.array([1, 2]))
        np.testing.assert_array_equal(block, [[1, 0]])
    torch.save({"scores": [1.0]}, less)
    with pytest.raises(InputError, match=r"expected a tensor \(rows, queries\)"):
        FileScorer.open(less, examples)
    less.write_bytes(b"cbuiltins\nprint\n(Vrun\ntR.")
    with pytest.raises(InputError, match="not a readable file of a tensor"):
        FileScorer.open(less, examples)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; scores are FILE"):
        FileScorer.open(tmp_path / "none.npy", [])
    path = write_scores(tmp_path, np.zeros((2, 2), np.float32), queries=["a"], rows=["b", "c"])
    with pytest.raises(InputError, match=r"\(2, 2\), expected floats \(1, 2\)"):
        FileScorer.open(path, [])
    path = write_scores(tmp_path, np.zeros((2, 2), np.float32), queries=["a", "a"], rows=["b", "c"])
    with pytest.raises(InputError, match="each id once"):
        FileScorer.open(path, [])
    examples = tiny_lm.examples(2)
    path = write_scores(tmp_path, np.full((1, 1), np.nan, np.float32), queries=["r0"], rows=["r1"])
    with pytest.raises(InputError, match="NaN or infinite"):
        list(FileScorer.open(path, examples).scores(np.array([0]), np.array([1])))


@pytest.mark.parametrize(("better", "sign"), [("true", 1), ("false", -1)])
def test_scores_of_bergson_are_read_as_it_writes_them(tmp_path: Path, better: str, sign: int) -> None:
    scores = np.arange(6, dtype=np.float32).reshape(3, 2)
    settings = f"steps:\n- score:\n    score_cfg:\n      higher_is_better: {better}\n    index_cfg: {{}}\n"
    path = write_bergson(tmp_path / "scores.v1", scores, settings)
    (block,) = FileScorer.open(path, tiny_lm.examples(5)).scores(np.array([1, 0]), np.array([4, 2]))
    np.testing.assert_array_equal(block, sign * np.array([[5, 1], [4, 0]]))


def test_scores_of_bergson_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    path = write_bergson(tmp_path / "scores", np.ones((3, 2), np.float32), "steps: [{magic: {}}]")
    whole = (path / "scores.bin").read_bytes()
    (path / "scores.bin").write_bytes(bytes(len(whole)))
    with pytest.raises(InputError, match="let bergson finish"):
        FileScorer.open(path, [])
    (path / "scores.bin").write_bytes(whole[:-1])
    with pytest.raises(InputError, match="no score folder of bergson"):
        FileScorer.open(path, [])
    (path / "scores.bin").write_bytes(whole)
    (path / "config.yaml").write_text("steps: 3")
    with pytest.raises(InputError, match="not the settings of a bergson run"):
        FileScorer.open(path, [])
    (path / "config.yaml").unlink()
    listing = tmp_path / "scores.ids.json"
    listing.write_text('{"queries": ["r0"], "rows": ["r2"]}')
    with pytest.raises(InputError, match=r"scores \(2, 3\), expected \(1, 1\)"):
        FileScorer.open(path, [])
    (path / "candidates.npy").write_bytes(b"")
    with pytest.raises(InputError, match="score whole rows"):
        FileScorer.open(path, [])
