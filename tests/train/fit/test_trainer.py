"""Training runs on a tiny problem: they learn, stop, resume, refuse, and do not depend on processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import tiny_fit
import torch
from tiny_fit import OPTIONS, make_examples, make_splits, run_fit

from airrep_infer.errors import BusyError, InputError
from airrep_infer.files import open_locked
from airrep_infer.score.pooling import attention_pool
from airrep_train.evaluate import Truth, VectorScorer, calibration_of, embed_lines, query_lds
from airrep_train.evaluate.influence import split_influence
from airrep_train.fit import FitOptions, FitResult, fit, trainer
from airrep_train.fit.left_out import without_lines
from airrep_train.fit.result import gain_interval
from airrep_train.fit.split_roles import SplitRoles, choose_roles
from airrep_train.fit.steps import plan_epoch
from airrep_train.fit.validation import Validation
from airrep_train.label import LabelledSplit
from airrep_train.model import Checkpoint, load_checkpoint, save_checkpoint, tokenize

SAME_STEP = 1e-4  # relative, of embeddings after a run whose gradients were summed in another order
Folder = Callable[[str], Path]


pytestmark = pytest.mark.usefixtures("one_thread")


def start(encoder_folder: Folder) -> Checkpoint:
    return load_checkpoint(encoder_folder("bert"))


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Let the validations of a run find these scores."""
    left = iter(scores)
    monkeypatch.setattr(
        trainer, "validate_on", lambda _splits, _embed, beta, **_: Validation(next(left), beta.item())
    )


