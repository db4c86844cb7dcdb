"""The stores of a gradient folder: the gradients as they are, mapped, and in the space of an encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from operator import eq
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.encode import EmbeddingSpace
from airrep_infer.errors import InputError
from airrep_infer.folders import whole_folder
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import Example
from airrep_infer.store import EmbeddingStore, StoreWriter, VectorDtype, is_store
from airrep_train.gradients.mapping import GradientMap, fit_map, mapped_blocks
from airrep_train.gradients.query_map import QueryMap, fit_query_map
from airrep_train.gradients.settings import MAP, read_settings

STORE, EMBEDDED = "store", "embedded"
POOLING_SCALE = 1.0
"""Of attention over vectors of unit length; the best of 0 to 8 on p3's validation split."""
_BLOCK_ROWS = 256


@dataclass(frozen=True, slots=True)
class _StoredRow(Example):
    """A row of a store, to be stored again: its content is known by its hash alone."""

    stored_sha: str = ""

    @property
    def sha(self) -> str:
        return self.stored_sha


def open_gradients(folder: Path, which: str = STORE) -> EmbeddingStore:
    """The store of a gradient folder: "store", the mapped vectors, or "raw".

    Raises:
        InputError: not a gradient folder, or one that is not complete.
    """
    read_settings(folder)
    if not is_store(folder / which):
        raise InputError(f"{folder}: not complete; start its `airrep-train gradients` again")
    return EmbeddingStore.open(folder / which)


def map_and_store(
    output: Path,
    raw: EmbeddingStore,
    rank: int,
    dims: int,
    given: GradientMap | None,
    progress: Progress | None,
) -> GradientMap:
    """Map what a gradient folder has, by `given`, by its own map, or by one that is fitted now."""
    folder = output / MAP
    if given is not None:
        chosen = given
    elif (folder / "map.json").is_file():
        chosen = GradientMap.load(folder)
    else:
        chosen = fit_map(raw, rank, dims, progress)
    chosen.save(folder)
    space = EmbeddingSpace(chosen.fingerprint, "gradients", len(chosen.components))
    _replace(output / STORE, raw, mapped_blocks(raw, chosen), space, POOLING_SCALE, "float16", progress)
    return chosen


@dataclass(frozen=True)
class EncoderSpace:
    """The space of a store of training rows, and how gradients come into it."""

    train: EmbeddingStore
    query_map: QueryMap

    @staticmethod
    def find(train: Path, gradients: EmbeddingStore) -> EncoderSpace:
        """From the rows that a store of embeddings and one of mapped gradients share.

        Raises:
            InputError: see `fit_query_map`.
        """
        store = EmbeddingStore.open(train)
        return EncoderSpace(store, fit_query_map(gradients, store))


def embed_gradients(output: Path, into: EncoderSpace, progress: Progress | None = None) -> int:
    """Write the rows of a gradient folder as queries to the store whose space it is: `output`/embedded.

    Returns:
        How many rows the map was fitted on.
    """
    mapped, train = open_gradients(output), into.train
    blocks = (into.query_map(block) for _, block in mapped.blocks(_BLOCK_ROWS))
    how = train.space, train.pooling_scale, train.vector_dtype
    _replace(output / EMBEDDED, mapped, blocks, *how, progress, into.query_map.fingerprint)
    return into.query_map.rows


def _replace(
    output: Path,
    rows_of: EmbeddingStore,
    blocks: Iterable[NDArray[np.float32]],
    space: EmbeddingSpace,
    pooling_scale: float,
    dtype: VectorDtype,
    progress: Progress | None,
    query_map: str = "",
) -> None:
    """New vectors of the rows of a store, in a store that is whole or absent; kept where it is there."""
    if is_store(output):
        there = EmbeddingStore.open(output)
        made = there.space, there.pooling_scale, there.vector_dtype, there.query_map
        same = made == (space, pooling_scale, dtype, query_map) and len(there) == len(rows_of)
        if same and all(map(eq, there.rows(), rows_of.rows())):
            return
    rows = (_StoredRow(row.id, None, "", fields=row.fields, stored_sha=row.sha) for row in rows_of.rows())
    add = begin(progress, "vectors", len(rows_of))
    with (
        whole_folder(output, overwrite=True) as folder,
        StoreWriter(
            folder,
            space,
            pooling_scale=pooling_scale,
            dtype=dtype,
            query_map=query_map,
            former_hashes=rows_of.former_hashes,
        ) as writer,
    ):
        for vectors in blocks:
            writer.append(list(islice(rows, len(vectors))), vectors)
            add(len(vectors))
