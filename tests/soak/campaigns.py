"""Attacks on jobs that write: power loss, kills, full disks. Each counts its attempts and what was wrong."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from soak.counts import ALL, Counts, Slice
from soak.disk import Disk, lay_out
from soak.jobs import Job

from airrep_infer.errors import AirRepError

_CALLS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "link")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_DONE, _REFUSED, _BROKEN, _UNDISTURBED = 0, 1 << 8, 2 << 8, 3 << 8  # wait statuses


class _UndisturbedError(Exception):
    """The work was done before anything happened to it."""


def _undisturbed(job: Job, folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    job.prepare(folder)
    _apart(job, lambda: job.work(folder))
    return job.content(folder)


def _check_and_finish(job: Job, folder: Path, expected: dict[str, bytes]) -> None:
    """What must hold, holds; the same job run again ends like the undisturbed one and leaves nothing else."""

    def finish() -> None:
        job.check(folder)
        job.work(folder)

    _apart(job, finish)
    after = job.content(folder)
    assert after.keys() == expected.keys(), f"files differ: {sorted(after.keys() ^ expected.keys())}"
    assert after == expected, f"content differs: {[name for name in after if after[name] != expected[name]]}"
    shutil.rmtree(folder)


def power_loss(job: Job, folder: Path, part: Slice = ALL) -> Counts:
    """Crash after every change, with all that was not fsynced lost."""
    counts = Counts(f"power loss, {job.name}")
    expected = _undisturbed(job, folder / "expected")
    live = folder / "live"
    live.mkdir()
    job.prepare(live)
    disk = Disk(live)

    def watch() -> None:
        disk.watch(lambda: job.work(live))
        (folder / "images").write_bytes(pickle.dumps(disk.images))

    _apart(job, watch)
    assert job.content(live) == expected
    for number, (moment, tree) in enumerate(pickle.loads((folder / "images").read_bytes())):
        if number // 2 in part:
            with counts.attempt(f"image {number}, {moment}"):
                _check_and_finish(job, lay_out(tree, folder / f"crash-{number}"), expected)
    return counts


def kills(job: Job, folder: Path, part: Slice = ALL) -> Counts:
    """SIGKILL before and after every file-system call."""
    return _each_step(job, folder, part, "kill", lambda: os.kill(os.getpid(), signal.SIGKILL))


def failing_calls(job: Job, folder: Path, part: Slice = ALL) -> Counts:
    """A full disk at every file-system call."""

    def fail() -> None:
        raise OSError(28, os.strerror(28))

    return _each_step(job, folder, part, "full disk", fail)


def _each_step(job: Job, folder: Path, part: Slice, what: str, happen: Callable[[], None]) -> Counts:
    counts = Counts(f"{what}, {job.name}")
    expected = _undisturbed(job, folder / "expected")
    for step in range(1, 10_000):
        if step not in part:
            continue
        work = folder / f"step-{step}"
        work.mkdir()
        job.prepare(work)
        status = _in_child(lambda work=work, step=step: _at_step(step, happen, lambda: job.work(work)))  # type: ignore[misc]
        if status == _UNDISTURBED:
            break
        counts.refused += status == _REFUSED
        with counts.attempt(f"step {step}"):
            # Some calls may fail and nothing is lost: those that look for what earlier kills left.
            assert status in (signal.SIGKILL, _REFUSED, _DONE), f"wait status {status}"
            _check_and_finish(job, work, expected)
    return counts


def short_writes(job: Job, folder: Path, part: Slice = ALL) -> Counts:
    """No file can grow beyond so many bytes: writes fail in the middle, as on a full disk."""
    return _each_size(job, folder, part, "short write", signal.SIG_IGN, (_DONE, _REFUSED))


def kills_in_writes(job: Job, folder: Path, part: Slice = ALL) -> Counts:
    """The process dies in the middle of the write that makes a file longer than so many bytes."""
    return _each_size(job, folder, part, "kill in a write", signal.SIG_DFL, (_DONE, signal.SIGXFSZ))


def _each_size(
    job: Job, folder: Path, part: Slice, what: str, on_limit: signal.Handlers, expect: tuple[int, ...]
) -> Counts:
    counts = Counts(f"{what}, {job.name}")
    expected = _undisturbed(job, folder / "expected")

    def limited(size: int, work: Path) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, on_limit)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        job.work(work)

    for number, size in enumerate(job.sizes):
        if number not in part:
            continue
        work = folder / f"size-{size}"
        work.mkdir()
        job.prepare(work)
        status = _in_child(lambda size=size, work=work: limited(size, work))  # type: ignore[misc]
        counts.refused += status == _REFUSED
        with counts.attempt(f"{size} bytes"):
            assert status in expect, f"wait status {status}"
            _check_and_finish(job, work, expected)
    return counts


def _apart(job: Job, work: Callable[[], object]) -> None:
    """Do the work; in a child where it starts threads, which a later fork would lose."""
    if not job.threads:
        work()
        return
    status = _in_child(work)
    assert status == _DONE, f"wait status {status}, see the traceback above"


def _in_child(work: Callable[[], object]) -> int:
    """The wait status of a child: `_DONE`, `_REFUSED` for an `AirRepError`, `_BROKEN` for anything else."""
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = _BROKEN >> 8
        try:
            work()
            status = _DONE
        except _UndisturbedError:
            status = _UNDISTURBED >> 8
        except AirRepError as error:
            if "\n" not in str(error):
                status = _REFUSED >> 8
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)
    return os.waitpid(child, 0)[1]


def _at_step(step: int, happen: Callable[[], object], work: Callable[[], object]) -> None:
    """Count calls that change names, make content durable or open a file to write; let it happen at one.

    The process ends afterwards: hooks of an interpreter cannot be taken away.

    Raises:
        _UndisturbedError: there were fewer calls.
    """
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            happen()

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **how: object) -> object:
            count()
            result = real(*given, **how)
            count()
            return result

        return call

    def hear(event: str, what: tuple[object, ...]) -> None:
        if event == "open" and isinstance(what[0], str) and isinstance(what[2], int) and what[2] & _WRITES:
            count()

    sys.addaudithook(hear)
    with mock.patch.multiple(os, **{name: counted(getattr(os, name)) for name in _CALLS}):
        work()
    if seen < step:
        raise _UndisturbedError
