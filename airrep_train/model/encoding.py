"""Encoding many texts with a model, in micro-batches over all processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from airrep_infer.encode import TextTokenizer, pad_batch, plan_batches
from airrep_infer.errors import refuse_single
from airrep_infer.rows import SHARED, Example, Template
from airrep_train.compute import autocast, to_device
from airrep_train.model.network import AirRepModel
from airrep_train.options import MatmulDtype


@dataclass(frozen=True)
class TokenTable:
    """Tokenized texts: row i is `ids[starts[i]:starts[i + 1]]`, and `cuts[i]` says what was cut of it."""

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    pad: int
    cuts: NDArray[np.uint8]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)


def tokenize(
    rows: Iterable[str | Example], tokenizer: Any, max_tokens: int, template: Template = SHARED
) -> TokenTable:
    """Tokenize with a `transformers` fast tokenizer, cut to `max_tokens` as inference does."""
    refuse_single(rows, "rows")
    texts = TextTokenizer(tokenizer.backend_tokenizer.to_str(), max_tokens, template)
    tokenized = texts.tokenize(list(rows))
    starts = np.cumsum([0, *map(len, tokenized.ids)], dtype=np.int64)
    return TokenTable(np.concatenate(tokenized.ids), starts, tokenizer.pad_token_id or 0, tokenized.cuts)


@dataclass(frozen=True)
class TableEncoder:
    """Encodes rows of a token table with a model, over all processes.

    Attributes:
        model: in evaluation mode, on `accelerator.device`, float32 weights.
        tokens: the texts; `rows` arguments are line numbers in it.
        accelerator: knows the processes.
        token_budget: tokens, padding included, of a micro-batch.
        precision: of the matrix products (autocast); embeddings are float32.
    """

    model: AirRepModel
    tokens: TokenTable
    accelerator: Accelerator
    token_budget: int
    precision: MatmulDtype

    @torch.no_grad()
    def encode(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Embeddings (U, D) of U rows, complete in every process."""
        batches = self.own_batches(rows)
        return self.complete(rows, batches, (self.embed(rows[batch]) for batch in batches))

    def own_batches(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """This process' micro-batches of U rows, as positions in `rows`."""
        batches = list(plan_batches(self.tokens.lengths[rows], self.token_budget))
        return batches[self.accelerator.process_index :: self.accelerator.num_processes]

    def embed(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Embeddings (u, D) of one micro-batch."""
        ids = [self.tokens.ids[self.tokens.starts[row] : self.tokens.starts[row + 1]] for row in rows]
        batch = pad_batch(ids, np.arange(len(ids)), self.tokens.pad)
        device = self.accelerator.device
        inputs = (to_device(torch.from_numpy(x), device) for x in (batch.input_ids, batch.attention_mask))
        with autocast(device, self.precision):
            return self.model(*inputs).float()  # type: ignore[no-any-return]

    def complete(
        self, rows: NDArray[np.int64], batches: list[NDArray[np.int64]], parts: Iterable[torch.Tensor]
    ) -> torch.Tensor:
        """The (U, D) table of all processes' micro-batches."""
        table = torch.zeros(len(rows), self.model.config.embedding_dim, device=self.accelerator.device)
        for batch, part in zip(batches, parts, strict=True):
            table[to_device(torch.from_numpy(batch), table.device)] = part
        # Each row is zero but in one process, so the sum is exact.
        total: torch.Tensor = self.accelerator.reduce(table, "sum")
        return total
