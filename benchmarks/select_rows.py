"""How long does a selection take from a million rows?

    python benchmarks/select_rows.py [--rows 1000000] [--queries 100] [-n 1000] [--json FILE]

Random unit vectors of 384 dimensions in float16 stand for the pool and the goal; they lie in a mapped file,
as a store has them. Every strategy selects without limits; `cover` also with limits: half of the rows from
the one percent that have a rare value, at most a tenth from any of 50 values, no two with a cosine above 0.2.
Then the texts of 20,000 rows of 40 made-up words are compared with 1,000 evaluation rows, as `--exclude`
does, and the time is given for a million. On a shared machine the time on the clock says little, so the
measures are seconds of all cores together.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import record

from airrep_infer import select
from airrep_infer.rows import Example, Exclusion
from airrep_infer.score import FieldCounts, Limits, Strategy

DIMENSION = 384
EVALUATION_ROWS = 1000
TEXTS = 20_000
WORDS_IN_A_TEXT = 40
VALUES = 50


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and of all cores together."""

    wall: float
    cpu: float


def time_selection(pool: np.ndarray, queries: np.ndarray, n: int, **how: Any) -> Cost:
    """The cost of one selection."""
    start, cpu = time.perf_counter(), time.process_time()
    chosen = select(queries, pool, n, **how)
    assert len(set(chosen.rows.tolist())) == n
    return Cost(time.perf_counter() - start, time.process_time() - cpu)


def limits_of(pool: np.ndarray, n: int) -> Limits:
    """At most a tenth of the rows of any of 50 values, half of them of a rare value, none near another."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, VALUES, len(pool)).astype(np.int32)
    names = tuple(f"value {number}" for number in range(VALUES))
    most = FieldCounts("field", names, codes, np.full(VALUES, n // 10))
    rare = (rng.random(len(pool)) < 0.01).astype(np.int32)
    least = FieldCounts("rare", ("no", "yes"), rare, np.array([0, n // 2]))
    return Limits(at_most=(most,), at_least=least, max_cosine=0.2)


def time_exclusion(folder: Path) -> Cost:
    """What comparing the texts of a million rows with the evaluation rows costs."""
    chooser = random.Random(0)
    words = ["".join(chooser.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(5000)]

    def text() -> str:
        return " ".join(chooser.choices(words, k=WORDS_IN_A_TEXT))

    file = folder / "evaluation.jsonl"
    file.write_text("".join(f'{{"text": "{text()}"}}\n' for _ in range(EVALUATION_ROWS)))
    exclusion = Exclusion(str(file))
    rows = [Example(str(number), None, text()) for number in range(TEXTS)]
    start, cpu = time.perf_counter(), time.process_time()
    excluded = [row for row in rows if exclusion.check(row.id, row)]
    assert not excluded
    each = 1e6 / TEXTS
    return Cost((time.perf_counter() - start) * each, (time.process_time() - cpu) * each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    costs: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        record.write_unit_vectors(folder / "pool.npy", options.rows, DIMENSION, "float16")
        pool = np.load(folder / "pool.npy", mmap_mode="r")
        queries = np.random.default_rng(2).standard_normal((options.queries, DIMENSION), np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        time_selection(pool, queries, options.n, strategy="mean")  # reads the file into memory
        for strategy in get_args(Strategy):
            costs[strategy] = time_selection(pool, queries, options.n, strategy=strategy)
        costs["cover, with limits"] = time_selection(
            pool, queries, options.n, limits=limits_of(pool, options.n)
        )
        costs["--exclude, texts of a million rows"] = time_exclusion(folder)
    for name, cost in costs.items():
        print(f"{name:36} {cost.wall:6.1f} s, {cost.cpu:6.1f} s of the cores")
    if options.json:
        of = f"{options.n:,} of {options.rows:,} rows for {options.queries:,} queries"
        measures = {
            name if name.startswith("--") else f"select {of}: {name}": record.Measure(
                cost.cpu, "s of the cores"
            )
            for name, cost in costs.items()
        }
        figures = {
            "arguments": vars(options) | {"json": None},
            "seconds": {name: asdict(cost) for name, cost in costs.items()},
        }
        record.save(options.json, "select_rows", figures, measures)


if __name__ == "__main__":
    main()
