"""Workers that embed: what runs in one, what it is seen as from here, and how windows are shared out.

Where the workers are (`local`, `ray`) is their own business; this file knows neither.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.bundle import Bundle
from airrep_infer.encode import AnyRow, EmbeddedWindow, EmbeddingSpace, Encoder
from airrep_infer.errors import InputError
from airrep_infer.rows import Example

# Windows that a worker has at once: while one drains, the next is tokenized, as `Encoder` does it.
LANES = 2
# Finished windows that may wait for an earlier one, per worker: a worker that starts again (a few
# seconds) does not stop the others.
_WINDOWS_AHEAD = 4


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker runs on; vectors of workers that differ here are not the same."""

    provider: str
    versions: str


class EncoderHost:
    """What runs in a worker, wherever that is.

    Every call brings the way to load the model, and the first one loads it: a failing call reports
    what it raised to its caller, a failing start only looks like a dead worker.
    """

    def __init__(self) -> None:
        self._encoder: Encoder | None = None
        self._loading = Lock()

    def facts(self, load: Callable[[], Encoder]) -> WorkerFacts:
        import onnxruntime

        versions = f"airrep {version('airrep')}, onnxruntime {onnxruntime.__version__}"
        return WorkerFacts(self._loaded(load).provider, versions)

    def embed(self, load: Callable[[], Encoder], rows: Sequence[str | Example]) -> WindowVectors:
        (window,) = self._loaded(load).embed_windows([list(rows)])
        return WindowVectors(window.vectors, window.cuts)

    def _loaded(self, load: Callable[[], Encoder]) -> Encoder:
        with self._loading:
            self._encoder = self._encoder or load()
            return self._encoder


@dataclass(frozen=True, eq=False)
class WindowVectors:
    """What a worker makes of a window: see `EmbeddedWindow`, whose rows stay with the caller."""

    vectors: NDArray[np.float32]
    cuts: NDArray[np.uint8]


class Worker(ABC):
    """An `EncoderHost` as it is seen from here; it may be called from `LANES` threads at once."""

    def facts(self) -> WorkerFacts:
        """What it runs on; loads the model."""
        facts: WorkerFacts = self.call("facts")
        return facts

    def embed(self, rows: Sequence[str | Example]) -> WindowVectors:
        """The vectors of one window."""
        made: WindowVectors = self.call("embed", rows)
        return made

    @abstractmethod
    def call(self, method: str, *arguments: object) -> Any:
        """What a method of the host returns, given the way to load the model and the arguments.

        Raises:
            AirRepError: what the host raised, or the worker died.
        """

    @abstractmethod
    def stop(self) -> None:
        """End it at once; calls in flight raise."""


class WorkerEncoder:
    """Hands windows to whichever worker is free and gives them back in input order.

    Args:
        bundle: what the workers have loaded.
        precision: the variant of it.
        workers: they are stopped by `close`.

    Raises:
        InputError: a worker cannot load the model, or they run on different software or providers.
    """

    def __init__(self, bundle: Bundle, precision: str, workers: Sequence[Worker]) -> None:
        self.bundle = bundle
        self.space = EmbeddingSpace(bundle.fingerprint, precision, bundle.dimension)
        self._workers = workers
        self._lanes: SimpleQueue[Worker] = SimpleQueue()
        for worker in list(workers) * LANES:
            self._lanes.put(worker)
        self._calls = ThreadPoolExecutor(LANES * len(workers), "worker")
        try:
            facts = list(self._calls.map(lambda worker: worker.facts(), workers))
            if len(set(facts)) > 1:
                different = sorted({f"{worker.versions} ({worker.provider})" for worker in facts})
                raise InputError(
                    "the vectors of these workers would not be the same: "
                    f"{' and '.join(different)}; install the same versions everywhere, and use no more "
                    "workers than GPUs"
                )
        except BaseException:
            self.close()
            raise
        self.placement = f"{facts[0].provider}, {len(workers)} workers"

    def embed_windows(self, windows: Iterable[list[AnyRow]]) -> Iterator[EmbeddedWindow[AnyRow]]:
        """As `Encoder.embed_windows`, to the same bytes."""
        queue: deque[tuple[list[AnyRow], Future[WindowVectors]]] = deque()
        try:
            for window in windows:
                queue.append((window, self._calls.submit(self._embed, window)))
                if len(queue) > _WINDOWS_AHEAD * len(self._workers):
                    yield _finished(*queue.popleft())
            while queue:
                yield _finished(*queue.popleft())
        finally:
            for _, unfinished in queue:
                unfinished.cancel()

    def close(self) -> None:
        """Stop the workers at once."""
        for worker in self._workers:
            worker.stop()
        self._calls.shutdown(wait=True, cancel_futures=True)

    def _embed(self, rows: Sequence[str | Example]) -> WindowVectors:
        worker = self._lanes.get()
        try:
            return worker.embed(rows)
        finally:
            self._lanes.put(worker)


def _finished(rows: list[AnyRow], made: Future[WindowVectors]) -> EmbeddedWindow[AnyRow]:
    return EmbeddedWindow(rows, made.result().vectors, made.result().cuts)
