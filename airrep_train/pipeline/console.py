"""What `airrep-train run` shows: a line a stage, and how far the work of a stage has come."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from airrep_infer.command import say
from airrep_infer.progress import Progress, duration, show_progress
from airrep_train.pipeline.run import Estimate, State


class Console:
    """The `Watcher` of a terminal or a log; leaving its block ends what is shown of a stage's work.

    Args:
        err: stages go to standard error (progress always does).
    """

    def __init__(self, *, err: bool) -> None:
        self._err = err
        self._shown = ExitStack()
        self._progress: Progress | None = None

    def stage(self, name: str, state: State, folder: Path | None) -> None:
        """Print a stage's state."""
        self._close()
        place = str(folder) if folder else "for the stages before it"
        say(f"{name:<9} {state:<7} {place}", err=self._err)

    def note(self, _stage: str, line: str) -> None:
        """Print what there is to say of the stage whose state was printed last, below its folder."""
        self._close()
        say(f"{'':<17} {line}", err=self._err)

    def progress(self, stage: str, done: int, total: int | None, /) -> None:
        """Show how far a stage's work has come."""
        if self._progress is None:
            self._progress = self._shown.enter_context(show_progress())
        self._progress(stage, done, total)

    def estimate(self, estimate: Estimate) -> None:
        """Print how long the label run will take."""
        self._close()
        line = f"labels: {estimate.measured} of {estimate.total} done"
        if estimate.seconds is not None:
            line += (
                f", {duration(estimate.seconds)} for this one; "
                f"about {duration(estimate.remaining)} for the rest, one after the other"
            )
        say(line, err=self._err)

    def _close(self) -> None:
        self._shown.close()
        self._progress = None

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
