"""Text -> token ids, with the one truncation rule: keep the first `max_tokens`, special tokens included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from airrep_infer.errors import InputError


class TextTokenizer:
    """Token ids as the encoder sees them, in training, export and inference alike.

    Args:
        definition: the content of a `tokenizer.json`. Its own truncation and padding settings are
            left out: files in the wild carry stale ones (all-MiniLM-L6-v2 pads to 128).
        max_tokens: longer texts lose their end.
    """

    def __init__(self, definition: str, max_tokens: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(definition)
        except Exception as error:  # tokenizers raises plain Exception
            raise InputError(f"not a usable tokenizer.json: {error}") from error
        special = self._tokenizer.num_special_tokens_to_add(False)
        if max_tokens <= special:
            raise InputError(f"max tokens must exceed the {special} special tokens, got {max_tokens}")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, strategy="longest_first", direction="right")
        self.max_tokens = max_tokens

    @property
    def definition(self) -> str:
        """The tokenizer with this truncation and no padding, as `tokenizer.json` content."""
        definition: str = self._tokenizer.to_str(pretty=True)
        return definition

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The ids of each text, (1..max_tokens,) int64 each; an empty text has its special tokens."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