def metrics(output: Path) -> list[dict[str, Any]]:
    """The rows of a run without their times."""
    rows = [json.loads(line) for line in (output / "training/metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def embed(output: Path) -> torch.Tensor:
    checkpoint = load_checkpoint(output)
    tokens = tokenize((e.text for e in make_examples()), checkpoint.tokenizer, 64)
    rows = [tokens.ids[s : s + n][None] for s, n in zip(tokens.starts, tokens.lengths, strict=False)]
    with torch.no_grad():
        found = [
            checkpoint.model(torch.from_numpy(row), torch.ones(row.shape, dtype=torch.long)) for row in rows
        ]
    return torch.cat(found)


@pytest.fixture(scope="module")
def finished(encoder_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FitResult]:
    """An undisturbed run."""
    output = tmp_path_factory.mktemp("fit") / "run"
    return output, run_fit(encoder_folder("bert"), output)


def test_it_learns_a_linear_truth(encoder_folder: Folder, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=15, subsets_per_step=40, dev_per_step=12, token_budget=512)
    splits = make_splits(6, subsets=40)
    result = fit(make_examples(), splits, start(encoder_folder), tmp_path / "run", options)
    assert result.lds > result.untrained_lds + 0.2 and result.lds > 0.6


def test_a_run_leaves_its_record(finished: tuple[Path, FitResult]) -> None:
    output, result = finished
    assert result.epochs == 3 and result.skipped_steps == 0
    rows = metrics(output)
    assert [row["epoch"] for row in rows if "lds" in row and "projector_step" not in row] == [0, 1, 2, 3]
    assert [row["projector_step"] for row in rows if "projector_step" in row] == [result.projector_step]
    assert max(row["lds"] for row in rows if "lds" in row) == result.lds
    assert load_checkpoint(output).model.beta.item() == pytest.approx(result.beta)
    assert sorted(path.name for path in (output / "training").iterdir()) == [
        ".lock",
        "config.json",
        "metrics.jsonl",
        "result.json",
    ]
    config = json.loads((output / "training/config.json").read_text())
    assert config["learning_rate"] == 3e-3 and config["package"].startswith("airrep ")
    of_labels = {"training labels", "validation labels"}
    assert set(config["inputs"]) == {"examples", "base", "base settings", *of_labels}


def test_influence_is_calibrated_with_the_weights_that_are_kept(finished: tuple[Path, FitResult]) -> None:
    output, result = finished
    validation = json.loads((output / "training/config.json").read_text())["validation"]
    truth = Truth(make_examples(), [split for split in make_splits() if split.dev_id in validation])
    scorer = VectorScorer(embed_lines(output, truth.examples, truth.lines()), "dot")
    (split,) = truth.splits
    influence = split_influence(scorer, split, "attention")
    f = (influence - influence.mean(axis=1, keepdims=True)).ravel()
    falls = -(split.losses - split.losses.mean(axis=0)).T.ravel()
    assert result.calibration is not None and result.calibration == calibration_of(output)
    assert result.calibration.nats == pytest.approx((f @ falls) / (f @ f), rel=1e-3)
    assert result.calibration.nats_low < result.calibration.nats < result.calibration.nats_high
    assert result.calibration.subset_rows == 10 and result.calibration.typical is None
    assert "one standard deviation of a subset's influence meant" in result.described()


def test_a_finished_run_returns_its_result(
    finished: tuple[Path, FitResult], encoder_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, result = finished
    monkeypatch.setattr(tiny_fit, "OPTIONS", replace(OPTIONS, token_budget=32))  # no matter for the result
    assert run_fit(encoder_folder("bert"), output) == result


def test_base_losses_that_come_later_are_in_the_result_without_another_training(
    finished: tuple[Path, FitResult], encoder_folder: Folder, tmp_path: Path
) -> None:
    """Also of a run of an earlier version: the weights do not depend on them, nor what a run is known by."""
    output, result = Path(shutil.copytree(finished[0], tmp_path / "run")), finished[1]
    assert result.calibration is not None and result.calibration.typical is None
    weights = (output / "model.safetensors").stat().st_mtime_ns

    def again(base: float | None) -> FitResult:
        splits = [
            split if base is None else replace(split, base=np.full(len(split.dev), base, np.float32))
            for split in make_splits()
        ]
        options = replace(OPTIONS, projector_steps=7)
        return fit(make_examples(), splits, start(encoder_folder), output, options)

    (validation,) = (split for split in make_splits() if split.dev_id == 2)
    for base in (4.0, 5.0):  # other base losses, another fall
        typical = base - validation.losses.mean()
        now = again(base)
        assert now.calibration == calibration_of(output)
        assert now.calibration == replace(result.calibration, typical=pytest.approx(typical, rel=1e-5))
        assert replace(now, calibration=result.calibration) == result
    assert again(None) == again(5.0) == now  # labels without base losses take nothing away
    assert (output / "model.safetensors").stat().st_mtime_ns == weights
    (output / "tokenizer.json").write_bytes(b"")
    with pytest.raises(InputError, match="changed since the run finished"):
        again(4.0)


def test_other_settings_are_refused(
    finished: tuple[Path, FitResult], encoder_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_fit, "OPTIONS", replace(OPTIONS, learning_rate=1.0))
    with pytest.raises(InputError, match=r"other settings \(learning_rate was 0.003, is 1.0\)"):
        run_fit(encoder_folder("bert"), finished[0])


@pytest.mark.parametrize(
    "change", [{"pooling": ["cls"]}, {"normalize": True}, {"prompt": "Say: "}, {"lower_case": True}], ids=str
)
def test_a_start_with_the_same_weights_and_other_settings_is_another(
    finished: tuple[Path, FitResult], encoder_folder: Folder, tmp_path: Path, change: dict[str, Any]
) -> None:
    base, options = start(encoder_folder), replace(OPTIONS, projector_steps=7)
    for name, value in change.items():
        setattr(base.model.config, name, value)
    with pytest.raises(InputError, match=r"holds a run with other settings .*'base settings'"):
        fit(make_examples(), make_splits(), base, finished[0], options)
    output = Path(shutil.copytree(finished[0], tmp_path / "run"))
    config = json.loads((output / "training/config.json").read_text())
    del config["inputs"]["base settings"]  # an earlier version wrote none: its runs are still known
    (output / "training/config.json").write_text(json.dumps(config))
    assert run_fit(encoder_folder("bert"), output) == finished[1]


def test_a_folder_of_something_else_is_refused(encoder_folder: Folder) -> None:
    with pytest.raises(InputError, match="not a training run"):
        run_fit(encoder_folder("bert"), encoder_folder("bert"))


def test_resumed_after_sigkill_it_ends_with_the_same_weights(
    finished: tuple[Path, FitResult], encoder_folder: Folder, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    base = str(encoder_folder("bert"))
    for kill_at in (3, 8):  # in the middle of an epoch, and before the validation that ends one
        process = forked.start(run_fit, base, output, kill_at=kill_at)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (output / "config.json").exists()
    with (output / "training/metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 2, "st')  # a line cut by the kill
    result = run_fit(base, output)
    assert replace(result, checkpoint="", seconds=0) == replace(finished[1], checkpoint="", seconds=0)
    assert metrics(output) == metrics(finished[0])
    ours, theirs = ((folder / "model.safetensors").read_bytes() for folder in (output, finished[0]))
    assert ours == theirs


def test_two_processes_make_the_same_steps(
    finished: tuple[Path, FitResult], encoder_folder: Folder, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--num_cpu_threads_per_process", "1", "--main_process_port", "0"]
    command = [*launch, tiny_fit.__file__, str(encoder_folder("bert")), str(output)]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone, together = metrics(finished[0]), metrics(output)
    assert len(alone) == len(together)
    for one, two in zip(alone, together, strict=True):
        assert two == pytest.approx(one, rel=1e-3)
    one, two = embed(finished[0]), embed(output)
    assert torch.dist(one, two) <= SAME_STEP * one.norm()


def _environment() -> dict[str, str]:
    folders = [str(Path(tiny_fit.__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}


def test_it_stops_early_and_keeps_the_best(
    encoder_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.3, 0.2, 0.4, 0.1, 0.4, 0.9])
    options = replace(OPTIONS, epochs=20, patience=2)
    result = fit(make_examples(), make_splits(), start(encoder_folder), tmp_path / "run", options)
    assert (result.untrained_lds, result.lds, result.best_epoch, result.epochs) == (0.3, 0.4, 2, 4)
    beta = next(row["fitted_beta"] for row in metrics(tmp_path / "run") if row.get("lds") == 0.4)
    assert load_checkpoint(tmp_path / "run").model.beta.item() == beta == result.beta


def test_the_pooling_scale_is_fitted_to_the_validation_split(encoder_folder: Folder, tmp_path: Path) -> None:
    """The LDS and the scale are the best of the learned scale's multiples, each by its plain formula."""
    options = replace(OPTIONS, epochs=4, subsets_per_step=40)
    splits = make_splits(4, subsets=40)
    result = fit(make_examples(), splits, start(encoder_folder), tmp_path / "run", options)
    steps = [row for row in metrics(tmp_path / "run") if "loss" in row and row["epoch"] == result.best_epoch]
    learned = steps[-1]["beta"]
    table = embed(tmp_path / "run").double().numpy()
    found = {}
    for factor in 2.0 ** (np.arange(-16, 5) / 4):
        scores = table[splits[-1].dev] @ table.T
        pooled = [attention_pool(scores[:, one.select], factor * learned) for one in splits[-1].subsets]
        found[factor * learned] = np.nanmean(query_lds(np.stack(pooled, axis=1), splits[-1].losses))
    best = max(found, key=found.__getitem__)
    assert result.beta == pytest.approx(best) and best != pytest.approx(learned)
    assert result.lds == pytest.approx(found[best], abs=1e-4)  # ranks may differ by the last bit of a score


def test_a_fixed_pooling_scale_stays(encoder_folder: Folder, tmp_path: Path) -> None:
    options = replace(OPTIONS, beta_rate=0.0)
    result = fit(make_examples(), make_splits(), start(encoder_folder), tmp_path / "run", options)
    assert result.beta == 1.0


def test_a_start_that_stays_the_best_is_the_checkpoint(
    encoder_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.3, 0.2])
    base = start(encoder_folder)
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    options = replace(OPTIONS, patience=1, centre=False)
    result = fit(make_examples(), make_splits(), base, tmp_path / "run", options)
    assert not result.better
    written = load_checkpoint(tmp_path / "run")
    assert written.trained and not written.model.config.trained  # ours, but no better
    for name, weight in load_checkpoint(tmp_path / "run").model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_plain_encoder_starts_centred_and_a_trained_one_as_it_is(
    encoder_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.3, 0.2, 0.3, 0.2])
    base = start(encoder_folder)
    fit(make_examples(), make_splits(), base, tmp_path / "run", replace(OPTIONS, patience=1))
    plain = save_checkpoint_of(start(encoder_folder), tmp_path / "plain")
    moved = embed(plain) - embed(tmp_path / "run")
    assert torch.allclose(moved, moved[:1], atol=1e-6)  # every vector by the same
    pool = np.unique([subset.select for split in make_splits()[:2] for subset in split.subsets])
    assert embed(tmp_path / "run")[pool].mean(dim=0).abs().max() < 1e-5

    fit(make_examples(), make_splits(), load_checkpoint(plain), tmp_path / "on", replace(OPTIONS, patience=1))
    assert torch.equal(embed(tmp_path / "on"), embed(plain))


def test_unit_vectors_are_centred_and_as_long_as_before_on_average(
    encoder_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.3, 0.2])
    plain = start(encoder_folder)
    pool = np.unique([subset.select for split in make_splits()[:2] for subset in split.subsets])
    vectors = embed(save_checkpoint_of(plain, tmp_path / "plain"))
    vectors = vectors - vectors[pool].mean(dim=0)
    length = vectors[pool].square().sum(dim=1).mean().sqrt()
    plain.model.config.normalize = True
    fit(make_examples(), make_splits(), plain, tmp_path / "run", replace(OPTIONS, patience=1))
    expected = length * torch.nn.functional.normalize(vectors)
    torch.testing.assert_close(embed(tmp_path / "run"), expected, rtol=1e-3, atol=1e-4)


def test_a_killed_run_of_unit_vectors_resumes_with_their_length(
    encoder_folder: Folder, tmp_path: Path
) -> None:
    def stop(_stage: str, step: int, _steps: int | None) -> None:
        if step == 3:
            raise KeyboardInterrupt

    def run(name: str, **options: Any) -> FitResult:
        base = start(encoder_folder)
        base.model.config.normalize = True
        return fit(make_examples(), make_splits(), base, tmp_path / name, OPTIONS, **options)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("killed", progress=stop)
    assert replace(run("killed"), checkpoint="", seconds=0) == replace(whole, checkpoint="", seconds=0)
    assert torch.equal(embed(tmp_path / "killed"), embed(tmp_path / "whole"))


def save_checkpoint_of(checkpoint: Checkpoint, folder: Path) -> Path:
    save_checkpoint(checkpoint, folder)
    return folder


def _with_losses(split: LabelledSplit, change: Callable[[np.ndarray], None]) -> LabelledSplit:
    losses = split.losses.copy()
    change(losses)
    return replace(split, losses=losses)


def test_ties_and_unknown_labels_are_skipped_and_counted(
    encoder_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.1, 0.2])

    def spoil(losses: np.ndarray) -> None:
        losses[:, 0] = 2.5
        losses[:, 1] = np.nan
        losses[3:5, 2] = np.nan

    def tie(losses: np.ndarray) -> None:
        losses[:] = 1.0

    first, second, last = make_splits()
    splits = [_with_losses(first, spoil), _with_losses(second, tie), _with_losses(last, spoil)]
    options = replace(OPTIONS, epochs=1)
    result = fit(make_examples(), splits, start(encoder_folder), tmp_path / "run", options)
    unknown = len(first.subsets) + 2  # all of one query, two of another
    assert (result.tied_queries, result.unknown_labels) == (1 + 12, unknown)
    assert result.skipped_steps == 3  # those of the split that has no pair
    assert result.best_epoch == 1
    for weight in load_checkpoint(tmp_path / "run").model.state_dict().values():
        assert weight.isfinite().all()


def test_frozen_embeddings_and_trackers(
    encoder_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.1, 0.2])
    base = start(encoder_folder)
    before = base.model.encoder.get_input_embeddings().weight.clone()
    options = replace(OPTIONS, epochs=1, freeze_embeddings=True, trackers=("tensorboard",))
    result = fit(make_examples(), make_splits(), base, tmp_path / "run", options)
    assert result.best_epoch == 1
    assert torch.equal(load_checkpoint(tmp_path / "run").model.encoder.get_input_embeddings().weight, before)
    assert list((tmp_path / "run/training").rglob("events.out.tfevents*"))


def test_a_tracker_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="'tensorbord' is unknown"):
        FitOptions(trackers=("tensorbord",))
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(InputError, match="'wandb' is not installed"):
        FitOptions(trackers=("wandb",))


def test_an_epoch_takes_every_subset_once() -> None:
    splits = make_splits(subsets=9)
    steps = plan_epoch(splits, OPTIONS, 1)
    for number in range(3):
        mine = [step for step in steps if step.split == number]
        assert sorted(np.concatenate([step.subsets for step in mine]).tolist()) == list(range(9))
        assert sorted(len(step.subsets) for step in mine) == [4, 5]
        assert all(len(set(step.queries.tolist())) == 10 for step in mine)
    again = plan_epoch(splits, OPTIONS, 2)
    assert [step.subsets.tolist() for step in steps] != [step.subsets.tolist() for step in again]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": -1}, "epochs must be at least 0, got -1"),
        ({"subsets_per_step": 1}, "subsets_per_step must be at least 2"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"warmup": 2}, "warmup must be at least 0 and at most 1, got 2"),
        ({"precision": "fp16"}, "precision must be one of float32, bfloat16, got 'fp16'"),
    ],
)
def test_options_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FitOptions(**wrong)


