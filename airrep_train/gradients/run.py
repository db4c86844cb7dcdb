"""The gradient run: a folder of projected gradients, the map made from them, and an ordinary store.

GRADIENTS/
    gradients.json   settings
    time.json        rows and the seconds that they took
    warm-up/         weights of the target at which they were taken, unless those that are loaded
    raw/             a store of projected gradients (float16); resumes, and comes in shards
    map/             whitening and principal components; fitted once, then kept
    store/           the mapped vectors: what attribute, select, index, report and fit take
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from airrep_infer.command import finishing_first
from airrep_infer.encode import EmbeddingSpace, cut_windows
from airrep_infer.errors import InputError
from airrep_infer.files import write_json
from airrep_infer.folders import whole_folder
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import AS_WRITTEN, Example, ExampleReader, Reading
from airrep_infer.store import (
    EmbeddingStore,
    ShardReader,
    StoreWriter,
    is_store,
    merge_stores,
    windows_to_embed,
)
from airrep_train.compute import freed_memory_kept
from airrep_train.gradients.capture import GradientCapture
from airrep_train.gradients.mapping import RMS_FIELD, GradientMap, fit_map, mapped_blocks
from airrep_train.gradients.options import GradientOptions
from airrep_train.gradients.settings import LAYOUT, SETTINGS, describe, read_settings, start_folder
from airrep_train.gradients.time_taken import add_time, join_times
from airrep_train.gradients.warm_up import WarmUp, check_warm_up, warm_up

LOSS_FIELD = "target_loss"
"""Field of the rows: the target's mean response loss, in nats."""
POOLING_SCALE = 1.0
"""Of attention over vectors of unit length; the best of 0 to 8 on p3's validation split."""
_RAW, _MAP, _STORE = "raw", "map", "store"
_PART_ROWS = 512
_WINDOW_ROWS = 256


@dataclass(frozen=True, slots=True)
class _StoredRow(Example):
    """A row of a store, to be stored again: its content is known by its hash alone."""

    stored_sha: str = ""

    @property
    def sha(self) -> str:
        return self.stored_sha


@dataclass(frozen=True)
class GradientSummary:
    """What a gradient run did.

    Attributes:
        count: rows with gradients now.
        added: those taken now.
        seconds: of taking them.
        dims: D of the store; 0 for a shard, which has none.
        explained: share of the squared length of whitened gradients that the D components keep.
    """

    count: int
    added: int
    seconds: float
    dims: int = 0
    explained: float = 0.0

    @property
    def rows_per_second(self) -> float:
        return self.added / self.seconds if self.added else 0.0


