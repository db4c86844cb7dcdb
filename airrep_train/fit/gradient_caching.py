"""Encoding in micro-batches, and exact backpropagation through it from cached gradients.

Gradient caching (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited
setup"): embeddings of all distinct examples are computed without a graph, the loss gives its gradient
with respect to them, and a second pass rebuilds one micro-batch's graph at a time and feeds it that
gradient. Memory is one micro-batch's graph plus the embeddings. Both passes must compute the same
function, so the model is in evaluation mode (no dropout).

Where memory is to spare, the first pass keeps the graphs of its first micro-batches instead, up to a
given number of bytes, and the second pass computes only the others again: a quarter of a step's
products less where all of them fit, and the same gradient bit for bit.

Micro-batches go to processes in turn. Every process ends with the same embeddings and, after
`sum_gradients`, with the same parameter gradients as one process would have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from airrep_infer.encode.batching import pad_batch, plan_batches
from airrep_infer.encode.tokenization import TextTokenizer
from airrep_train.autocast import autocast
from airrep_train.model import AirRepModel
from airrep_train.options import MatmulDtype


@dataclass(frozen=True)
class TokenTable:
    """Tokenized texts: row i is `ids[starts[i]:starts[i + 1]]`."""

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    pad: int

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)


def tokenize(texts: Iterable[str], tokenizer: Any, max_tokens: int) -> TokenTable:
    """Tokenize with a `transformers` fast tokenizer, cut to `max_tokens` as inference does."""
    rows = TextTokenizer(tokenizer.backend_tokenizer.to_str(), max_tokens).encode(list(texts))
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return TokenTable(np.concatenate(rows), starts, tokenizer.pad_token_id or 0)


@dataclass(frozen=True)
class CachedEncoder:
    """Encodes rows of a token table with a model, over all processes, in two passes.

    Attributes:
        model: in evaluation mode, on `accelerator.device`, float32 weights.
        tokens: the texts; `rows` arguments are line numbers in it.
        accelerator: knows the processes.
        token_budget: tokens, padding included, of a micro-batch.
        precision: of the matrix products (autocast); embeddings and gradients are float32.
        activation_bytes: of graphs that `first_pass` keeps, in each process.
    """

    model: AirRepModel
    tokens: TokenTable
    accelerator: Accelerator
    token_budget: int
    precision: MatmulDtype
    activation_bytes: int = 0

    @torch.no_grad()
    def encode(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Embeddings (U, D) of U rows, complete in every process."""
        batches = self._own_batches(rows)
        return self._complete(rows, batches, (self._embed(rows[batch]) for batch in batches))

    def first_pass(self, rows: NDArray[np.int64]) -> FirstPass:
        """Encode U rows, so that the gradient of their embeddings can be sent back."""
        batches, graphs, parts = self._own_batches(rows), [], []
        room = self.activation_bytes
        for batch in batches:
            if room > 0:
                saved = _SavedBytes(self.model)
                with saved:
                    part = self._embed(rows[batch])
                room -= saved.bytes
                if room >= 0:  # the graph of the one that does not fit goes with `part`
                    graphs.append(part)
            else:
                with torch.no_grad():
                    part = self._embed(rows[batch])
            parts.append(part.detach())
        return FirstPass(self, rows, batches, graphs, self._complete(rows, batches, parts))

    def _complete(
        self, rows: NDArray[np.int64], batches: list[NDArray[np.int64]], parts: Iterable[torch.Tensor]
    ) -> torch.Tensor:
        table = torch.zeros(len(rows), self.model.config.embedding_dim, device=self.accelerator.device)
        for batch, part in zip(batches, parts, strict=True):
            table[torch.from_numpy(batch).to(table.device)] = part
        # Each row is zero but in one process, so the sum is exact.
        total: torch.Tensor = self.accelerator.reduce(table, "sum")
        return total

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum (not average) the gradients of `parameters` over processes."""
        if self.accelerator.num_processes == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:  # this process had no micro-batch
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        total = self.accelerator.reduce(flat, "sum")
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, part in zip(parameters, total.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def _own_batches(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        batches = list(plan_batches(self.tokens.lengths[rows], self.token_budget))
        return batches[self.accelerator.process_index :: self.accelerator.num_processes]

    def _embed(self, rows: NDArray[np.int64]) -> torch.Tensor:
        ids = [self.tokens.ids[self.tokens.starts[row] : self.tokens.starts[row + 1]] for row in rows]
        batch = pad_batch(ids, np.arange(len(ids)), self.tokens.pad)
        device = self.accelerator.device
        inputs = (torch.from_numpy(x).to(device) for x in (batch.input_ids, batch.attention_mask))
        with autocast(device, self.precision):
            return self.model(*inputs).float()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class FirstPass:
    """The embeddings of a step's rows, and what their gradient needs.

    Attributes:
        table: embeddings (U, D), complete in every process, without a graph.
    """

    encoder: CachedEncoder
    rows: NDArray[np.int64]
    batches: list[NDArray[np.int64]]
    graphs: list[torch.Tensor]  # of the first batches, emptied by `backpropagate`
    table: torch.Tensor

    def backpropagate(self, gradient: torch.Tensor) -> None:
        """Add to the parameters' gradients, given the loss gradient (U, D) of `table`; once.

        Each process adds its own share; `CachedEncoder.sum_gradients` adds the shares up.
        """
        self.graphs.reverse()
        for batch in self.batches:
            part = self.graphs.pop() if self.graphs else self.encoder._embed(self.rows[batch])
            part.backward(gradient[torch.from_numpy(batch).to(gradient.device)])


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts what the graphs built in its block hold for backpropagation, weights aside.

    Attributes:
        bytes: of the distinct storages so far.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(self._count, lambda tensor: tensor)
        self.bytes = 0
        weights = (*model.parameters(), *model.buffers())
        self._seen = {weight.untyped_storage().data_ptr() for weight in weights}

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        # A node that holds its own output through a hook is a cycle that nothing frees.
        return tensor.detach()
