"""Embed examples: files into a store that resumes and grows, or a few rows into memory."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.encode import EmbeddingSpace, WindowEncoder, cut_windows
from airrep_infer.errors import InputError
from airrep_infer.files import InputFiles
from airrep_infer.json_reader import read_objects
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import (
    AS_WRITTEN,
    CutCounts,
    Example,
    ExampleReader,
    OnError,
    OnTruncate,
    Reading,
    Rejected,
    holds_rows,
    refuse_cuts,
    write_rejects,
)
from airrep_infer.store.listing import is_store
from airrep_infer.store.shards import ShardReader, nothing_usable, windows_to_embed
from airrep_infer.store.store import EmbeddingStore, StoreRow
from airrep_infer.store.writer import StoreWriter


@dataclass(frozen=True)
class EmbedSummary:
    """What one `embed_files` did: rows now in the store, added now, rejected now (and where those are).

    `cut` counts the rows of the store that the token limit cut; None where an earlier version began it.
    """

    count: int
    added: int
    rejected: int
    rejects_file: str | None
    cut: CutCounts | None = None


def embed_files(
    examples: Sequence[str | Path],
    encoder: WindowEncoder,
    output: str | Path,
    *,
    dtype: str = "float32",
    part_rows: int = 50_000,
    keep: Sequence[str] | None = None,
    on_error: OnError = "raise",
    reading: Reading = AS_WRITTEN,
    on_truncate: OnTruncate = "cut",
    shard: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> EmbedSummary:
    """Embed examples into a store, or add to one what is new.

    A row whose id and text are in the store is left alone, so the same call resumes a run that was
    stopped (a killed one to the same bytes) and extends the store of a file that has grown.

    Args:
        examples: files and folders, see `ExampleReader`.
        encoder: an `Encoder`, or what `engines.Engine.encoder` opens.
        dtype, part_rows, keep: see `StoreWriter`.
        on_error: "skip" writes bad rows to `<output>.rejects.jsonl` and continues. A run replaces what an
            earlier one wrote there of the same files, so an empty file says that there are none.
        reading: which columns are what, where the keys of the rows do not say it.
        on_truncate: "error" refuses a row that exceeds the token limit; rows before it are stored.
        shard: (I, N): only part I of N, for `merge_stores`; see `ShardReader`.
        progress: told of the stage "embed", in rows.

    Raises:
        InputError: a bad row, an id whose text changed, a store of another model, or a file that changed
            while it was read.
        StorageError: the store cannot be written; what was complete before stays.
    """
    output = Path(output)
    inputs = InputFiles(examples)
    reader = ExampleReader(examples, on_error=on_error, reading=reading)
    part = ShardReader(reader, shard) if shard else None
    total = part.shard.rows if part else None
    if part is None and reader.replayable and on_error == "raise":
        # Reading takes a hundredth of the time of embedding: a bad last row should not cost a night.
        total = sum(1 for _ in reader)
    windows = iter(part or cut_windows(reader))
    first = list(itertools.islice(windows, 1))  # a bad row in the first window leaves no store behind
    if not first and part is None:
        raise nothing_usable(reader)
    with StoreWriter(
        output,
        encoder.space,
        pooling_scale=encoder.bundle.pooling_scale,
        dtype=dtype,
        part_rows=part_rows,
        keep=keep,
        shard=part.shard if part else None,
        template=encoder.bundle.template,
    ) as writer:
        counter = _Counter(progress, total)
        todo = windows_to_embed(itertools.chain(first, windows), writer.has, counter.skipped)
        for window in encoder.embed_windows(counter.started(todo)):
            if on_truncate == "error":
                refuse_cuts(window.rows, window.cuts)
            writer.append(window.rows, window.vectors, skip_stored=True, cuts=window.cuts)
            counter.embedded(len(window.rows))
    rejected = (part or reader).rejected
    inputs.check_unchanged()
    rejects = output.with_name(f"{output.name}.rejects.jsonl")
    if on_error == "skip" or rejects.exists():
        write_rejects(rejects, [*_of_other_inputs(rejects, reader), *rejected])
    store = EmbeddingStore.open(output)
    return EmbedSummary(
        count=len(store),
        added=writer.added,
        rejected=len(rejected),
        rejects_file=str(rejects) if rejected else None,
        cut=store.cut,
    )


def _of_other_inputs(rejects: Path, reader: ExampleReader) -> list[Rejected]:
    """What earlier runs rejected of files that this one does not read."""
    if not rejects.is_file():
        return []
    names = {"<stdin>" if path == "-" else path for path in reader.paths}
    kept = []
    for line, row in read_objects(rejects):
        try:
            reject = Rejected(**row)
        except TypeError as error:
            raise InputError(f"{rejects}:{line}: no rejected row; move this file away") from error
        if reject.file not in names:
            kept.append(reject)
    return kept


class _Counter:
    """Reports rows that are done; those that a resumed run skips at its start are done before it."""

    def __init__(self, progress: Progress | None, total: int | None) -> None:
        self._progress, self._total = progress, total
        self._stored = 0
        self._add: Callable[[int], None] | None = None

    def skipped(self, rows: int) -> None:
        if self._add is None:
            self._stored += rows
        else:
            self._add(rows)

    def started(self, windows: Iterable[list[Example]]) -> Iterator[list[Example]]:
        for window in windows:
            if self._add is None:
                self._add = begin(self._progress, "embed", self._total, done=self._stored)
            yield window

    def embedded(self, rows: int) -> None:
        assert self._add is not None
        self._add(rows)


@dataclass(frozen=True, eq=False)
class EmbeddedRows:
    """Rows in memory, as queries are: `rows` (n,), `vectors` (n, D) float32, and the space of the vectors.

    `source` is what the user calls them.
    """

    source: str
    space: EmbeddingSpace
    rows: tuple[StoreRow, ...]
    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of_store(cls, store: EmbeddingStore) -> EmbeddedRows:
        """All rows of a store."""
        vectors = store.take(np.arange(len(store)))
        return cls(str(store.path), store.space, tuple(store.rows()), vectors)

    @classmethod
    def of_ids(cls, store: EmbeddingStore, ids: Sequence[str]) -> EmbeddedRows:
        """The rows of a store with these ids, in this order.

        Raises:
            InputError: an id is given twice, or the store does not have it.
        """
        twice = [name for name, count in Counter(ids).items() if count > 1]
        if twice:
            raise InputError(f"id {twice[0]!r} is given twice; give each once")
        wanted = set(ids)
        known = {row.id: (number, row) for number, row in enumerate(store.rows()) if row.id in wanted}
        missing = [name for name in ids if name not in known]
        if missing:
            raise InputError(
                f"{store.path}: has no row with id {missing[0]!r} ({len(missing)} missing in all)"
            )
        numbers = [known[name][0] for name in ids]
        rows = tuple(known[name][1] for name in ids)
        return cls(str(store.path), store.space, rows, store.take(numbers))


def embed_rows(
    source: str | Path,
    encoder: Callable[[], WindowEncoder],
    what: str,
    progress: Progress | None = None,
    *,
    reading: Reading = AS_WRITTEN,
) -> EmbeddedRows:
    """The rows of a store, or of examples that are embedded now, in memory.

    Args:
        source: a store's folder, or what `ExampleReader` reads.
        encoder: makes the encoder; called only for examples.
        what: how messages call the source ("--query").
        progress: told of the stage "embed", in rows.
        reading: which columns are what, where the keys of the rows do not say it.

    Raises:
        InputError: neither a store nor examples, no rows, or a bad row (`file:line`).
    """
    if is_store(source):
        return EmbeddedRows.of_store(_open_store(source))
    _check_examples(source, what)
    reader = ExampleReader([source], reading=reading)
    total = sum(1 for _ in reader) if reader.replayable else None  # finds bad rows before the model loads
    embed = encoder()
    add = begin(progress, "embed", total)
    rows: list[StoreRow] = []
    blocks = []
    for window in embed.embed_windows(cut_windows(reader)):
        rows += (StoreRow(example.id, example.sha, example.fields) for example in window.rows)
        blocks.append(window.vectors)
        add(len(window.rows))
    return EmbeddedRows(str(source), embed.space, tuple(rows), np.concatenate(blocks))


@contextmanager
def open_source(
    source: str | Path,
    encoder: Callable[[], WindowEncoder],
    what: str,
    progress: Progress | None = None,
    *,
    reading: Reading = AS_WRITTEN,
) -> Iterator[EmbeddingStore]:
    """A store as it is, or examples embedded into a temporary one: a corpus need not fit in memory.

    Args:
        source, encoder, what, progress, reading: as for `embed_rows`.

    Raises:
        InputError: neither a store nor examples, no rows, or a bad row (`file:line`).
    """
    if is_store(source):
        yield _open_store(source)
        return
    _check_examples(source, what)
    with tempfile.TemporaryDirectory(prefix="airrep-") as folder:
        output = Path(folder) / "store"
        embed_files([source], encoder(), output, reading=reading, progress=progress)
        yield EmbeddingStore.open(output)


def _open_store(path: str | Path) -> EmbeddingStore:
    store = EmbeddingStore.open(path)
    if not len(store):
        raise InputError(f"{path}: the store has no rows; embed some first")
    return store


def _check_examples(source: str | Path, what: str) -> None:
    if Path(source).is_dir() and not holds_rows(source):
        raise InputError(
            f"{source}: neither a store (no store.json) nor a folder of Parquet or Arrow files, for {what}"
        )
