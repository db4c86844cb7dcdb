"""What the making of an index tells of its progress: several stages, each over rows of its own number."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], object]


def stage(progress: Progress | None, name: str, total: int) -> Callable[[int], None]:
    """Begin the stage `name` of `total` rows: tells 0 rows now, and returns what to call with rows done."""

    def done(rows: int) -> None:
        if progress:
            progress(name, rows, total)

    done(0)
    return done
