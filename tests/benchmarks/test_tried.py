"""The benchmarks of what was tried: components, the projector's steps behind fixed vectors, nats."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_lm
import torch
from tiny_fit import COUNT, TOPICS, make_splits

from airrep_infer.rows import Example
from airrep_infer.score import attention_pool
from airrep_train.evaluate import Embedded, Truth
from airrep_train.fit import FitOptions
from airrep_train.label import LabelledSplit, Subset

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import components
import nats
import projector

pytestmark = pytest.mark.usefixtures("one_thread")


def test_all_components_give_what_the_whitened_gradients_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_lm.label_and_take_gradients(tmp_path)
    monkeypatch.setattr(components, "DIMS", (2,))
    few, stored, whole = components.measure(tmp_path, 1, tmp_path / "grads")
    assert (few.numbers, stored.numbers) == (2, 4) and whole.numbers > 4
    assert list(few.attention) == ["1", "2", "4", "8"]
    assert all(-1 <= row.mean <= 1 for row in (few, stored, whole))


def test_the_projector_learns_which_numbers_matter() -> None:
    """The topic of a row is in six numbers; six others are noise that is as large."""
    noise = np.random.default_rng(0).standard_normal((COUNT, len(TOPICS)))
    topics = 2 * np.eye(len(TOPICS))[np.arange(COUNT) % len(TOPICS)]
    vectors = torch.from_numpy(np.concatenate([topics, noise], axis=1).astype(np.float32))
    *training, held = make_splits(4)
    model = projector.Frozen(torch.nn.functional.normalize(vectors, dim=1), 0.1, 8**0.5)
    before = model.each(held)
    options = replace(FitOptions(projector_steps=30, projector_lr=0.02), projector_pull=0.1)
    projector.train(model, training, options.from_start(trained=True))
    after = model.each(held)
    assert after.mean() > before.mean() + 0.05
    found = projector.row("some", 72, [after], [before])
    low, high = found.gain_ci95
    assert low < found.gain < high and found.lds == pytest.approx(after.mean())
    assert projector.row("none", 0, [before], [before]).gain_ci95 == (0.0, 0.0)


def test_fewer_labels_are_the_first_subsets_and_queries_at_even_distances() -> None:
    splits = make_splits(2)
    (cut, _) = projector.first(splits, 5, 4)
    assert cut.dev.tolist() == splits[0].dev[[0, 3, 6, 9]].tolist()
    assert cut.subsets == splits[0].subsets[:5]
    np.testing.assert_array_equal(cut.losses, splits[0].losses[:5][:, [0, 3, 6, 9]])


def test_nats_that_are_right_are_found_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses that follow the influence of subsets by .3 nats, up to noise."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 4)).astype(np.float32)
    embedded = Embedded(np.arange(400), vectors, 0.3)
    nothing = np.empty(0, np.int64), np.empty((0, 50), np.float32)
    splits = []
    for dev_id in range(2):
        dev = np.arange(50) + 50 * dev_id
        chosen = [rng.choice(np.arange(100, 400), 12, replace=False) for _ in range(60)]
        scores = vectors[dev].astype(np.float64) @ vectors.T
        influence = np.stack([attention_pool(scores[:, rows], 0.3) for rows in chosen])
        losses = (5 - 0.3 * influence + 0.05 * rng.normal(size=influence.shape)).astype(np.float32)
        subsets = tuple(Subset(f"{dev_id}-{k}", dev_id, np.sort(rows)) for k, rows in enumerate(chosen))
        splits.append(LabelledSplit(dev_id, dev, subsets, losses, *nothing))
    monkeypatch.setattr(nats, "truth_from_labels", lambda *_: Truth([Example("a", None, "a")] * 400, splits))
    monkeypatch.setattr(nats, "embed_lines", lambda *_: embedded)
    check = nats.measure(tmp_path, tmp_path, 0, 1)
    assert check.fitted.nats == pytest.approx(0.3, abs=0.02)
    assert check.subsets == pytest.approx(1, abs=0.1) and check.rows == pytest.approx(1, abs=0.2)
    strongest = check.bins[-1]
    assert strongest.measured == pytest.approx(strongest.predicted, rel=0.3)
