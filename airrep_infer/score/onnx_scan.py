"""The scan in ONNX Runtime, so that a GPU scores without torch: `attribute --device cuda`.

A block is scored, cut to its top k at both ends and pooled by one small graph (`scan.onnx`, which
`export/scan_graph.py` writes); what comes back is merged as blocks, threads and machines are. Groups are
pooled here from the scores, which then come back too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.score.scan import (
    NON_FINITE,
    Accumulator,
    Corpus,
    Order,
    ScoreDtype,
    as_scored,
    query_parts,
    score_dtype,
)
from airrep_infer.session import Device, Placement, open_session

GRAPH = Path(__file__).with_name("scan.onnx")
# 16M scores are 64 MB in float32, of which the graph holds a handful: enough to fill a GPU.
SCORES_PER_BLOCK = 1 << 24
MAX_BLOCK_ROWS = 1 << 16
_REDUCED = ["high_scores", "high_rows", "low_scores", "low_rows", "top", "weight", "weighted"]


@dataclass(frozen=True, eq=False)
class Reduced:
    """What the graph leaves of the scores of q queries and n rows.

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
class ReducedAccumulator(Accumulator, Protocol):
    """An accumulator that does not need to see every score.

    `kept`: how many rows at each end it wants; `beta`: the pooling scale; `wants_scores`: the scores too.
    """

    kept: int
    beta: float
    wants_scores: bool

    def update_reduced(self, reduced: Reduced, rows: NDArray[np.int64], queries: slice) -> None:
        """Add what the graph left of the rows `rows` (n,)."""
        ...


A = TypeVar("A", bound=Accumulator)


class OnnxScan:
    """`scan.scan` for attribution, on the device of an ONNX Runtime session.

    Scores are float32. Rows and influence are those of `scan` up to the rounding of float32 products;
    on CUDA equal scores at the k-th place may keep another of the equal rows. Rows are scored in row
    order whatever `order` says, and `threads` does not matter.

    Args:
        device: "cpu" is slower than `scan` and is what the tests run on.
        device_id: which of several GPUs.

    Raises:
        InputError: no ONNX Runtime, or not that device.
    """

    def __init__(self, device: Device = "cuda", device_id: int = 0) -> None:
        self._session = open_session(GRAPH, Placement(device=device, device_id=device_id))
        self.provider: str = self._session.get_providers()[0]

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
    ) -> A:
        if score_dtype(queries, corpus, dtype) != np.float32:
            raise InputError('the ONNX scan scores in float32; ask for dtype="float32"')
        total = make()
        seen: object = total
        if not isinstance(seen, ReducedAccumulator):
            raise TypeError(
                f"the ONNX scan cannot fill a {type(seen).__name__}: it does not show every score"
            )
        parts = query_parts(len(queries))
        vectors = [np.ascontiguousarray(queries[part], np.float32) for part in parts]
        block_rows = block_rows or min(MAX_BLOCK_ROWS, SCORES_PER_BLOCK // len(vectors[0]))
        for first, block in corpus.blocks(block_rows):
            rows = np.arange(first, first + len(block))
            scored = as_scored(block, np.dtype(np.float32))
            for part, own in zip(parts, vectors, strict=True):
                seen.update_reduced(self._reduce(own, scored, seen), rows, part)
            if progress:
                progress(len(block))
        return total

    def _reduce(
        self, queries: NDArray[np.float32], block: NDArray[np.float32], seen: ReducedAccumulator
    ) -> Reduced:
        feed = {
            "queries": queries,
            "block": np.ascontiguousarray(block),
            "k": np.array([min(seen.kept, len(block))]),
            "beta": np.array(seen.beta, np.float32),
        }
        names = [*_REDUCED, "scores"] if seen.wants_scores else _REDUCED
        reduced = Reduced(**dict(zip(names, self._session.run(names, feed), strict=True)))
        # NaN passes through the sums whatever becomes of it on the way through a maximum.
        if not (np.isfinite(reduced.weight) & np.isfinite(reduced.weighted)).all():
            raise InputError(NON_FINITE)
        return reduced
