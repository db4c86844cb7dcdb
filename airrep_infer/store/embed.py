"""Embed examples: files into a store that resumes and grows, or a few rows into memory."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.command import finishing_first
from airrep_infer.encode import EmbeddingSpace, WindowEncoder, cut_windows
from airrep_infer.errors import InputError
from airrep_infer.files import InputFiles
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import (
    AS_WRITTEN,
    CutCounts,
    Example,
    ExampleReader,
    OnError,
    OnTruncate,
    Reading,
    RowId,
    holds_rows,
    refuse_cuts,
    update_rejects,
)
from airrep_infer.store.counter import RowCounter
from airrep_infer.store.lines import WantedFields, check_fields, group_codes
from airrep_infer.store.listing import VectorDtype, is_store
from airrep_infer.store.part import PART_ROWS
from airrep_infer.store.shards import ShardReader, nothing_usable, windows_to_embed
from airrep_infer.store.store import EmbeddingStore, StoreRow
from airrep_infer.store.update import StoreUpdate, UpdateSummary
from airrep_infer.store.writer import StoreWriter


@dataclass(frozen=True)
class EmbedSummary:
    """What one `embed_files` did: rows now in the store, added now, rejected now (and where those are).

    Attributes:
        cut: how many rows of the store the token limit cut; None where that is not known: an earlier version
            began the store, or rows left it of which some were cut.
        changes: what the input changed in the store.
        left_out: rows that exceed the token limit, where those were to be skipped.
    """

    count: int
    added: int
    rejected: int
    rejects_file: str | None
    cut: CutCounts | None = None
    changes: UpdateSummary = field(default_factory=UpdateSummary)
    left_out: int = 0


def embed_files(
    examples: Sequence[str | Path],
    encoder: WindowEncoder,
    output: str | Path,
    *,
    dtype: VectorDtype = "float32",
    part_rows: int = PART_ROWS,
    keep: Sequence[str] | None = None,
    on_error: OnError = "raise",
    reading: Reading = AS_WRITTEN,
    on_truncate: OnTruncate = "cut",
    shard: tuple[int, int] | None = None,
    prune: bool = False,
    progress: Progress | None = None,
) -> EmbedSummary:
    """Embed examples into a store, or make one follow them.

    A row whose id and text are in the store is left alone, so the same call resumes a run that was
    stopped (a killed one to the same bytes) and extends the store of a file that has grown. Rows whose text
    or fields changed are replaced, and the order becomes that of the input, all in one step at the end. A
    vector whose text is in the store is kept, whatever its id is now.

    Args:
        examples: files and folders, see `ExampleReader`.
        encoder: an `Encoder`, or what `engines.Engine.encoder` opens.
        dtype, part_rows: see `StoreWriter`.
        keep: the fields to carry along, of any length; None: all short ones.
        on_error: "skip" writes bad rows to `<output>.rejects.jsonl` and continues. A run replaces what an
            earlier one wrote there of the same files, so an empty file says that there are none.
        reading: which columns are what, where the keys of the rows do not say it.
        on_truncate: "error" refuses a row that exceeds the token limit; rows before it are stored. "skip"
            leaves such rows out, as if the input did not have them.
        shard: (I, N): only part I of N, for `merge_stores`; see `ShardReader`.
        prune: remove the rows that are not in the input; else they stay behind the row that they followed.
        progress: told of the stage "embed", in rows, and where the store is written anew of "update".

    In a command of ours SIGTERM lets it finish the window in flight and store it; see `finishing_first`.

    Raises:
        InputError: a bad row, a field to keep that no row has, a store of another model, or a file that
            changed while it was read.
        StorageError: the store cannot be written; what was complete before stays.
    """
    if shard and on_truncate == "skip":
        raise InputError("a shard holds every row of its part: --shard excludes --on-truncate skip")
    output = Path(output)
    inputs = InputFiles(examples)
    check_fields(examples, keep or (), option="--keep", reading=reading, on_error=on_error)
    reading = reading.keeping(*keep or ())
    reader = ExampleReader(examples, on_error=on_error, reading=reading)
    wanted = WantedFields(() if reader.replayable else keep or (), "--keep")
    part = ShardReader(reader, shard) if shard else None
    total = part.shard.rows if part else None
    with ExitStack() as opened:

        def open_store() -> StoreUpdate:
            writer = StoreWriter(
                output,
                encoder.space,
                pooling_scale=encoder.bundle.pooling_scale,
                dtype=dtype,
                part_rows=part_rows,
                keep=None if keep is None else sorted(reading.keep),
                shard=part.shard if part else None,
                template=encoder.bundle.template,
            )
            return opened.enter_context(StoreUpdate(opened.enter_context(writer)))

        update = open_store() if is_store(output) else None
        if reader.replayable and (update or part is None):
            # Reading takes a hundredth of the time of embedding: a bad last row should not cost a night, and
            # what left the input has to be known before.
            total = _survey(part or cut_windows(reader), update)
        windows = iter(part or cut_windows(reader))
        first = list(itertools.islice(windows, 1))
        if not first and part is None:
            raise nothing_usable(reader)
        update = update or open_store()  # not before: an input without a good row leaves no store behind
        counter = RowCounter(progress, total)
        left_out = 0

        def read() -> Iterator[list[Example]]:
            for window in itertools.chain(first, windows):
                if not reader.replayable:
                    wanted.see(window)
                    update.note(window)
                update.copy_vectors(window)
                yield window

        todo = windows_to_embed(read(), update.needs_no_vector, counter.skipped, may_resume=update.may_resume)
        with finishing_first() as stopped:
            for window in encoder.embed_windows(counter.started(todo)):
                if on_truncate == "error":
                    refuse_cuts(window.rows, window.cuts)
                skip = on_truncate == "skip"
                left_out += update.add(window.rows, window.vectors, window.cuts, leave_out_cut=skip)
                counter.embedded(len(window.rows))
                if stopped():  # this window is kept, as a part; the next ones are dropped
                    break
        inputs.check_unchanged()
        changes = update.finish(prune=prune, progress=progress)
    wanted.check([])
    rejected = (part or reader).rejected
    rejects = output.with_name(f"{output.name}.rejects.jsonl")
    if on_error == "skip" or rejects.exists():
        update_rejects(rejects, reader.paths, rejected)
    store = EmbeddingStore.open(output)
    return EmbedSummary(
        count=len(store),
        added=update.added,
        rejected=len(rejected),
        rejects_file=str(rejects) if rejected else None,
        cut=store.cut,
        changes=changes,
        left_out=left_out,
    )


def _survey(windows: Iterable[list[Example]], update: StoreUpdate | None) -> int:
    """Count the rows of an input, and compare them with what is stored."""
    total = 0
    for window in windows:
        total += len(window)
        if update:
            update.note(window)
    if update:
        update.all_noted()
    return total


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

    def groups(self, field: str) -> list[str]:
        """The group of each row by a field, see `group_of`.

        Raises:
            InputError: no row has the field.
        """
        names, codes = group_codes((row.fields for row in self.rows), len(self), field, self.source)
        return [names[code] for code in codes]

    @classmethod
    def of_store(cls, store: EmbeddingStore) -> EmbeddedRows:
        """All rows of a store."""
        vectors = store.take(np.arange(len(store)))
        return cls(str(store.path), store.space, tuple(store.rows()), vectors)

    @classmethod
    def of_ids(cls, store: EmbeddingStore, ids: Sequence[RowId]) -> EmbeddedRows:
        """The rows of a store with these ids, in this order.

        Raises:
            InputError: an id is given twice, or the store does not have it.
        """
        names = list(map(str, ids))
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"id {twice[0]!r} is given twice; give each once")
        wanted = set(names)
        known = {
            str(row.id): (number, row) for number, row in enumerate(store.rows()) if str(row.id) in wanted
        }
        missing = [name for name in names if name not in known]
        if missing:
            raise InputError(
                f"{store.path}: has no row with id {missing[0]!r} ({len(missing)} missing in all)"
            )
        numbers = [known[name][0] for name in names]
        rows = tuple(known[name][1] for name in names)
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
    by: str | None = None,
) -> Iterator[EmbeddingStore]:
    """A store as it is, or examples embedded into a temporary one: a corpus need not fit in memory.

    Args:
        source, encoder, what, progress, reading: as for `embed_rows`.
        by: the field that rows will be grouped by; it is looked for before anything is embedded.

    Raises:
        InputError: neither a store nor examples, no rows, a bad row (`file:line`), or no row has `by`.
    """
    if is_store(source):
        store = _open_store(source)
        if by:
            store.groups(by)
        yield store
        return
    _check_examples(source, what)
    if by:
        check_fields([source], [by], option="--by", reading=reading)
        reading = reading.keeping(by)
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
