"""The passes over a corpus that one selection makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airrep_infer.score.plan import A, Corpus, ScanPlan, ScoreDtype
from airrep_infer.score.scan import scan, scratch_bytes
from airrep_infer.score.top_k import list_bytes

_SCORES_AT_ONCE = 1 << 20


def row_scores(
    queries: NDArray[np.float64], corpus: Corpus, rows: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """The scores (b, Q) in float64 of some rows (m,), a few at a time, and which these are."""
    step = max(1, _SCORES_AT_ONCE // max(queries.shape))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        yield part, corpus.take(rows[part]).astype(np.float64) @ queries.T


@dataclass(eq=False)
class Passes:
    """Scores queries (Q, D) against a corpus as often as it is called; see `ScanPlan` for the options.

    Only the first pass reports its progress: the corpus is as long as was announced once.
    """

    queries: NDArray[np.float64]
    corpus: Corpus
    block_rows: int | None = None
    threads: int | None = None
    dtype: ScoreDtype | None = None
    report: Callable[[int], object] | None = None

    def __call__(self, make: Callable[[], A], listed: int, corpus: Corpus | None = None) -> A:
        """What an accumulator has seen after a pass.

        Args:
            make: makes an empty one.
            listed: rows that it lists, of all queries together.
            corpus: other rows than all.
        """
        seen = scan(
            ScanPlan(
                self.queries,
                self.corpus if corpus is None else corpus,
                make,
                block_rows=self.block_rows,
                threads=self.threads,
                dtype=self.dtype,
                report=self.report,
                thread_bytes=list_bytes(listed) + scratch_bytes(*self.queries.shape),
            )
        ).seen
        self.report = None
        return seen