def test_splits_for_testing_are_left_alone() -> None:
    labelled = dict.fromkeys(range(4), 5)
    assert choose_roles(labelled, (), (3, 0)) == SplitRoles((1,), (2,))
    assert choose_roles(labelled, (1,), (3,)) == SplitRoles((0, 2), (1,))
    assert choose_roles({**labelled, 3: 1}, (1,), (3,)).training == (0, 2)  # a test split ranks nothing here


@pytest.mark.parametrize(
    ("splits", "roles", "message"),
    [
        (3, {"validation": (5,)}, r"validation split 5 has no labels; labelled splits: \[0, 1, 2\]"),
        (3, {"test": (5,)}, "test split 5 has no labels"),
        (3, {"test": (1,), "validation": (1,)}, "split 1 is named for validation and for test"),
        (1, {}, "no split is left to train on"),
        (2, {"test": (0,)}, r"no split is left to train on: splits \[0, 1\], validation \[1\], test \[0\]"),
    ],
)
def test_splits_are_checked(
    splits: int, roles: dict[str, Any], message: str, encoder_folder: Folder, tmp_path: Path
) -> None:
    options = replace(OPTIONS, **roles)
    base = load_checkpoint(encoder_folder("bert"))
    with pytest.raises(InputError, match=message):
        fit(make_examples(), make_splits(splits), base, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_a_changed_checkpoint_is_not_called_finished(
    finished: tuple[Path, FitResult], encoder_folder: Folder, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(finished[0], tmp_path / "run"))
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        content = (output / name).read_bytes()
        (output / name).write_bytes(b"")  # what a power loss leaves of a file that was not fsynced
        with pytest.raises(InputError, match=f"{name}: changed since the run finished; put it back"):
            run_fit(encoder_folder("bert"), output)
        (output / name).write_bytes(content)
    (output / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer.json: removed since the run finished"):
        run_fit(encoder_folder("bert"), output)


def test_a_half_born_run_starts_and_damaged_state_is_one_line(
    finished: tuple[Path, FitResult], encoder_folder: Folder, tmp_path: Path
) -> None:
    training = tmp_path / "run" / "training"
    training.mkdir(parents=True)
    (training / ".config.json.0123456789ab.tmp").write_text("{")  # killed in its first write
    result = run_fit(encoder_folder("bert"), tmp_path / "run")
    assert result.lds == finished[1].lds
    assert not list(training.glob(".*.tmp"))

    (training / "result.json").unlink()
    (training / "state.pt").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(InputError, match=r"state.pt: damaged \(.*\); delete .*run to train again"):
        run_fit(encoder_folder("bert"), tmp_path / "run")


def test_two_fits_into_one_output_exclude_each_other(encoder_folder: Folder, tmp_path: Path) -> None:
    training = tmp_path / "run" / "training"
    training.mkdir(parents=True)
    holder = open_locked(training / ".lock", "taken")  # as another process has it
    with pytest.raises(BusyError, match="run: another process is training there"):
        run_fit(encoder_folder("bert"), tmp_path / "run")
    holder.close()


def test_a_run_that_gained_nothing_says_so() -> None:
    figures = {"untrained_lds": 0.2, "lds": 0.2, "beta": 1.0, "seconds": 1.0, "epochs": 3}
    counts = {"tied_queries": 0, "unknown_labels": 0, "skipped_steps": 0}
    better = FitResult("c", best_epoch=2, **figures, **counts).described()  # type: ignore[arg-type]
    same = FitResult("c", best_epoch=0, **figures, **counts).described()  # type: ignore[arg-type]
    assert "no epoch was better than the start" in same and "no epoch" not in better
    doubtful = replace(FitResult("c", best_epoch=2, **figures, **counts), better=False)  # type: ignore[arg-type]
    doubtful = replace(doubtful, gain_low=-0.01, gain_high=0.05)
    assert "not shown to be better than the start: the gain lies in [-0.010, +0.050]" in doubtful.described()


def test_a_gain_within_its_interval_is_no_gain() -> None:
    draw = np.random.default_rng(0)
    start = draw.uniform(-1, 1, 200)
    low, high = gain_interval(start.tolist(), (start + 0.1 + 0.1 * draw.standard_normal(200)).tolist())
    assert low is not None and high is not None and 0.07 < low < 0.1 < high < 0.13
    low, high = gain_interval(start.tolist(), (start + draw.standard_normal(200)).tolist())
    assert low is not None and high is not None and low < 0 < high
    assert gain_interval([0.1, 0.2], [0.1, 0.2]) == (0, 0)
    assert gain_interval([], [0.1]) == (None, None)  # begun by an earlier version


def test_losses_that_are_all_unknown_are_not_called_equal(encoder_folder: Folder, tmp_path: Path) -> None:
    splits = make_splits()
    nothing = replace(splits[-1], losses=np.full_like(splits[-1].losses, np.nan))
    with pytest.raises(InputError, match="every validation loss is unknown"):
        fit(make_examples(), [*splits[:-1], nothing], start(encoder_folder), tmp_path / "c", OPTIONS)
    unknown = [_with_losses(split, lambda losses: losses.fill(np.nan)) for split in splits[:-1]]
    with pytest.raises(InputError, match="every training loss is unknown"):
        fit(make_examples(), [*unknown, splits[-1]], start(encoder_folder), tmp_path / "d", OPTIONS)
    equal = [_with_losses(split, lambda losses: losses.fill(2.0)) for split in splits[:-1]]
    with pytest.raises(InputError, match="no training query has two known losses that differ"):
        fit(make_examples(), [*equal, splits[-1]], start(encoder_folder), tmp_path / "e", OPTIONS)


def test_rows_that_exceed_the_limit_can_be_left_out(encoder_folder: Folder, tmp_path: Path) -> None:
    examples, splits = make_examples(), make_splits(2)
    long = (int(splits[0].dev[1]), int(splits[0].subsets[2].select[3]), int(splits[1].dev[0]))
    for line in long:
        examples[line] = replace(examples[line], response="sea " * 200)
    options = replace(OPTIONS, epochs=1, on_truncate="skip")

    def run(name: str, labels: list[LabelledSplit], options: FitOptions) -> tuple[FitResult, torch.Tensor]:
        base = load_checkpoint(encoder_folder("bert"), max_tokens=32)
        result = fit(examples, labels, base, tmp_path / name, options)
        return result, load_checkpoint(tmp_path / name).model.projector.weight.detach()

    skipped, weight = run("skip", splits, options)
    without = without_lines(splits, np.array(sorted(long)))
    for split, whole in zip(without, splits, strict=True):
        left = ~np.isin(whole.dev, long)
        assert not left.all() and split.dev.tolist() == whole.dev[left].tolist()
        np.testing.assert_array_equal(split.losses, whole.losses[:, left])
        for subset, given in zip(split.subsets, whole.subsets, strict=True):
            assert subset.select.tolist() == [line for line in given.select.tolist() if line not in long]
    based = [replace(split, base=np.linspace(4, 5, len(split.dev), dtype=np.float32)) for split in splits]
    fresh, later = (run(name, based, options)[0].calibration for name in ("based", "skip"))
    assert fresh is not None and fresh.typical is not None and later == fresh
    plain, same = run("plain", without, replace(options, on_truncate="cut"))
    assert torch.equal(weight, same) and skipped.lds == plain.lds
    assert (skipped.left_out, plain.left_out) == (3, 0)
    assert "3 rows exceed the token limit and were left out" in skipped.described()
    with pytest.raises(InputError, match="other settings"):
        run("skip", splits, replace(options, on_truncate="cut"))
    with pytest.raises(InputError, match="all rows of the dev set of split 0 exceed the token limit"):
        without_lines(splits, splits[0].dev)
