"""How training starts: the mean that is subtracted, the optimizer, and the course of its rate."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from airrep_train.fit.gradient_caching import CachedEncoder
from airrep_train.fit.options import FitOptions
from airrep_train.model import AirRepModel

_CENTRE_ROWS = 1024


def centre(encoder: CachedEncoder, lines: NDArray[np.int64], options: FitOptions) -> torch.Tensor:
    """Subtract the mean embedding of (a sample of) some rows in the projector's bias, if the options say so.

    Returns:
        What the projector gives for the sample after that, (n, D).
    """
    sample = np.random.default_rng(options.seed).permutation(lines)[:_CENTRE_ROWS]
    with torch.no_grad(), encoder.model.projector_output():
        vectors = encoder.encode(sample)
        if options.centre:
            mean = vectors.mean(dim=0)
            encoder.model.projector.bias.sub_(mean)
            vectors = vectors - mean
    return vectors


def make_optimizer(model: AirRepModel, options: FitOptions) -> torch.optim.AdamW:
    """AdamW over encoder matrices, encoder vectors, projector and beta, each group with its own rate."""
    if options.freeze_embeddings:
        for name, parameter in model.encoder.named_parameters():
            parameter.requires_grad_(not name.startswith("embeddings."))
    encoder = [p for p in model.encoder.parameters() if p.requires_grad]
    rate, decay = options.learning_rate, options.weight_decay
    groups = [
        {"params": [p for p in encoder if p.ndim > 1], "lr": rate, "weight_decay": decay},
        {"params": [p for p in encoder if p.ndim <= 1], "lr": rate},
        {"params": list(model.projector.parameters()), "lr": rate * options.projector_rate},
        {"params": [model.beta], "lr": rate * options.beta_rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """The rate's factor at a step, from 0: a linear rise over the warm-up, then a linear fall."""
    rise = max(1, round(steps * warmup))
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise + 1))
