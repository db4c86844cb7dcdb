"""A folder of scores as bergson 2.5 writes it, without bergson."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def write_bergson(folder: Path, scores: np.ndarray, settings: str) -> Path:
    """(N, Q) scores as bergson 2.5 lays them out: pairs of a score and whether it is written, aligned."""
    rows, queries = scores.shape
    layout = {
        "names": [name for q in range(queries) for name in (f"score_{q}", f"written_{q}")],
        "formats": ["float32", "bool"] * queries,
        "offsets": [offset for q in range(queries) for offset in (8 * q, 8 * q + 4)],
        "itemsize": 8 * queries,
    }
    table = np.zeros(rows, np.dtype(layout))  # type: ignore[call-overload]
    for query in range(queries):
        table[f"score_{query}"], table[f"written_{query}"] = scores[:, query], True
    folder.mkdir()
    table.tofile(folder / "scores.bin")
    info = {"attribute_tokens": False, "num_items": rows, "num_rows": rows, "num_scores": queries}
    (folder / "info.json").write_text(json.dumps({**info, "dtype": layout}))
    (folder / "config.yaml").write_text(settings)
    ids = {"queries": [f"r{q}" for q in range(queries)], "rows": [f"r{queries + n}" for n in range(rows)]}
    folder.with_name(f"{folder.name}.ids.json").write_text(json.dumps(ids))
    return folder
