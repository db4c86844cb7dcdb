"""What a command is given as rows, stores and examples: opened as one store, or read into memory."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.encode import EmbeddingSpace, WindowEncoder, check_same_space, cut_windows
from airrep_infer.errors import InputError, refuse_single
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import AS_WRITTEN, CutCounts, ExampleReader, Reading, RowId, holds_rows
from airrep_infer.store.embed import embed_files
from airrep_infer.store.lines import StoreRow, check_fields, check_stored_field, group_codes
from airrep_infer.store.listing import VectorDtype, check_same_map, is_store
from airrep_infer.store.merge import join_stores
from airrep_infer.store.store import EmbeddingStore

Source = str | Path


@dataclass(frozen=True, eq=False)
class EmbeddedRows:
    """Rows in memory, as queries are: `rows` (n,), `vectors` (n, D) float32, and the space of the vectors.

    `source` is what the user calls them. `contrasted` says that the vectors are differences of two answers,
    `query_map` what brought gradients into the encoder's space ("": the encoder made the vectors of texts).
    `cut` counts the rows that the token limit cut; None where that is not known. Of a contrast it counts the
    first answers. `former_hashes`: as `EmbeddingStore` has it.
    """

    source: str
    space: EmbeddingSpace
    rows: tuple[StoreRow, ...]
    vectors: NDArray[np.float32]
    contrasted: bool = False
    query_map: str = ""
    cut: CutCounts | None = None
    former_hashes: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def calibrated(self) -> bool:
        """Whether a calibration holds for them: nats were measured of single answers that were embedded."""
        return not (self.contrasted or self.query_map)

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
        rows = tuple(store.rows())
        return cls._of(store, rows, vectors, store.cut)

    @classmethod
    def of_ids(cls, store: EmbeddingStore, ids: Sequence[RowId]) -> EmbeddedRows:
        """The rows of a store with these ids, in this order.

        Raises:
            InputError: an id is given twice, or the store does not have it.
        """
        refuse_single(ids, "ids")
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
        vectors = store.take(numbers)
        # A store counts the rows that were cut; which ones it does not say.
        cut = store.cut if store.cut == CutCounts() else None
        return cls._of(store, rows, vectors, cut)

    @classmethod
    def _of(
        cls,
        store: EmbeddingStore,
        rows: tuple[StoreRow, ...],
        vectors: NDArray[np.float32],
        cut: CutCounts | None,
    ) -> EmbeddedRows:
        return cls(
            str(store.path),
            store.space,
            rows,
            vectors,
            query_map=store.query_map,
            cut=cut,
            former_hashes=store.former_hashes,
        )


def embed_rows(
    sources: Sequence[Source],
    encoder: Callable[[], WindowEncoder],
    what: str,
    progress: Progress | None = None,
    *,
    reading: Reading = AS_WRITTEN,
    notice: Callable[[str], object] | None = None,
) -> EmbeddedRows:
    """The rows of stores and of examples that are embedded now, in memory: first those of the stores.

    Args:
        sources: folders of stores, and what `ExampleReader` reads.
        encoder: makes the encoder; called only for examples.
        what: how messages call the sources ("--query").
        progress: told of the stage "embed", in rows.
        reading: which columns are what, where the keys of the rows do not say it.
        notice: told in a line how many of the examples the token limit cut, where it cut any.

    Raises:
        InputError: neither a store nor examples, no rows, a bad row (`file:line`), two models, or two rows
            with one id.
    """
    stores, examples = _sorted(sources, what)
    parts = [EmbeddedRows.of_store(_open_store(path)) for path in stores]
    if examples:
        parts.append(_embed_now(examples, encoder, progress, reading))
        _tell_cut(parts[-1].cut, examples, what, notice)
    return _joined(parts)


def _embed_now(
    examples: Sequence[Source],
    encoder: Callable[[], WindowEncoder],
    progress: Progress | None,
    reading: Reading,
) -> EmbeddedRows:
    reader = ExampleReader(examples, reading=reading)
    total = sum(1 for _ in reader) if reader.replayable else None  # finds bad rows before the model loads
    embed = encoder()
    add = begin(progress, "embed", total)
    rows: list[StoreRow] = []
    blocks, cut = [], CutCounts()
    for window in embed.embed_windows(cut_windows(reader)):
        rows += (StoreRow.of_example(example, embed.bundle.template) for example in window.rows)
        blocks.append(window.vectors)
        cut += CutCounts.of(window.cuts)
        add(len(window.rows))
    return EmbeddedRows(_names(examples), embed.space, tuple(rows), np.concatenate(blocks), cut=cut)


def _tell_cut(
    cut: CutCounts | None, examples: Sequence[Source], what: str, notice: Callable[[str], object] | None
) -> None:
    if notice is not None and cut is not None and cut.rows:
        notice(f"{what} {_names(examples)}: {cut}")


def _joined(parts: Sequence[EmbeddedRows]) -> EmbeddedRows:
    first = parts[0]
    if len(parts) == 1:
        return first
    holders: dict[str, str] = {}
    for part in parts:
        check_same_space(first.space, part.space, first.source, part.source)
        check_same_map(first.query_map, part.query_map, first.source, part.source)
        for row in part.rows:
            holder = holders.setdefault(str(row.id), part.source)
            if holder is not part.source:
                raise InputError(
                    f"id {row.id!r} is in {holder} and again in {part.source}; ids must be unique: rename it "
                    "in one of them and embed that again"
                )
    rows = tuple(row for part in parts for row in part.rows)
    vectors = np.concatenate([part.vectors for part in parts])
    source, cut = _names([part.source for part in parts]), CutCounts.together(part.cut for part in parts)
    former = any(part.former_hashes for part in parts)
    return replace(first, source=source, rows=rows, vectors=vectors, cut=cut, former_hashes=former)


@contextmanager
def open_source(
    sources: Sequence[Source],
    encoder: Callable[[], WindowEncoder],
    what: str,
    progress: Progress | None = None,
    *,
    reading: Reading = AS_WRITTEN,
    by: Mapping[str, str] | None = None,
    notice: Callable[[str], object] | None = None,
) -> Iterator[EmbeddingStore]:
    """Stores as they are, and examples embedded into a temporary one: a corpus need not fit in memory.

    Several are read as one, first the rows of the stores, in the order that they are given.

    Args:
        sources, encoder, what, progress, reading, notice: as for `embed_rows`.
        by: the fields that rows will be grouped by, and the option that names each; they are looked for
            before anything is embedded.

    Raises:
        InputError: neither a store nor examples, no rows, a bad row (`file:line`), no row has a field of
            `by`, or what `join_stores` raises.
    """
    paths, examples = _sorted(sources, what)
    stores = [_open_store(path) for path in paths]
    by = by or {}
    if not examples:
        store = _together(stores)
        for field in by:
            check_stored_field((row.fields for row in store.rows()), field, str(store.path))
        yield store
        return
    for field, option in by.items() if not stores else ():
        check_fields(examples, [field], option=option, reading=reading)
    reading = reading.keeping(*by)
    with tempfile.TemporaryDirectory(prefix="airrep-") as folder:
        output = Path(folder) / "store"
        dtype: VectorDtype = "float32"
        if stores:
            check_same_space(stores[0].space, encoder().space, str(stores[0].path), _names(examples))
            dtype = stores[0].vector_dtype
        embed_files(examples, encoder(), output, dtype=dtype, reading=reading, progress=progress)
        embedded = EmbeddingStore.open(output)
        _tell_cut(embedded.cut, examples, what, notice)
        yield join_stores([*stores, embedded], [*map(str, paths), _names(examples)]) if stores else embedded


def _together(stores: Sequence[EmbeddingStore]) -> EmbeddingStore:
    return stores[0] if len(stores) == 1 else join_stores(stores, [str(store.path) for store in stores])


def _open_store(path: Source) -> EmbeddingStore:
    store = EmbeddingStore.open(path)
    if not len(store):
        raise InputError(f"{path}: the store has no rows; embed some first")
    return store


def _sorted(sources: Sequence[Source], what: str) -> tuple[list[Source], list[Source]]:
    """The stores, and the examples."""
    refuse_single(sources, what)
    stores = [source for source in sources if is_store(source)]
    examples = [source for source in sources if not is_store(source)]
    for source in examples:
        if Path(source).is_dir() and not holds_rows(source):
            raise InputError(
                f"{source}: neither a store (no store.json) nor a folder of Parquet or Arrow files, "
                f"for {what}"
            )
    return stores, examples


def _names(sources: Sequence[Source]) -> str:
    return " and ".join(map(str, sources))
