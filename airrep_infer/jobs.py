"""Whole jobs over files: embed examples into a store, attribute and select from stores or examples.

The command line is a thin layer over these; they take paths and give summaries or rows.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.encode.encoder import WindowEncoder, cut_windows
from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write
from airrep_infer.json_reader import read_objects
from airrep_infer.rows.examples import ExampleReader, OnError, write_rejects
from airrep_infer.score.attribution import Attributions, Groups, attribute
from airrep_infer.score.scan import Scan, ScoreDtype, scan
from airrep_infer.score.selection import Strategy, select
from airrep_infer.store.shards import ShardReader, nothing_usable, windows_to_embed
from airrep_infer.store.store import EmbeddingStore, check_same_space, is_store
from airrep_infer.store.writer import StoreWriter

Progress = Callable[[int], object]


@dataclass(frozen=True)
class EmbedSummary:
    """What one `embed_files` did: rows now in the store, added now, rejected now (and where those are)."""

    count: int
    added: int
    rejected: int
    rejects_file: str | None


def embed_files(
    examples: Sequence[str | Path],
    encoder: WindowEncoder,
    output: str | Path,
    *,
    dtype: str = "float32",
    part_rows: int = 50_000,
    keep: Sequence[str] | None = None,
    on_error: OnError = "raise",
    shard: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> EmbedSummary:
    """Embed examples into a store, or add to one what is new.

    A row whose id and text are in the store is left alone, so the same call resumes a run that was
    stopped (a killed one to the same bytes) and extends the store of a file that has grown.

    Args:
        examples: JSONL files, see `ExampleReader`.
        encoder: an `Encoder`, or what `engines.Engine.encoder` opens.
        dtype, part_rows, keep: see `StoreWriter`.
        on_error: "skip" writes bad rows to `<output>.rejects.jsonl` and goes on.
        shard: (I, N): only part I of N, for `merge.merge_stores`; see `shards.ShardReader`.
        progress: called with the number of rows done.

    Raises:
        InputError: a bad row, an id whose text changed, a store of another model.
        StorageError: the store cannot be written; what was complete before stays.
    """
    output = Path(output)
    reader = ExampleReader(examples, on_error=on_error)
    part = ShardReader(reader, shard) if shard else None
    if part is None and reader.replayable and on_error == "raise":
        # Reading takes a hundredth of the time of embedding: a bad last row should not cost a night.
        for _ in reader:
            pass
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
    ) as writer:
        done = progress or (lambda _rows: None)
        todo = windows_to_embed(itertools.chain(first, windows), writer.has, done)
        for window, embeddings in encoder.embed_windows(todo):
            writer.append(window, embeddings, skip_stored=True)
            done(len(window))
    rejected = (part or reader).rejected
    rejects = output.with_name(f"{output.name}.rejects.jsonl") if rejected else None
    if rejects:
        write_rejects(rejects, rejected)
    return EmbedSummary(
        count=len(EmbeddingStore.open(output)),
        added=writer.added,
        rejected=len(rejected),
        rejects_file=str(rejects) if rejects else None,
    )


@contextmanager
def open_source(
    source: str | Path, encoder: Callable[[], WindowEncoder], what: str, progress: Progress | None = None
) -> Iterator[EmbeddingStore]:
    """A store as it is, or examples embedded into a temporary one.

    Args:
        source: a store's folder, or a JSONL file (or `-`).
        encoder: makes the encoder; called only for examples.
        what: how messages call it ("--train").
    """
    if is_store(source):
        store = EmbeddingStore.open(source)
        if not len(store):
            raise InputError(f"{source}: the store has no rows; embed some first")
        yield store
        return
    if Path(source).is_dir():
        raise InputError(f"{source}: neither a store (no store.json) nor a JSONL file, for {what}")
    with tempfile.TemporaryDirectory(prefix="airrep-") as folder:
        output = Path(folder) / "store"
        embed_files([source], encoder(), output, progress=progress)
        yield EmbeddingStore.open(output)


def attribution_rows(
    train: EmbeddingStore,
    query: EmbeddingStore,
    *,
    k: int,
    groups: Groups | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    scan_with: Scan = scan,
    dtype: ScoreDtype | None = None,
) -> Iterator[dict[str, Any]]:
    """Attribute every query to the training store; one output row each (docs/files.md).

    Args:
        scan_with: makes the pass over the store; see `engines.Engine.scan`.
        dtype: as for `attribute`; an `OnnxScan` takes "float32".

    Raises:
        InputError: the stores are of different models, or the groups do not fit.
    """
    check_same_space(train.space, query.space, str(train.path), str(query.path))
    result = attribute(
        vectors(query),
        train,
        k=k,
        pooling_scale=train.pooling_scale,
        groups=groups,
        threads=threads,
        progress=progress,
        scan_with=scan_with,
        dtype=dtype,
    )
    return output_rows(train, query, result)


def output_rows(
    train: EmbeddingStore, query: EmbeddingStore, result: Attributions
) -> Iterator[dict[str, Any]]:
    """The output row of every query, with the ids of the rows."""
    names = _names(train, result.proponent_rows, result.opponent_rows)
    for row, attribution in zip(query.rows(), result, strict=True):
        value: dict[str, Any] = {
            "query_id": row.id,
            "group_influence": attribution.group_influence,
            "proponents": [{"id": names[hit.row], "score": hit.score} for hit in attribution.proponents],
            "opponents": [{"id": names[hit.row], "score": hit.score} for hit in attribution.opponents],
        }
        if attribution.groups is not None:
            value["groups"] = dict(attribution.groups)
        yield value


def selection_rows(
    train: EmbeddingStore,
    query: EmbeddingStore,
    n: int,
    *,
    strategy: Strategy = "pooled",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Select `n` training rows for a query set, best first: `{"rank", "id", "score"}`."""
    check_same_space(train.space, query.space, str(train.path), str(query.path))
    chosen = select(
        vectors(query),
        train,
        n,
        strategy=strategy,
        pooling_scale=train.pooling_scale,
        threads=threads,
        progress=progress,
    )
    ids = train.ids(chosen.rows)
    for rank, (name, score) in enumerate(zip(ids, chosen.scores.tolist(), strict=True), 1):
        yield {"rank": rank, "id": name, "score": score}


