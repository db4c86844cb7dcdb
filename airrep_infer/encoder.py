"""Encoder: a bundle becomes ONNX Runtime sessions; texts become embeddings, in input order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from airrep_infer.batching import pad_batch, plan_batches
from airrep_infer.bundle import TOKENIZER, Bundle
from airrep_infer.errors import InputError
from airrep_infer.examples import Example
from airrep_infer.store import EmbeddingSpace
from airrep_infer.threads import available_cores
from airrep_infer.tokenization import TextTokenizer

Row = TypeVar("Row", bound="str | Example")
Device = Literal["auto", "cpu", "cuda"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# Measured on all-MiniLM-L6-v2, 2 cores: 512 padded tokens keep the activations of a batch in a
# core's own cache; 1,024 is 10% and 8,192 is 25% slower. A GPU wants its whole width instead.
BATCH_TOKENS = {"cpu": 512, "cuda": 32_768}
# Rows are sorted by length inside a window; a window also ends at this much text, so that
# 100,000-word rows do not pile up in memory.
WINDOW_ROWS = 2_048
WINDOW_CHARACTERS = 8_000_000
# Windows under way at once: while one drains, the next is tokenized and keeps the cores busy.
_WINDOWS_AHEAD = 2

# On the CPU provider these fusions are slower than what they replace (SkipLayerNormalization by 6x).
_CPU_SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasGeluFusion"]


@dataclass
class _Window(Generic[Row]):
    """Consecutive rows under way: their vectors fill in as batches finish."""

    rows: list[Row]
    embeddings: NDArray[np.float32]
    pending: list[Future[None]]


class Encoder:
    """Embeds texts with a bundle.

    On the CPU, `threads` workers share one session and each runs its own small batches on one core:
    less synchronisation, and activations stay in the core's cache. On CUDA one worker runs large ones.

    Args:
        model: a bundle, or its folder.
        precision: a variant the bundle holds.
        device: "cuda" fails where CUDA does not work; "auto" takes CUDA if it works, else the CPU
            (`provider` says which).
        threads: default: the cores this process may use.
        batch_tokens: padded tokens per batch.

    Raises:
        InputError: no usable bundle, precision, or device; or no ONNX Runtime installed.
    """

    def __init__(
        self,
        model: Bundle | str | Path,
        *,
        precision: str = "fp32",
        device: Device = "auto",
        threads: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.bundle = model if isinstance(model, Bundle) else Bundle.open(model)
        self.threads = available_cores() if threads is None else threads
        if self.threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"batch tokens must be at least 1, got {batch_tokens}")
        self.bundle.check_files(precision)
        definition = (self.bundle.path / TOKENIZER).read_text(encoding="utf-8")
        self._tokenizer = TextTokenizer(definition, self.bundle.max_tokens)
        self._session = _open_session(
            self.bundle.path / self.bundle.precision(precision).file, device, self.threads
        )
        self.provider: str = self._session.get_providers()[0]
        self.device = "cuda" if self.provider == PROVIDERS["cuda"] else "cpu"
        self.batch_tokens = batch_tokens or BATCH_TOKENS[self.device]
        self.space = EmbeddingSpace(self.bundle.fingerprint, precision, self.bundle.dimension)

    def embed(self, rows: Sequence[str | Example]) -> NDArray[np.float32]:
        """Embed texts or examples.

        Returns:
            (n, D) float32, in input order. A row's vector does not depend on the other rows beyond
            float rounding.
        """
        result = np.empty((len(rows), self.bundle.dimension), np.float32)
        at = 0
        for window, embeddings in self.embed_stream(rows):
            result[at : at + len(window)] = embeddings
            at += len(window)
        return result

    def embed_stream(self, rows: Iterable[Row]) -> Iterator[tuple[list[Row], NDArray[np.float32]]]:
        """Embed any number of rows in bounded memory.

        Yields:
            Windows of consecutive rows with their (n, D) float32 embeddings, in input order.
        """
        workers = self.threads if self.device == "cpu" else 1
        with ThreadPoolExecutor(workers, "embed") as pool, ThreadPoolExecutor(1, "tokenize") as front:
            queue: deque[Future[_Window[Row]]] = deque()
            try:
                for rows_of_window in _windows(rows):
                    queue.append(front.submit(self._start, rows_of_window, pool))
                    if len(queue) > _WINDOWS_AHEAD:
                        yield _finish(queue.popleft())
                while queue:
                    yield _finish(queue.popleft())
            finally:
                # An error or a closed generator: drop what has not started instead of finishing it.
                front.shutdown(wait=True, cancel_futures=True)
                pool.shutdown(wait=True, cancel_futures=True)

    def _start(self, rows: list[Row], pool: ThreadPoolExecutor) -> _Window[Row]:
        """Tokenize a window and hand its batches to the workers."""
        ids = self._tokenizer.encode([row if isinstance(row, str) else row.text for row in rows])
        lengths = np.array([len(row) for row in ids], dtype=np.intp)
        embeddings = np.empty((len(rows), self.bundle.dimension), np.float32)
        pending = [
            pool.submit(self._run, ids, places, embeddings)
            for places in plan_batches(lengths, self.batch_tokens)
        ]
        return _Window(rows, embeddings, pending)

    def _run(self, ids: list[NDArray[np.int64]], places: NDArray[np.intp], out: NDArray[np.float32]) -> None:
        batch = pad_batch(ids, places, self.bundle.pad_id)
        feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        (out[places],) = self._session.run(["embedding"], feed)


def _finish(started: Future[_Window[Row]]) -> tuple[list[Row], NDArray[np.float32]]:
    window = started.result()
    wait(window.pending)
    for batch in window.pending:
        batch.result()  # raises what the batch raised
    return window.rows, window.embeddings


def _windows(rows: Iterable[Row]) -> Iterator[list[Row]]:
    window: list[Row] = []
    characters = 0
    for row in rows:
        window.append(row)
        characters += len(row) if isinstance(row, str) else len(row.response) + len(row.prompt or "")
        if len(window) >= WINDOW_ROWS or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _open_session(file: Path, device: Device, threads: int) -> Any:
    ort = _onnxruntime()
    working = ort.get_available_providers()
    if device == "cuda" and PROVIDERS["cuda"] not in working:
        raise InputError(
            f"--device cuda: this ONNX Runtime has no CUDA provider, only {', '.join(working)}; "
            "install airrep[gpu] in place of airrep[cpu], or use --device cpu"
        )
    wants_cuda = device == "cuda" or (device == "auto" and PROVIDERS["cuda"] in working)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = 1  # each worker thread runs its batches itself
    # Memory patterns are kept per input shape: with free lengths they only grow.
    options.enable_mem_pattern = False
    providers: list[Any] = [PROVIDERS["cpu"]]
    if wants_cuda:
        # The arena grows to what is asked for, not to the next power of two.
        providers.insert(0, (PROVIDERS["cuda"], {"arena_extend_strategy": "kSameAsRequested"}))
        options.intra_op_num_threads = threads
    try:
        session = ort.InferenceSession(
            str(file),
            options,
            providers=providers,
            disabled_optimizers=None if wants_cuda else _CPU_SLOW_FUSIONS,
        )
    except Exception as error:  # ONNX Runtime raises many types of its own, without a common base
        raise InputError(f"{file}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from error
    first = session.get_providers()[0]
    if device == "cuda" and first != PROVIDERS["cuda"]:
        # ONNX Runtime only logs a failing CUDA start and goes on with the CPU.
        raise InputError(
            f"--device cuda: CUDA did not start (ONNX Runtime fell back to {first}); check that the "
            "driver, CUDA and cuDNN match this onnxruntime-gpu, or use --device cpu"
        )
    return session


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "ONNX Runtime is not installed: pip install 'airrep[cpu]' (any machine) "
            "or pip install 'airrep[gpu]' (CUDA); never both"
        ) from error
    return onnxruntime
