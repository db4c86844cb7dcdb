"""Token states -> one vector a text, in every way that sentence-transformers knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import adaptive_max_pool1d

# Added to the states of padding when the largest is looked for.
_LOWEST = -1e9


def pool(states: torch.Tensor, mask: torch.Tensor, modes: Sequence[str]) -> torch.Tensor:
    """Pool the states of each text's tokens; several modes are concatenated in the order given.

    Args:
        states: (batch, sequence, width).
        mask: (batch, sequence), 1 for a token and 0 for padding, which is on the right.
        modes: of `POOLING`.

    Returns:
        (batch, width * modes); zeros for a text without a token.
    """
    kept = mask.unsqueeze(-1).to(states.dtype)
    return torch.cat([POOLING[mode](states, kept) for mode in modes], dim=1)


def _cls(states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return states[:, 0] * kept[:, 0]


def _max(states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    lowered = states + (1 - kept) * _LOWEST
    # `amax` in an operator that ONNX Runtime's optimizer sees through.
    largest = adaptive_max_pool1d(lowered.transpose(1, 2), 1).squeeze(2)
    return largest * kept[:, 0]  # the first token is padding only in a text without tokens


def _mean(states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return (states * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)


def _mean_sqrt_len(states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return (states * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1).sqrt()


def _weighted_mean(states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Token t of 1..T has the weight t."""
    weights = _numbers(kept) * kept
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _last_token(states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    is_last = _numbers(kept) == kept.sum(dim=1, keepdim=True)
    return (states * is_last).sum(dim=1)


def _numbers(kept: torch.Tensor) -> torch.Tensor:
    """(1, sequence, 1): 1, 2, ..."""
    return torch.arange(1, kept.shape[1] + 1, dtype=kept.dtype, device=kept.device).view(1, -1, 1)


# In the order in which sentence-transformers concatenates them.
POOLING: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}
