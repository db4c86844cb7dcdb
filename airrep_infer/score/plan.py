"""What one pass over a corpus is, whatever makes it: the plan, what sees the scores, and what comes out.

`scan.scan` makes a pass on the cores of this machine, `onnx_scan.OnnxScan` on a GPU and
`engines.ray.RayScan` on a cluster. They take the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError
from airrep_infer.resources import available_cores, threads_within_memory

Array = NDArray[Any]
ScoreDtype = Literal["float32", "float64"]
Order = Callable[[int, int], "NDArray[np.intp] | None"]
Wanted = Callable[[int, int], bool]
"""Whether to read the rows from one number to before another."""

NON_FINITE = "the corpus holds a NaN or an infinity; embed it again"
# Below this many multiplications, float64 costs at most about a second more, and nobody waits for it.
FLOAT64_BELOW = 2e10


class Corpus(Protocol):
    """Embeddings in order: what `EmbeddingStore` is, and what `as_corpus` makes of an array."""

    def __len__(self) -> int: ...

    def blocks(self, size: int, wanted: Wanted | None = None) -> Iterator[tuple[int, Array]]:
        """(number of the first row, (<= size, D) float32 or float16) in ascending row order.

        Args:
            wanted: asked once for each block, in order; what it does not want is not read.
        """
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


@dataclass(frozen=True, eq=False)
class BlockSummary:
    """What a device that scores a block of n rows for q queries sends back instead of all scores.

    `high_scores`, `low_scores` (q, k) and the positions of their rows in the block, `high_rows`,
    `low_rows`; `top` (q,), max |s|; `weight` and `weighted` (q,) as in `PooledPartial`; `scores` (q, n)
    if they were asked for.
    """

    high_scores: NDArray[np.float32]
    high_rows: NDArray[np.int64]
    low_scores: NDArray[np.float32]
    low_rows: NDArray[np.int64]
    top: NDArray[np.float32]
    weight: NDArray[np.float32]
    weighted: NDArray[np.float32]
    scores: NDArray[np.float32] | None = None


@runtime_checkable
class SummaryAccumulator(Accumulator, Protocol):
    """An accumulator that summaries of blocks are enough for.

    `kept`: how many rows at each end it wants; `beta`: the pooling scale; `wants_scores`: the scores too.
    """

    kept: int
    beta: float
    wants_scores: bool

    def update_summary(self, summary: BlockSummary, rows: NDArray[np.int64], queries: slice) -> None:
        """Add the summary of the rows `rows` (n,), which are in row order."""
        ...


A = TypeVar("A", bound=Accumulator)


@dataclass(frozen=True, eq=False)
class ScanPlan(Generic[A]):
    """One pass: every score q . z of `queries` (Q, D) and the rows of `corpus` is seen once.

    Attributes:
        queries: what `check_queries` gives.
        make: makes an empty accumulator.
        order: gives the order (a permutation, or None) of a block's rows from (first row, count).
        block_rows: rows that a worker takes at a time; None is what suits the machine.
        threads: workers; None is the cores this process may use.
        dtype: what scores are computed in; None is what suits the problem and the machine.
        thread_bytes, shared_bytes: about what each thread takes, and all together; there are fewer threads
            where the memory budget allows no more.
        report: told how many rows were scored since the last call, one call at a time, from any thread.

    Raises:
        InputError: `block_rows` or `threads` is not a whole number >= 1, or another dtype.
    """

    queries: NDArray[np.float64]
    corpus: Corpus
    make: Callable[[], A]
    order: Order | None = None
    block_rows: int | None = None
    threads: int | None = None
    dtype: ScoreDtype | None = None
    report: Callable[[int], object] | None = None
    thread_bytes: int = 0
    shared_bytes: int = 0

    def __post_init__(self) -> None:
        check_at_least_one(self.block_rows, "block_rows")
        check_at_least_one(self.threads, "threads")
        if self.dtype not in (None, *get_args(ScoreDtype)):
            raise InputError(f"scores are computed in {' or '.join(get_args(ScoreDtype))}, not {self.dtype}")

    def workers(self, blocks: int) -> int:
        """How many threads share so many blocks in this process.

        Raises:
            InputError: the memory budget does not allow one.
        """
        what = f"a scan for {len(self.queries)} queries"
        asked = min(self.threads or available_cores(), blocks)
        return threads_within_memory(
            asked, self.thread_bytes, self.shared_bytes, what, "ask for fewer at a time"
        )

    @property
    def cpu_dtype(self) -> ScoreDtype:
        """What a CPU scores in: float32, except where the problem is so small that float64 is free."""
        small = self.queries.size * len(self.corpus) <= FLOAT64_BELOW
        return self.dtype or ("float64" if small else "float32")


@dataclass(frozen=True, eq=False)
class Scanned(Generic[A]):
    """What a pass leaves: the merged accumulator, and the dtype that the scores were computed in."""

    seen: A
    dtype: ScoreDtype


class Scan(Protocol):
    """What makes a pass."""

    def __call__(self, plan: ScanPlan[A], /) -> Scanned[A]: ...


@dataclass(frozen=True)
class _ArrayCorpus:
    array: Array

    def __len__(self) -> int:
        return len(self.array)

    def blocks(self, size: int, wanted: Wanted | None = None) -> Iterator[tuple[int, Array]]:
        for first in range(0, len(self.array), size):
            if wanted is None or wanted(first, min(first + size, len(self.array))):
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
