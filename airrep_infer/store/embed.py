"""Embed examples: files into a store that resumes and grows, or a few rows into memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from airrep_infer.command import finishing_first
from airrep_infer.encode import WindowEncoder, cut_windows
from airrep_infer.errors import InputError, refuse_single
from airrep_infer.files import InputFiles
from airrep_infer.progress import Progress
from airrep_infer.rows import (
    AS_WRITTEN,
    CutCounts,
    Example,
    ExampleReader,
    OnError,
    OnTruncate,
    Reading,
    refuse_cuts,
    update_rejects,
)
from airrep_infer.store.counter import RowCounter
from airrep_infer.store.earlier_cuts import EarlierCuts
from airrep_infer.store.lines import WantedFields, check_fields
from airrep_infer.store.listing import VectorDtype, is_store
from airrep_infer.store.part import PART_ROWS
from airrep_infer.store.shards import ShardReader, nothing_usable, windows_to_embed
from airrep_infer.store.store import EmbeddingStore
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
        cut_before: rows of the input that exceed it too, and stay: an earlier run stored them, cut.
    """

    count: int
    added: int
    rejected: int
    rejects_file: str | None
    cut: CutCounts | None = None
    changes: UpdateSummary = field(default_factory=UpdateSummary)
    left_out: int = 0
    cut_before: int = 0


def rejects_file(output: Path) -> Path:
    """Where the bad rows are listed that `embed_files` skipped: beside the store."""
    return output.with_name(f"{output.name}.rejects.jsonl")


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
        on_truncate: "error" refuses a row that exceeds the token limit, also one that an earlier run stored;
            rows before it are stored. "skip" leaves such rows out, as if the input did not have them; those
            that an earlier run stored stay, and are counted.
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
    refuse_single(examples, "examples")
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
                calibration=encoder.bundle.calibration,
                dtype=dtype,
                part_rows=part_rows,
                keep=None if keep is None else sorted(reading.keep),
                shard=part.shard if part else None,
                template=encoder.bundle.template,
            )
            return opened.enter_context(StoreUpdate(opened.enter_context(writer)))

        earlier = EarlierCuts(output, encoder.bundle, on_truncate)
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
                earlier.see(window, update.needs_no_vector)
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
    rejects = rejects_file(output)
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
        cut_before=earlier.stay,
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
