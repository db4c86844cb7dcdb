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

from airrep_train.evaluate import query_lds
from airrep_train.fit import CachedEncoder, FitOptions, fit
from airrep_train.fit.projector_first import ProjectorResult, train_projector
from airrep_train.fit.ranking_loss import influence, normalise
from airrep_train.fit.steps import gather_rows, lines_of, whole
from airrep_train.fit.validation import Embed, Validation
from airrep_train.label import LabelledSplit
from airrep_train.model import load_checkpoint, tokenize

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
