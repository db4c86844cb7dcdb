"""Speed and memory of `attribute`, compared with the bare product that any scan needs, and with faiss.

Queries and corpus are random vectors of unit length in a memory-mapped .npy file, so the figures say
nothing about quality. `attribute` finds the top k of both ends and the influence of the whole corpus. The
bare product is `queries @ block.T` into a reused array, block by block, with NumPy's BLAS on all cores.
"The scan's products" are `attribute` without any use of the scores. faiss-cpu (extra `bench`; left out if
it is not installed) searches an IndexFlatIP for the top k, which is one end; for "both ends" it also
searches the negated queries. It holds float32 in memory whatever the corpus holds. Runs alternate, so that
the ratios hold on a shared machine, and the medians count.

    python benchmarks/score.py --json benchmarks/results/score.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record

from airrep_infer.resources import available_cores
from airrep_infer.score import Groups, ScanPlan, as_corpus, attribute, scan

# 2,048 rows with 1,000 queries: the bare product is no faster with more or fewer.
SCORES_PER_BLOCK = 1 << 21


def measure(run: Callable[[], object]) -> tuple[float, int]:
    """(seconds, peak of the whole process' anonymous memory in bytes) of one call."""
    peak = record.anonymous_bytes()
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, record.anonymous_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    start = time.perf_counter()
    try:
        run()
    finally:
        seconds = time.perf_counter() - start
        done.set()
        sampler.join()
    return seconds, max(peak, record.anonymous_bytes())


def product(queries: np.ndarray, corpus: np.ndarray, block_rows: int) -> None:
    out = np.empty((len(queries), block_rows), np.float32)
    for first in range(0, len(corpus), block_rows):
        block = np.asarray(corpus[first : first + block_rows], np.float32)
        np.matmul(queries, block.T, out=out[:, : len(block)])


class Nothing:
    """An accumulator of scores that keeps none."""

    def update(self, *_: object) -> None:
        pass

    def merge(self, _: Nothing) -> None:
        pass


def flat_index(corpus: np.ndarray) -> Any:
    """An IndexFlatIP of the corpus; None without faiss."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(available_cores())
    index = faiss.IndexFlatIP(corpus.shape[1])
    for first in range(0, len(corpus), 1 << 16):
        index.add(np.asarray(corpus[first : first + (1 << 16)], np.float32))
    return index


def compare(dtype: str, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    path = folder / f"corpus-{dtype}.npy"
    record.write_unit_vectors(path, options.rows, options.dimension, dtype)
    corpus = np.load(path, mmap_mode="r")
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((options.queries, options.dimension), np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    block_rows = SCORES_PER_BLOCK // len(queries)
    codes = rng.integers(0, options.groups, options.rows) if options.groups else None
    groups = None if codes is None else Groups.from_codes([f"g{g}" for g in range(options.groups)], codes)

    runs: dict[str, Callable[[], object]] = {
        "product": lambda: product(queries, corpus, block_rows),
        "the scan's products": lambda: scan(ScanPlan(queries, as_corpus(corpus), Nothing, dtype="float32")),
        "attribute": lambda: attribute(queries, corpus, k=options.k, dtype="float32"),
    }
    if groups:
        runs["attribute --by"] = lambda: attribute(
            queries, corpus, k=options.k, groups=groups, dtype="float32"
        )
    index = flat_index(corpus)
    if index is not None:
        runs["faiss, one end"] = lambda: index.search(queries, options.k)
        runs["faiss, both ends"] = lambda: (
            index.search(queries, options.k),
            index.search(-queries, options.k),
        )
    product(queries, corpus[: options.rows // 10], block_rows)  # burn-in: pages, threads, clocks
    figures: dict[str, list[tuple[float, int]]] = {name: [] for name in runs}
    before = record.anonymous_bytes()  # the index of faiss among them
    for _ in range(options.repeat):
        for name, run in runs.items():
            seconds, peak = measure(run)
            figures[name].append((seconds, peak - before))
    path.unlink()
    records: list[dict[str, Any]] = []
    for name, values in figures.items():
        seconds = statistics.median(value for value, _ in values)
        rounds = zip(values, figures["product"], strict=True)
        ratios = [value / bare for (value, _), (bare, _) in rounds]
        records.append(
            {
                "corpus_dtype": dtype,
                "what": name,
                "seconds": round(seconds, 2),
                "all_seconds": [round(value, 2) for value, _ in values],
                "times_product": round(statistics.median(ratios), 3),
                "all_times_product": [round(ratio, 2) for ratio in ratios],
                "peak_anonymous_mb": round(max(peak for _, peak in values) / 1e6, 1),
            }
        )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description="attribute against the bare product and faiss")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--groups", type=int, default=0, help="and with a partition into so many groups")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dtype", action="append", choices=["float32", "float16"])
    parser.add_argument(
        "--folder", type=Path, help="where the corpus file is made (default: a temporary folder)"
    )
    parser.add_argument("--json", type=Path, help="write the record here")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for dtype in options.dtype or ["float32", "float16"]:
            rows += compare(dtype, options, Path(folder))
    if options.json:
        names = ("queries", "rows", "dimension", "k", "groups")
        arguments = {name: getattr(options, name) for name in names}
        figures = {"data": "random vectors of unit length", "arguments": arguments, "rows": rows}
        sizes = f"{options.queries} x {options.rows} x {options.dimension}, top {options.k}"
        names = {"attribute": "attribute", "attribute --by": f"attribute --by of {options.groups} groups"}
        measures = {
            f"{names[row['what']]}, {row['corpus_dtype']}, {sizes}": record.Measure(
                row["times_product"], "products"
            )
            for row in rows
            if row["what"] in names
        }
        record.save(options.json, "score", figures, measures)
    print(
        f"{options.queries} queries x {options.rows} rows x {options.dimension}, top {options.k} of both ends"
    )
    print(f"{'corpus':8} {'what':19} {'seconds':>8} {'x product':>10}  {'each round':24} {'peak MB':>8}")
    for row in rows:
        each = " ".join(f"{ratio:.2f}" for ratio in row["all_times_product"])
        print(
            f"{row['corpus_dtype']:8} {row['what']:19} {row['seconds']:8.2f} {row['times_product']:10.2f}  "
            f"{each:24} {row['peak_anonymous_mb']:8.1f}"
        )


if __name__ == "__main__":
    main()
