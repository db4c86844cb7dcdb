"""Examples as the target LM sees them: token ids, where the response starts, padded batches.

The text is that of `airrep_infer.rows`, cut before the space in front of the response:
`"Question: ...\\nAnswer:"` and `" " + response`. A plain-text row is all response. Chat templates are not
used: the loss must not depend on a system prompt that the data never had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from airrep_infer.rows import (
    ANSWER,
    PUBLISHED,
    QUESTION,
    SHARED,
    TEMPLATES,
    Cut,
    Example,
    Fitted,
    Template,
    fit_examples,
    fit_texts,
    published_cut,
    published_text,
)
from airrep_train.compute import to_device
from airrep_train.target.loading import load_tokenizer
from airrep_train.target.options import FineTuneOptions


@dataclass(frozen=True, slots=True)
class LmRow:
    """One tokenized example: `ids` (t,), of which those from `start` on are predicted.

    `start` equals t when the token limit left nothing to predict: the example's loss is then NaN, and it
    is left out of fine-tuning.

    Attributes:
        cut: what the limit cut.
    """

    ids: NDArray[np.int64]
    start: int
    cut: Cut = Cut.NOTHING


class TargetTokenizer:
    """Tokenizes examples for a causal LM.

    Prompt and response are tokenized apart, so that the boundary is exact, without the tokenizer's own
    special tokens (many prepend BOS to whatever they are given); BOS is then put once, at the very start.

    Args:
        tokenizer: a transformers tokenizer.
        max_length: the token limit, BOS included; the template says what is cut.
        bos: put the tokenizer's BOS first, if it has one.
        eos: end each response that is whole with the tokenizer's EOS, if it fits.
        template: the rule of the text and of cutting.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        *,
        bos: bool = True,
        eos: bool = False,
        template: Template = SHARED,
    ) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._template = template
        self._first = [tokenizer.bos_token_id] if bos and tokenizer.bos_token_id is not None else []
        self._last = [tokenizer.eos_token_id] if eos and tokenizer.eos_token_id is not None else []
        # SentencePiece tokenizers put a space before whatever they are given; with the template's own
        # space the response would then start with two.
        self._adds_space = self._ids("x") + self._ids("a") == self._ids("x a")

    def __call__(self, example: Example) -> LmRow:
        """Tokenize one example."""
        room = self._max_length - len(self._first)
        fitted = (
            self._published(example, room) if self._template == PUBLISHED else self._shared(example, room)
        )
        ids = self._first + fitted.ids
        if not fitted.cut & Cut.RESPONSE:
            ids = (ids + self._last)[: self._max_length]
        # Nothing predicts the first token of a row.
        start = max(len(self._first) + fitted.start, 1)
        return LmRow(np.array(ids, np.int64), min(start, len(ids)), fitted.cut)

    def _shared(self, example: Example, room: int) -> Fitted:
        if example.prompt is None:
            return fit_texts([example.response], room, self._encode)[0]
        return fit_examples([example], room, self._encode, split_text)[0]

    def _published(self, example: Example, room: int) -> Fitted:
        prompt, response = split_text(example, PUBLISHED)
        before, after = self._encode([prompt, response]) if prompt else ([], self._ids(response))
        ids = (before + after)[:room]
        cut = Cut.RESPONSE if len(before) + len(after) > room else Cut.NOTHING
        return Fitted(ids, len(before), cut | published_cut(example))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        # The template's own space in front of a piece goes where the tokenizer puts one.
        return [self._ids(text.removeprefix(" ") if self._adds_space else text) for text in texts]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def count_tokens(target: str, examples: Sequence[Example], options: FineTuneOptions) -> NDArray[np.int64]:
    """The tokens of each example as the target would see it, cut to the max length, (n,) int64.

    Raises:
        InputError: see `tokenize_rows`.
    """
    return np.array([len(row.ids) for row in tokenize_rows(target, examples, options)], np.int64)


def tokenize_rows(target: str, examples: Sequence[Example], options: FineTuneOptions) -> list[LmRow]:
    """Examples as the target would see them; loads its tokenizer alone.

    Raises:
        InputError: the target has none.
    """
    tokenize = TargetTokenizer(
        load_tokenizer(target),
        options.max_length,
        bos=options.bos,
        eos=options.eos,
        template=TEMPLATES[options.template or str(SHARED)],
    )
    return [tokenize(example) for example in examples]


def split_text(example: Example, template: Template = SHARED) -> tuple[str, str]:
    """The example's uncut text as (prompt, response); a plain text has no prompt."""
    if example.prompt is None:
        return "", example.response
    response = " " + example.response
    if template == PUBLISHED:
        return published_text(example).removesuffix(response), response
    return QUESTION + example.prompt + ANSWER.rstrip(), response


@dataclass(frozen=True)
class LmBatch:
    """Rows padded on the right, and the response tokens to predict.

    A causal LM does not see what comes later, so no attention mask is needed.

    Attributes:
        input_ids: (B, T) int64.
        row, column: (P,) int64; the hidden state at (row, column) predicts a response token.
        token: (P,) int64; that token.
    """

    input_ids: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    token: torch.Tensor

    def to(self, device: torch.device) -> LmBatch:
        """The batch on another device."""
        parts = (self.input_ids, self.row, self.column, self.token)
        return LmBatch(*(to_device(part, device) for part in parts))

    def mean_per_row(self, values: torch.Tensor) -> torch.Tensor:
        """Means over each row's predicted tokens: (P,) -> (B,); NaN for a row without any."""
        size = self.input_ids.shape[0]
        sums = torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, self.row, values)
        return sums / torch.bincount(self.row, minlength=size)


def pad_rows(rows: Sequence[LmRow]) -> LmBatch:
    """Pad rows to the longest of them."""
    input_ids = torch.zeros(len(rows), max(len(row.ids) for row in rows), dtype=torch.int64)
    for place, row in enumerate(rows):
        input_ids[place, : len(row.ids)] = torch.from_numpy(row.ids)
    spans = [torch.arange(row.start, len(row.ids)) for row in rows]
    number = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(span) for span in spans]))
    column = torch.cat(spans)
    return LmBatch(input_ids, number, column - 1, input_ids[number, column])
