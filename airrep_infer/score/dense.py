"""All scores of some queries as one array or table on disk, for who compares them with other tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from airrep_infer.encode import check_same_space
from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write, write_json
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import TABLE_SUFFIX, import_parquet
from airrep_infer.score.left_out import LeftOut
from airrep_infer.score.plan import NON_FINITE, check_queries
from airrep_infer.score.scan import as_scored
from airrep_infer.store import EmbeddedRows, EmbeddingStore

SCORES_AT_ONCE = 1 << 23
"""Scores that are in memory at a time: 32 MB in float32, 16 MB in float16."""
_FLOAT16_LARGEST = 65504.0


def scores_files(output: str | Path) -> tuple[Path, ...]:
    """The files that `write_scores` writes: a table, or an array and beside it the ids.

    Raises:
        InputError: the name ends in neither .npy nor .parquet.
    """
    output = Path(output)
    if output.suffix not in (".npy", TABLE_SUFFIX):
        raise InputError(f"{output}: scores are written as .npy or .parquet; name a file that ends so")
    return (output,) if output.suffix == TABLE_SUFFIX else (output, output.with_suffix(".ids.json"))


def write_scores(
    train: EmbeddingStore,
    queries: EmbeddedRows,
    output: str | Path,
    *,
    left_out: LeftOut | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write s = q . z of every query and training row, at any size in bounded memory.

    OUT.parquet has a row for each training row: its `row_id`, and a column for each query, named by the
    query's id, with the scores in float32.

    OUT.npy has the scores, (Q, N) float16, of products in float32. OUT.ids.json beside it,
    {"queries": [Q ids], "rows": [N ids]}, says whose they are; it is written last.

    Args:
        left_out: rows that each query leaves out: their scores are NaN, in a table null.
        threads: of BLAS; default, what it has.
        progress: told of the stage "scores", in rows.

    Raises:
        InputError: the name ends in neither .npy nor .parquet, pyarrow is not installed for the latter, a
            query is called `row_id` there, the two are of different models, or a score is not finite
            or too large for a float16.
        StorageError: a file cannot be written.
    """
    output = Path(output)
    scores_files(output)  # checks the name
    check_same_space(train.space, queries.space, str(train.path), queries.source)
    vectors = np.ascontiguousarray(check_queries(queries.vectors, train), np.float32)
    report = begin(progress, "scores", len(train))
    with threadpool_limits(threads, user_api="blas"):
        if output.suffix == TABLE_SUFFIX:
            _write_table(train, [str(row.id) for row in queries.rows], vectors, left_out, output, report)
        else:
            _write_array(train, vectors, left_out, output, report)
            ids = {"queries": [row.id for row in queries.rows], "rows": [row.id for row in train.rows()]}
            write_json(scores_files(output)[1], ids)


def _blocks(train: EmbeddingStore, vectors: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The scores (Q, n) of some rows at a time, and the number of the first."""
    for first, block in train.blocks(max(1, SCORES_AT_ONCE // len(vectors))):
        yield first, vectors @ as_scored(block, np.dtype(np.float32)).T


def _write_array(
    train: EmbeddingStore,
    vectors: NDArray[np.float32],
    left_out: LeftOut | None,
    output: Path,
    report: Callable[[int], object],
) -> None:
    shape = (len(vectors), len(train))
    with atomic_write(output) as stream:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        start = stream.tell()
        for first, block in _blocks(train, vectors):
            scores = _as_float16(block)
            if left_out is not None:
                scores[left_out.mask(first, block.shape[1])] = np.nan
            for query, line in enumerate(scores):
                stream.seek(start + 2 * (query * len(train) + first))
                stream.write(line.data)
            report(block.shape[1])
        scores_files(output)[1].unlink(missing_ok=True)  # ids of older scores must not stand beside new ones


def _write_table(
    train: EmbeddingStore,
    names: list[str],
    vectors: NDArray[np.float32],
    left_out: LeftOut | None,
    output: Path,
    report: Callable[[int], object],
) -> None:
    pa, parquet = import_parquet(output)
    if "row_id" in names:
        raise InputError(f"{output}: a query is called 'row_id', as the column of the ids is; rename it")
    schema = pa.schema([("row_id", pa.string()), *((name, pa.float32()) for name in names)])
    rows = train.rows()
    # Scores hardly repeat: a dictionary of them makes a file larger and takes longer.
    plain = {"use_dictionary": ["row_id"], "compression": "none"}
    with atomic_write(output) as stream, parquet.ParquetWriter(stream, schema, **plain) as writer:
        for first, scores in _blocks(train, vectors):
            if not np.isfinite(scores).all():
                raise InputError(NON_FINITE)
            ids = [str(row.id) for row in islice(rows, scores.shape[1])]
            gone = [None] * len(scores) if left_out is None else left_out.mask(first, len(ids))
            values = (pa.array(line, mask=without) for line, without in zip(scores, gone, strict=True))
            columns = [pa.array(ids, pa.string()), *values]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            report(len(ids))


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
