"""Whether rows can be added to a store: only those that would have been made like its own."""

from __future__ import annotations

from pathlib import Path

from airrep_infer.encode import EmbeddingSpace, check_same_space
from airrep_infer.errors import InputError
from airrep_infer.store.listing import LAYOUT, Shard, check_same_map, is_store
from airrep_infer.store.store import EmbeddingStore


def open_to_extend(
    path: Path,
    space: EmbeddingSpace,
    *,
    dtype: str,
    pooling_scale: float,
    shard: Shard | None,
    query_map: str,
) -> EmbeddingStore | None:
    """The store in a folder, checked against the vectors to add; None where one can be made.

    Raises:
        InputError: the folder is no store, or one of another space, dtype, scale, shard or query map.
    """
    if not is_store(path):
        LAYOUT.check(path)
        return None
    store = EmbeddingStore.open(path)
    check_same_space(store.space, space, f"the store {path}", "the vectors to add")
    check_same_map(store.query_map, query_map, f"the store {path}", "the vectors to add")
    for what, stored, given in (
        ("dtype", str(store.dtype), dtype),
        ("pooling scale", store.pooling_scale, pooling_scale),
    ):
        if stored != given:
            raise InputError(
                f"{path}: the store has {what} {stored}, asked to add rows with {given}; use {stored}, or a "
                "new folder"
            )
    if store.shard != shard:
        raise InputError(
            f"{path}: the store holds {store.shard or 'no shard'}, asked to add rows of "
            f"{shard or 'no shard'}; give the same input and --shard, or another folder"
        )
    return store
