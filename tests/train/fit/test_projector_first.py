"""The projector before the first epoch: it learns, the rest stays, and what was validated is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from tiny_fit import OPTIONS, centred, make_examples, make_splits

from airrep_infer.errors import InputError
from airrep_train.evaluate import query_lds
from airrep_train.fit import CachedEncoder, FitOptions, fit
from airrep_train.fit.projector_first import ProjectorResult, train_projector
from airrep_train.fit.ranking_loss import influence, normalise
from airrep_train.fit.steps import gather_rows, lines_of, whole
from airrep_train.fit.validation import Embed, Validation
from airrep_train.label import LabelledSplit
from airrep_train.model import load_checkpoint, save_checkpoint, tokenize

pytestmark = pytest.mark.usefixtures("one_thread")
Folder = Callable[[str], Path]
SPLITS = make_splits()
STEPS = replace(OPTIONS, projector_steps=40, projector_lr=0.01)


def make_encoder(folder: Path, *, normalize: bool) -> CachedEncoder:
    checkpoint = centred(load_checkpoint(folder))
    checkpoint.model.config.normalize = normalize
    checkpoint.model.config.scale = 3.0 if normalize else 1.0
    tokens = tokenize((e.text for e in make_examples()), checkpoint.tokenizer, 64)
    return CachedEncoder(checkpoint.model.eval(), tokens, Accelerator(), 10_000, "float32")


def lds(embed: Embed, beta: torch.Tensor, split: LabelledSplit) -> float:
    rows = gather_rows(split, whole(split))
    table = embed(rows.lines)
    return float(
        np.nanmean(query_lds(influence(table[rows.queries], table, rows.members, beta).numpy(), split.losses))
    )


def train(encoder: CachedEncoder, options: FitOptions) -> ProjectorResult:
    training, validation = SPLITS[:2], SPLITS[2]

    def validate(embed: Embed) -> Validation:
        beta = encoder.model.beta.detach()
        return Validation(lds(embed, beta, validation), beta.item())

    targets = [normalise(split.losses) for split in training]
    return train_projector(encoder, training, targets, lines_of(SPLITS), validate, options)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_model_afterwards_is_what_was_validated(encoder_folder: Folder, normalize: bool) -> None:
    encoder = make_encoder(encoder_folder("bert"), normalize=normalize)
    model = encoder.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = lds(encoder.encode, model.beta.detach(), SPLITS[2])
    result = train(encoder, STEPS)
    assert result.step > 0 and result.reached.lds > start + 0.02
    assert lds(encoder.encode, model.beta.detach(), SPLITS[2]) == pytest.approx(result.reached.lds, abs=1e-3)
    assert model.beta.item() == pytest.approx(result.reached.beta)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"projector.weight", "projector.bias", "beta"}


def test_without_a_better_step_the_model_stays_as_it_was(encoder_folder: Folder) -> None:
    encoder = make_encoder(encoder_folder("bert"), normalize=True)
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    scores = iter([0.5, *[0.4] * 20])
    targets = [normalise(split.losses) for split in SPLITS[:2]]
    result = train_projector(
        encoder, SPLITS[:2], targets, lines_of(SPLITS), lambda _: Validation(next(scores), 2.0), STEPS
    )
    assert result == ProjectorResult(0, Validation(0.5, 2.0))
    for name, value in encoder.model.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_gradients_are_those_of_a_step_through_the_whole_model(encoder_folder: Folder) -> None:
    """One step of the head equals the direction of plain backpropagation into the projector's output."""
    encoder = make_encoder(encoder_folder("bert"), normalize=False)
    model = encoder.model
    options = replace(STEPS, projector_steps=1, dev_per_step=10_000, beta_rate=0.0)
    split, targets = SPLITS[0], normalise(SPLITS[0].losses)
    rows = gather_rows(split, whole(split))
    weight, bias = model.projector.weight.detach().clone(), model.projector.bias.detach().clone()
    table = encoder.encode(rows.lines)
    head = torch.nn.Parameter(torch.eye(table.shape[1]))
    shift = torch.nn.Parameter(torch.zeros(table.shape[1]))
    moved = table @ head.T + shift
    wanted = torch.from_numpy(targets.values)
    pooled = (moved[rows.queries] @ moved.T)[:, rows.members.index]
    pooled = ((model.beta * pooled.abs()).softmax(-1) * pooled).sum(-1)
    margin = wanted.unsqueeze(2) - wanted.unsqueeze(1)
    pairs = margin > 0
    loss = (
        margin.clamp(max=10)[pairs]
        * torch.nn.functional.softplus(pooled.unsqueeze(1) - pooled.unsqueeze(2))[pairs]
    )
    loss.mean().backward()
    assert head.grad is not None and shift.grad is not None
    # AdamW's first step has the length of the rate, against the sign of the gradient.
    large = head.grad.abs() > 1e-5
    scores = iter([0.0, 1.0])
    train_projector(
        encoder, [split], [targets], lines_of(SPLITS), lambda embed: Validation(next(scores), 1.0), options
    )
    stepped = (torch.eye(table.shape[1]) - options.projector_lr * head.grad.sign()) @ weight
    ratio = large.float().mean()
    assert ratio > 0.9
    torch.testing.assert_close(model.projector.weight.detach(), stepped, atol=2e-3, rtol=0)
    assert not torch.equal(model.projector.bias, bias)


