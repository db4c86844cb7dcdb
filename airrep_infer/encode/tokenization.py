"""Text -> token ids, cut to the token limit, special tokens included, by the rule of a template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from airrep_infer.errors import InputError, refuse_single
from airrep_infer.rows import (
    PUBLISHED,
    SHARED,
    Example,
    Template,
    fit_examples,
    fit_texts,
    published_cut,
    published_text,
)


@dataclass(frozen=True)
class Tokenized:
    """Rows as token ids, (1..max_tokens,) int64 each, and what was cut of them: (n,) `Cut` as uint8."""

    ids: list[NDArray[np.int64]]
    cuts: NDArray[np.uint8]


class TextTokenizer:
    """Token ids as the encoder sees them, in training, export and inference alike.

    Args:
        definition: the content of a `tokenizer.json`. Its own truncation and padding settings are
            left out: files in the wild carry stale ones (all-MiniLM-L6-v2 pads to 128).
        max_tokens: the limit. Plain texts lose their end; examples are cut by the template.
        template: that of the checkpoint or bundle.
    """

    def __init__(self, definition: str, max_tokens: int, template: Template = SHARED) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(definition)
        except Exception as error:  # tokenizers raises plain Exception
            raise InputError(f"not a usable tokenizer.json: {error}") from error
        special = self._tokenizer.num_special_tokens_to_add(False)
        if max_tokens <= special:
            raise InputError(f"max tokens must exceed the {special} special tokens, got {max_tokens}")
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.max_tokens = max_tokens
        self.template = template
        self._room = max_tokens - special
        whole = self._tokenizer.encode("x")
        first = whole.special_tokens_mask.index(0) if special else 0
        self._before, self._after = whole.ids[:first], whole.ids[len(whole.ids) - special + first :]

    @property
    def definition(self) -> str:
        """The tokenizer with truncation to the limit and no padding, as `tokenizer.json` content."""
        self._tokenizer.enable_truncation(self.max_tokens, strategy="longest_first", direction="right")
        definition: str = self._tokenizer.to_str(pretty=True)
        self._tokenizer.no_truncation()
        return definition

    def encode(self, rows: Sequence[str | Example]) -> list[NDArray[np.int64]]:
        """The ids of each row, (1..max_tokens,) int64 each; an empty text has its special tokens."""
        return self.tokenize(rows).ids

    def tokenize(self, rows: Sequence[str | Example]) -> Tokenized:
        """Tokenize plain texts and examples, cutting those that are too long."""
        refuse_single(rows, "rows")
        shared: dict[int, Example] = {}
        texts: dict[int, str] = {}
        cuts = np.zeros(len(rows), np.uint8)
        for number, row in enumerate(rows):
            if isinstance(row, str):
                texts[number] = row
            elif row.prompt is not None and self.template != PUBLISHED:
                shared[number] = row
            else:
                texts[number] = published_text(row)
                cuts[number] = published_cut(row)
        fitted = dict(zip(texts, fit_texts(list(texts.values()), self._room, self._encode), strict=True))
        examples = fit_examples(list(shared.values()), self._room, self._encode)
        fitted.update(zip(shared, examples, strict=True))
        ids = []
        for number in range(len(rows)):
            cuts[number] |= fitted[number].cut
            ids.append(np.array([*self._before, *fitted[number].ids, *self._after], dtype=np.int64))
        return Tokenized(ids, cuts)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]
