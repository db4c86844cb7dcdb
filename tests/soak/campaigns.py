"""Attacks on what is written and read. Each returns how often it tried; a wrong outcome is an assertion."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from soak.disk import Disk, content_of, lay_out
from soak.jobs import Job, write_store

from airrep_infer.errors import AirRepError, InputError
from airrep_infer.json_reader import parse_json, read_json, read_objects, read_toml
from airrep_infer.rows.examples import read_examples
from airrep_infer.store.store import EmbeddingStore

_CALLS = ("fsync", "replace", "rename", "unlink", "mkdir", "link")


@dataclass
class Counts:
    """What a campaign did: attempts, of them refused in one line, and the rest, whose outcome was right."""

    campaign: str
    attempts: int = 0
    refused: int = 0


def _undisturbed(job: Job, folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    job.prepare(folder)
    job.work(folder)
    return content_of(folder)


def _check_and_finish(job: Job, folder: Path, expected: dict[str, bytes]) -> None:
    """What must hold, holds; the same job run again ends like the undisturbed one and leaves nothing else."""
    job.check(folder)
    job.work(folder)
    assert content_of(folder) == expected


def power_loss(job: Job, folder: Path, every: int = 1) -> Counts:
    """Crash after every change, with all that was not fsynced lost; `every` thins the crashes out."""
    counts = Counts(f"power loss, {job.name}")
    expected = _undisturbed(job, folder / "expected")
    live = folder / "live"
    live.mkdir()
    job.prepare(live)
    disk = Disk(live)
    disk.watch(lambda: job.work(live))
    assert content_of(live) == expected
    for number, (_moment, tree) in enumerate(disk.images):
        if number // 2 % every:
            continue
        counts.attempts += 1
        crashed = lay_out(tree, folder / f"crash-{number}")
        _check_and_finish(job, crashed, expected)
        shutil.rmtree(crashed)
    return counts


def kills(job: Job, folder: Path, every: int = 1) -> Counts:
    """SIGKILL before and after every file-system call."""
    return _each_step(job, folder, every, "kill", lambda: os.kill(os.getpid(), signal.SIGKILL))


def failing_calls(job: Job, folder: Path, every: int = 1) -> Counts:
    """A full disk at every file-system call."""

    def fail() -> None:
        raise OSError(28, os.strerror(28))

    return _each_step(job, folder, every, "full disk", fail)


def _each_step(job: Job, folder: Path, every: int, what: str, happen: Callable[[], None]) -> Counts:
    counts = Counts(f"{what}, {job.name}")
    expected = _undisturbed(job, folder / "expected")
    for step in range(1, 10_000):
        if step % every:
            continue
        work = folder / f"step-{step}"
        work.mkdir()
        job.prepare(work)
        status = _in_child(lambda work=work, step=step: _at_step(step, happen, lambda: job.work(work)))  # type: ignore[misc]
        if status == 0:
            break
        counts.attempts += 1
        assert status in (signal.SIGKILL, 1 << 8), f"{job.name}, step {step}: wait status {status}"
        _check_and_finish(job, work, expected)
        shutil.rmtree(work)
    return counts


def full_disk(job: Job, folder: Path, sizes: range) -> Counts:
    """No file can grow beyond so many bytes: writes fail in the middle, as on a full disk."""
    counts = Counts(f"short write, {job.name}")
    expected = _undisturbed(job, folder / "expected")

    def limited(size: int, work: Path) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        job.work(work)

    for size in sizes:
        work = folder / f"size-{size}"
        work.mkdir()
        job.prepare(work)
        status = _in_child(lambda size=size, work=work: limited(size, work))  # type: ignore[misc]
        counts.attempts += 1
        counts.refused += status != 0
        assert status in (0, 1 << 8), f"{job.name}, {size} bytes: wait status {status}"
        _check_and_finish(job, work, expected)
        shutil.rmtree(work)
    return counts


def _in_child(work: Callable[[], object]) -> int:
    """The wait status of a child: 0, 1 << 8 for an `AirRepError`, 2 << 8 for anything else."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except AirRepError as error:
            os._exit(1 if "\n" not in str(error) else 2)
        except BaseException:
            os._exit(2)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def _at_step(step: int, happen: Callable[[], object], work: Callable[[], object]) -> None:
    seen = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **how: object) -> object:
            nonlocal seen
            seen += 1
            if seen == step:
                happen()
            result = real(*given, **how)
            seen += 1
            if seen == step:
                happen()
            return result

        return call

    with mock.patch.multiple(os, **{name: counted(getattr(os, name)) for name in _CALLS}):
        work()


def flips(folder: Path, count: int, seed: int = 0) -> Counts:
    """Flip bits of a store: it is refused at opening or by `verify`, or it is what it was."""
    counts = Counts("bit flips in a store")
    write_store(folder / "s", 40, part_rows=15)
    before = EmbeddingStore.open(folder / "s")
    rows = list(before.rows())
    files = sorted(file for file in (folder / "s").iterdir() if file.name != ".lock")
    draw = random.Random(seed)
    for _ in range(count):
        file = draw.choice(files)
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[draw.randrange(min(len(whole), draw.choice((200, len(whole)))))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        counts.attempts += 1
        try:
            store = EmbeddingStore.open(folder / "s")
            store.verify()
        except InputError as error:
            assert "\n" not in str(error) and str(folder) in str(error)
            counts.refused += 1
        else:  # white space of JSON
            assert (store, list(store.rows())) == (before, rows)
        file.write_bytes(whole)
    return counts


_SEEDS = (
    b'{"id": 7, "prompt": "caf\xc3\xa9", "response": "\\ud83d\\ude42", "n": 1.5e3, "x": [true, null]}\n',
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
    b'a = 1\n[b]\nc = ["x", 2.5]\n[b.d]\ne = 1979-05-27T07:32:00Z\n',
)
_PIECES = (
    *(b"[" * 3000, b'{"a":' * 400, b"9" * 5000, b"1e999", b"-", b"NaN", b"\\ud800", b"\\u0000", b"\0"),
    *(
        b"\xff",
        b"\xef\xbb\xbf",
        b'"id": 7, ',
        b"\n",
        b"\r\n",
        b'"',
        b"\\",
        b"{}",
        b"[]",
        b"true",
        b"a.b." * 300,
    ),
)


def fuzz(folder: Path, count: int, seed: int = 0) -> Counts:
    """Mutated JSON, JSONL, rows and TOML: read, or refused in one line."""
    counts = Counts("fuzzed JSON and TOML")
    draw = random.Random(seed)
    file = folder / "fuzz"
    readers: tuple[Callable[[Path], object], ...] = (
        read_json,
        read_toml,
        lambda path: list(read_objects(path)),
        read_examples,
    )
    for number in range(count):
        content = bytearray(draw.choice(_SEEDS))
        for _ in range(draw.randrange(1, 4)):
            place = draw.randrange(len(content) + 1)
            cut = place + draw.choice((0, 0, 1, 5, 30))
            content[place:cut] = draw.choice((*_PIECES, bytes([draw.randrange(256)])))
        file.write_bytes(content)
        counts.attempts += 1
        try:
            value = readers[number % len(readers)](file)
        except InputError as error:
            assert "\n" not in str(error)
            counts.refused += 1
        else:
            if number % 4 == 0:  # what was read can be written and read again
                assert json.dumps(parse_json(json.dumps(value).encode())) == json.dumps(value)
    return counts
