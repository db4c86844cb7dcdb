"""The warm-up of a gradient run: what is fine-tuned, where it is kept, and who takes it from there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_lm
from click.testing import CliRunner
from plain_whitening import whiten_plainly

from airrep_infer import resources
from airrep_infer.errors import InputError
from airrep_infer.rows import Example
from airrep_train.cli import main
from airrep_train.gradients import GradientOptions, join_gradients, open_gradients, row_rms, take_gradients
from airrep_train.gradients import run as run_module
from airrep_train.gradients.capture import GradientCapture
from airrep_train.gradients.options import WARM_UP_OPTIONS
from airrep_train.gradients.warm_up import checkpoint_sizes
from airrep_train.target import FineTuneOptions, Target, TargetOptions

OPTIONS = GradientOptions(
    layers="all", rank=3, dims=5, max_length=64, dtype="float32", warm_up=8, checkpoints=2, warm_up_rate=1e-3
)
WITHOUT = replace(OPTIONS, warm_up=0, checkpoints=None, warm_up_rate=None)
HALF = 2e-3  # relative, of values stored as float16


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_lm.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return tiny_lm.write_rows(tmp_path / "rows.jsonl", tiny_lm.examples(12))


def raw_vectors(folder: Path) -> np.ndarray:
    raw = open_gradients(folder, "raw")
    return raw.take(np.arange(len(raw))) * row_rms(raw)[:, None]


def note_rows(monkeypatch: pytest.MonkeyPatch) -> list[list[Example]]:
    """The rows of each fine-tuning from now on."""
    seen: list[list[Example]] = []
    tokenize = Target.rows

    def noted(self: Target, examples: list[Example]) -> object:
        seen.append(list(examples))
        return tokenize(self, examples)

    monkeypatch.setattr(Target, "rows", noted)
    return seen


def test_gradients_are_those_of_targets_that_a_label_run_would_fine_tune(
    llama: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = note_rows(monkeypatch)
    taken = take_gradients(
        [rows], TargetOptions(llama, "cpu"), tmp_path / "grads", replace(OPTIONS, warm_up=11)
    )
    drawn, examples = list(seen), tiny_lm.examples(12)
    assert taken.count == 12 and [len(part) for part in drawn] == [5, 11] and drawn[1][:5] == drawn[0]
    recipe = FineTuneOptions(max_length=64, learning_rate=1e-3, freeze_embeddings=True, dtype="float32")
    target, expected = Target(llama, recipe, "cpu"), []
    for number, part in enumerate(drawn):
        target.fine_tune(target.rows(part), recipe.seed)
        folder = tmp_path / f"tuned{number}"
        target.model.save_pretrained(folder)
        target.tokenizer.save_pretrained(folder)
        plain = GradientCapture(str(folder), OPTIONS, "cpu")(examples)
        expected.append(plain.vectors * plain.rms[:, None])
    wanted = np.concatenate(expected, axis=1)
    np.testing.assert_allclose(
        raw_vectors(tmp_path / "grads"), wanted, rtol=0, atol=HALF * np.abs(wanted).max()
    )
    assert np.abs(expected[0] - expected[1]).max() > 20 * HALF * np.abs(wanted).max()
    losses = [row.fields["target_loss"] for row in open_gradients(tmp_path / "grads").rows()]
    np.testing.assert_allclose(losses, plain.losses, rtol=HALF)


def test_the_map_makes_unit_vectors_of_all_checkpoints_together(
    llama: str, rows: Path, tmp_path: Path
) -> None:
    options = replace(OPTIONS, dims=12)  # as many as rows: products are those of the whitened gradients
    take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "both", options)
    parts = np.split(raw_vectors(tmp_path / "both"), 2, axis=1)
    whitened = [whiten_plainly(part, 9) for part in parts]
    together = sum(part @ part.T for part in whitened)
    length = np.sqrt(np.diag(together))
    mapped = open_gradients(tmp_path / "both").take(np.arange(12))
    np.testing.assert_allclose(mapped @ mapped.T, together / np.outer(length, length), atol=10 * HALF)


def test_as_many_rows_as_asked_are_drawn_by_the_seed(
    llama: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = note_rows(monkeypatch)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = replace(OPTIONS, seed=seed, checkpoints=1)
        take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / name, options)
    ids = [[example.id for example in part] for part in seen]
    assert ids[0] == ids[1] != ids[2] and {len(set(part)) for part in ids} == {8}


@pytest.mark.parametrize(
    ("rows", "count", "sizes"), [(64, 2, [32, 64]), (60, 4, [15, 30, 45, 60]), (1, 2, [1]), (3, 5, [1, 2, 3])]
)
def test_checkpoints_are_evenly_spaced(rows: int, count: int, sizes: list[int]) -> None:
    assert checkpoint_sizes(rows, count) == sizes


def test_without_a_warm_up_gradients_are_those_of_the_target_as_loaded(
    llama: str, rows: Path, tmp_path: Path
) -> None:
    take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "grads", WITHOUT)
    plain = GradientCapture(llama, OPTIONS, "cpu")(tiny_lm.examples(12))
    expected = plain.vectors * plain.rms[:, None]
    np.testing.assert_allclose(
        raw_vectors(tmp_path / "grads"), expected, rtol=0, atol=HALF * np.abs(expected).max()
    )
    assert not (tmp_path / "grads" / "warm-up").exists()


def test_queries_and_later_rows_are_taken_after_the_same_warm_up(
    llama: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, unset = tmp_path / "grads", replace(OPTIONS, warm_up=None, checkpoints=None, warm_up_rate=None)
    take_gradients([rows], TargetOptions(llama, "cpu"), output, OPTIONS)
    monkeypatch.delattr(run_module, "warm_up")
    tiny_lm.write_rows(rows, tiny_lm.examples(14))
    assert take_gradients([rows], TargetOptions(llama, "cpu"), output, unset).added == 2
    queries = tiny_lm.write_rows(tmp_path / "queries.jsonl", tiny_lm.examples(14)[12:])
    take_gradients([queries], TargetOptions(llama, "cpu"), tmp_path / "q", unset, mapped_by=output)
    whole = open_gradients(output).take([12, 13])
    np.testing.assert_allclose(open_gradients(tmp_path / "q").take([0, 1]), whole, atol=HALF)
    assert json.loads((tmp_path / "q" / "gradients.json").read_text())["options"]["warm_up"] == 8
    assert not (tmp_path / "q" / "warm-up").exists()
    other = replace(unset, warm_up=3)
    for place, by in ((output, None), (tmp_path / "new", output)):
        with pytest.raises(InputError, match="was begun with --warm-up 8, not 3; leave --warm-up out"):
            take_gradients([queries], TargetOptions(llama, "cpu"), place, other, mapped_by=by)
    with pytest.raises(InputError, match=r"was begun with --warm-up-rate 0\.001, not 0\.5"):
        take_gradients([rows], TargetOptions(llama, "cpu"), output, replace(unset, warm_up_rate=0.5))


def test_a_folder_of_before_warm_ups_is_continued_without_one(llama: str, rows: Path, tmp_path: Path) -> None:
    output, unset = tmp_path / "grads", replace(OPTIONS, warm_up=None, checkpoints=None, warm_up_rate=None)
    take_gradients([rows], TargetOptions(llama, "cpu"), output, WITHOUT)
    settings = json.loads((output / "gradients.json").read_text())
    assert not [name for name in settings["options"] if name in WARM_UP_OPTIONS]
    tiny_lm.write_rows(rows, tiny_lm.examples(13))
    assert take_gradients([rows], TargetOptions(llama, "cpu"), output, unset).added == 1
    with pytest.raises(InputError, match="was begun with --warm-up 0, not 64; leave --warm-up out"):
        take_gradients([rows], TargetOptions(llama, "cpu"), output, replace(unset, warm_up=64))


def test_shards_take_the_warm_up_of_the_first_and_hand_it_on(
    llama: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airrep_infer.encode.encoder.WINDOW_ROWS", 4)
    first, second, joined = (tmp_path / name for name in ("1", "2", "joined"))
    take_gradients([rows], TargetOptions(llama, "cpu"), first, OPTIONS, shard=(1, 2))
    monkeypatch.delattr(run_module, "warm_up")
    take_gradients([rows], TargetOptions(llama, "cpu"), second, OPTIONS, shard=(2, 2), warm_up_of=first)
    assert join_gradients([second, first], joined).count == 12
    queries = tiny_lm.write_rows(tmp_path / "queries.jsonl", tiny_lm.examples(13)[12:])
    mapped = replace(OPTIONS, warm_up=None, checkpoints=None, warm_up_rate=None)
    assert (
        take_gradients([queries], TargetOptions(llama, "cpu"), tmp_path / "q", mapped, mapped_by=joined).count
        == 1
    )
    with pytest.raises(InputError, match="--map brings the warm-up of its folder"):
        take_gradients(
            [rows], TargetOptions(llama, "cpu"), tmp_path / "x", OPTIONS, mapped_by=joined, warm_up_of=first
        )


def test_a_run_that_ended_after_its_warm_up_does_not_make_another(
    llama: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "grads"
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "GradientCapture", lambda *_args, **_kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            take_gradients([rows], TargetOptions(llama, "cpu"), output, OPTIONS)
    assert [path.name for path in output.iterdir()] == ["warm-up"]
    monkeypatch.delattr(run_module, "warm_up")
    with pytest.raises(InputError, match="was begun with --warm-up 8, not 3"):
        take_gradients([rows], TargetOptions(llama, "cpu"), output, replace(OPTIONS, warm_up=3))
    assert take_gradients([rows], TargetOptions(llama, "cpu"), output, OPTIONS).count == 12


def test_a_folder_does_not_change_its_warm_up_for_that_of_another(
    llama: str, rows: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    take_gradients([rows], TargetOptions(llama, "cpu"), first, OPTIONS)
    take_gradients([rows], TargetOptions(llama, "cpu"), second, replace(OPTIONS, seed=1))
    with pytest.raises(InputError, match=r"second: has another warm-up than .*first"):
        take_gradients([rows], TargetOptions(llama, "cpu"), second, OPTIONS, warm_up_of=first)


def test_another_target_and_damaged_weights_are_refused(llama: str, rows: Path, tmp_path: Path) -> None:
    output, other = tmp_path / "grads", tiny_lm.save_llama(tmp_path / "other", tied=False)
    take_gradients([rows], TargetOptions(llama, "cpu"), output, OPTIONS)
    with pytest.raises(InputError, match="the warm-up of another target than"):
        take_gradients([rows], TargetOptions(other, "cpu"), output, OPTIONS)
    weights = output / "warm-up" / "weights-8.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"weights-8\.safetensors: damaged: .*; make the gradients again"):
        take_gradients([rows], TargetOptions(llama, "cpu"), output, OPTIONS)


def test_rows_from_a_pipe_need_another_warm_up(llama: str, rows: Path, tmp_path: Path) -> None:
    arguments = ["gradients", "-", "--target", llama, "-o", str(tmp_path / "grads"), "--dtype", "float32"]
    arguments += ["--layers", "all", "--rank", "2", "--max-length", "64", "--device", "cpu"]
    refused = CliRunner().invoke(main, arguments, input=rows.read_text())
    assert refused.exit_code == 2 and "give a file, or --warm-up 0" in refused.stderr
    taken = CliRunner().invoke(main, [*arguments, "--warm-up", "0"], input=rows.read_text())
    assert taken.exit_code == 0, taken.stderr


def test_a_budget_too_small_for_fine_tuning_says_what_can_be_done(
    llama: str, rows: Path, tmp_path: Path
) -> None:
    try:
        resources.limit_memory(0.0004)
        with pytest.raises(InputError, match=r"fine-tuning .*take a lower --max-length, or --warm-up 0"):
            take_gradients([rows], TargetOptions(llama, "cpu"), tmp_path / "grads", OPTIONS)
    finally:
        resources.limit_memory(None)


@pytest.mark.parametrize("options", [{"warm_up": 0, "checkpoints": 2}, {"warm_up": 0, "warm_up_rate": 1.0}])
def test_options_of_a_warm_up_that_there_is_not_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="without a warm-up there are no checkpoints and no rate"):
        GradientOptions(**options)  # type: ignore[arg-type]


def test_a_checkpoint_has_a_row_at_least() -> None:
    with pytest.raises(InputError, match="warm_up 3 is fewer rows than checkpoints"):
        GradientOptions(warm_up=3, checkpoints=4)
