"""The rows of a verify run, and what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airrep_infer.rows import Example, RowId


@dataclass(frozen=True)
class VerifyRows:
    """What named rows are said to do: among which rows, and to which answers.

    Attributes:
        examples: training rows.
        queries: answers whose loss is to move.
        named: ids of the rows in question.
        controls: answers whose loss is to stay; may be empty.
        pool: ids of the rows that the target is trained on; with `add`, that other rows are drawn from.
            None: all.
        base: with `add`, ids of the rows that every arm trains on.
    """

    examples: Sequence[Example]
    queries: Sequence[Example]
    named: Sequence[RowId]
    controls: Sequence[Example] = ()
    pool: Sequence[RowId] | None = None
    base: Sequence[RowId] = ()

    @property
    def measured(self) -> list[Example]:
        """The rows whose losses are measured, queries first."""
        return [*self.queries, *self.controls]
