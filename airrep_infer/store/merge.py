"""Merging: stores laid end to end become one, or are read as one, without a vector being changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from airrep_infer.bundle import Calibration
from airrep_infer.encode import check_same_space
from airrep_infer.errors import BusyError, InputError
from airrep_infer.files import open_locked
from airrep_infer.folders import whole_folder
from airrep_infer.ids import SeenIds
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import CutCounts
from airrep_infer.store.listing import Listing, Part, check_same_map, is_store, write_listing
from airrep_infer.store.part import link_part
from airrep_infer.store.store import EmbeddingStore

_ROWS_A_REPORT = 1024


def merge_stores(
    paths: Sequence[str | Path], output: str | Path, *, progress: Progress | None = None
) -> EmbeddingStore:
    """Make one store of the rows of several, in the order of the shards or, of plain stores, as given.

    The parts are hard links to those of the stores where the file system can, else copies; parts
    never change, so the stores may be removed or extended afterwards. `output` appears whole or not at all;
    where it is the result already, it is returned; only what the stores say of all rows together (how many
    are cut, what influence meant in nats) is written anew where it changed.

    Args:
        paths: all shards of one input, in any order, or stores that are no shards.
        output: a new or empty folder.
        progress: told of the stage "merge", in rows.

    Raises:
        InputError: the stores are of different encoders, dtypes or pooling scales; an id is in two of
            them; a shard is missing, given twice, not finished, or of another input; `output` exists, with
            other content.
        BusyError: another process is writing the output.
        StorageError: the output cannot be written.
    """
    output = Path(output)
    stores = _in_order([EmbeddingStore.open(path) for path in paths])
    for store in stores[1:]:
        _check_alike(stores[0], store)
    _check_ids(stores, [str(store.path) for store in stores], progress)
    wanted = replace(
        stores[0].listing,
        parts=tuple(part for store in stores for part in store.parts),
        shard=None,
        cut=CutCounts.together(store.cut for store in stores),
        calibration=_calibration(stores),
        former_hashes=any(store.former_hashes for store in stores),
    )
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        return _brought_up_to(wanted, output)
    with whole_folder(output) as folder:
        parts: list[Part] = []
        for store in stores:
            for part in store.parts:
                parts.append(link_part(part, store.path, folder, len(parts)))
        write_listing(folder, replace(wanted, parts=tuple(parts)))
        EmbeddingStore.open(folder)  # a copy that came out short is found here
    return EmbeddingStore.open(output)


def _brought_up_to(wanted: Listing, output: Path) -> EmbeddingStore:
    """The store at `output`, which has the rows of `wanted`, with what is known of them by now.

    Raises:
        InputError: it has other rows, or is something else.
        BusyError: another process is writing it.
    """
    there = EmbeddingStore.open(output) if is_store(output) else None
    if there is None or _rows_of(there.listing) != _rows_of(wanted):
        raise InputError(f"{output}: exists already, with other content; merge into a new folder")
    # As for a writer: stores that do not know something take nothing away.
    cut = there.cut if wanted.cut is None else wanted.cut
    listing = replace(
        there.listing,
        cut=cut,
        calibration=wanted.calibration or there.calibration,
        former_hashes=wanted.former_hashes or there.former_hashes,
    )
    if listing == there.listing:
        return there
    taken = f"{output}: another process is writing this store; wait for it"
    with open_locked(output / ".lock", taken):
        if EmbeddingStore.open(output).listing != there.listing:
            raise BusyError(taken)
        write_listing(output, listing)
    return EmbeddingStore.open(output)


def _rows_of(listing: Listing) -> tuple[Listing, list[tuple[str, str]]]:
    """What a listing says of single rows, and how they were made; not the names of the files."""
    of_rows = replace(listing, parts=(), cut=None, calibration=None, former_hashes=False)
    return of_rows, [part.content for part in listing.parts]


def join_stores(stores: Sequence[EmbeddingStore], names: Sequence[str]) -> EmbeddingStore:
    """Several stores read as one, their rows in the order given; nothing is written.

    Args:
        names: how messages call them.

    Raises:
        InputError: the stores are of different encoders, dtypes or pooling scales, or share an id.
    """
    for store in stores[1:]:
        _check_alike(stores[0], store)
    _check_ids(stores, names)
    parts: list[Part] = []
    listed: dict[str, tuple[int, int]] = {}
    for store in stores:
        folder = store.path.absolute()
        parts += (
            replace(part, file=str(folder / part.file), rows_file=str(folder / part.rows_file))
            for part in store.parts
        )
        listed |= {str(folder): state for state in store._listed.values()}
    return replace(
        stores[0],
        path=Path(" and ".join(names)),
        parts=tuple(parts),
        shard=None,
        cut=CutCounts.together(store.cut for store in stores),
        calibration=_calibration(stores),
        former_hashes=any(store.former_hashes for store in stores),
        _listed=listed,
        _checked=set(),
    )


def _in_order(stores: list[EmbeddingStore]) -> list[EmbeddingStore]:
    """The stores as their rows lie in the input; checks that shards are complete and of one input."""
    if not stores:
        raise InputError("nothing to merge: name at least one store")
    shards = [(store.shard, store) for store in stores if store.shard]
    if not shards:
        return stores
    if len(shards) < len(stores):
        plain = next(store for store in stores if not store.shard)
        raise InputError(
            f"{plain.path} is not a shard and {shards[0][1].path} is one; "
            "merge the shards of one input first, then the result with other stores"
        )
    shards.sort(key=lambda pair: pair[0].part)
    parts = shards[0][0].of
    given = [shard.part for shard, _ in shards]
    if any(shard.of != parts for shard, _ in shards) or given != list(range(1, parts + 1)):
        have = ", ".join(f"{shard.part}/{shard.of}" for shard, _ in shards)
        raise InputError(f"expected the {parts} shards 1/{parts} to {parts}/{parts}, each once; got {have}")
    first = 0
    for shard, store in shards:
        if len(store) != shard.rows:
            raise InputError(
                f"{store.path}: {len(store)} rows, expected those of {shard}; run its embed command again "
                + (
                    "to finish it"
                    if len(store) < shard.rows
                    else "with --prune, its input has fewer rows now"
                )
            )
        if shard.first != first:
            raise InputError(
                f"{store.path}: {shard} does not follow the shard before it, which ends at row {first}; "
                "the input changed between them: embed all shards from the same files"
            )
        first += shard.rows
    return [store for _, store in shards]


def _check_alike(first: EmbeddingStore, store: EmbeddingStore) -> None:
    check_same_space(first.space, store.space, str(first.path), str(store.path))
    check_same_map(first.query_map, store.query_map, str(first.path), str(store.path))
    for what, value, other in (
        ("dtype", first.dtype, store.dtype),
        ("pooling scale", first.pooling_scale, store.pooling_scale),
    ):
        if value != other:
            raise InputError(
                f"{first.path} has {what} {value} and {store.path} {other}; "
                "embed one of them again like the other"
            )


def _calibration(stores: Sequence[EmbeddingStore]) -> Calibration | None:
    """The one that the stores have, of those that have one; they are of one encoder.

    Raises:
        InputError: two stores have different ones.
    """
    known = [store for store in stores if store.calibration is not None]
    for store in known[1:]:
        if store.calibration != known[0].calibration:
            raise InputError(
                f"{known[0].path} and {store.path} say different things about nats ({known[0].calibration}, "
                f"{store.calibration}); run the embed command of one again with the bundle of the other"
            )
    return known[0].calibration if known else None


def _check_ids(
    stores: Sequence[EmbeddingStore], names: Sequence[str], progress: Progress | None = None
) -> None:
    seen = SeenIds()
    rows = sum(map(len, stores))
    add = begin(progress, "merge", rows)
    for number, name in enumerate((row.id for store in stores for row in store.rows()), 1):
        if number % _ROWS_A_REPORT == 0:
            add(_ROWS_A_REPORT)
        if seen.add(str(name)):
            continue
        # Very probably a duplicate, if not two ids with one hash: the rows themselves know.
        holders = [
            holder
            for holder, store in zip(names, stores, strict=True)
            for row in store.rows()
            if str(row.id) == str(name)
        ]
        if len(holders) > 1:
            raise InputError(
                f"id {name!r} is in {holders[0]} and again in {holders[1]}; ids must be unique: "
                "rename it in one of the inputs and embed that again"
            )
    add(rows % _ROWS_A_REPORT)
