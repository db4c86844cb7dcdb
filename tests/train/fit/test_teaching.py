"""Teaching: the loss against plain correlations, batches, and runs on a tiny problem: learn, resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_lm
import torch
from scipy.stats import pearsonr
from tiny_fit import COUNT, make_examples

from airrep_infer.errors import InputError
from airrep_train.fit.teach_options import TeachOptions
from airrep_train.fit.teacher import Teacher, row_correlations, teaching_gradients
from airrep_train.fit.teaching import choose_batch, teach
from airrep_train.gradients import GradientOptions, take_gradients
from airrep_train.model import load_checkpoint

SAME_STEP = 1e-4  # relative, of embeddings after steps whose gradients were summed in another order
OPTIONS = TeachOptions(
    steps=12,
    batch_rows=24,
    neighbours=3,
    learning_rate=3e-3,
    validation_rows=20,
    validate_every=4,
    token_budget=64,
    save_seconds=0.0,
)
Folder = Callable[[str], Path]

pytestmark = pytest.mark.usefixtures("one_thread")


def topic_teacher() -> Teacher:
    """Rows about one topic are alike, others are not; a little noise tells rows apart."""
    rng = np.random.default_rng(0)
    vectors = np.eye(6)[np.arange(COUNT) % 6] + 0.1 * rng.standard_normal((COUNT, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Teacher(torch.from_numpy(vectors.astype(np.float32)), "topics")


def test_a_row_is_correlated_over_the_others() -> None:
    rng = np.random.default_rng(1)
    z, kernel = rng.standard_normal((7, 4)), rng.standard_normal((7, 7))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = [
        pearsonr(np.delete(cosines[row], row), np.delete(kernel[row], row)).statistic for row in range(7)
    ]
    found = row_correlations(torch.from_numpy(z).float(), torch.from_numpy(kernel).float())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    loss, _ = teaching_gradients(torch.from_numpy(z).float(), torch.from_numpy(kernel).float())
    assert loss == pytest.approx(1 - np.mean(expected), abs=1e-5)


def test_rows_that_are_all_alike_give_no_gradient_and_no_nan() -> None:
    loss, gradient = teaching_gradients(torch.ones(5, 3), torch.eye(5))
    assert loss == pytest.approx(1)
    assert torch.isfinite(gradient).all()


def test_a_batch_is_half_in_turn_and_half_neighbours() -> None:
    teacher, taught = topic_teacher(), np.arange(100)
    options = replace(OPTIONS, batch_rows=40)
    batches = [choose_batch(teacher, taught, options, step) for step in range(5)]
    assert all(len(np.unique(batch)) == 40 for batch in batches)
    assert len(np.unique(np.concatenate(batches))) == 100  # a round of 5 halves of 20 brings every row
    near = teacher.neighbours(np.array([7]), taught, 3)[0]
    scores = (teacher.vectors[7] @ teacher.vectors[:100].T).numpy()
    scores[7] = -1
    assert set(near) == set(np.argsort(-scores)[:3])
    np.testing.assert_array_equal(choose_batch(teacher, taught, options, 3), batches[3])


def test_it_learns_what_the_teacher_knows(encoder_folder: Folder, tmp_path: Path) -> None:
    base = load_checkpoint(encoder_folder("bert"))
    result = teach(make_examples(), topic_teacher(), base, tmp_path / "run", OPTIONS)
    assert result.taught > result.untaught + 0.3
    made = load_checkpoint(tmp_path / "run")
    assert made.model.config.normalize and made.model.config.scale == pytest.approx(8**0.5)
    assert made.model.beta.item() == pytest.approx(0.29)
    lines = (tmp_path / "run/training/metrics.jsonl").read_text().splitlines()
    measured = [row["step"] for row in map(json.loads, lines) if "correlation" in row]
    assert measured == [0, 4, 8, 12]


def test_rows_left_out_are_neither_taught_nor_validated(
    encoder_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()

    def watch(teacher: Teacher, lines: np.ndarray) -> torch.Tensor:
        seen.update(lines.tolist())
        return plain(teacher, lines)

    plain = Teacher.kernel
    monkeypatch.setattr(Teacher, "kernel", watch)
    base, left_out = load_checkpoint(encoder_folder("bert")), set(range(0, 60, 5))
    result = teach(make_examples(), topic_teacher(), base, tmp_path / "run", OPTIONS, leave_out=left_out)
    assert result.rows == COUNT - len(left_out) - OPTIONS.validation_rows
    assert seen and not seen & left_out


def test_a_stopped_run_resumes_to_the_same_weights(encoder_folder: Folder, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(_stage: str, done: int, _total: int | None) -> None:
        if done == 5:
            raise StoppedError

    rows, teacher = make_examples(), topic_teacher()
    teach(rows, teacher, load_checkpoint(encoder_folder("bert")), tmp_path / "whole", OPTIONS)
    with pytest.raises(StoppedError):
        base = load_checkpoint(encoder_folder("bert"))
        teach(rows, teacher, base, tmp_path / "stopped", OPTIONS, progress=stop)
    teach(rows, teacher, load_checkpoint(encoder_folder("bert")), tmp_path / "stopped", OPTIONS)
    whole, stopped = (load_checkpoint(tmp_path / name).model.state_dict() for name in ("whole", "stopped"))
    for name, weight in whole.items():
        torch.testing.assert_close(stopped[name], weight, rtol=0, atol=0)


def test_micro_batches_change_nothing(encoder_folder: Folder, tmp_path: Path) -> None:
    made = []
    for name, changes in {"small": {"token_budget": 32}, "kept": {"token_budget": 4096}}.items():
        options = replace(
            OPTIONS, steps=2, learning_rate=1e-4, activation_gb=float(name == "kept"), **changes
        )
        base = load_checkpoint(encoder_folder("bert"))
        teach(make_examples(), topic_teacher(), base, tmp_path / name, options)
        made.append(load_checkpoint(tmp_path / name).model.projector.weight)
    torch.testing.assert_close(made[0], made[1], rtol=SAME_STEP, atol=SAME_STEP)


def test_a_checkpoint_that_is_taught_keeps_its_length_and_scale(
    encoder_folder: Folder, tmp_path: Path
) -> None:
    rows, teacher = make_examples(), topic_teacher()
    options = replace(OPTIONS, steps=2, scale=3.0)
    teach(rows, teacher, load_checkpoint(encoder_folder("bert")), tmp_path / "first", options)
    again = replace(options, scale=5.0, beta=2.0)
    teach(rows, teacher, load_checkpoint(tmp_path / "first"), tmp_path / "second", again)
    second = load_checkpoint(tmp_path / "second").model
    assert (second.config.scale, second.beta.item()) == (3.0, pytest.approx(0.29))


def test_too_few_rows_and_rows_without_gradients_are_refused(encoder_folder: Folder, tmp_path: Path) -> None:
    base = load_checkpoint(encoder_folder("bert"))
    with pytest.raises(InputError, match="120 rows are too few"):
        teach(make_examples(), topic_teacher(), base, tmp_path / "run", replace(OPTIONS, batch_rows=110))
    target = tiny_lm.save_llama(tmp_path / "target")
    rows, _ = tiny_lm.write_run(tmp_path)
    options = GradientOptions(rank=2, dims=4, max_length=64, dtype="float32")
    take_gradients([rows], target, tmp_path / "grads", options, device="cpu")
    examples = tiny_lm.examples(40)
    teacher = Teacher.open(tmp_path / "grads", examples[::-1])
    np.testing.assert_allclose(
        teacher.kernel(np.array([39]))[0, 0], 1, atol=2e-3
    )  # the last is the folder's first row
    with pytest.raises(InputError, match="no gradient of row 'r0' with this text"):
        Teacher.open(tmp_path / "grads", [replace(examples[0], response="other"), examples[1]])
