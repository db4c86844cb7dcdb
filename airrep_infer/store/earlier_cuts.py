"""Rows of an input that its store has from an earlier run, which let the token limit cut them.

A store counts its rows that were cut, and does not say which ones. Where a run wants none, they are found by
tokenizing the rows that need no embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from airrep_infer.bundle import TOKENIZER, Bundle
from airrep_infer.encode import TextTokenizer
from airrep_infer.errors import InputError
from airrep_infer.rows import CutCounts, Example, OnTruncate
from airrep_infer.store.listing import is_store
from airrep_infer.store.store import EmbeddingStore
from airrep_infer.store.update import CHANGES


class EarlierCuts:
    """Looks for such rows, if there can be any.

    Args:
        store: as it is before the run; it need not exist.
        bundle: of the encoder.
        on_truncate: what the run does with rows that exceed the limit.

    Attributes:
        stay: how many were found that stay as they are; only for "skip".
    """

    def __init__(self, store: Path, bundle: Bundle, on_truncate: OnTruncate) -> None:
        self.stay = 0
        self._store, self._on_truncate = store, on_truncate
        self._tokenizer: TextTokenizer | None = None
        if on_truncate == "cut" or not is_store(store):
            return
        # A killed run may have left rows that are not in the store yet; those are not counted.
        if EmbeddingStore.open(store).cut != CutCounts() or (store / CHANGES).exists():
            definition = (bundle.path / TOKENIZER).read_text(encoding="utf-8")
            self._tokenizer = TextTokenizer(definition, bundle.max_tokens, bundle.template)

    def see(self, rows: Sequence[Example], known: Callable[[Example], bool]) -> None:
        """Look at the next rows of the input.

        Args:
            known: whether a row's vector is there, so that it is not embedded now.

        Raises:
            InputError: one of them was cut, and none is to be.
        """
        if self._tokenizer is None:
            return
        stored = [row for row in rows if known(row)]
        cut = np.flatnonzero(self._tokenizer.tokenize(stored).cuts)
        if len(cut) and self._on_truncate == "error":
            raise InputError(
                f"row {stored[cut[0]].id!r} exceeds the token limit, and {self._store} has it from an "
                "earlier run, which cut it; raise the limit, shorten the row, embed into a new store, or "
                "give --on-truncate cut"
            )
        self.stay += len(cut)
