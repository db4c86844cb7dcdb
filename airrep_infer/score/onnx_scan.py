"""The pass in ONNX Runtime, so that a GPU scores without torch: `attribute --device cuda`.

A block is scored, cut to its top k at both ends and pooled by one small graph (`scan.onnx`, which
`export/scan_graph.py` writes); what comes back is merged as blocks, threads and machines are. Groups are
pooled here from the scores, which then come back too. Rows in float16 travel to the device and lie there as
they are stored (`scan.fp16.onnx`) and are scored in float32 all the same: half the bytes, the same scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.score.plan import NON_FINITE, A, Array, BlockSummary, Scanned, ScanPlan, SummaryAccumulator
from airrep_infer.score.scan import as_scored, query_parts
from airrep_infer.session import Device, Placement, open_session

SCAN_GRAPH = Path(__file__).with_name("scan.onnx")
HALF_SCAN_GRAPH = Path(__file__).with_name("scan.fp16.onnx")
# 16M scores are 64 MB in float32, of which the graph holds a handful: enough to fill a GPU.
SCORES_PER_BLOCK = 1 << 24
MAX_BLOCK_ROWS = 1 << 16
_SUMMARY = ["high_scores", "high_rows", "low_scores", "low_rows", "top", "weight", "weighted"]


class OnnxScan:
    """A `Scan` for attribution, on the device of an ONNX Runtime session.

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
        self._placement = Placement(device=device, device_id=device_id)
        self._sessions = {np.dtype(np.float32): open_session(SCAN_GRAPH, self._placement)}
        self.provider: str = self._sessions[np.dtype(np.float32)].get_providers()[0]

    def __call__(self, plan: ScanPlan[A]) -> Scanned[A]:
        """Make the pass.

        Raises:
            InputError: the plan asks for float64, or the corpus holds NaN or infinity.
        """
        if plan.dtype == "float64":
            raise InputError('the ONNX scan scores in float32; leave dtype out, or use device "cpu"')
        total = plan.make()
        seen: object = total
        if not isinstance(seen, SummaryAccumulator):
            raise TypeError(
                f"the ONNX scan cannot fill a {type(seen).__name__}: it does not show every score"
            )
        parts = query_parts(len(plan.queries))
        vectors = [np.ascontiguousarray(plan.queries[part], np.float32) for part in parts]
        block_rows = plan.block_rows or min(MAX_BLOCK_ROWS, SCORES_PER_BLOCK // len(vectors[0]))
        for first, block in plan.corpus.blocks(block_rows):
            rows = np.arange(first, first + len(block))
            scored = block if block.dtype == np.float16 else as_scored(block, np.dtype(np.float32))
            for part, queries in zip(parts, vectors, strict=True):
                seen.update_summary(self._summary(queries, scored, seen), rows, part)
            if plan.report:
                plan.report(len(block))
        return Scanned(total, "float32")

    def _summary(self, queries: NDArray[np.float32], block: Array, seen: SummaryAccumulator) -> BlockSummary:
        feed = {
            "queries": queries,
            "block": np.ascontiguousarray(block),
            "k": np.array([min(seen.kept, len(block))]),
            "beta": np.array(seen.beta, np.float32),
        }
        names = [*_SUMMARY, "scores"] if seen.wants_scores else _SUMMARY
        summary = BlockSummary(**dict(zip(names, self._session(block.dtype).run(names, feed), strict=True)))
        # NaN passes through the sums whatever becomes of it on the way through a maximum.
        if not (np.isfinite(summary.weight) & np.isfinite(summary.weighted)).all():
            raise InputError(NON_FINITE)
        return summary

    def _session(self, kind: np.dtype[Any]) -> Any:
        """The session for blocks of this dtype; that for float16 is opened when the first comes."""
        if kind not in self._sessions:
            self._sessions[kind] = open_session(HALF_SCAN_GRAPH, self._placement)
        return self._sessions[kind]
