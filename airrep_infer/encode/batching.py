"""Batches of texts of similar length under a token budget, for little padding and bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Rows of one window that run together: their places in the window, and the padded inputs."""

    places: NDArray[np.intp]
    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


def padded_length(longest: int, bucket: int, limit: int | None) -> int:
    """How long the rows of a batch become: a multiple of `bucket`, but rounding never exceeds `limit`."""
    rounded = -(-max(1, longest) // bucket) * bucket
    return rounded if limit is None else max(longest, min(rounded, limit))


def plan_batches(
    lengths: NDArray[np.intp],
    token_budget: int,
    *,
    equal_lengths: bool = False,
    bucket: int = 1,
    limit: int | None = None,
) -> Iterator[NDArray[np.intp]]:
    """Split rows into batches whose padded size (rows x longest) stays within the budget.

    Longest first, so that neighbours have similar lengths and the batches that run last are cheap.
    A row longer than the budget gets a batch of its own.

    Args:
        lengths: (n,) tokens per row; 0 for an empty text under a tokenizer without special tokens.
        token_budget: padded tokens per batch.
        equal_lengths: also end a batch where the length changes, so that nothing is padded.
        bucket, limit: see `padded_length`. With a bucket full batches have few different shapes.

    Yields:
        Row numbers of each batch; together they are a permutation of range(n).
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        batch = order[start : start + max(1, token_budget // padded_length(int(longest), bucket, limit))]
        if equal_lengths:
            batch = batch[lengths[batch] == longest]
        yield batch
        start += len(batch)


def pad_batch(
    ids: Sequence[NDArray[np.int64]],
    places: NDArray[np.intp],
    pad_id: int,
    *,
    bucket: int = 1,
    limit: int | None = None,
) -> Batch:
    """Pad the chosen rows on the right to their `padded_length`; the mask marks real tokens."""
    lengths = [len(ids[place]) for place in places]
    shape = (len(places), padded_length(max(lengths), bucket, limit))
    input_ids = np.full(shape, pad_id, np.int64)
    mask = np.zeros(shape, np.int64)
    for row, (place, length) in enumerate(zip(places, lengths, strict=True)):
        input_ids[row, :length] = ids[place]
        mask[row, :length] = 1
    return Batch(places, input_ids, mask)
