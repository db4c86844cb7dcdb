"""A store as one Parquet file, for people who want to query it elsewhere (needs pyarrow)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np

from airrep_infer.files import atomic_write
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import import_parquet
from airrep_infer.store.store import EmbeddingStore

_BLOCK = 16_384


def store_to_parquet(store: EmbeddingStore, output: Path, progress: Progress | None = None) -> None:
    """Write columns `id`, `sha`, `fields` (a JSON object) and `embedding` (fixed-size list of floats).

    Ids are integers where all of them are, else strings.

    Args:
        progress: told of the stage "parquet", in rows.

    Raises:
        InputError: pyarrow is not installed.
        StorageError: the file cannot be written; no part of it stays.
    """
    pa, parquet = import_parquet(output)
    numbers = all(isinstance(row.id, int) and abs(row.id) < 1 << 63 for row in store.rows())
    value = pa.float16() if store.dtype == np.float16 else pa.float32()
    schema = pa.schema(
        [
            ("id", pa.int64() if numbers else pa.string()),
            ("sha", pa.string()),
            ("fields", pa.string()),
            ("embedding", pa.list_(value, store.space.dimension)),
        ]
    )
    rows = store.rows()
    add = begin(progress, "parquet", len(store))
    with atomic_write(output) as stream, parquet.ParquetWriter(stream, schema) as writer:
        for _, block in store.blocks(_BLOCK):
            part = list(itertools.islice(rows, len(block)))
            flat = pa.array(np.ascontiguousarray(block).ravel())
            columns = [
                pa.array([row.id if numbers else str(row.id) for row in part]),
                pa.array([row.sha for row in part]),
                pa.array([json.dumps(dict(row.fields), ensure_ascii=False) for row in part]),
                pa.FixedSizeListArray.from_arrays(flat, store.space.dimension),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            add(len(block))
