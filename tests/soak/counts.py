"""What a campaign counts, and which part of one is done at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Attempts, of them refused in one line, and a line for each whose outcome was wrong."""

    campaign: str
    attempts: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    @contextmanager
    def attempt(self, where: str) -> Iterator[None]:
        """Count one attempt; what it raises is a wrong outcome at `where`."""
        self.attempts += 1
        try:
            yield
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self.wrong.append(f"{self.campaign}, {where}: {reason[:500]}")


@dataclass(frozen=True)
class Slice:
    """Part `number` (from 0) of `of`, so that a long campaign is done in pieces."""

    number: int = 0
    of: int = 1

    def __contains__(self, step: object) -> bool:
        return isinstance(step, int) and step % self.of == self.number


ALL = Slice()
