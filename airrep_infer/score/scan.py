"""The pass on the cores of this machine: score blocks, each seen once by an accumulator."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any

import numpy as np

from airrep_infer.resources import one_blas_thread
from airrep_infer.score.plan import A, Array, Scanned, ScanPlan
from airrep_infer.score.product import make_multiply

# 256K scores are 1 MB in float32: scores and weights of a tile stay in a core's own cache, and the
# matrix product of a tile runs at the speed of a large one.
SCORES_PER_TILE = 1 << 18
MAX_QUERIES_PER_TILE = 1024
MAX_BLOCK_ROWS = 8192
_TILES_PER_BLOCK = 8

# In a float32: the sign, the low five bits of the exponent and the high ten of the mantissa.
_HALF_BITS = np.array(0x8FFFE000, np.uint32).view(np.int32)
_HALF_INFINITY = 0xF800  # shifted left by one


def rows_per_tile(queries: int) -> int:
    """How many rows are scored at a time."""
    return min(MAX_BLOCK_ROWS, SCORES_PER_TILE // min(queries, MAX_QUERIES_PER_TILE))


def scratch_bytes(queries: int, dimension: int) -> int:
    """About what a worker of a pass takes besides its accumulator, at most: its tile's vectors and scores."""
    rows = rows_per_tile(queries)
    # Vectors as they are scored, and their bits on the way there; scores, magnitudes and marks, in float64.
    return rows * dimension * 2 * 4 + rows * min(queries, MAX_QUERIES_PER_TILE) * 4 * 8


def query_parts(queries: int) -> list[slice]:
    """The queries in parts that a tile can hold."""
    starts = range(0, queries, MAX_QUERIES_PER_TILE)
    return [slice(start, min(start + MAX_QUERIES_PER_TILE, queries)) for start in starts]


def as_scored(vectors: Array, kind: np.dtype[Any]) -> Array:
    """Vectors as float32 or float64, `kind`; from float16 to float32 several times as fast as numpy alone.

    The bits of a float16, put where a float32 has its own, are the same number times 2^-112, zeros and
    subnormals too.
    """
    vectors = np.asarray(vectors)
    if vectors.dtype != np.float16 or kind != np.float32:
        return vectors.astype(kind, copy=False)
    halves = vectors.view(np.int16)
    if (np.left_shift(halves.view(np.uint16), 1) >= _HALF_INFINITY).any():
        return vectors.astype(kind)  # infinity and NaN have no such place
    bits = halves.astype(np.int32)
    np.left_shift(bits, 13, out=bits)  # the sign is now there four times
    np.bitwise_and(bits, _HALF_BITS, out=bits)
    values = bits.view(np.float32)
    return np.multiply(values, np.float32(2.0**112), out=values)


def scan(plan: ScanPlan[A]) -> Scanned[A]:
    """Show every score q . z to an accumulator, once.

    Worker w of T takes blocks w, w + T, ... with BLAS held to one thread, so that the matrix products
    and the accumulators' elementwise work both run on all cores; the workers' accumulators are merged
    in worker order, so equal `threads` and `block_rows` give equal results, bit by bit.

    While it runs, BLAS has one thread in the whole process.
    """
    queries, corpus, order = plan.queries, plan.corpus, plan.order
    tile_rows = rows_per_tile(len(queries))
    block_rows = plan.block_rows
    if block_rows is None:  # the longer the block, the more rows of a group lie together
        block_rows = MAX_BLOCK_ROWS if order else min(MAX_BLOCK_ROWS, _TILES_PER_BLOCK * tile_rows)
    tile_rows = min(tile_rows, block_rows)
    threads = plan.workers(-(-len(corpus) // block_rows))
    kind = np.dtype(plan.cpu_dtype)
    parts = query_parts(len(queries))
    # (D, q): products of rows with columns are faster than those with rows.
    columns = [np.ascontiguousarray(queries[part].T, kind) for part in parts]
    stop = threading.Event()
    lock = threading.Lock()

    def work(worker: int) -> A:
        seen = plan.make()
        multiply = make_multiply(kind)
        product = np.empty(tile_rows * columns[0].shape[1], kind)
        turns = cycle(range(threads))
        for first, block in corpus.blocks(block_rows, lambda first, end: next(turns) == worker):
            if stop.is_set():
                break
            permutation = order(first, len(block)) if order else None
            for start in range(0, len(block), tile_rows):
                tile = slice(start, min(start + tile_rows, len(block)))
                rows = np.arange(*tile.indices(len(block))) if permutation is None else permutation[tile]
                vectors = as_scored(block[tile if permutation is None else rows], kind)
                for part, column in zip(parts, columns, strict=True):
                    scores = product[: len(rows) * column.shape[1]].reshape(len(rows), -1)
                    multiply(vectors, column, scores)
                    seen.update(scores.T, first + rows, part)
            if plan.report:
                with lock:
                    plan.report(len(block))
        return seen

    with one_blas_thread(), ThreadPoolExecutor(threads, "scan") as pool:
        try:
            futures = [pool.submit(work, worker) for worker in range(threads)]
            total = futures[0].result()
            for future in futures[1:]:
                total.merge(future.result())
        except BaseException:  # Ctrl-C too: workers end at their next block, not at the corpus' end
            stop.set()
            raise
    return Scanned(total, plan.cpu_dtype)
