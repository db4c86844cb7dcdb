"""What the target's present weights lose on rows: cross-entropy of response tokens, in nats, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from airrep_infer.encode import plan_batches
from airrep_train.compute import autocast
from airrep_train.options import MatmulDtype
from airrep_train.target.texts import LmBatch, LmRow, pad_rows

_PROBE_TOKENS = 16
_PROBE_TOLERANCE = 1e-3


class TokenLosses:
    """Computes the losses of response tokens under a model's present weights.

    Args:
        model: a transformers causal LM, on its device.
        dtype: of the matrix products.

    Attributes:
        head_apart: apply the output head to the hidden states of response tokens only, which saves the
            logits of every prompt token; False for models that change their logits after the head.
    """

    def __init__(self, model: Any, dtype: MatmulDtype) -> None:
        self._model = model
        self._dtype = dtype
        self.head_apart = head_works_apart(model)

    def __call__(self, batch: LmBatch) -> torch.Tensor:
        """The cross-entropy of each response token, (P,) float32, with its graph."""
        with autocast(self._model.device, self._dtype):
            if self.head_apart:
                hidden = self._model.base_model(batch.input_ids, use_cache=False).last_hidden_state
                logits = self._model.get_output_embeddings()(hidden[batch.row, batch.column])
            else:
                logits = self._model(batch.input_ids, use_cache=False).logits[batch.row, batch.column]
        return F.cross_entropy(logits.float(), batch.token, reduction="none")


@torch.no_grad()
def mean_losses(
    token_losses: TokenLosses, rows: Sequence[LmRow], device: torch.device, tokens_at_once: int
) -> NDArray[np.float32]:
    """Mean loss over the response tokens of each row.

    Args:
        token_losses: of a model in evaluation mode.
        rows: any number, of any lengths.
        device: where the model is.
        tokens_at_once: tokens of a batch, padding included, at most.

    Returns:
        (n,) float32 in nats, in the order of `rows`; NaN for a row without response tokens.
    """
    losses = np.full(len(rows), np.nan, np.float32)
    lengths = np.array([len(row.ids) for row in rows], np.intp)
    for places in plan_batches(lengths, tokens_at_once):
        batch = pad_rows([rows[place] for place in places]).to(device)
        losses[places] = batch.mean_per_row(token_losses(batch)).cpu().numpy()
    return losses


@torch.no_grad()
def head_works_apart(model: Any) -> bool:
    """Whether the output head on chosen hidden states gives the model's own logits.

    It does in most architectures, and saves the logits of every prompt token. Some (Gemma 2, Cohere,
    Granite) scale or cap their logits after the head; those go through the whole model.
    """
    base, head = model.base_model, model.get_output_embeddings()
    if base is model or head is None:
        return False
    model.eval()
    ids = (torch.arange(_PROBE_TOKENS) % model.config.vocab_size)[None].to(model.device)
    hidden = getattr(base(ids, use_cache=False), "last_hidden_state", None)
    if hidden is None:
        return False
    plain = model(ids, use_cache=False).logits
    return torch.allclose(head(hidden), plain, rtol=0, atol=_PROBE_TOLERANCE * float(plain.abs().max()))
