"""The projector learns from the labels first, on vectors that are computed once; then the encoder with it.

A projector that does not fit yet sends large gradients into the encoder, which moves to make up for it and
loses some of what it knew (Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform
out-of-distribution", arXiv 2202.10054: linear probing, then fine-tuning). The projector alone sees every
label in every step, and a step costs a product of matrices.
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
from airrep_train.fit.ranking_loss import Targets, objective_gradients
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
    """

    step: int
    reached: Validation


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
        options: `projector_steps`, `projector_lr`, `dev_per_step` and `seed` are used.
        progress: told of the stage "projector", in steps.
    """
    model = encoder.model
    with model.projector_output():
        outputs = encoder.encode(lines)
    head, beta = _identity(model), nn.Parameter(model.beta.detach().clone())
    optimizer = torch.optim.AdamW(
        [
            {"params": list(head.parameters()), "lr": options.projector_lr},
            {"params": [beta], "lr": options.projector_lr * (_BETA_RATE if options.beta_rate else 0.0)},
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
    best = ProjectorResult(0, measure())
    kept = copy.deepcopy(head.state_dict()), beta.detach().clone()
    generator = np.random.default_rng([options.seed, 0])
    add = begin(progress, "projector", options.projector_steps)
    for step in range(1, options.projector_steps + 1):
        for rows, labels in zip(gathered, targets, strict=True):
            _add_gradients(embed(rows.lines), rows, labels, beta, options.dev_per_step, generator)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            beta.clamp_(min=0.0)
        if step % VALIDATE_EVERY == 0 or step == options.projector_steps:
            reached = measure()
            if reached.lds > best.reached.lds:
                best = ProjectorResult(step, reached)
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
    labels: Targets,
    beta: nn.Parameter,
    dev_per_step: int,
    generator: np.random.Generator,
) -> None:
    """Add one split's gradients to those of the head and of `beta`."""
    count = min(dev_per_step, len(labels.values))
    chosen = generator.choice(len(labels.values), count, replace=False)
    wanted = torch.from_numpy(labels.values[chosen]).to(table.device)
    queries = rows.queries[torch.from_numpy(chosen).to(table.device)]
    objective = objective_gradients(table[queries], table, rows.members, beta, wanted)
    table.backward(objective.table.index_add(0, queries, objective.queries))
    beta.grad = objective.beta if beta.grad is None else beta.grad + objective.beta


@torch.no_grad()
def _fold(head: nn.Linear, model: AirRepModel, beta: torch.Tensor) -> None:
    """Make the head a part of the projector: two linear maps are one."""
    weight, bias = head.weight @ model.projector.weight, head(model.projector.bias)
    model.projector.weight.copy_(weight)
    model.projector.bias.copy_(bias)
    model.beta.copy_(beta)
