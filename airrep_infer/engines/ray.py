"""Embedding and scoring on a Ray cluster; a worker that dies loses nothing but time.

The bundle travels through the cluster's object store and texts and vectors with the calls, so for
embedding the nodes need only this package. For scoring they need to see the store, under one path.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from airrep_infer.bundle import MANIFEST, TOKENIZER, Bundle
from airrep_infer.encode import Encoder, EncoderOptions
from airrep_infer.engines.ray_cluster import Share, Shared, connected, divide_cluster, ray_result
from airrep_infer.engines.workers import LANES, EncoderHost, Worker, WorkerEncoder
from airrep_infer.errors import InputError
from airrep_infer.resources import asked_memory, take_budget
from airrep_infer.score import MAX_BLOCK_ROWS, A, RowsOf, Scanned, ScanPlan, Wanted, scan
from airrep_infer.store import EmbeddingStore, is_store

StoredRows = EmbeddingStore | RowsOf
"""A store, or some rows of one."""
BundleFiles = dict[str, NDArray[np.uint8]]
# Ranges per worker: the last to finish keeps the others waiting for a fraction of its share only.
_RANGES_A_WORKER = 4


@contextmanager
def ray_workers(
    bundle: Bundle, options: EncoderOptions, workers: int | None, address: str | None
) -> Iterator[WorkerEncoder]:
    """Actors with the model loaded; see `engines.Engine`."""
    bundle.check_files(options.precision)
    device = options.device
    if device == "auto" and bundle.precision(options.precision).runs_on in ("cpu", "openvino"):
        device = "cpu"
    with connected(address) as ray:
        share = divide_cluster(ray, device, workers)
        settings = {**asdict(options), "device": share.device, "threads": share.threads}
        actor = ray.remote(EncoderHost).options(**share.actor, max_concurrency=LANES)
        load = partial(_load, Shared(ray, _files(bundle, options.precision)), settings, asked_memory())
        actors = [_Actor(ray, actor.remote(), load) for _ in range(share.workers)]
        encoder = WorkerEncoder(bundle, options.precision, actors)
        try:
            yield encoder
        finally:
            encoder.close()


def _files(bundle: Bundle, precision: str) -> BundleFiles:
    names = [MANIFEST, TOKENIZER, *bundle.precision(precision).files]
    return {name: np.fromfile(bundle.path / name, np.uint8) for name in names}


def _load(files: Shared[BundleFiles], settings: dict[str, Any], asked_bytes: int | None) -> Encoder:
    take_budget(asked_bytes)
    with tempfile.TemporaryDirectory(prefix="airrep-") as folder:
        for name, content in files.value().items():
            (Path(folder) / name).write_bytes(content.data)
        return Encoder(folder, **settings)


class _Actor(Worker):
    """A worker on the cluster, seen from the driver."""

    def __init__(self, ray: Any, handle: Any, load: Callable[[], Encoder]) -> None:
        self._ray, self._handle, self._load = ray, handle, load

    def call(self, method: str, *arguments: object) -> Any:
        return ray_result(self._ray, getattr(self._handle, method).remote(self._load, *arguments))

    def stop(self) -> None:
        self._ray.kill(self._handle)


@contextmanager
def ray_scan(workers: int | None, address: str | None) -> Iterator[RayScan]:
    """A scan that is spread over a cluster; see `engines.Engine`."""
    with connected(address) as ray:
        yield RayScan(ray, divide_cluster(ray, "cpu", workers))


@dataclass(frozen=True)
class _Rows:
    """Consecutive rows of a corpus, under their numbers there."""

    corpus: StoredRows
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first

    def blocks(self, size: int, wanted: Wanted | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        def inside(first: int, end: int) -> bool:
            first, end = max(first, self.first), min(end, self.end)
            return first < end and (wanted is None or wanted(first, end))

        for first, block in self.corpus.blocks(size, inside):
            begin, end = max(self.first - first, 0), min(self.end - first, len(block))
            yield first + begin, block[begin:end]

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        return self.corpus.take(numbers)


@dataclass(frozen=True)
class _ScanTask(Generic[A]):
    """What every task of a scan needs, the memory budget too; sent to the cluster once.

    `corpus`, the plan's, is of `store`.
    """

    plan: ScanPlan[A]
    corpus: StoredRows
    store: EmbeddingStore
    asked_bytes: int | None = None

    def over(self, first: int, end: int) -> A:
        """The partial result of rows `first` to `end`, from the files as this node sees them."""
        take_budget(self.asked_bytes)
        path, node = self.store.path, platform.node()
        if not is_store(path):
            raise InputError(
                f"{path}: node {node} of the Ray cluster does not see this store; put it on storage that "
                "all nodes mount under this path, or use --engine local"
            )
        if EmbeddingStore.open(path).parts[: len(self.store.parts)] != self.store.parts:
            raise InputError(f"{path}: node {node} of the Ray cluster sees another store under this path")
        return scan(replace(self.plan, corpus=_Rows(self.corpus, first, end))).seen


class RayScan:
    """A `Scan` as tasks over ranges of a store's rows whose partial results merge in row order.

    It may also be over some rows of a store. The ranges follow from the rows and the number of workers, not
    from who was free, so a run gives the same result again; a task is a function of its range, so Ray may run
    it twice.
    """

    def __init__(self, ray: Any, share: Share) -> None:
        self._ray, self._share = ray, share

    def __call__(self, plan: ScanPlan[A]) -> Scanned[A]:
        """Make the pass.

        Raises:
            InputError: the corpus is no store or a node does not see it, or the plan says `threads`.
        """
        corpus = plan.corpus
        source = corpus.corpus if isinstance(corpus, RowsOf) else corpus
        if not isinstance(source, EmbeddingStore):
            raise InputError("a scan on Ray reads a store; embed the rows first")
        if plan.threads is not None:
            raise InputError("threads belongs to engine local; with ray, give --workers")
        store = replace(source, path=source.path.resolve())
        rows: StoredRows = RowsOf(store, corpus.numbers) if isinstance(corpus, RowsOf) else store
        # A range is small, but what it is a part of decides the dtype.
        sent = replace(plan, corpus=rows, threads=self._share.threads, dtype=plan.cpu_dtype, report=None)
        task = self._ray.remote(_ScanTask.over).options(**self._share.task)
        shared = self._ray.put(_ScanTask(sent, rows, store, asked_memory()))
        size = -(-len(rows) // (self._share.workers * _RANGES_A_WORKER * MAX_BLOCK_ROWS)) * MAX_BLOCK_ROWS
        ranges = [(first, min(first + size, len(rows))) for first in range(0, len(rows), size)]
        running = [task.remote(shared, first, end) for first, end in ranges]
        total = plan.make()  # what Ray returns is read-only
        # After an error the other ranges are left to end by themselves, or with this process: Ray aborts the
        # process whose `cancel` meets a task that is just ending (a failed check of submissible_tasks_).
        for (first, end), reference in zip(ranges, running, strict=True):
            total.merge(ray_result(self._ray, reference))
            if plan.report:
                plan.report(end - first)
        return Scanned(total, plan.cpu_dtype)
