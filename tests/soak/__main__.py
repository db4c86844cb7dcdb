"""The long soak, `make soak MINUTES=20`: it resumes, and prints the table of docs/production.md."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from soak import campaigns, damage, fuzz
from soak.counts import Counts, Slice
from soak.fit_job import FIT, save_checkpoint
from soak.jobs import JOBS, Job
from soak.real_damage import REAL_FILES
from soak.real_jobs import REAL_JOBS

from airrep_infer.progress import duration
from airrep_train.fit import run_folder

_ROOT = Path(__file__).parents[2]
_ATTACKS = (
    campaigns.power_loss,
    campaigns.kills,
    campaigns.failing_calls,
    campaigns.short_writes,
    campaigns.kills_in_writes,
)
_FLIPS, _FUZZED, _TABLES = (20_000, 500), (1_000_000, 20_000), (100_000, 5_000)
"""How many in all, and at a time."""


@dataclass(frozen=True)
class Piece:
    """Some of the attempts of a campaign, done at one go; `place` in [0, 1) is how far into its campaign."""

    name: str
    place: float
    work: Callable[[Path], Counts]


def pieces() -> list[Piece]:
    """All that there is to do, so that a soak that is stopped early has done some of each campaign."""
    return sorted((*_on_files(), *_on_readers(), *_on_jobs()), key=lambda piece: piece.place)


def _on_jobs() -> Iterator[Piece]:
    for job in (*JOBS, FIT, *REAL_JOBS):
        of = 48 if job.threads else 24
        for attack in _ATTACKS:
            for number in range(of):
                work = partial(_attacked, attack, job, Slice(number, of))
                yield Piece(f"{attack.__name__}, {job.name}, {number + 1}/{of}", number / of, work)


def _attacked(attack: Callable[[Job, Path, Slice], Counts], job: Job, part: Slice, folder: Path) -> Counts:
    return attack(job, folder, part)


def _on_files() -> Iterator[Piece]:
    for kind in (damage.STORE, *REAL_FILES):
        for name, place, count, seed in _shares(f"flips, {kind.name}", *_FLIPS):
            yield Piece(name, place, lambda f, k=kind, c=count, s=seed: damage.flips(k, f, c, s))  # type: ignore[misc]


def _on_readers() -> Iterator[Piece]:
    for attack, (count, at_a_time) in ((fuzz.fuzz, _FUZZED), (fuzz.fuzz_tables, _TABLES)):
        for name, place, share, seed in _shares(attack.__name__, count, at_a_time):
            yield Piece(name, place, lambda f, a=attack, c=share, s=seed: a(f, c, s))  # type: ignore[misc]


def _shares(name: str, count: int, at_a_time: int) -> Iterator[tuple[str, float, int, int]]:
    for first in range(0, count, at_a_time):
        number = first // at_a_time
        yield f"{name}, from {first}", first / count, min(at_a_time, count - first), number


def code_sha256() -> str:
    """What is attacked and what attacks: counts of other code are not counted with those of this."""
    digest = hashlib.sha256()
    for folder in ("airrep_infer", "airrep_train", "export", "tests/soak"):
        for file in sorted((_ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def read_record(record: Path, code: str) -> list[dict[str, Any]]:
    """The pieces that a soak of this code has done."""
    if not record.exists():
        return []
    lines = [json.loads(line) for line in record.read_text().splitlines(keepends=True) if line.endswith("\n")]
    if any(line["code"] != code for line in lines):
        click.echo(f"{record}: of other code; this soak begins anew", err=True)
        record.unlink()
        return []
    return lines


def table(done: list[dict[str, Any]]) -> str:
    """The counts, a row for each kind of attack on all jobs; the record has them by job."""
    lines = [
        "| campaign | attempts | refused in one line | wrong outcomes | seconds |",
        "|---|---|---|---|---|",
    ]
    attacks = [line["campaign"].partition(", ")[0] for line in done]
    for name in [*dict.fromkeys(attacks), "all"]:
        rows = [line for line, attack in zip(done, attacks, strict=True) if name in ("all", attack)]
        attempts, refused, seconds = (
            sum(row[key] for row in rows) for key in ("attempts", "refused", "seconds")
        )
        wrong = sum(len(row["wrong"]) for row in rows)
        lines.append(f"| {name} | {attempts:,} | {refused:,} | {wrong:,} | {seconds:,.0f} |")
    return "\n".join(lines)


@click.command()
@click.option("--minutes", type=float, default=30, show_default=True, help="Stop after about so long.")
@click.option("--record", type=click.Path(path_type=Path), default=_ROOT / "build" / "soak.jsonl")
def main(minutes: float, record: Path) -> None:
    """Attack everything that is written and read; the same command again continues."""
    os.fsync = lambda handle: None  # type: ignore[assignment]  # the power does not fail here
    run_folder.save_checkpoint = save_checkpoint
    sys.dont_write_bytecode = True
    code, ends = code_sha256(), time.monotonic() + 60 * minutes
    record.parent.mkdir(parents=True, exist_ok=True)
    done = read_record(record, code)
    known, todo = {line["piece"] for line in done}, pieces()
    with tempfile.TemporaryDirectory(prefix="airrep-soak-") as folder, record.open("a") as stream:
        tempfile.tempdir = folder  # of killed jobs, too
        for number, piece in enumerate(todo):
            if piece.name in known:
                continue
            if time.monotonic() > ends:
                click.echo(f"{number} of {len(todo)} pieces done; run it again to continue", err=True)
                break
            began = time.monotonic()
            counts = _counts_of(piece, Path(folder) / str(number))
            seconds = round(time.monotonic() - began, 1)
            line = {"code": code, "piece": piece.name, **asdict(counts), "seconds": seconds}
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            done.append(line)
            for wrong in counts.wrong:
                click.echo(wrong, err=True)
            click.echo(f"{number + 1}/{len(todo)} {piece.name}: {seconds} s", err=True)
    spent = duration(sum(line["seconds"] for line in done))
    click.echo(f"{table(done)}\n\n{spent} on one core of {os.cpu_count()}")
    sys.exit(any(line["wrong"] for line in done))


def _counts_of(piece: Piece, folder: Path) -> Counts:
    folder.mkdir()
    try:
        return piece.work(folder / "work")
    except Exception as error:  # the undisturbed job itself failed
        traceback.print_exc()
        return Counts(piece.name.rpartition(",")[0], 1, 0, [f"{piece.name}: {error}"])


if __name__ == "__main__":
    main()
