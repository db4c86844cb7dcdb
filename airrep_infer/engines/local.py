"""Workers of the local engine: processes of this machine, each with a GPU or a share of the cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from airrep_infer.bundle import Bundle
from airrep_infer.encode import Encoder, EncoderOptions
from airrep_infer.engines.workers import LANES, EncoderHost, Worker, WorkerEncoder
from airrep_infer.errors import AirRepError, InputError
from airrep_infer.resources import asked_memory, available_cores, take_budget

_STOP_SECONDS = 10


@contextmanager
def local_workers(bundle: Bundle, options: EncoderOptions, workers: int) -> Iterator[WorkerEncoder]:
    """`workers` processes with `options.threads` among them; with GPUs, process n has number n.

    The processes import the main module of the program, so a script that calls this needs
    `if __name__ == "__main__":`, as with all of `multiprocessing`.

    Raises:
        InputError: see `Encoder`; fewer threads than workers.
    """
    threads = options.threads or available_cores()
    if workers > threads:
        raise InputError(f"{workers} workers need a thread each, and there are {threads}; use fewer workers")
    asked = asked_memory()
    share_of_memory = None if asked is None else asked // workers
    started: list[_Process] = []
    try:
        for number, share in enumerate(_shares(threads, workers)):
            # Without an explicit number of threads the cores themselves are divided, neighbours together.
            cores = None if options.threads else share
            settings = {**asdict(options), "threads": len(share), "device_id": number}
            started.append(_Process(bundle.path, settings, cores, share_of_memory))
        encoder = WorkerEncoder(bundle, options.precision, started)
    except BaseException:
        for process in started:
            process.stop()
        raise
    try:
        yield encoder
    finally:
        encoder.close()


def _shares(threads: int, workers: int) -> list[list[int]]:
    """The cores that this process may use, or as many numbers as there are threads, in even shares."""
    cores = list(range(threads))
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == threads:
        cores = sorted(os.sched_getaffinity(0))
    return [cores[threads * n // workers : threads * (n + 1) // workers] for n in range(workers)]


class _Process(Worker):
    """A worker process, seen from the parent: a pipe for each call that may be in flight at once."""

    def __init__(
        self, model: Path, settings: dict[str, Any], cores: Sequence[int] | None, memory: int | None
    ) -> None:
        context = multiprocessing.get_context("spawn")  # forking a process with threads is not safe
        pipes = [context.Pipe() for _ in range(LANES)]
        self._process = context.Process(
            target=_serve, args=([theirs for _, theirs in pipes], model, settings, cores, memory), daemon=True
        )
        self._process.start()
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        for ours, theirs in pipes:
            theirs.close()  # so that the death of the process is the end of the pipe
            self._idle.put(ours)

    def stop(self) -> None:
        self._process.kill()  # it has nothing to keep
        self._process.join()

    def call(self, method: str, *arguments: object) -> Any:
        connection = self._idle.get()
        try:
            connection.send((method, arguments))
            value = connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(_STOP_SECONDS)
            code = self._process.exitcode
            how = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"status {code}"
            raise AirRepError(
                f"a worker process ended before its work ({how}); if memory ran out, use fewer --workers; "
                "the same command again resumes from what is stored"
            ) from error
        finally:
            self._idle.put(connection)
        if isinstance(value, AirRepError):
            raise value
        return value


def _serve(
    connections: Sequence[Connection],
    model: Path,
    settings: dict[str, Any],
    cores: Sequence[int] | None,
    memory: int | None,
) -> None:
    """The main function of a worker process; ends when the parent does."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group: the parent stops us
        signal.signal(number, signal.SIG_IGN)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)  # before the tokenizer counts the cores
    take_budget(memory)
    host, load = EncoderHost(), partial(Encoder, model, **settings)
    with ThreadPoolExecutor(len(connections), "lane") as lanes:
        for lane in [lanes.submit(_answer, connection, host, load) for connection in connections]:
            lane.result()


def _answer(connection: Connection, host: EncoderHost, load: Callable[[], Encoder]) -> None:
    # Closed on the way out of any error, so that the parent does not wait for an answer.
    with connection:
        while True:
            try:
                method, arguments = connection.recv()
            except EOFError:
                return
            try:
                answer = getattr(host, method)(load, *arguments)
            except AirRepError as error:
                answer = error
            try:
                connection.send(answer)
            except OSError:  # the parent is gone
                return
