"""Teaching: the loss against plain correlations, batches, and runs on a tiny problem: learn, resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_fit
import tiny_lm
import torch
from accelerate import Accelerator
from click.testing import CliRunner
from scipy.stats import pearsonr
from tiny_fit import COUNT, make_examples, make_splits

from airrep_infer.errors import InputError
from airrep_train.cli import main
from airrep_train.evaluate import response_words
from airrep_train.fit import CachedEncoder, FitOptions, TeachOptions, fit, teaching
from airrep_train.fit.start import rate_factor
from airrep_train.fit.teach_options import Phase
from airrep_train.fit.teacher import Teacher, row_correlations, teaching_gradients
from airrep_train.fit.teacher_vectors import TeacherVectors
from airrep_train.fit.teaching import choose_batch, teach
from airrep_train.fit.unused import unused_by_labels, unused_by_teaching
from airrep_train.gradients import GradientOptions, take_gradients
from airrep_train.model import load_checkpoint, tokenize
from airrep_train.target import TargetOptions

SAME_STEP = 1e-4  # relative, of embeddings after steps whose gradients were summed in another order
OPTIONS = TeachOptions(
    vector_steps=7,
    vector_rows=24,
    vector_weight=0.5,
    steps=5,
    batch_rows=28,
    neighbours=3,
    validation_rows=20,
    validate_every=4,
    teach_rate=3e-3,
)
TRAINING = FitOptions(token_budget=64, save_seconds=0.0)
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
    batches = [choose_batch(teacher, taught, 40, 3, 0, step) for step in range(5)]
    assert all(len(np.unique(batch)) == 40 for batch in batches)
    assert len(np.unique(np.concatenate(batches))) == 100  # a round of 5 halves of 20 brings every row
    near = teacher.neighbours(np.array([7]), taught, 3)[0]
    scores = (teacher.vectors[7] @ teacher.vectors[:100].T).numpy()
    scores[7] = -1
    assert set(near) == set(np.argsort(-scores)[:3])
    np.testing.assert_array_equal(choose_batch(teacher, taught, 40, 3, 0, 3), batches[3])


def test_it_learns_what_the_teacher_knows(encoder_folder: Folder, tmp_path: Path) -> None:
    base = load_checkpoint(encoder_folder("bert"))
    result = teach(make_examples(), topic_teacher(), base, tmp_path / "run", OPTIONS, TRAINING)
    assert result.taught > result.untaught + 0.3
    again = load_checkpoint(encoder_folder("bert"))
    assert teach(make_examples(), topic_teacher(), again, tmp_path / "run", OPTIONS, TRAINING) == result
    made = load_checkpoint(tmp_path / "run")
    assert made.model.config.normalize and made.model.config.scale == pytest.approx(8**0.5)
    assert made.model.beta.item() == pytest.approx(0.15)
    lines = (tmp_path / "run/training/metrics.jsonl").read_text().splitlines()
    measured = [row["step"] for row in map(json.loads, lines) if "correlation" in row]
    assert measured == [0, 4, 8, 12]


def test_few_rows_are_taught_with_the_defaults(encoder_folder: Folder, tmp_path: Path) -> None:
    base = load_checkpoint(encoder_folder("bert"))
    result = teach(make_examples(), topic_teacher(), base, tmp_path / "run", TeachOptions(steps=2), TRAINING)
    assert (result.validation_rows, result.rows) == (COUNT // 8, COUNT - COUNT // 8)
    assert f"on {COUNT // 8} rows that were not taught" in result.described()


def test_the_course_depends_on_how_many_rows_there_are_unless_it_is_given() -> None:
    few, many = (TeachOptions().course(rows) for rows in (4_095, 4_096))
    assert few == (Phase(100, 512),)
    assert many == (Phase(400, 128, 10), Phase(100, 512))
    given = TeachOptions(vector_steps=7, vector_weight=2, steps=0)
    assert given.course(5) == given.course(9_000) == (Phase(7, 128, 2),)
    with pytest.raises(InputError, match="nothing would be taught"):
        TeachOptions(vector_steps=0, steps=0)


def test_each_phase_has_its_batches_its_loss_and_a_rate_that_rises_and_falls(
    encoder_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watch(table: torch.Tensor, *given: Any) -> tuple[float, torch.Tensor]:
        seen.append((len(table), given[1] is not None, given[2]))
        return teaching_gradients(table, *given)

    monkeypatch.setattr(teaching, "teaching_gradients", watch)
    base = load_checkpoint(encoder_folder("bert"))
    teach(make_examples(), topic_teacher(), base, tmp_path / "run", OPTIONS, TRAINING)
    assert seen == [(24, True, 0.5)] * 7 + [(28, False, 0.0)] * 5
    lines = (tmp_path / "run/training/metrics.jsonl").read_text().splitlines()
    rates = [row["rate"] for row in map(json.loads, lines) if "rate" in row]
    wanted = [rate_factor(step, steps, TRAINING.warmup) for steps in (7, 5) for step in range(steps)]
    assert rates == pytest.approx(wanted)
    assert rates[6] < 0.5 < rates[7] == 1


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
    result = teach(
        make_examples(), topic_teacher(), base, tmp_path / "run", OPTIONS, TRAINING, leave_out=left_out
    )
    assert result.rows == COUNT - len(left_out) - OPTIONS.validation_rows
    assert seen and not seen & left_out


@pytest.mark.parametrize("stopped_at", [5, 7, 9])  # the second phase begins after 7 steps
def test_a_stopped_run_resumes_to_the_same_weights(
    encoder_folder: Folder, tmp_path: Path, stopped_at: int
) -> None:
    class StoppedError(Exception):
        pass

    def stop(_stage: str, done: int, _total: int | None) -> None:
        if done == stopped_at:
            raise StoppedError

    rows, teacher = make_examples(), topic_teacher()
    teach(rows, teacher, load_checkpoint(encoder_folder("bert")), tmp_path / "whole", OPTIONS, TRAINING)
    with pytest.raises(StoppedError):
        base = load_checkpoint(encoder_folder("bert"))
        teach(rows, teacher, base, tmp_path / "stopped", OPTIONS, TRAINING, progress=stop)
    teach(rows, teacher, load_checkpoint(encoder_folder("bert")), tmp_path / "stopped", OPTIONS, TRAINING)
    whole, stopped = (load_checkpoint(tmp_path / name).model.state_dict() for name in ("whole", "stopped"))
    for name, weight in whole.items():
        torch.testing.assert_close(stopped[name], weight, rtol=0, atol=0)


def test_micro_batches_change_nothing(encoder_folder: Folder, tmp_path: Path) -> None:
    made = []
    for name, changes in {"small": {"token_budget": 32}, "kept": {"token_budget": 4096}}.items():
        training = replace(TRAINING, activation_gb=float(name == "kept"), **changes)
        base = load_checkpoint(encoder_folder("bert"))
        teach(
            make_examples(),
            topic_teacher(),
            base,
            tmp_path / name,
            replace(OPTIONS, vector_steps=2, steps=1, teach_rate=1e-4),
            training,
        )
        made.append(load_checkpoint(tmp_path / name).model.projector.weight)
    torch.testing.assert_close(made[0], made[1], rtol=SAME_STEP, atol=SAME_STEP)


def test_a_checkpoint_that_is_taught_keeps_its_length_and_scale(
    encoder_folder: Folder, tmp_path: Path
) -> None:
    rows, teacher = make_examples(), topic_teacher()
    options = replace(OPTIONS, vector_steps=2, steps=1, length=3.0)
    teach(rows, teacher, load_checkpoint(encoder_folder("bert")), tmp_path / "first", options, TRAINING)
    again = replace(options, length=5.0, start_beta=2.0)
    teach(rows, teacher, load_checkpoint(tmp_path / "first"), tmp_path / "second", again, TRAINING)
    second = load_checkpoint(tmp_path / "second").model
    assert (second.config.scale, second.beta.item()) == (3.0, pytest.approx(0.15))


def test_too_few_rows_and_rows_without_gradients_are_refused(encoder_folder: Folder, tmp_path: Path) -> None:
    base = load_checkpoint(encoder_folder("bert"))
    with pytest.raises(InputError, match="120 rows are too few to teach: 117 validate"):
        teach(
            make_examples(),
            topic_teacher(),
            base,
            tmp_path / "run",
            replace(OPTIONS, validation_rows=117),
            TRAINING,
        )
    target = tiny_lm.save_llama(tmp_path / "target")
    rows, _ = tiny_lm.write_run(tmp_path)
    options = GradientOptions(rank=2, dims=4, max_length=64, dtype="float32")
    take_gradients([rows], TargetOptions(target, "cpu"), tmp_path / "grads", options)
    examples = tiny_lm.examples(40)
    teacher = Teacher.open(tmp_path / "grads", examples[::-1], 0)
    np.testing.assert_allclose(
        teacher.kernel(np.array([39]))[0, 0], 1, atol=2e-3
    )  # the last is the folder's first row
    with pytest.raises(InputError, match="no gradient of row 'r0' with this text"):
        Teacher.open(tmp_path / "grads", [replace(examples[0], response="other"), examples[1]], 0)


def test_words_of_responses_have_their_share_of_the_kernel() -> None:
    examples, vectors = make_examples()[:40], topic_teacher().vectors[:40]
    alone = Teacher.of(vectors, "topics", examples, 0)
    both = Teacher.of(vectors, "topics", examples, 0.3)
    lines, different = np.arange(40), ~np.eye(40, dtype=bool)
    words = response_words(examples).toarray()
    of_gradients, of_words = alone.kernel(lines).numpy(), words @ words.T
    expected = 0.7 * of_gradients / of_gradients[different].std(ddof=1)
    expected += 0.3 * of_words / of_words[different].std(ddof=1)
    np.testing.assert_allclose(both.kernel(lines).numpy(), expected, atol=1e-4)
    some = np.array([3, 17, 31])
    np.testing.assert_allclose(both.kernel(some).numpy(), expected[np.ix_(some, some)], atol=1e-4)
    others = np.where(different[some], expected[some], -np.inf)
    assert (others[np.arange(3)[:, None], both.neighbours(some, lines, 2)] >= np.sort(others)[:, -2:-1]).all()
    assert both.fingerprint != alone.fingerprint
    with pytest.raises(InputError, match="no words"):
        Teacher.of(vectors, "topics", [replace(row, response=" ") for row in examples], 0.3)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_teachers_own_vectors_keep_its_similarities(share: float) -> None:
    teacher = Teacher.of(topic_teacher().vectors, "topics", make_examples(), share)
    lines, wide = np.arange(COUNT), np.random.default_rng(3).standard_normal((COUNT, 64)).astype(np.float32)
    vectors = TeacherVectors.fit(teacher, lines, lambda rows: torch.from_numpy(wide[rows]), 0)(lines)
    assert vectors.shape == (COUNT, 64)
    # All of the kernel around its mean: there are more numbers than gradients and words have.
    centring = np.eye(COUNT) - 1 / COUNT
    expected = centring @ teacher.kernel(lines).numpy() @ centring
    expected /= np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose((vectors @ vectors.T).numpy(), expected, atol=2e-3)


def test_the_teachers_own_vectors_are_turned_to_where_the_encoders_are() -> None:
    teacher, lines = topic_teacher(), np.arange(COUNT)
    rotation = np.linalg.qr(np.random.default_rng(4).standard_normal((6, 6)))[0].astype(np.float32)
    centred = teacher.vectors - teacher.vectors.mean(dim=0)
    there = centred @ torch.from_numpy(rotation)  # what they are, seen from another side
    found = TeacherVectors.fit(teacher, lines, lambda rows: 3 * there[torch.from_numpy(rows)], 0)(lines)
    torch.testing.assert_close(found, torch.nn.functional.normalize(there, dim=1), rtol=0, atol=1e-4)


def test_the_distance_to_the_teachers_own_vectors_is_a_part_of_the_loss() -> None:
    rng = np.random.default_rng(5)
    table, vectors = (torch.from_numpy(rng.standard_normal((9, 4))).float() for _ in range(2))
    kernel = torch.from_numpy(rng.standard_normal((9, 9))).float()
    without, plain = teaching_gradients(table, kernel)
    loss, gradient = teaching_gradients(table, kernel, vectors, 0.5)
    moved = table.clone().requires_grad_()
    units = [moved / moved.norm(dim=1, keepdim=True), vectors / vectors.norm(dim=1, keepdim=True)]
    distance = 1 - (units[0] * units[1]).sum(dim=1).mean()
    assert loss == pytest.approx(without + 0.5 * distance.item(), abs=1e-5)
    (expected,) = torch.autograd.grad(distance, moved)
    torch.testing.assert_close(gradient, plain + 0.5 * expected, rtol=1e-4, atol=1e-6)


def test_a_second_loss_moves_a_labelled_run_towards_the_teacher(
    encoder_folder: Folder, tmp_path: Path
) -> None:
    options = replace(tiny_fit.OPTIONS, epochs=2)
    found = {}
    for name, weight in {"without": 0.0, "with": 3.0}.items():
        base = load_checkpoint(encoder_folder("bert"))
        fit(
            make_examples(),
            make_splits(),
            base,
            tmp_path / name,
            replace(options, teacher_weight=weight),
            teacher=topic_teacher() if weight else None,
        )
        made = load_checkpoint(tmp_path / name)
        tokens = tokenize(make_examples(), made.tokenizer, 64, made.model.config.text_template)
        vectors = CachedEncoder(made.model, tokens, Accelerator(), 10_000, "float32").encode(np.arange(COUNT))
        found[name] = row_correlations(vectors, topic_teacher().kernel(np.arange(COUNT))).mean().item()
    assert found["with"] > found["without"] + 0.05
    metrics = (tmp_path / "with/training/metrics.jsonl").read_text().splitlines()
    assert "teaching_loss" in json.loads(metrics[1])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_second_loss_needs_both_teacher_and_weight(
    encoder_folder: Folder, tmp_path: Path, weight: float
) -> None:
    options = replace(tiny_fit.OPTIONS, teacher_weight=weight)
    teacher = None if weight else topic_teacher()
    base = load_checkpoint(encoder_folder("bert"))
    with pytest.raises(InputError, match="needs both a teacher and a teacher_weight"):
        fit(make_examples(), make_splits(), base, tmp_path / "run", options, teacher=teacher)


COMMON = ["fit", "rows.jsonl", "--base", "base", "-o", "out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to learn from: give labels"),
        (["--teacher", "g", "--epochs", "3"], "--epochs is for labels"),
        (["--losses", "l", "--steps", "3"], "--steps is for teaching without labels"),
        (["--losses", "l"], "--losses needs --subsets"),
        (["--teacher", "g", "--partial"], "--partial is for labels"),
        (["--teacher", "g", "--subsets", "l"], "--subsets without --losses says which rows"),
        (["--losses", "l", "--subsets", "g", "--vector-rows", "9"], "--vector-rows is for teaching without"),
    ],
)
def test_the_command_refuses_what_it_would_not_look_at(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl", "g", "l"):
        Path(name).touch()
    result = CliRunner().invoke(main, [*COMMON, *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_settings_that_a_training_looks_at_depend_on_its_start_and_its_rows() -> None:
    of_rows = {"vector_rows", "vector_weight"}
    of_plain = {"length", "start_beta", "centre"}
    assert unused_by_teaching(TeachOptions(), rows=4_607, plain=True).keys() == of_rows
    assert unused_by_teaching(TeachOptions(), rows=4_608, plain=True).keys() == set()
    assert unused_by_teaching(TeachOptions(), rows=4_608, plain=False).keys() == of_plain
    first_alone = TeachOptions(vector_steps=1, steps=0)
    assert unused_by_teaching(first_alone, rows=9, plain=True).keys() == {"batch_rows"}

    of_epochs = {"subsets_per_step", "learning_rate", "patience", "teacher_weight"}
    shared = {"projector_rate", "warmup", "weight_decay", "freeze_embeddings", "clip"}
    given = FitOptions()
    fresh, improved = given.from_start(False), given.from_start(True)
    assert unused_by_labels(given, fresh, plain=True).keys() == set()
    after = unused_by_labels(given, improved, plain=False)
    assert after.keys() == of_epochs | shared | {"beta_rate", "centre"}
    both = unused_by_labels(given, improved, plain=False, teaches=True)
    assert both.keys() == of_epochs | {"beta_rate"}
    epochs = FitOptions(epochs=2, projector_steps=0)
    unused = unused_by_labels(epochs, epochs.from_start(False), plain=True)
    assert unused.keys() == {"projector_lr", "projector_pull"}


def test_the_command_teaches_and_leaves_dev_rows_out(
    encoder_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tiny_lm.save_llama(tmp_path / "target")
    rows, plan = tiny_lm.write_run(tmp_path)
    options = GradientOptions(rank=2, dims=4, max_length=64, dtype="float32")
    take_gradients([rows], TargetOptions(target, "cpu"), tmp_path / "grads", options)
    arguments = [
        "fit",
        str(rows),
        "--teacher",
        str(tmp_path / "grads"),
        "--base",
        str(encoder_folder("bert")),
    ]
    sizes = ["--vector-steps", "1", "--steps", "1", "--batch-rows", "8", "--validation-rows", "6"]
    output = ["-o", str(tmp_path / "taught"), "--subsets", str(plan), "--test", "1"]
    result = CliRunner().invoke(main, [*arguments, *sizes, *output])
    assert result.exit_code == 0, result.stderr
    assert "28 rows taught in 2 steps" in result.stderr  # 40 without 6 dev rows and 6 that validate
    assert load_checkpoint(tmp_path / "taught").trained
