"""Rows in windows of a few, embedded whole and in shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from airrep_infer.encode.encoder import Encoder
from airrep_infer.store.embed import embed_files
from airrep_infer.store.store import EmbeddingStore

WINDOW = 16
ROWS = [
    {
        "id": f"r{n}",
        "task": f"t{n % 3}",
        "input": "What is the capital?",
        "output": "Paris " * (n * 7 % 23 + 1),
    }
    for n in range(100)
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def embed(examples: Path, encoder: Any, output: Path, **options: Any) -> EmbeddingStore:
    embed_files([examples], encoder, output, **{"part_rows": 7, **options})
    return EmbeddingStore.open(output)


def content(store: EmbeddingStore) -> dict[str, bytes]:
    return {child.name: child.read_bytes() for child in store.path.iterdir() if child.name != ".lock"}


def shards(train: Path, encoder: Encoder, folder: Path, count: int, **options: Any) -> list[EmbeddingStore]:
    return [
        embed(train, encoder, folder / f"part-{part}.store", shard=(part, count), **options)
        for part in range(1, count + 1)
    ]


def same_rows(store: EmbeddingStore, other: EmbeddingStore) -> bool:
    numbers = range(len(other))
    return list(store.rows()) == list(other.rows()) and np.array_equal(
        store.take(numbers), other.take(numbers)
    )