def take_gradients(
    examples: Sequence[str | Path],
    target: str,
    output: Path,
    options: GradientOptions | None = None,
    *,
    reading: Reading = AS_WRITTEN,
    mapped_by: Path | None = None,
    warm_up_of: Path | None = None,
    shard: tuple[int, int] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> GradientSummary:
    """Take the gradients of rows, or continue; then map them into a store.

    The target is warmed up on some of the rows first, see `warm_up`. That is done once for a folder.

    Rows that are there are left alone. A folder's map is fitted on its rows when they are first complete;
    rows added later are mapped by it.

    Args:
        examples: JSONL files.
        target: a model folder, a hub id, or a `.gguf` file.
        output: the folder.
        options: which layers, and the text as the target sees it.
        reading: which columns of the examples are what.
        mapped_by: another gradient folder, whose warm-up and map are used: for queries, and for rows to
            compare with its.
        warm_up_of: another gradient folder, whose warm-up is used: for the other shards of an input.
        shard: (I, N): only part I of N, without a map; see `join_gradients`.
        device: "auto", "cpu" or "cuda".
        progress: told of each stage.

    Raises:
        InputError: the folder was started with other settings, or a row without a response token.
        StorageError: the folder cannot be written.
    """
    options = options or GradientOptions()
    if shard is not None and mapped_by is not None:
        raise InputError("a shard is not mapped: give --map when the shards are joined")
    if warm_up_of is not None and mapped_by is not None:
        raise InputError("--map brings the warm-up of its folder: leave --warm-up-of out")
    reader = ExampleReader(examples, reading=reading)
    part = ShardReader(reader, shard) if shard else None
    total = part.shard.rows if part else sum(1 for _ in reader) if reader.replayable else None
    if total == 0 and part is None:
        raise InputError(f"{', '.join(map(str, examples))}: no rows")
    given_map = GradientMap.load(mapped_by / _MAP) if mapped_by else None
    warmed = _warmed_up(reader, target, output, options, mapped_by, warm_up_of, device, progress)
    capture = GradientCapture(target, options, device, warmed=warmed)
    if given_map is not None and given_map.source != capture.fingerprint:
        raise InputError(
            f"{mapped_by}: its map is for gradients of another target, layers or recipe; give the "
            "--target and options that it was made with"
        )
    settings = describe(capture, options, warmed)
    start_folder(output, {**settings, "map": given_map.fingerprint if given_map else None})
    space = EmbeddingSpace(capture.fingerprint, "projected-gradients", capture.dimension)
    started = time.monotonic()
    with (
        freed_memory_kept(),
        StoreWriter(
            output / _RAW,
            space,
            pooling_scale=POOLING_SCALE,
            dtype="float16",
            part_rows=_PART_ROWS,
            shard=part.shard if part else None,
        ) as writer,
    ):
        add = begin(progress, "gradients", total)
        todo = windows_to_embed(iter(part or cut_windows(reader)), writer.has, add)
        with finishing_first() as stopped:
            for window in _smaller(todo):
                _append(writer, capture, window)
                add(len(window))
                if stopped():
                    break
    seconds = time.monotonic() - started
    if writer.added:
        add_time(output, writer.added, seconds)
    raw = EmbeddingStore.open(output / _RAW)
    if shard is not None:
        return GradientSummary(len(raw), writer.added, seconds)
    chosen = _map_and_store(output, raw, options.rank, options.dims, given_map, progress)
    return GradientSummary(len(raw), writer.added, seconds, len(chosen.components), chosen.explained)


def join_gradients(
    shards: Sequence[Path],
    output: Path,
    *,
    mapped_by: Path | None = None,
    progress: Progress | None = None,
) -> GradientSummary:
    """Make one gradient folder of those of all shards of an input; its map is fitted on all rows.

    Raises:
        InputError: a shard is missing, unfinished or of other settings, or `output` exists.
    """
    settings = [read_settings(folder) for folder in shards]
    for folder, other in zip(shards[1:], settings[1:], strict=True):
        if other != settings[0]:
            raise InputError(
                f"{shards[0]} and {folder} were made with other settings; make one of them again "
                "(`--warm-up-of` takes the warm-up of the other)"
            )
    given_map = GradientMap.load(mapped_by / _MAP) if mapped_by else None
    raw = merge_stores([folder / _RAW for folder in shards], output / _RAW)
    if given_map is not None and given_map.source != raw.space.fingerprint:
        raise InputError(f"{mapped_by}: its map is for gradients of another target, layers or recipe")
    if (warmed := WarmUp.find(shards[0])) is not None:
        warmed.copy_into(output)
    write_json(output / SETTINGS, settings[0])
    join_times(shards, output)
    options = settings[0]["options"]
    chosen = _map_and_store(output, raw, options["rank"], options["dims"], given_map, progress)
    return GradientSummary(len(raw), 0, 0.0, len(chosen.components), chosen.explained)


def open_gradients(folder: Path, which: str = _STORE) -> EmbeddingStore:
    """The store of a gradient folder: "store", the mapped vectors, or "raw".

    Raises:
        InputError: not a gradient folder, or one that is not complete.
    """
    read_settings(folder)
    if not is_store(folder / which):
        raise InputError(f"{folder}: not complete; start its `airrep-train gradients` again")
    return EmbeddingStore.open(folder / which)


def _warmed_up(
    reader: ExampleReader,
    target: str,
    output: Path,
    options: GradientOptions,
    mapped_by: Path | None,
    warm_up_of: Path | None,
    device: str,
    progress: Progress | None,
) -> WarmUp | None:
    """The warm-up that gradients are taken after: that of a folder that has begun, or a new one.

    Raises:
        InputError: `options` ask for another than that folder has.
    """
    begun, warmed = mapped_by or warm_up_of or (output if LAYOUT.is_at(output) else None), None
    if begun is not None:
        read_settings(begun)
        warmed = WarmUp.find(begun)
        check_warm_up(begun, warmed, options)
        if warmed is None or mapped_by is not None or begun == output:
            return warmed
    elif not options.new_warm_up():
        return None
    LAYOUT.make(output)
    if (own := WarmUp.find(output)) is not None:  # a run has begun here
        check_warm_up(output, own, options)
        if warmed is not None and own.fingerprint != warmed.fingerprint:
            raise InputError(f"{output}: has another warm-up than {begun}; use another -o")
        return own
    if warmed is not None:
        warmed.copy_into(output)
    else:
        warm_up(reader, target, output, options, device, progress)
    return WarmUp.find(output)


def _append(writer: StoreWriter, capture: GradientCapture, window: list[Example]) -> None:
    new = [example for example in window if not writer.has(example)]
    captured = capture(new)
    rows = [
        replace(row, fields={**row.fields, RMS_FIELD: float(rms), LOSS_FIELD: float(loss)})
        for row, rms, loss in zip(new, captured.rms, captured.losses, strict=True)
    ]
    writer.append(rows, captured.vectors)


def _smaller(windows: Iterable[list[Example]]) -> Iterator[list[Example]]:
    """Windows of at most 256 rows: projected gradients are seventy times as long as embeddings."""
    for window in windows:
        for start in range(0, len(window), _WINDOW_ROWS):
            yield window[start : start + _WINDOW_ROWS]


def _map_and_store(
    output: Path,
    raw: EmbeddingStore,
    rank: int,
    dims: int,
    given: GradientMap | None,
    progress: Progress | None,
) -> GradientMap:
    folder = output / _MAP
    if given is not None:
        chosen = given
    elif (folder / "map.json").is_file():
        chosen = GradientMap.load(folder)
    else:
        chosen = fit_map(raw, rank, dims, progress)
    chosen.save(folder)
    _write_store(output / _STORE, raw, chosen, progress)
    return chosen


def _write_store(
    output: Path, raw: EmbeddingStore, gradient_map: GradientMap, progress: Progress | None
) -> None:
    """The mapped vectors of a raw store, in a store that is whole or absent."""
    space = EmbeddingSpace(gradient_map.fingerprint, "gradients", len(gradient_map.components))
    rows = [_StoredRow(row.id, None, "", fields=row.fields, stored_sha=row.sha) for row in raw.rows()]
    if is_store(output):
        there = EmbeddingStore.open(output)
        if there.space == space and [row.sha for row in there.rows()] == [row.sha for row in rows]:
            return
    add = begin(progress, "vectors", len(rows))
    first = 0
    with (
        whole_folder(output, overwrite=True) as folder,
        StoreWriter(folder, space, pooling_scale=POOLING_SCALE, dtype="float16") as writer,
    ):
        for vectors in mapped_blocks(raw, gradient_map):
            writer.append(rows[first : first + len(vectors)], vectors)
            first += len(vectors)
            add(len(vectors))
