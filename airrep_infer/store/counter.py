"""How far an embedding is, for a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from airrep_infer.progress import Progress, begin
from airrep_infer.rows import Example


class RowCounter:
    """Reports rows that are done; those that a resumed run skips at its start are done before it."""

    def __init__(self, progress: Progress | None, total: int | None) -> None:
        self._progress, self._total = progress, total
        self._stored = 0
        self._add: Callable[[int], None] | None = None

    def skipped(self, rows: int) -> None:
        """So many rows were stored already."""
        if self._add is None:
            self._stored += rows
        else:
            self._add(rows)

    def started(self, windows: Iterable[list[Example]]) -> Iterator[list[Example]]:
        """The windows to embed; with the first of them the stage begins."""
        for window in windows:
            if self._add is None:
                self._add = begin(self._progress, "embed", self._total, done=self._stored)
            yield window

    def embedded(self, rows: int) -> None:
        """So many rows were embedded."""
        assert self._add is not None
        self._add(rows)
