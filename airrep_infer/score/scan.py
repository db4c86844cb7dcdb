"""One pass over a corpus of embeddings: score blocks on all cores, each seen once by an accumulator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError
from airrep_infer.resources import available_cores, one_blas_thread
from airrep_infer.score.product import make_multiply

# 256K scores are 1 MB in float32: scores and weights of a tile stay in a core's own cache, and the
# matrix product of a tile runs at the speed of a large one.
SCORES_PER_TILE = 1 << 18
MAX_QUERIES_PER_TILE = 1024
MAX_BLOCK_ROWS = 8192
_TILES_PER_BLOCK = 8
# Below this many multiplications, float64 costs at most about a second more, and nobody waits for it.
FLOAT64_BELOW = 2e10

# In a float32: the sign, the low five bits of the exponent and the high ten of the mantissa.
_HALF_BITS = np.array(0x8FFFE000, np.uint32).view(np.int32)
_HALF_INFINITY = 0xF800  # shifted left by one

Array = NDArray[Any]
ScoreDtype = Literal["float32", "float64"]
NON_FINITE = "the corpus holds a NaN or an infinity; embed it again"


class Corpus(Protocol):
    """Embeddings in order: what `EmbeddingStore` is, and what `as_corpus` makes of an array."""

    def __len__(self) -> int: ...

    def blocks(self, size: int) -> Iterator[tuple[int, Array]]:
        """(number of the first row, (<= size, D) float32 or float16) in ascending row order."""
        ...

    def take(self, numbers: NDArray[np.int64]) -> Array:
        """The rows of those numbers, (m, D)."""
        ...


class Accumulator(Protocol):
    """What a pass leaves behind; each worker fills its own."""

    def update(self, scores: Array, rows: NDArray[np.int64], queries: slice) -> None:
        """Add a tile of scores (q, n), of the queries `queries` and the corpus rows `rows` (n,).

        The scores of one row are adjacent in memory. A worker sees all queries of some rows before
        it sees other rows.
        """
        ...

    def merge(self, other: Any) -> None:
        """Add what `other` has seen."""
        ...


A = TypeVar("A", bound=Accumulator)
Order = Callable[[int, int], "NDArray[np.intp] | None"]


class Scan(Protocol):
    """What makes a pass: `scan` in this process, or `engines.ray_engine.RayScan` on a cluster."""

    def __call__(
        self,
        queries: NDArray[np.float64],
        corpus: Corpus,
        make: Callable[[], A],
        *,
        order: Order | None = None,
        block_rows: int | None = None,
        threads: int | None = None,
        progress: Callable[[int], object] | None = None,
        dtype: ScoreDtype | None = None,
    ) -> A: ...


@dataclass(frozen=True)
class _ArrayCorpus:
    array: Array

    def __len__(self) -> int:
        return len(self.array)

    def blocks(self, size: int) -> Iterator[tuple[int, Array]]:
        for first in range(0, len(self.array), size):
            yield first, self.array[first : first + size]

    def take(self, numbers: NDArray[np.int64]) -> Array:
        return np.asarray(self.array[numbers])


def as_corpus(corpus: Corpus | Array) -> Corpus:
    """The corpus itself, or an array (n, D) as one.

    Raises:
        InputError: an array is not a matrix of floats, or there are no rows.
    """
    if isinstance(corpus, np.ndarray):
        if corpus.ndim != 2 or corpus.dtype.kind != "f":
            raise InputError(f"a corpus is a float array (n, D), got {corpus.dtype} {corpus.shape}")
        corpus = _ArrayCorpus(corpus)
    if len(corpus) == 0:
        raise InputError("the corpus has no rows; there is nothing to attribute to")
    if len(corpus) >= 1 << 32:
        raise InputError(
            f"the corpus has {len(corpus)} rows; at most {(1 << 32) - 1} can be scored in one pass"
        )
    return corpus


def check_queries(queries: ArrayLike, corpus: Corpus) -> NDArray[np.float64]:
    """The queries as float64 (Q, D).

    Raises:
        InputError: they are no matrix, there are none, a value is not finite, or D is not the corpus'.
    """
    checked = np.asarray(queries)
    if checked.ndim != 2 or checked.dtype.kind not in "fiu":
        raise InputError(f"queries are a float array (Q, D), got {checked.dtype} {checked.shape}")
    if len(checked) == 0:
        raise InputError("there are no queries; give at least one")
    dimension = next(corpus.blocks(1))[1].shape[1]
    if checked.shape[1] != dimension:
        raise InputError(
            f"queries have dimension {checked.shape[1]}, the corpus has {dimension}; "
            "embed both with the same model"
        )
    finite = np.isfinite(checked).all(axis=1)
    if not finite.all():
        raise InputError(f"query {int(np.argmin(finite))} holds a NaN or an infinity; embed it again")
    return checked.astype(np.float64)


def check_at_least_one(value: int | None, what: str) -> int | None:
    """`value`; InputError unless it is None or a whole number >= 1."""
    if value is not None and (int(value) != value or value < 1):
        raise InputError(f"{what} must be a whole number >= 1, got {value}")
    return value


def score_dtype(queries: Array, corpus: Corpus, dtype: ScoreDtype | None = None) -> np.dtype[Any]:
    """What a pass scores in: `dtype`, or float32 except where the product is so small that float64 is free.

    Raises:
        InputError: another dtype.
    """
    if dtype not in (None, *get_args(ScoreDtype)):
        raise InputError(f"scores are computed in {' or '.join(get_args(ScoreDtype))}, not {dtype}")
    small = queries.size * len(corpus) <= FLOAT64_BELOW
    return np.dtype(dtype or ("float64" if small else "float32"))


def rows_per_tile(queries: int) -> int:
    """How many rows are scored at a time."""
    return min(MAX_BLOCK_ROWS, SCORES_PER_TILE // min(queries, MAX_QUERIES_PER_TILE))


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


def scan(
    queries: NDArray[np.float64],
    corpus: Corpus,
    make: Callable[[], A],
    *,
    order: Order | None = None,
    block_rows: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
    dtype: ScoreDtype | None = None,
) -> A:
    """Show every score q . z to an accumulator, once.

    Worker w of T takes blocks w, w + T, ... with BLAS held to one thread, so that the matrix products
    and the accumulators' elementwise work both run on all cores; the workers' accumulators are merged
    in worker order, so equal `threads` and `block_rows` give equal results, bit by bit. Scores are
    of the dtype that `score_dtype` says.

    While it runs, BLAS has one thread in the whole process.

    Args:
        queries: (Q, D), checked.
        make: makes an empty accumulator.
        block_rows: rows that a worker takes at a time.
        order: gives the order (a permutation, or None) of a block's rows from (first row, count).
        progress: told the number of rows done, after each block; one call at a time.

    Raises:
        InputError: `block_rows` or `threads` is not a whole number >= 1.
    """
    block_rows = check_at_least_one(block_rows, "block_rows")
    threads = check_at_least_one(threads, "threads") or available_cores()
    tile_rows = rows_per_tile(len(queries))
    if block_rows is None:  # the longer the block, the more rows of a group lie together
        block_rows = MAX_BLOCK_ROWS if order else min(MAX_BLOCK_ROWS, _TILES_PER_BLOCK * tile_rows)
    tile_rows = min(tile_rows, block_rows)
    threads = min(threads, -(-len(corpus) // block_rows))
    kind = score_dtype(queries, corpus, dtype)
    parts = query_parts(len(queries))
    # (D, q): products of rows with columns are quicker than those with rows.
    columns = [np.ascontiguousarray(queries[part].T, kind) for part in parts]
    stop = threading.Event()
    lock = threading.Lock()

    def work(worker: int) -> A:
        seen = make()
        multiply = make_multiply(kind)
        product = np.empty(tile_rows * columns[0].shape[1], kind)
        for number, (first, block) in enumerate(corpus.blocks(block_rows)):
            if stop.is_set():
                break
            if number % threads != worker:
                continue
            permutation = order(first, len(block)) if order else None
            for start in range(0, len(block), tile_rows):
                tile = slice(start, min(start + tile_rows, len(block)))
                rows = np.arange(*tile.indices(len(block))) if permutation is None else permutation[tile]
                vectors = as_scored(block[tile if permutation is None else rows], kind)
                for part, column in zip(parts, columns, strict=True):
                    scores = product[: len(rows) * column.shape[1]].reshape(len(rows), -1)
                    multiply(vectors, column, scores)
                    seen.update(scores.T, first + rows, part)
            if progress:
                with lock:
                    progress(len(block))
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
    return total
