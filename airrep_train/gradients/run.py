"""The gradient run: a folder of projected gradients, the map made from them, and an ordinary store.

GRADIENTS/
    gradients.json   settings
    time.json        rows and the seconds that they took
    warm-up/         weights of the target at which they were taken, unless those that are loaded
    raw/             a store of projected gradients (float16); resumes, and comes in shards
    map/             whitening and principal components; fitted once, then kept
    store/           the mapped vectors: what attribute, select, index, report and fit take
    embedded/        the same rows in the space of an encoder, as queries to its stores; see `query_map`
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from airrep_infer.command import finishing_first
from airrep_infer.encode import EmbeddingSpace, cut_windows
from airrep_infer.errors import InputError, refuse_single
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import AS_WRITTEN, CutCounts, Example, ExampleReader, Reading
from airrep_infer.store import (
    EmbeddingStore,
    ShardReader,
    StoreWriter,
    merge_stores,
    windows_to_embed,
)
from airrep_train.compute import freed_memory_kept
from airrep_train.gradients.capture import GradientCapture
from airrep_train.gradients.mapping import RMS_FIELD, GradientMap
from airrep_train.gradients.options import GradientOptions
from airrep_train.gradients.settings import (
    JOINED,
    LAYOUT,
    MAP,
    RAW,
    check_folder,
    describe,
    read_settings,
    start_folder,
)
from airrep_train.gradients.stores import (
    POOLING_SCALE,
    EncoderSpace,
    embed_gradients,
    map_and_store,
    open_gradients,
)
from airrep_train.gradients.time_taken import add_time, join_times
from airrep_train.gradients.warm_up import WarmUp, check_warm_up, warm_up
from airrep_train.target import TargetOptions

LOSS_FIELD = "target_loss"
"""Field of the rows: the target's mean response loss, in nats."""
_PART_ROWS = 512
_WINDOW_ROWS = 256
_FEW = 0.5
"""Below this part of what a map keeps of its own rows, it is said that it keeps little of others."""


@dataclass(frozen=True)
class GradientSummary:
    """What a gradient run did.

    Attributes:
        count: rows with gradients now.
        added: those taken now.
        seconds: of taking them.
        dims: D of the store; 0 for a shard, which has none.
        explained: share of the squared length of whitened gradients that the D components keep, of the rows
            that the map was fitted on.
        others: rows of this folder that it was not fitted on; of those taken now where there are any.
        others_explained: the share that it keeps of them.
        own_map: whether the map is this folder's.
        shared: rows that brought the gradients into an encoder's space; 0: none were.
        cut: rows of all `count` that the max length cuts; None where an earlier version took some of them.
    """

    count: int
    added: int
    seconds: float
    dims: int = 0
    explained: float = 0.0
    others: int = 0
    others_explained: float = 0.0
    own_map: bool = True
    shared: int = 0
    cut: CutCounts | None = None

    @property
    def rows_per_second(self) -> float:
        return self.added / self.seconds if self.added else 0.0

    def described(self) -> str:
        """The result in one line."""
        line = f"{self.count} rows, {self.added} taken now"
        if self.added:
            line += f" at {self.rows_per_second:.1f} rows/s"
        if self.dims:
            line += f"; {self.dims} components keep {self.explained:.0%}"
        if self.others:
            line += (
                f" of the rows that they were fitted on, {self.others_explained:.0%} of {self.others} others"
            )
            if self.own_map and self.others_explained < _FEW * self.explained:
                line += " (too little: to fit them on all rows, remove map/ there and run this again)"
        if self.cut is not None and self.cut.rows:
            line += f"; {self.cut}"
        return line


