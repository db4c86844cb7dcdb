"""All scores of some queries as one array on disk, for who ranks and compares them with other tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from airrep_infer.encode import check_same_space
from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write, write_json
from airrep_infer.progress import Progress, begin
from airrep_infer.score.plan import NON_FINITE, check_queries
from airrep_infer.score.scan import as_scored
from airrep_infer.store import EmbeddedRows, EmbeddingStore

SCORES_AT_ONCE = 1 << 23
"""Scores that are in memory at a time: 32 MB in float32, 16 MB in float16."""
_FLOAT16_LARGEST = 65504.0


def write_scores(
    train: EmbeddingStore,
    queries: EmbeddedRows,
    output: str | Path,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write s = q . z of every query and training row.

    OUT.npy has the scores, (Q, N) float16, of products in float32. OUT.ids.json beside it,
    {"queries": [Q ids], "rows": [N ids]}, says whose they are; it is written last.

    Args:
        threads: of BLAS; default, what it has.
        progress: told of the stage "scores", in rows.

    Raises:
        InputError: the name does not end in .npy, the two are of different models, or a score is not finite
            or too large for a float16.
        StorageError: a file cannot be written.
    """
    output = Path(output)
    if output.suffix != ".npy":
        raise InputError(f"{output}: scores are written as .npy; name a file that ends so")
    check_same_space(train.space, queries.space, str(train.path), queries.source)
    vectors = np.ascontiguousarray(check_queries(queries.vectors, train), np.float32)
    shape = (len(queries), len(train))
    report = begin(progress, "scores", len(train))
    listing = output.with_suffix(".ids.json")
    with threadpool_limits(threads, user_api="blas"), atomic_write(output) as stream:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        start = stream.tell()
        for first, block in train.blocks(max(1, SCORES_AT_ONCE // len(vectors))):
            scores = _as_float16(vectors @ as_scored(block, np.dtype(np.float32)).T)
            for query, line in enumerate(scores):
                stream.seek(start + 2 * (query * len(train) + first))
                stream.write(line.data)
            report(len(block))
        listing.unlink(missing_ok=True)  # ids of older scores must not stand beside new ones
    ids = {"queries": [row.id for row in queries.rows], "rows": [row.id for row in train.rows()]}
    write_json(listing, ids)


def _as_float16(scores: NDArray[np.float32]) -> NDArray[np.float16]:
    largest = np.abs(scores).max()
    if not np.isfinite(largest):
        raise InputError(NON_FINITE)
    if largest > _FLOAT16_LARGEST:
        raise InputError(
            f"a score is {largest:.6g} in magnitude, and float16 ends at {_FLOAT16_LARGEST:.0f}; "
            "use -k for the strongest rows, which are written in full"
        )
    return scores.astype("<f2")
