"""How far work has come: the protocol that all of it reports by, and what shows the reports on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:  # a plain import would slow down every `--help`
    from tqdm import tqdm

LINE_SECONDS = 30.0
"""How often a stage that takes long writes a line where stderr is no terminal."""


class Progress(Protocol):
    """What a piece of work calls to say how far it has come.

    `stage` names what runs now, `done` is how much of it is done (not how much was added), and `total`
    is all of it, None where that is not known. The first call of a stage says what was done before this
    run, so that the time that is left is judged by this run's work. Calls come one at a time, some of them
    from worker threads.
    """

    def __call__(self, stage: str, done: int, total: int | None, /) -> object: ...


def begin(progress: Progress | None, stage: str, total: int | None, done: int = 0) -> Callable[[int], None]:
    """Begin a stage of which `done` is done already.

    Returns:
        What to call with the amount that was added; it reports the sum.
    """
    sum_done = done

    def add(amount: int) -> None:
        nonlocal sum_done
        sum_done += amount
        if progress:
            progress(stage, sum_done, total)

    add(0)
    return add


def renamed(progress: Progress | None, stage: str) -> Progress | None:
    """What reports another function's only stage under the name that it has here."""
    if progress is None:
        return None
    return lambda _stage, done, total: progress(stage, done, total)


@contextmanager
def show_progress(stream: TextIO | None = None, line_seconds: float = LINE_SECONDS) -> Iterator[Progress]:
    """A `Progress` for people: a bar a stage on a terminal, elsewhere a line every 30 seconds, called or not.

    Args:
        stream: default, standard error.
        line_seconds: how often a line is written where `stream` is no terminal.
    """
    stream = stream or sys.stderr
    shown = _Bars(stream) if stream.isatty() else _Lines(stream, line_seconds)
    try:
        yield shown
    finally:
        shown.close()


def duration(seconds: float) -> str:
    """A duration for people: 0.4 s, 45 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


class _Bars:
    """A tqdm bar for the stage that runs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage: str | None = None
        self._bar: tqdm[Any] | None = None

    def __call__(self, stage: str, done: int, total: int | None, /) -> None:
        if self._bar is None or stage != self._stage:
            self.close()
            from tqdm import tqdm

            # tqdm leaves `initial` out of its rate.
            self._bar = tqdm(total=total, initial=done, desc=stage, unit="", file=self._stream)
            self._stage = stage
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Lines:
    """A line now and then, by a thread of its own: a step that takes minutes reports nothing itself."""

    def __init__(self, stream: TextIO, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._stage: str | None = None
        self._done, self._done_before, self._began = 0, 0, time.monotonic()
        self._total: int | None = None
        self._writer = threading.Thread(target=self._write, name="progress", daemon=True)
        self._writer.start()

    def __call__(self, stage: str, done: int, total: int | None, /) -> None:
        with self._lock:
            if stage != self._stage:
                self._stage, self._done_before, self._began = stage, done, time.monotonic()
            self._done, self._total = done, total

    def close(self) -> None:
        self._ended.set()
        self._writer.join()

    def _write(self) -> None:
        while not self._ended.wait(self._seconds):
            with suppress(OSError, ValueError):  # a log that was closed does not end the work
                self._stream.write(f"{self._line()}\n")
                self._stream.flush()

    def _line(self) -> str:
        with self._lock:
            seconds = time.monotonic() - self._began
            if self._stage is None:  # a model is being loaded, files are looked through
                return f"at work for {duration(seconds)}"
            line = f"{self._stage}: {self._done}"
            if self._total:
                line += f" of {self._total} ({self._done / self._total:.0%})"
            line += f" after {duration(seconds)}"
            added = self._done - self._done_before
            if self._total and added > 0:
                line += f", about {duration(seconds / added * (self._total - self._done))} left"
            return line