def take_gradients(
    examples: Sequence[str | Path],
    source: TargetOptions,
    output: Path,
    options: GradientOptions | None = None,
    *,
    reading: Reading = AS_WRITTEN,
    mapped_by: Path | None = None,
    into: Path | None = None,
    warm_up_of: Path | None = None,
    shard: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> GradientSummary:
    """Take the gradients of rows, or continue; then map them into a store.

    The target is warmed up on some of the rows first, see `warm_up`. That is done once for a folder.

    Rows that are there are left alone. A folder's map is fitted on its rows when they are first complete;
    rows added later are mapped by it.

    Args:
        examples: JSONL files.
        source: the target, and where it runs.
        output: the folder.
        options: which layers, and the text as the target sees it; with `mapped_by`, `dims` is that map's.
        reading: which columns of the examples are what.
        mapped_by: another gradient folder, whose warm-up and map are used: for queries, and for rows to
            compare with its.
        into: a store of training rows, many of which `mapped_by` has: the rows are queries to it then, see
            `embed_gradients`.
        warm_up_of: another gradient folder, whose warm-up is used: for the other shards of an input.
        shard: (I, N): only part I of N, without a map; see `join_gradients`.
        progress: told of each stage.

    Raises:
        InputError: the folder was started with other settings, or a row without a response token.
        StorageError: the folder cannot be written.
    """
    options = options or GradientOptions()
    if shard is not None and mapped_by is not None:
        raise InputError("a shard is not mapped: give --map when the shards are joined")
    encoder_space = _encoder_space(into, mapped_by)
    if warm_up_of is not None and mapped_by is not None:
        raise InputError("--map brings the warm-up of its folder: leave --warm-up-of out")
    reader = ExampleReader(examples, reading=reading)
    part = ShardReader(reader, shard) if shard else None
    total = part.shard.rows if part else sum(1 for _ in reader) if reader.replayable else None
    if total == 0 and part is None:
        raise InputError(f"{', '.join(map(str, examples))}: no rows")
    given_map = GradientMap.load(mapped_by / MAP) if mapped_by else None
    warmed = _warmed_up(reader, source, output, options, mapped_by, warm_up_of, progress)
    capture = GradientCapture(source.target, options, source.device, warmed=warmed)
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
            output / RAW,
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
    raw = EmbeddingStore.open(output / RAW)
    if shard is not None:
        return GradientSummary(len(raw), writer.added, seconds, cut=raw.cut)
    chosen = map_and_store(output, raw, options.rank, options.dims, given_map, progress)
    shared = embed_gradients(output, encoder_space, progress) if encoder_space else 0
    return _summary(raw, writer.added, seconds, chosen, given_map is None, shared)


def join_gradients(
    shards: Sequence[Path],
    output: Path,
    *,
    mapped_by: Path | None = None,
    into: Path | None = None,
    progress: Progress | None = None,
) -> GradientSummary:
    """Make one gradient folder of those of all shards of an input; its map is fitted on all rows.

    What is there already is left as it is: a join that was killed is finished by another, and one that is
    repeated changes nothing.

    Args:
        shards: gradient folders, in any order.
        mapped_by, into, progress: see `take_gradients`.

    Raises:
        InputError: a shard is missing, unfinished or of other settings, the map is for other gradients, or
            `output` is something else than this join.
    """
    refuse_single(shards, "shards")
    encoder_space = _encoder_space(into, mapped_by)
    settings = [read_settings(folder) for folder in shards]
    for folder, other in zip(shards[1:], settings[1:], strict=True):
        if other != settings[0]:
            raise InputError(
                f"{shards[0]} and {folder} were made with other settings; make one of them again "
                "(`--warm-up-of` takes the warm-up of the other)"
            )
    given_map = GradientMap.load(mapped_by / MAP) if mapped_by else None
    source = EmbeddingStore.open(shards[0] / RAW).space.fingerprint
    if given_map is not None and given_map.source != source:
        raise InputError(f"{mapped_by}: its map is for gradients of another target, layers or recipe")
    joined = {**settings[0], "map": given_map.fingerprint if given_map else None}
    check_folder(output, joined, JOINED)
    warmed, own = WarmUp.find(shards[0]), WarmUp.find(output)
    if own is not None:
        own.check_same(warmed, shards[0])
    raw = merge_stores([folder / RAW for folder in shards], output / RAW)
    if warmed is not None and own is None:
        warmed.copy_into(output)
    join_times(shards, output)
    # Last of what the shards have: a folder with settings and without its warm-up would pass for one of the
    # target as it is loaded.
    start_folder(output, joined, JOINED)
    options = joined["options"]
    chosen = map_and_store(output, raw, options["rank"], options["dims"], given_map, progress)
    shared = embed_gradients(output, encoder_space, progress) if encoder_space else 0
    return _summary(raw, 0, 0.0, chosen, given_map is None, shared)


def _summary(
    raw: EmbeddingStore, added: int, seconds: float, chosen: GradientMap, own_map: bool, shared: int
) -> GradientSummary:
    """What is said of a folder that is mapped."""
    first = chosen.rows if own_map else 0  # its own map was fitted on the rows that came first
    if added:
        first = max(first, len(raw) - added)
    others = max(0, len(raw) - first)
    return GradientSummary(
        len(raw),
        added,
        seconds,
        dims=len(chosen.components),
        explained=chosen.explained,
        others=others,
        others_explained=chosen.share_kept(raw, first) if others else 0.0,
        own_map=own_map,
        shared=shared,
        cut=raw.cut,
    )


def _encoder_space(into: Path | None, mapped_by: Path | None) -> EncoderSpace | None:
    """The space of a store of training rows; it is looked at before anything is computed."""
    if into is None:
        return None
    if mapped_by is None:
        raise InputError("--into needs --map: the gradient folder that has rows of that store")
    return EncoderSpace.find(into, open_gradients(mapped_by))


def _warmed_up(
    reader: ExampleReader,
    source: TargetOptions,
    output: Path,
    options: GradientOptions,
    mapped_by: Path | None,
    warm_up_of: Path | None,
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
        if warmed is not None and begun is not None:
            own.check_same(warmed, begun)
        return own
    if warmed is not None:
        warmed.copy_into(output)
    else:
        warm_up(reader, source, output, options, progress)
    return WarmUp.find(output)


def _append(writer: StoreWriter, capture: GradientCapture, window: list[Example]) -> None:
    new = [example for example in window if not writer.has(example)]
    captured = capture(new)
    rows = [
        replace(row, fields={**row.fields, RMS_FIELD: float(rms), LOSS_FIELD: float(loss)})
        for row, rms, loss in zip(new, captured.rms, captured.losses, strict=True)
    ]
    writer.append(rows, captured.vectors, cuts=captured.cuts)


def _smaller(windows: Iterable[list[Example]]) -> Iterator[list[Example]]:
    """Windows of at most 256 rows: projected gradients are seventy times as long as embeddings."""
    for window in windows:
        for start in range(0, len(window), _WINDOW_ROWS):
            yield window[start : start + _WINDOW_ROWS]
