"""One pass over a corpus of embeddings: score blocks on all cores, each seen once by an accumulator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from airrep_infer.errors import InputError
from airrep_infer.threads import available_cores

# 2M scores are 8 MB in float32: scores and weights of a block stay in the caches of a core.
SCORES_PER_BLOCK = 1 << 21
MAX_BLOCK_ROWS = 8192
MAX_QUERIES_PER_BLOCK = 1024
# Below this many multiplications, float64 costs at most about a second more, and nobody waits for it.
FLOAT64_BELOW = 2e10

Array = NDArray[Any]
ScoreDtype = Literal["float32", "float64"]


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
        """Add scores (q, n) of the queries `queries` and the corpus rows `rows` (n,).

        A worker sees its blocks in ascending row order, and all queries of a block before the next.
        """
        ...

    def merge(self, other: Any) -> None:
        """Add what `other` has seen."""
        ...


A = TypeVar("A", bound=Accumulator)
Order = Callable[[int, int], "NDArray[np.intp] | None"]


class Scan(Protocol):
    """What makes a pass: `scan` in this process, or `ray_engine.RayScan` on a cluster."""

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
        order: gives the order (a permutation, or None) of a block's rows from (first row, count).
        progress: told the number of rows done, after each block; one call at a time.

    Raises:
        InputError: `block_rows` or `threads` is not a whole number >= 1.
    """
    block_rows = check_at_least_one(block_rows, "block_rows")
    threads = check_at_least_one(threads, "threads") or available_cores()
    per_block = min(len(queries), MAX_QUERIES_PER_BLOCK)
    if block_rows is None:
        block_rows = min(MAX_BLOCK_ROWS, SCORES_PER_BLOCK // per_block)
    per_block = max(1, min(len(queries), SCORES_PER_BLOCK // block_rows))
    threads = min(threads, -(-len(corpus) // block_rows))
    scored = queries.astype(score_dtype(queries, corpus, dtype))
    stop = threading.Event()
    lock = threading.Lock()

    def work(worker: int) -> A:
        seen = make()
        scratch = np.empty(per_block * block_rows, scored.dtype)
        for number, (first, block) in enumerate(corpus.blocks(block_rows)):
            if stop.is_set():
                break
            if number % threads != worker:
                continue
            n = len(block)
            rows = np.arange(first, first + n)
            permutation = order(first, n) if order else None
            if permutation is not None:
                block, rows = block[permutation], rows[permutation]
            block = np.asarray(block, scored.dtype)
            for start in range(0, len(scored), per_block):
                part = slice(start, min(start + per_block, len(scored)))
                scores = scratch[: (part.stop - start) * n].reshape(-1, n)
                np.matmul(scored[part], block.T, out=scores)
                seen.update(scores, rows, part)
            if progress:
                with lock:
                    progress(n)
        return seen

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads, "scan") as pool:
        try:
            futures = [pool.submit(work, worker) for worker in range(threads)]
            total = futures[0].result()
            for future in futures[1:]:
                total.merge(future.result())
        except BaseException:  # Ctrl-C too: workers end at their next block, not at the corpus' end
            stop.set()
            raise
    return total