def moved(encoder: CachedEncoder, pull: float) -> tuple[float, ProjectorResult]:
    """How far the steps take the projector when they are pulled, with labels that cannot be learned."""
    model = encoder.model
    before = model.projector.weight.detach().clone(), model.beta.item()
    options = replace(STEPS, projector_pull=pull, projector_lr=0.001)
    targets = [normalise(split.losses) for split in SPLITS[:2]]
    rising = iter(range(100))  # so that the last step is kept
    result = train_projector(
        encoder, SPLITS[:2], targets, lines_of(SPLITS), lambda _: Validation(next(rising), 1.0), options
    )
    assert pull == 0 or model.beta.item() == before[1]
    return float((model.projector.weight.detach() - before[0]).norm()), result


def test_a_pull_keeps_the_projector_near_its_start_and_the_pooling_scale_as_it_is(
    encoder_folder: Folder,
) -> None:
    found = {pull: moved(make_encoder(encoder_folder("bert"), normalize=True), pull) for pull in (0, 2, 1e4)}
    assert found[0][0] > 1.1 * found[2][0] > 5 * found[1e4][0]
    assert found[0][1].logit_scale == 1.0
    # The start is not calibrated: its scores are of another size than the labels.
    assert found[2][1].logit_scale == found[1e4][1].logit_scale != 1.0


def test_pulled_gradients_are_those_of_the_documented_objective(encoder_folder: Folder) -> None:
    """Two steps of the head equal two steps of AdamW on the formula of the module, by autograd."""
    encoder = make_encoder(encoder_folder("bert"), normalize=False)
    model, lines, pull = encoder.model, lines_of(SPLITS), 3.0
    options = replace(
        STEPS, projector_steps=2, projector_lr=0.1, projector_pull=pull, dev_per_step=10_000, beta_rate=1.0
    )
    splits = [SPLITS[0], replace(SPLITS[1], subsets=SPLITS[1].subsets[:9], losses=SPLITS[1].losses[:9])]
    targets = [normalise(split.losses) for split in splits]
    outputs, weight = encoder.encode(lines), model.projector.weight.detach().clone()
    kept = iter([0.0, 1.0, 2.0])
    result = train_projector(encoder, splits, targets, lines, lambda _: Validation(next(kept), 1.0), options)
    assert result.step == 2

    head, shift = (
        torch.nn.Parameter(x) for x in (torch.eye(outputs.shape[1]), torch.zeros(outputs.shape[1]))
    )
    optimizer = torch.optim.AdamW([head, shift], lr=0.1, weight_decay=0.0)
    count = sum(len(split.subsets) for split in splits)
    for _ in range(2):
        total = pull / count * ((head - torch.eye(len(head))).square().sum() + shift.square().sum())
        for split, target in zip(splits, targets, strict=True):
            rows = gather_rows(split, whole(split))
            table = outputs[np.searchsorted(lines, rows.lines)] @ head.T + shift
            scores = (table[rows.queries] @ table.T)[:, rows.members.index]
            pooled = result.logit_scale * ((model.beta.detach() * scores.abs()).softmax(-1) * scores).sum(-1)
            wanted = torch.from_numpy(target.values)
            margin = wanted.unsqueeze(2) - wanted.unsqueeze(1)
            loss = margin.clamp(max=10) * torch.nn.functional.softplus(
                pooled.unsqueeze(1) - pooled.unsqueeze(2)
            )
            total = total + len(split.subsets) / count * loss[margin > 0].mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    agree = ((model.projector.weight.detach() - head.detach() @ weight).abs() < 2e-3).float().mean()
    assert agree > 0.9  # AdamW's steps have the sign of gradients, some of which are rounding


def trained_start(encoder_folder: Folder, output: Path) -> None:
    """A checkpoint of ours, as training leaves it."""
    checkpoint = centred(load_checkpoint(encoder_folder("bert")))
    output.mkdir()
    save_checkpoint(checkpoint, output)
    assert load_checkpoint(output).trained


