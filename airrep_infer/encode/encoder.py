"""The encoder: opens a bundle in ONNX Runtime and turns texts into embeddings, in input order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from airrep_infer.bundle import TOKENIZER, Bundle
from airrep_infer.encode.batching import pad_batch, plan_batches
from airrep_infer.encode.io_binding import BoundSession
from airrep_infer.encode.options import EncoderOptions
from airrep_infer.encode.runners import SessionPool, sessions_for
from airrep_infer.encode.space import EmbeddingSpace
from airrep_infer.encode.tokenization import TextTokenizer
from airrep_infer.errors import refuse_single
from airrep_infer.resources import available_cores, memory_budget, threads_within_memory
from airrep_infer.rows import Example
from airrep_infer.session import PROVIDERS, Device, Placement, open_session

AnyRow = TypeVar("AnyRow", bound="str | Example")

# Measured on all-MiniLM-L6-v2, 2 cores: 512 padded tokens keep the activations of a batch in a
# core's own cache; 1,024 is 10% and 8,192 is 25% slower. OpenVINO, whose activations are smaller, is
# fastest with 1,024. A GPU needs large batches to be busy.
BATCH_TOKENS = {"cpu": 512, "openvino": 1_024, "cuda": 32_768}
# Lengths are rounded up to multiples of this, so that few shapes occur and their buffers are reused (see
# `io_binding`). Not measured on a GPU.
LENGTH_BUCKET = {"cpu": 1, "openvino": 1, "cuda": 32}
# Rows are sorted by length inside a window; a window also ends at this much text, so that
# 100,000-word rows do not pile up in memory.
WINDOW_ROWS = 2_048
WINDOW_CHARACTERS = 8_000_000
# Windows in flight at once: while one drains, the next is tokenized and keeps the cores busy.
_WINDOWS_AHEAD = 2
# What a token of a batch takes, measured with all-MiniLM-L6-v2 in float32: 13 values a dimension, and what
# its attention to each other token does. A window takes its texts, their tokens and vectors.
_ACTIVATIONS, _ATTENTION_BYTES = 13, 32
_WINDOW_BYTES = 16_000_000
# While the GPU computes one batch, the next is padded and the vectors of the last are copied out.
_BATCHES_ON_GPU = 2


@dataclass(frozen=True, eq=False)
class EmbeddedWindow(Generic[AnyRow]):
    """Consecutive rows, their (n, D) float32 vectors, and what the token limit cut, (n,) `Cut` as uint8."""

    rows: list[AnyRow]
    vectors: NDArray[np.float32]
    cuts: NDArray[np.uint8]


@dataclass
class _InFlight(Generic[AnyRow]):
    """A window whose vectors fill in as batches finish."""

    window: EmbeddedWindow[AnyRow]
    pending: list[Future[None]]


class WindowEncoder(Protocol):
    """What fills a store: an `Encoder`, or workers elsewhere (see `engines`)."""

    bundle: Bundle
    space: EmbeddingSpace

    def embed_windows(self, windows: Iterable[list[AnyRow]]) -> Iterator[EmbeddedWindow[AnyRow]]: ...

    @property
    def placement(self) -> str:
        """Where it runs, for the user: provider, workers, threads."""
        ...


class Encoder:
    """Embeds texts with a bundle.

    On the CPU, `threads` workers each run their own small batches on one core, in a session of their own
    while copies of the weights are small (see `runners`): less synchronisation, and activations
    stay in the core's cache. On CUDA two workers keep the GPU busy with large ones, of few shapes.

    Args:
        model: a bundle, or its folder.
        precision: a variant the bundle holds; each runs where its manifest entry says.
        device: "cuda" fails where CUDA does not work; "auto" takes CUDA if it works and the precision
            is for it, else the CPU (`provider` says which).
        threads: default: the cores this process may use.
        batch_tokens: padded tokens per batch.
        device_id: which of several GPUs.

    Raises:
        InputError: no usable bundle, precision, or device; or no ONNX Runtime installed.
    """

    def __init__(
        self,
        model: Bundle | str | Path,
        *,
        precision: str = EncoderOptions.precision,
        device: Device = EncoderOptions.device,
        threads: int | None = EncoderOptions.threads,
        batch_tokens: int | None = EncoderOptions.batch_tokens,
        device_id: int = 0,
    ) -> None:
        EncoderOptions(precision, device, threads, batch_tokens)  # checks them
        self.bundle = model if isinstance(model, Bundle) else Bundle.open(model)
        self.threads = available_cores() if threads is None else threads
        self.bundle.check_files(precision)
        definition = (self.bundle.path / TOKENIZER).read_text(encoding="utf-8")
        self._tokenizer = TextTokenizer(definition, self.bundle.max_tokens, self.bundle.template)
        variant = self.bundle.precision(precision)
        placement = Placement(precision, variant.runs_on, device, device_id, self.threads)
        file = self.bundle.path / variant.file
        session = open_session(file, placement)
        self.provider: str = session.get_providers()[0]
        self.device = "cuda" if self.provider == PROVIDERS["cuda"] else "cpu"
        kind = "openvino" if self.provider == PROVIDERS["openvino"] else self.device
        self.batch_tokens = batch_tokens or BATCH_TOKENS[kind]
        if self.device == "cpu":
            self.threads = self._threads_within_memory(self.bundle.size(precision))
        self._equal_lengths = variant.equal_lengths
        self._lengths = {
            "bucket": 1 if variant.equal_lengths else LENGTH_BUCKET[kind],
            "limit": self.bundle.max_tokens,
        }
        self._bound: BoundSession | None = None
        if self.device == "cuda":
            self._bound = BoundSession(session, self.device, device_id, self.bundle.dimension)

        def open_another() -> Any:
            another = open_session(file, placement)
            self.bundle.check_files(precision)  # it may have been replaced since the first was opened
            return another

        # OpenVINO has a stream for each thread in one session.
        copies = (
            1
            if kind == "openvino"
            else sessions_for(self.threads, self.bundle.size(precision), memory_budget() // 4)
        )
        self._sessions = SessionPool(session, open_another, copies)
        self.space = EmbeddingSpace(self.bundle.fingerprint, precision, self.bundle.dimension)

    def _threads_within_memory(self, model_bytes: int) -> int:
        """How many batches the memory budget allows at once, at most `threads`; vectors stay the same."""
        longest = max(self.batch_tokens, self.bundle.max_tokens)  # a longer row is a batch of its own
        token = _ACTIVATIONS * 4 * self.bundle.dimension + _ATTENTION_BYTES * self.bundle.max_tokens
        return threads_within_memory(
            self.threads,
            each=longest * token,
            shared=2 * model_bytes + _WINDOW_BYTES * (_WINDOWS_AHEAD + 1),
            what=f"embedding in batches of {longest} tokens",
            fix="lower --batch-tokens",
        )

    @property
    def placement(self) -> str:
        """Where it runs, for the user: provider and threads."""
        return f"{self.provider}, {self.threads} threads"

    def embed(self, rows: Sequence[str | Example]) -> NDArray[np.float32]:
        """Embed texts or examples.

        Returns:
            (n, D) float32, in input order. A row's vector does not depend on the other rows beyond
            float rounding.
        """
        result = np.empty((len(rows), self.bundle.dimension), np.float32)
        start = 0
        for window in self.embed_stream(rows):
            result[start : start + len(window.rows)] = window.vectors
            start += len(window.rows)
        return result

    def embed_stream(self, rows: Iterable[AnyRow]) -> Iterator[EmbeddedWindow[AnyRow]]:
        """Embed any number of rows in bounded memory.

        Yields:
            Windows of consecutive rows with their embeddings, in input order.
        """
        return self.embed_windows(cut_windows(rows))

    def embed_windows(self, windows: Iterable[list[AnyRow]]) -> Iterator[EmbeddedWindow[AnyRow]]:
        """Embed windows that are cut already, as `cut_windows` does.

        The batches, and so the last bits of a vector, depend on the rows of its own window and on
        `batch_tokens` only. Every CPU batch runs on one thread, so `threads` changes no bit either:
        the same window gives the same bytes in every process, on one kind of machine.

        Yields:
            The windows with their embeddings, in order.
        """
        workers = self.threads if self.device == "cpu" else _BATCHES_ON_GPU
        with ThreadPoolExecutor(workers, "embed") as pool, ThreadPoolExecutor(1, "tokenize") as front:
            queue: deque[Future[_InFlight[AnyRow]]] = deque()
            try:
                for window in windows:
                    queue.append(front.submit(self._start, window, pool))
                    if len(queue) > _WINDOWS_AHEAD:
                        yield _finish(queue.popleft())
                while queue:
                    yield _finish(queue.popleft())
            finally:
                # An error or a closed generator: drop what has not started instead of finishing it.
                front.shutdown(wait=True, cancel_futures=True)
                pool.shutdown(wait=True, cancel_futures=True)

    def _start(self, rows: list[AnyRow], pool: ThreadPoolExecutor) -> _InFlight[AnyRow]:
        """Tokenize a window and hand its batches to the workers."""
        tokenized = self._tokenizer.tokenize(rows)
        ids = tokenized.ids
        lengths = np.array([len(row) for row in ids], dtype=np.intp)
        embeddings = np.empty((len(rows), self.bundle.dimension), np.float32)
        pending = [
            pool.submit(self._run, ids, places, embeddings)
            for places in plan_batches(
                lengths, self.batch_tokens, equal_lengths=self._equal_lengths, **self._lengths
            )
        ]
        return _InFlight(EmbeddedWindow(rows, embeddings, tokenized.cuts), pending)

    def _run(self, ids: list[NDArray[np.int64]], places: NDArray[np.intp], out: NDArray[np.float32]) -> None:
        batch = pad_batch(ids, places, self.bundle.pad_id, **self._lengths)
        if self._bound:
            out[places] = self._bound.run(batch.input_ids, batch.attention_mask)
            return
        feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        with self._sessions.borrow() as session:
            (out[places],) = session.run(["embedding"], feed)


def _finish(started: Future[_InFlight[AnyRow]]) -> EmbeddedWindow[AnyRow]:
    in_flight = started.result()
    wait(in_flight.pending)
    for batch in in_flight.pending:
        batch.result()  # raises what the batch raised
    return in_flight.window


def cut_windows(rows: Iterable[AnyRow]) -> Iterator[list[AnyRow]]:
    """Rows as windows: the unit that is embedded at once, and that workers and machines share out."""
    refuse_single(rows, "rows")
    window: list[AnyRow] = []
    characters = 0
    for row in rows:
        window.append(row)
        characters += len(row) if isinstance(row, str) else len(row.response) + len(row.prompt or "")
        if len(window) >= WINDOW_ROWS or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window
