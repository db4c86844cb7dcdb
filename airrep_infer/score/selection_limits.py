"""What a selection must keep to besides its number of rows: quotas, a token budget, no near-duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.score.plan import Array, Corpus

MISFITS = 100
"""A token budget is used up when so many rows one after the other do not fit into what is left."""


@dataclass(frozen=True, eq=False)
class FieldCounts:
    """How many rows of each value of a field may or must be selected.

    Attributes:
        field: its name, for messages.
        names: (G) the values.
        codes: (N,) which value every row has.
        counts: (G,) the number of rows, at most or at least.
    """

    field: str
    names: tuple[str, ...]
    codes: NDArray[np.int32]
    counts: NDArray[np.int64]

    def of(self, numbers: NDArray[np.int64]) -> FieldCounts:
        """The same of some rows, (m,) numbers."""
        return replace(self, codes=self.codes[numbers])


@dataclass(frozen=True, eq=False)
class Limits:
    """What a selection keeps to, by the row numbers of a corpus of N rows.

    Attributes:
        allowed: (N,) bool, the rows that may be selected; None allows all.
        at_most: ceilings, of any number of fields.
        at_least: floors, of one field.
        tokens: (N,) what each row takes of `token_budget`. Best first, a row that does not fit is passed
            over; the selection ends when `MISFITS` of them come one after the other.
        token_budget: tokens of all selected rows together, at most.
        max_cosine: a row whose cosine with a selected one exceeds this is passed over.
    """

    allowed: NDArray[np.bool_] | None = None
    at_most: tuple[FieldCounts, ...] = ()
    at_least: FieldCounts | None = None
    tokens: NDArray[np.int64] | None = None
    token_budget: int | None = None
    max_cosine: float | None = None

    def __post_init__(self) -> None:
        if (self.tokens is None) != (self.token_budget is None):
            raise InputError("a token budget needs the tokens of the rows, and they need a budget")
        if self.at_least is not None and self.token_budget is not None:
            raise InputError("a token budget cannot promise numbers of rows; give no at-least with it")

    def of(self, numbers: NDArray[np.int64]) -> Limits:
        """The limits of a corpus of some rows, (m,) numbers, all of them allowed."""
        return replace(
            self,
            allowed=None,
            at_most=tuple(ceiling.of(numbers) for ceiling in self.at_most),
            at_least=None if self.at_least is None else self.at_least.of(numbers),
            tokens=None if self.tokens is None else self.tokens[numbers],
        )

    def check_supply(self, places: int) -> None:
        """Refuse floors that the rows or the places are too few for.

        Raises:
            InputError: with the value and both numbers.
        """
        floor = self.at_least
        if floor is None:
            return
        supply = np.bincount(floor.codes, minlength=len(floor.names))
        for name, rows, least in zip(floor.names, supply.tolist(), floor.counts.tolist(), strict=True):
            if rows < least:
                raise InputError(
                    f"{floor.field}={name}: {least} rows are asked for, and the pool has {rows}; "
                    "ask for fewer"
                )
        total = int(floor.counts.sum())
        if total > places:
            raise InputError(
                f"at least {total} rows are asked for by {floor.field}, and {places} are to be selected; "
                "select more, or ask for fewer"
            )


class Admission:
    """Lets rows into a selection, one after the other, as long as the limits allow.

    What is refused once stays refused: ceilings fill, budgets shrink, and the places that floors keep free
    are never given back. So a strategy proposes each row once, best first.

    Args:
        limits: of the corpus, without `allowed`.
        corpus: for cosines.
        places: rows to select, at most.

    Attributes:
        expected: about how many rows will be selected.
        taken: how many are.
        reasons: the limits that refused a row.
        closings: rises when a value of a field is refused from now on.
    """

    def __init__(self, limits: Limits, corpus: Corpus, places: int) -> None:
        self.limits = limits
        self.places = places
        self._corpus = corpus
        self.expected = places
        if limits.tokens is not None and limits.token_budget is not None:
            typical = max(1.0, float(np.median(limits.tokens)))
            self.expected = min(places, 1 + int(1.25 * limits.token_budget / typical))
            self._shortest = int(limits.tokens.min())
        self.restart()

    @property
    def limited(self) -> bool:
        """Whether a row may be refused."""
        limits = self.limits
        return bool(limits.at_most) or any(
            limit is not None for limit in (limits.at_least, limits.token_budget, limits.max_cosine)
        )

    def is_full(self) -> bool:
        """Whether no other row can be admitted: the places are taken, or the budget is."""
        if self.taken == self.places or self._misfits == MISFITS:
            return True
        return self._tokens_left is not None and self._tokens_left < self._shortest

    def restart(self) -> None:
        """Forget what was admitted."""
        self.taken = 0
        self.closings = 1
        self.reasons: dict[str, None] = {}
        self._room = [ceiling.counts.copy() for ceiling in self.limits.at_most]
        self._owed = None if self.limits.at_least is None else self.limits.at_least.counts.copy()
        self._tokens_left = self.limits.token_budget
        self._misfits = 0
        self._directions: Array = np.empty((0, 0), np.float32)

    def admit(self, row: int) -> bool:
        """Take a row if nothing forbids it."""
        direction = self._direction(row)
        reason = self._reason_against(row, direction)
        if reason:
            self.reasons[reason] = None
            self._misfits = self._misfits + 1 if reason == "tokens" else self._misfits
            return False
        for ceiling, room in zip(self.limits.at_most, self._room, strict=True):
            room[ceiling.codes[row]] -= 1
            self.closings += room[ceiling.codes[row]] == 0
        if self.limits.at_least is not None and self._owed is not None:
            code = self.limits.at_least.codes[row]
            self._owed[code] = max(0, self._owed[code] - 1)
            self.closings += self.places - self.taken - 1 == self._owed.sum()
        if self._tokens_left is not None:
            self._tokens_left -= self._tokens_of(row)
            self._misfits = 0
        if direction is not None:
            self._keep(direction)
        self.taken += 1
        return True

    def closed_by_ceiling(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some rows (m,) a ceiling refuses by now."""
        closed = np.zeros(len(rows), bool)
        for ceiling, room in zip(self.limits.at_most, self._room, strict=True):
            refused = room[ceiling.codes[rows]] <= 0
            if refused.any():
                self.reasons[f"at most of {ceiling.field}"] = None
            closed |= refused
        return closed

    def closed_by_floor(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some rows (m,) find no place, because all that are left are kept for other values."""
        floor = self.limits.at_least
        if floor is None or self._owed is None or self.places - self.taken > self._owed.sum():
            return np.zeros(len(rows), bool)
        self.reasons[f"at least of {floor.field}"] = None
        return np.asarray(self._owed[floor.codes[rows]] <= 0)

    def floors(self) -> Iterator[tuple[NDArray[np.int64], int]]:
        """The rows (m,) of every value that has a floor, and that floor."""
        floor = self.limits.at_least
        if floor is not None:
            for code in np.flatnonzero(floor.counts):
                yield np.flatnonzero(floor.codes == code), int(floor.counts[code])

    def _reason_against(self, row: int, direction: Array | None) -> str:
        limits = self.limits
        for ceiling, room in zip(limits.at_most, self._room, strict=True):
            if room[ceiling.codes[row]] <= 0:
                return f"at most of {ceiling.field}"
        if limits.at_least is not None and self._owed is not None:
            owed = int(self._owed.sum()) - (self._owed[limits.at_least.codes[row]] > 0)
            if self.places - self.taken - 1 < owed:
                return f"at least of {limits.at_least.field}"
        if self._tokens_left is not None and self._tokens_of(row) > self._tokens_left:
            return "tokens"
        return "max cosine" if self._is_near(direction) else ""

    def _is_near(self, direction: Array | None) -> bool:
        """Whether a selected row is too similar."""
        if direction is None or self.limits.max_cosine is None or not self.taken:
            return False
        return bool((self._directions[: self.taken] @ direction).max() > self.limits.max_cosine)

    def _tokens_of(self, row: int) -> int:
        return 0 if self.limits.tokens is None else int(self.limits.tokens[row])

    def _direction(self, row: int) -> Array | None:
        """The row's vector at unit length, where cosines matter; zeros stay zeros."""
        if self.limits.max_cosine is None:
            return None
        vector = np.asarray(self._corpus.take(np.array([row]))[0], np.float32)
        length = float(np.linalg.norm(vector))
        return vector / np.float32(length) if length else vector

    def _keep(self, direction: Array) -> None:
        if self.taken >= len(self._directions):
            larger = np.zeros((max(64, 2 * self.taken), len(direction)), np.float32)
            larger[: self.taken] = self._directions[: self.taken] if self.taken else 0
            self._directions = larger
        self._directions[self.taken] = direction
