"""The projector learns from the labels first, on vectors that are computed once; then the encoder with it.

A projector that does not fit yet sends large gradients into the encoder, which moves to make up for it and
loses some of what it knew (Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform
out-of-distribution", arXiv 2202.10054: linear probing, then fine-tuning). The projector alone sees every
label in every step, and a step costs a product of matrices.

Behind a trained start W = 1 and b = 0 are nearly right already, and

    mean over subsets of the loss at t + pull / K (|W - 1|^2 + |b|^2)

is what the steps lower, for K training subsets and the logit scale t that fits the start. So few labels move
it little. Without the pull the splits that train rise and others fall, and so they do where beta is learned,
since attention spreads scores (docs/quality.md has the figures).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from airrep_infer.progress import Progress, begin
from airrep_train.fit.gradient_caching import CachedEncoder
from airrep_train.fit.options import FitOptions
from airrep_train.fit.ranking_loss import Targets, fit_logit_scale, influence, objective_gradients
from airrep_train.fit.steps import Rows, gather_rows, whole
from airrep_train.fit.validation import Embed, Validation
from airrep_train.label import LabelledSplit
from airrep_train.model import AirRepModel

VALIDATE_EVERY = 5
"""Steps between two validations; one takes as long as two steps or so."""
_BETA_RATE = 5.0
"""The pooling scale's learning rate as a multiple of the projector's."""

Validate = Callable[[Embed], Validation]


@dataclass(frozen=True)
class ProjectorResult:
    """What the best step of the projector came to.

    Attributes:
        step: which one; 0 when no step was better than the start, which the model then still is.
        reached: with the model as it is then.
        logit_scale: that of the loss.
    """

    step: int
    reached: Validation
    logit_scale: float = 1.0


def train_projector(
    encoder: CachedEncoder,
    training: Sequence[LabelledSplit],
    targets: Sequence[Targets],
    lines: NDArray[np.int64],
    validate: Validate,
    options: FitOptions,
    progress: Progress | None = None,
) -> ProjectorResult:
    """Train the projector and the pooling scale of `encoder.model`, and keep the best validated step.

    A step looks at all subsets of all training splits, and at a part of the dev rows of each. Every process
    computes the same.

    Args:
        encoder: its model's projector and `beta` are changed, the rest is not.
        training: the splits to train on.
        targets: their labels.
        lines: sorted line numbers of all rows that training and validation look at.
        validate: what embeddings reach.
        options: complete (`from_start`); `projector_steps`, `projector_lr`, `projector_pull`, `dev_per_step`
            and `seed` are used, and `beta_rate` where nothing pulls.
        progress: told of the stage "projector", in steps.
    """
    model = encoder.model
    with model.projector_output():
        outputs = encoder.encode(lines)
    head = _identity(model)
    start = [parameter.detach().clone() for parameter in head.parameters()]
    beta = nn.Parameter(model.beta.detach().clone())
    pull, subsets = options.projector_pull or 0.0, sum(len(split.subsets) for split in training)
    learns_beta = bool(options.beta_rate) and not pull
    optimizer = torch.optim.AdamW(
        [
            {"params": list(head.parameters()), "lr": options.projector_lr},
            {"params": [beta], "lr": options.projector_lr * _BETA_RATE * learns_beta},
        ],
        weight_decay=0.0,
    )

    def embed(rows: NDArray[np.int64]) -> torch.Tensor:
        positions = torch.from_numpy(np.searchsorted(lines, rows)).to(outputs.device)
        vectors: torch.Tensor = model.bring_to_length(head(outputs[positions]))
        return vectors

    @torch.no_grad()
    def measure() -> Validation:
        model.beta.copy_(beta)
        return validate(embed)

    gathered = [gather_rows(split, whole(split), outputs.device) for split in training]
    logit_scale = 1.0
    if pull:
        with torch.no_grad():
            tables = [(embed(rows.lines), rows) for rows in gathered]
            pooled = [influence(table[rows.queries], table, rows.members, beta) for table, rows in tables]
        wanted = [torch.from_numpy(labels.values).to(outputs.device) for labels in targets]
        logit_scale = fit_logit_scale(pooled, wanted)
    best = ProjectorResult(0, measure(), logit_scale)
    kept = copy.deepcopy(head.state_dict()), beta.detach().clone()
    generator = np.random.default_rng([options.seed, 0])
    add = begin(progress, "projector", options.projector_steps)
    for step in range(1, options.projector_steps + 1):
        for rows, labels in zip(gathered, targets, strict=True):
            weight = len(rows.members.index) / subsets
            count = min(options.dev_per_step, len(labels.values))
            chosen = generator.choice(len(labels.values), count, replace=False)
            _add_gradients(embed(rows.lines), rows, labels.values, chosen, beta, logit_scale, weight)
        if pull:
            _add_pull(head, start, 2 * pull / subsets)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            beta.clamp_(min=0.0)
        if step % VALIDATE_EVERY == 0 or step == options.projector_steps:
            reached = measure()
            if reached.lds > best.reached.lds:
                best = ProjectorResult(step, reached, logit_scale)
                kept = copy.deepcopy(head.state_dict()), beta.detach().clone()
        add(1)
    head.load_state_dict(kept[0])
    _fold(head, model, kept[1])
    return best


def _identity(model: AirRepModel) -> nn.Linear:
    """A layer behind the projector that changes nothing yet."""
    width = model.config.embedding_dim
    head = nn.Linear(width, width, device=model.projector.weight.device)
    with torch.no_grad():
        nn.init.eye_(head.weight)
        nn.init.zeros_(head.bias)
    return head


def _add_gradients(
    table: torch.Tensor,
    rows: Rows,
    labels: NDArray[np.float32],
    chosen: NDArray[np.int64],
    beta: nn.Parameter,
    logit_scale: float,
    weight: float,
) -> None:
    """Add one split's gradients, on the chosen of its queries, to those of the head and of `beta`."""
    wanted = torch.from_numpy(labels[chosen]).to(table.device)
    queries = rows.queries[torch.from_numpy(chosen).to(table.device)]
    objective = objective_gradients(table[queries], table, rows.members, beta, wanted, logit_scale)
    table.backward(weight * objective.table.index_add(0, queries, objective.queries))
    beta.grad = weight * objective.beta + (0 if beta.grad is None else beta.grad)


@torch.no_grad()
def _add_pull(head: nn.Linear, start: Sequence[torch.Tensor], strength: float) -> None:
    """Add the gradient of the squared distance to the start, times half of `strength`."""
    for parameter, origin in zip(head.parameters(), start, strict=True):
        assert parameter.grad is not None  # of the losses
        parameter.grad.add_(parameter - origin, alpha=strength)


@torch.no_grad()
def _fold(head: nn.Linear, model: AirRepModel, beta: torch.Tensor) -> None:
    """Make the head a part of the projector: two linear maps are one."""
    weight, bias = head.weight @ model.projector.weight, head(model.projector.bias)
    model.projector.weight.copy_(weight)
    model.projector.bias.copy_(bias)
    model.beta.copy_(beta)
