"""The folder of vectors: writing and opening it, joining shards, rewriting it in larger parts."""

from airrep_infer.store.compact import compact_store
from airrep_infer.store.embed import embed_files, rejects_file
from airrep_infer.store.export import store_to_parquet
from airrep_infer.store.lines import StoreRow, check_fields
from airrep_infer.store.listing import VectorDtype, check_same_map, is_store
from airrep_infer.store.merge import merge_stores
from airrep_infer.store.shards import ShardReader, windows_to_embed
from airrep_infer.store.sources import EmbeddedRows, embed_rows, open_source
from airrep_infer.store.store import EmbeddingStore
from airrep_infer.store.update import UpdateSummary
from airrep_infer.store.writer import StoreWriter

__all__ = [
    "EmbeddedRows",
    "EmbeddingStore",
    "ShardReader",
    "StoreRow",
    "StoreWriter",
    "UpdateSummary",
    "VectorDtype",
    "check_fields",
    "check_same_map",
    "compact_store",
    "embed_files",
    "embed_rows",
    "is_store",
    "merge_stores",
    "open_source",
    "rejects_file",
    "store_to_parquet",
    "windows_to_embed",
]
