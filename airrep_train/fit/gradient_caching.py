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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from airrep_train.compute import to_device
from airrep_train.model import TableEncoder


@dataclass(frozen=True)
class CachedEncoder(TableEncoder):
    """Encodes rows so that the gradient of their embeddings can be sent back, in two passes.

    Attributes:
        activation_bytes: of graphs that `first_pass` keeps, in each process.
    """

    activation_bytes: int = 0

    def first_pass(self, rows: NDArray[np.int64]) -> FirstPass:
        """Encode U rows, so that the gradient of their embeddings can be sent back."""
        batches, graphs, parts = self.own_batches(rows), [], []
        room = self.activation_bytes
        for batch in batches:
            if room > 0:
                saved = _SavedBytes(self.model)
                with saved:
                    part = self.embed(rows[batch])
                room -= saved.bytes
                if room >= 0:  # the graph of the one that does not fit goes with `part`
                    graphs.append(part)
            else:
                with torch.no_grad():
                    part = self.embed(rows[batch])
            parts.append(part.detach())
        return FirstPass(self, rows, batches, graphs, self.complete(rows, batches, parts))

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
            part = self.graphs.pop() if self.graphs else self.encoder.embed(self.rows[batch])
            part.backward(gradient[to_device(torch.from_numpy(batch), gradient.device)])


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
