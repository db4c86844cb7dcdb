"""Latency and recall of the index over 1,000,000 vectors of real embeddings, on one thread.

    python benchmarks/index.py [--rows 1000000] [--json benchmarks/results/index.json]

The rows of ../shared/p3/examples.jsonl are embedded once with all-MiniLM-L6-v2 (untrained). 1,000 of them,
chosen with seed 0, are held out as queries: `ef` is chosen with 500, and recall and latency are measured
with the others. The rest are too few for a large store, so every further vector is a mixture of two of
them: t a + (1 - t) b with t uniform, stretched to the length t |a| + (1 - t) |b|, because a mixture of two
directions is shorter than real embeddings. A query is one call with one vector, timed alone, including its
scores in float64. The exact scan of the same queries, one at a time on one thread, gives the true rows and
the time to compare with.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record

from airrep_infer import AnnIndex, EmbeddingStore, Encoder, attribute, build_index, read_examples
from airrep_infer.errors import InputError
from airrep_infer.index import is_index
from airrep_infer.resources import available_cores
from airrep_infer.rows import Example
from airrep_infer.store import StoreWriter

HELD_OUT = 1000
EXACT_QUERIES = 20
_BLOCK = 50_000


def write_store(path: Path, rows: int, real: np.ndarray, encoder: Encoder, rng: np.random.Generator) -> None:
    """`rows` vectors: the real ones, then mixtures of two."""
    lengths = np.linalg.norm(real, axis=1)
    with StoreWriter(path, encoder.space, pooling_scale=encoder.bundle.pooling_scale) as writer:
        for first in range(0, rows, _BLOCK):
            count = min(_BLOCK, rows - first)
            a, b = rng.integers(0, len(real), (2, count))
            t = rng.random((count, 1), np.float32)
            block = t * real[a] + (1 - t) * real[b]
            stretched = t[:, 0] * lengths[a] + (1 - t[:, 0]) * lengths[b]
            block *= (stretched / np.linalg.norm(block, axis=1))[:, None]
            if first == 0:
                block[: len(real)] = real[:count]
            names = [str(number) for number in range(first, first + count)]
            writer.append([Example(name, None, name) for name in names], block)


def latency(search: Callable[[np.ndarray], object], queries: np.ndarray) -> dict[str, float]:
    """Milliseconds of each query, after a burn-in that also loads the pages into memory."""
    for query in queries:
        search(query[None])
    seconds = []
    for query in queries:
        start = time.perf_counter()
        search(query[None])
        seconds.append(time.perf_counter() - start)
    p50, p95 = np.percentile(np.array(seconds) * 1e3, [50, 95])
    return {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3)}


def share(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, right, strict=True)]))


def measure(index: AnnIndex, queries: np.ndarray) -> dict[str, Any]:
    exact = attribute(queries, index.store, k=10)
    found = index.attribute(queries, 10, threads=1)
    off = np.abs(found.group_influence - exact.group_influence)
    scan: list[float] = []
    for query in queries[:EXACT_QUERIES]:
        start = time.perf_counter()
        attribute(query[None], index.store, k=10, threads=1)
        scan.append(time.perf_counter() - start)
    measured = index.manifest.measured
    figures: dict[str, Any] = {}
    for name, search, end, right in (
        ("proponents", index.proponents, measured.proponents, exact.proponent_rows),
        ("opponents", index.opponents, measured.opponents, exact.opponent_rows),
    ):
        recall = share(search(queries, 10, threads=1).rows, right)
        times = latency(lambda query, search=search: search(query, 10, threads=1), queries)
        figures[name] = {"ef": end.ef, "recall_at_10": round(recall, 4), **times}
    held = np.isin(exact.opponent_rows, index.searcher.opponent_graph.row_numbers())
    figures["opponents"]["share_of_the_10_lowest_that_are_hubs"] = round(float(held.mean()), 4)
    both = latency(lambda query: index.attribute(query, 10, threads=1), queries)
    return {
        **figures,
        "both ends and influence": both,
        "exact scan": {"p50_ms": round(statistics.median(scan) * 1e3, 3), "queries": len(scan)},
        "influence": {
            "mean_magnitude": float(np.abs(exact.group_influence).mean()),
            "mean_off": float(off.mean()),
            "max_off": float(off.max()),
            "mean_bound": float(found.group_influence_error.mean()),
            "beyond_bound": int((off > found.group_influence_error + 1e-9).sum()),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--links", type=int, help="[default: build_index's]")
    parser.add_argument("--ef-construction", type=int, help="[default: build_index's]")
    parser.add_argument("--threads", type=int, help="to build with [default: all it may use]")
    parser.add_argument("--folder", type=Path, help="for store and index [default: a temporary folder]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not (record.P3 / "examples.jsonl").is_file():
        sys.exit(f"missing: {record.P3}/examples.jsonl (rows to embed)")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        encoder = Encoder(record.minilm_bundle(folder), device="cpu", threads=options.threads)
        real = rng.permutation(encoder.embed(read_examples(record.P3 / "examples.jsonl")))
        choosing, queries, real = np.split(real, [HELD_OUT // 2, HELD_OUT])
        write_store(folder / "store", options.rows, real, encoder, rng)
        store = EmbeddingStore.open(folder / "store")
        start = time.perf_counter()
        try:
            build_index(
                store,
                folder / "index",
                queries=choosing,
                source="held-out rows",
                links=options.links,
                ef_construction=options.ef_construction,
                threads=options.threads,
            )
        except InputError as error:  # below the target: a figure like any other
            if not is_index(folder / "index"):
                raise
            print(error, file=sys.stderr)
        built = time.perf_counter() - start
        start = time.perf_counter()
        index = AnnIndex.open(folder / "index", store)
        opened = time.perf_counter() - start
        manifest = index.manifest
        figures = {
            "data": "p3 rows in all-MiniLM-L6-v2, mixed in pairs; queries are held-out rows",
            "rows": options.rows,
            "links": manifest.graph.links,
            "ef_construction": manifest.graph.ef_construction,
            "hubs": {"vertices": manifest.opponent_graph.vertices, "links": manifest.opponent_graph.links},
            "build_threads": options.threads or available_cores(),
            "build_and_measure_seconds": round(built, 1),
            "open_seconds": round(opened, 2),
            "index_mb": round(sum(one.bytes for one in manifest.files) / 1e6, 1),
            "chosen": str(manifest.measured),
            "queries": len(queries),
            **measure(index, queries),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
    if options.json:
        measures = {}
        for name in ("proponents", "opponents"):
            end: dict[str, Any] = figures[name]  # type: ignore[assignment]
            what = f"{name} of {options.rows} rows, {manifest.graph.links} links"
            measures[f"{what}, p50"] = record.Measure(end["p50_ms"], "ms")
            measures[f"{what}, missed"] = record.Measure(1 - end["recall_at_10"], "of the top 10")
        record.save(options.json, "index", figures, measures)
    print(f"{options.rows} rows, {len(queries)} queries one at a time, one thread")
    print(f"index: {figures['index_mb']} MB, made in {built:.0f} s, opened in {opened:.1f} s")
    print(f"{'what':26} {'ef':>5} {'recall@10':>10} {'p50 ms':>8} {'p95 ms':>8}")
    for name in ("proponents", "opponents", "both ends and influence", "exact scan"):
        row: dict[str, Any] = figures[name]  # type: ignore[assignment]
        cells = [str(row.get(key, "")) for key in ("ef", "recall_at_10", "p50_ms", "p95_ms")]
        print(f"{name:26} {cells[0]:>5} {cells[1]:>10} {cells[2]:>8} {cells[3]:>8}")
    print("influence:", {name: round(value, 4) for name, value in figures["influence"].items()})  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
