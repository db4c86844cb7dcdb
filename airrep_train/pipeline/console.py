"""What `airrep-train run` shows: a line a stage, and a bar for work that takes long."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import click

from airrep_infer.command import progress_bar
from airrep_train.pipeline.run import Estimate, State

_UNITS = {"label": "subset", "fit": "step", "evaluate": "row"}


class Console:
    """The `Watcher` of a terminal; leaving its block ends a bar that is under way.

    Args:
        err: stages go to standard error (bars always do).
    """

    def __init__(self, *, err: bool) -> None:
        self._err = err
        self._bar: Any = None

    def stage(self, name: str, state: State, folder: Path | None) -> None:
        """Print a stage's state."""
        self._close()
        place = str(folder) if folder else "for the stages before it"
        click.echo(f"{name:<9} {state:<7} {place}", err=self._err)

    def progress(self, name: str, done: int, total: int | None) -> None:
        """Move the stage's bar."""
        if self._bar is None:
            self._bar = progress_bar(name, total, _UNITS[name])
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def estimate(self, found: Estimate) -> None:
        """Print how long the label run will take."""
        self._close()
        line = f"labels: {found.measured} of {found.total} there"
        if found.seconds is not None:
            line += (
                f", {describe(found.seconds)} for this one; "
                f"about {describe(found.remaining)} for the rest, one after the other"
            )
        click.echo(line, err=self._err)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def describe(seconds: float) -> str:
    """A duration for people: 0.4 s, 45 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
