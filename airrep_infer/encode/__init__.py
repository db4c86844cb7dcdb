"""Rows to vectors: tokens, batches, the encoder that runs them, and the space that its vectors lie in."""

from airrep_infer.encode.batching import Batch, pad_batch, plan_batches
from airrep_infer.encode.encoder import (
    BATCH_TOKENS,
    WINDOW_ROWS,
    AnyRow,
    EmbeddedWindow,
    Encoder,
    WindowEncoder,
    cut_windows,
)
from airrep_infer.encode.options import EncoderOptions
from airrep_infer.encode.space import EmbeddingSpace, check_same_space
from airrep_infer.encode.tokenization import TextTokenizer

__all__ = [
    "BATCH_TOKENS",
    "WINDOW_ROWS",
    "AnyRow",
    "Batch",
    "EmbeddedWindow",
    "EmbeddingSpace",
    "Encoder",
    "EncoderOptions",
    "TextTokenizer",
    "WindowEncoder",
    "check_same_space",
    "cut_windows",
    "pad_batch",
    "plan_batches",
]