def groups_by_field(store: EmbeddingStore, field: str) -> Groups:
    """One group for each value of a field."""
    names, codes = store.groups(field)
    return Groups.from_codes(names, codes)


def groups_from_file(store: EmbeddingStore, path: str | Path) -> Groups:
    """Groups from JSONL rows `{"group": name, "ids": [...]}`; groups may overlap.

    Raises:
        InputError: an unreadable row (`file:line`), a name given twice, an id the store does not have.
    """
    wanted: dict[str, list[str]] = {}
    for number, row in read_objects(path):
        try:
            name, ids = row["group"], row["ids"]
        except KeyError as error:
            raise InputError(f'{path}:{number}: expected {{"group": name, "ids": [...]}}') from error
        if not isinstance(name, str) or not isinstance(ids, list) or not ids:
            raise InputError(f"{path}:{number}: group must be a string and ids a list of at least one id")
        if name in wanted:
            raise InputError(f"{path}:{number}: group {name!r} was given before; put all its ids in one row")
        wanted[name] = [str(one) for one in ids]
    if not wanted:
        raise InputError(f"{path}: no groups in the file")
    needed = {one for ids in wanted.values() for one in ids}
    places = {row.id: number for number, row in enumerate(store.rows()) if row.id in needed}
    for name, ids in wanted.items():
        missing = [one for one in ids if one not in places]
        if missing:
            raise InputError(
                f"{path}: group {name!r}: id {missing[0]!r} is not in {store.path} "
                f"({len(missing)} missing in all)"
            )
    return Groups.from_members({name: [places[one] for one in ids] for name, ids in wanted.items()})


def vectors(store: EmbeddingStore) -> NDArray[np.float32]:
    """All vectors of a store in memory, (n, D) float32; for queries, which are few."""
    return np.concatenate([block.astype(np.float32) for _, block in store.blocks(1 << 16)])


def write_rows(rows: Iterable[Mapping[str, Any]], output: str | Path) -> None:
    """Write JSONL to a file (whole or not at all) or, for `-`, to standard output."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    if str(output) == "-":
        sys.stdout.writelines(lines)
        return
    with atomic_write(Path(output)) as stream:
        stream.writelines(line.encode() for line in lines)


def describe_store(store: EmbeddingStore) -> dict[str, Any]:
    """What `airrep-infer info` says of a store."""
    return {
        "kind": "store",
        "path": str(store.path),
        "rows": len(store),
        "dtype": str(store.dtype),
        "space": asdict(store.space),
        "pooling_scale": store.pooling_scale,
        "content": store.fingerprint,
        **({"shard": asdict(store.shard)} if store.shard else {}),
    }


def _names(store: EmbeddingStore, *rows: NDArray[np.int64]) -> dict[int, str]:
    """The ids of all rows that are mentioned, each looked up once."""
    distinct = np.unique(np.concatenate([numbers.ravel() for numbers in rows]))
    return dict(zip(distinct.tolist(), store.ids(distinct), strict=True))
