"""A store of a few rows with ids, texts and tasks, for tests of command lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from airrep_infer.encode import EmbeddingSpace
from airrep_infer.rows import Example
from airrep_infer.store import StoreWriter


def write_store(path: Path, count: int) -> None:
    """Rows r0, r1, ... of the tasks t0 and t1, with random vectors of 4 numbers."""
    space = EmbeddingSpace("ab" * 32, "fp32", 4)
    with StoreWriter(path, space, pooling_scale=1.0) as writer:
        rows = [Example(f"r{n}", None, f"text {n}", {"task": f"t{n % 2}"}) for n in range(count)]
        writer.append(rows, np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32))
