"""Latency of one query from text to rows, and throughput of embedding and scoring; needs the extra `bench`.

    pytest benchmarks/test_latency.py [-k 100000] [--benchmark-json FILE]

A query is tokenized, encoded with all-MiniLM-L6-v2 and attributed (top 10 of both ends and the influence
of all rows) to random vectors of unit length in a memory-mapped file, which is in memory already. The
texts are those of demo/data. `make bench` stores the figures as a record (see run.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import record

from airrep_infer import Encoder, attribute, read_examples

DIMENSION = 384
SIZES = (100_000, 1_000_000)
ROUNDS = {100_000: 60, 1_000_000: 30}
TEXTS = 256
QUERIES = 1000


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(record.minilm_bundle(tmp_path_factory.mktemp("latency")), device="cpu")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    examples = read_examples(record.ROOT / "demo" / "data" / "examples.jsonl")
    return [example.text for example in examples[:TEXTS]]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[np.ndarray]:
    path = Path(tmp_path_factory.mktemp("vectors")) / "vectors.npy"
    record.write_unit_vectors(path, max(SIZES), DIMENSION)
    yield np.load(path, mmap_mode="r")
    path.unlink()


def store(benchmark: Any, measures: dict[str, record.Measure], **extra: object) -> None:
    named = {name: asdict(measure) for name, measure in measures.items()}
    benchmark.extra_info.update(extra, measures=named)


@pytest.mark.parametrize("rows", SIZES)
def test_one_query_from_text_to_rows(
    rows: int, encoder: Encoder, texts: list[str], vectors: np.ndarray, benchmark: Any
) -> None:
    corpus, next_text = vectors[:rows], itertools.cycle(texts)

    def ask() -> object:
        return attribute(encoder.embed([next(next_text)]), corpus, k=10)

    benchmark.pedantic(ask, rounds=ROUNDS[rows], warmup_rounds=3)
    p50, p95 = np.percentile(np.array(benchmark.stats.stats.data) * 1e3, [50, 95])
    # Other work on the machine decides p95, so it is recorded but not compared.
    store(benchmark, {f"one query, {rows} rows, p50": record.Measure(p50, "ms")}, p50_ms=p50, p95_ms=p95)


def test_embedding_throughput(encoder: Encoder, texts: list[str], benchmark: Any) -> None:
    benchmark.pedantic(encoder.embed, args=(texts,), rounds=10, warmup_rounds=1)
    speed = len(texts) / benchmark.stats.stats.median
    store(benchmark, {f"embed {len(texts)} texts": record.Measure(speed, "texts/s", higher_is_better=True)})


def test_scoring_throughput(vectors: np.ndarray, benchmark: Any) -> None:
    rows = min(SIZES)
    queries = vectors[-QUERIES:]
    benchmark.pedantic(
        attribute, args=(queries, vectors[:rows]), kwargs={"k": 100}, rounds=5, warmup_rounds=1
    )
    speed = QUERIES * rows / benchmark.stats.stats.median / 1e6
    name = f"attribute {QUERIES} queries to {rows} rows"
    store(benchmark, {name: record.Measure(speed, "M scores/s", higher_is_better=True)})