def test_labels_train_the_projector_alone_where_the_start_is_trained(
    encoder_folder: Folder, tmp_path: Path
) -> None:
    trained_start(encoder_folder, tmp_path / "taught")
    start = load_checkpoint(tmp_path / "taught")
    before = {name: value.clone() for name, value in start.model.state_dict().items()}
    stages: set[str] = set()
    result = fit(
        make_examples(),
        SPLITS,
        start,
        tmp_path / "run",
        replace(STEPS, epochs=None, projector_lr=0.003),
        progress=lambda stage, _done, _total: stages.add(stage),
    )
    assert stages == {"projector"}
    assert result.epochs == result.best_epoch == 0 and result.projector_step > 0
    assert result.lds > result.untrained_lds
    assert "epoch" not in result.described()
    after = load_checkpoint(tmp_path / "run").model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"projector.weight", "projector.bias"}


@pytest.mark.parametrize(
    ("options", "trained", "epochs", "pull"),
    [
        (FitOptions(), False, 6, 0.0),
        (FitOptions(), True, 0, 2.0),
        (FitOptions(projector_steps=0), True, 6, 2.0),
        (FitOptions(teacher_weight=0.5), True, 6, 2.0),
        (FitOptions(epochs=3, projector_pull=0.0), True, 3, 0.0),
        (FitOptions(epochs=0, projector_pull=1.0), False, 0, 1.0),
    ],
)
def test_defaults_that_depend_on_the_start(
    options: FitOptions, trained: bool, epochs: int, pull: float
) -> None:
    complete = options.from_start(trained)
    assert (complete.epochs, complete.projector_pull) == (epochs, pull)
    assert complete.from_start(not trained) == complete
    assert complete.fits_beta == bool(epochs or not pull)
    assert not replace(complete, beta_rate=0.0).fits_beta


def test_options_of_epochs_are_refused_where_there_are_none(
    encoder_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiny_lm
    from click.testing import CliRunner

    from airrep_train.cli import main

    tiny_lm.label_and_take_gradients(tmp_path)
    trained_start(encoder_folder, tmp_path / "taught")
    monkeypatch.chdir(tmp_path)
    words = "fit examples.jsonl --subsets subsets.jsonl --losses losses.jsonl --base taught -o out --lr 1e-4"
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 2
    refused = "--learning-rate is for epochs of the whole encoder, and there are none"
    assert f"{refused} from a trained start unless epochs says so: leave it out" in result.output
    none = CliRunner().invoke(main, [*words.split(), "--epochs", "0"])
    assert none.exit_code == 2 and f"{refused}: leave it out" in none.output
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(main, [*words.split(), "--epochs", "1", "--token-budget", "512"])
    assert result.exit_code == 0, result.output


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="nothing would be trained"):
        FitOptions(epochs=0, projector_steps=0)


def test_a_finished_run_of_an_earlier_version_from_a_trained_start_is_known(
    encoder_folder: Folder, tmp_path: Path
) -> None:
    """Before the pull: epochs 6, and the pooling scale learned."""
    trained_start(encoder_folder, tmp_path / "taught")
    earlier = replace(STEPS, epochs=6, projector_pull=0.0, projector_steps=5)
    made = fit(make_examples(), SPLITS, load_checkpoint(tmp_path / "taught"), tmp_path / "run", earlier)
    unset = replace(earlier, epochs=None, projector_pull=None)
    again = fit(make_examples(), SPLITS, load_checkpoint(tmp_path / "taught"), tmp_path / "run", unset)
    assert again == made
    with pytest.raises(InputError, match="projector_pull"):
        fit(
            make_examples(),
            SPLITS,
            load_checkpoint(tmp_path / "taught"),
            tmp_path / "run",
            replace(unset, projector_pull=1.0),
        )


def test_it_does_not_depend_on_the_order_of_lines_and_repeats(encoder_folder: Folder, tmp_path: Path) -> None:
    results = [
        fit(
            make_examples(),
            SPLITS,
            centred(load_checkpoint(encoder_folder("bert"))),
            tmp_path / name,
            replace(STEPS, epochs=1),
        )
        for name in ("one", "two")
    ]
    assert results[0].projector_step == results[1].projector_step > 0
    assert results[0].lds == results[1].lds


def test_a_run_of_an_earlier_version_goes_on_without_it(encoder_folder: Folder, tmp_path: Path) -> None:
    import json

    base = encoder_folder("bert")
    options = replace(OPTIONS, epochs=1)
    made = fit(make_examples(), SPLITS, load_checkpoint(base), tmp_path / "run", options)
    config = tmp_path / "run/training/config.json"
    settings = json.loads(config.read_text())
    del settings["projector_steps"], settings["projector_lr"]
    config.write_text(json.dumps(settings))
    again = fit(make_examples(), SPLITS, load_checkpoint(base), tmp_path / "run", replace(STEPS, epochs=1))
    assert again == made


def test_lines_are_all_that_a_split_looks_at() -> None:
    split = SPLITS[0]
    expected: set[int] = {int(line) for subset in split.subsets for line in subset.select}
    lines: NDArray[np.int64] = lines_of([split])
    assert lines.tolist() == sorted(expected | set(split.dev.tolist()))
