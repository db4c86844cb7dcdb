"""Writing a store: parts appear whole or not at all, one writer at a time, runs resume."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from airrep_infer.bundle import Calibration
from airrep_infer.encode import EmbeddingSpace
from airrep_infer.errors import InputError, StorageError, storage_errors
from airrep_infer.files import open_locked
from airrep_infer.ids import KnownRow, KnownRows
from airrep_infer.resources import memory_budget
from airrep_infer.rows import (
    PUBLISHED,
    SHARED,
    CutCounts,
    Example,
    RowId,
    Template,
    known_hashes,
    same_text,
)
from airrep_infer.store.extension import open_to_extend
from airrep_infer.store.lines import fields_hash, kept_fields, row_line
from airrep_infer.store.listing import (
    DTYPES,
    LAYOUT,
    LISTING,
    Part,
    Shard,
    VectorDtype,
    part_names,
    write_listing,
)
from airrep_infer.store.part import PART_ROWS, write_part
from airrep_infer.store.store import EmbeddingStore

_ROW_BYTES = 500  # objects around a row's bytes
PART_SECONDS = 300.0
"""How long rows wait in memory at most, while others are appended."""


@dataclass(frozen=True, slots=True)
class _Pending:
    id: RowId
    sha: str
    fields: int
    line: bytes
    vector: NDArray[np.floating[Any]]
    cut: int | None


class StoreWriter:
    """Creates a store or extends one; a context manager that only one process can hold per folder.

    Rows are stored in the order they are appended, in parts of `part_rows`; the same rows and options
    give the same bytes however they are cut into calls. Where a part takes longer than `PART_SECONDS`, or a
    quarter of the memory budget, it is stored with fewer rows; `compact_store` joins such parts.
    On leaving the block, Ctrl-C included, the rest is stored as a short part; only after a `StorageError`
    it is dropped.

    Args:
        path: the store's folder; a new or empty one is made a store.
        space: the encoder of the vectors to come.
        pooling_scale: beta of the bundle.
        dtype: "float32" or "float16".
        part_rows: rows of a part; the writer holds at most this many (plus one `append`) in memory.
        keep: the fields to carry along; None carries all that `Example.fields` has.
        shard: the part of an input that the store is to hold, kept in its listing.
        template: of the bundle; rows that an earlier version stored are known by its rule.
        calibration: of the bundle; None keeps the one that a store has.
        query_map: fingerprint of what brought gradients into the space; "": the encoder made the vectors.
        former_hashes: whether rows to come are known as a store of version 1 knew them.

    Raises:
        InputError: the folder is no store, is one of another space, dtype or shard, is damaged, or is
            being written by another process.
        StorageError: the folder cannot be written.
    """

    added: int
    """Rows appended; after the block, rows that the store gained."""

    def __init__(
        self,
        path: str | Path,
        space: EmbeddingSpace,
        *,
        pooling_scale: float,
        dtype: VectorDtype = "float32",
        part_rows: int = PART_ROWS,
        keep: Sequence[str] | None = None,
        shard: Shard | None = None,
        template: Template = SHARED,
        calibration: Calibration | None = None,
        query_map: str = "",
        former_hashes: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(f"dtype {dtype!r} is not supported; expected one of {', '.join(DTYPES)}")
        if part_rows < 1 or space.dimension < 1 or not math.isfinite(pooling_scale):
            raise ValueError(f"part_rows {part_rows}, dimension {space.dimension}, scale {pooling_scale}")
        self.path, self.space, self.dtype = Path(path), space, dtype
        self.pooling_scale, self.part_rows = float(pooling_scale), part_rows
        self.keep = None if keep is None else frozenset(keep)
        self.shard = shard
        self._calibration = calibration
        self._query_map = query_map
        self._by_published = template == PUBLISHED
        self.added = 0
        self._written = time.monotonic()
        self._held, self._room = 0, memory_budget() // 4  # bytes of the rows in memory
        self._recent: dict[str, _Pending] = {}  # the rows in memory, by id
        self._known = KnownRows()
        self._existing()  # refuse before anything is touched
        with storage_errors(self.path):
            LAYOUT.make(self.path)
            taken = f"{self.path}: another process is writing this store; wait for it, or use another folder"
            self._lock = open_locked(self.path / ".lock", taken)
        try:
            store = self._existing()
            # Parts listed and rows in memory change together: one attribute, so that a Ctrl-C between
            # two statements cannot store rows twice.
            self._state: tuple[tuple[Part, ...], list[_Pending]] = (store.parts if store else (), [])
            # Of the parts that are listed; None where rows came without.
            self._cut: CutCounts | None = store.cut if store else CutCounts()
            self._former_hashes = former_hashes or (store is not None and store.former_hashes)
            if store is not None and calibration is None:
                self._calibration = store.calibration
            if store is None or store.calibration != self._calibration:
                self._write_listing(self._state[0], self._cut)
            if store is not None:
                self._known.add(
                    ((str(row.id), row.sha, fields_hash(row.id, row.fields)) for row in store.rows()),
                    len(store),
                )
            listed = {name for part in self._state[0] for name in (part.file, part.rows_file)}
            LAYOUT.remove_leftovers(self.path, {LISTING, *listed})
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        try:
            if not isinstance(error, StorageError):
                # On the way out of another error, that one is the news; the rows are embedded again.
                failed = error is not None and not isinstance(error, KeyboardInterrupt)
                with contextlib.suppress(StorageError) if failed else contextlib.nullcontext():
                    self._flush(1)
        finally:
            self.added -= len(self._state[1])
            self._lock.close()
        return False

    def has(self, example: Example) -> bool:
        """Whether this row, the same id with the same text, is stored (or appended) already.

        Raises:
            InputError: the id is stored with another text.
        """
        stored = self._stored_sha(str(example.id))
        if stored is not None and not self.same_text(stored, example):
            raise InputError(
                f"{self.path}: the text of id {example.id!r} changed since it was stored (text hash "
                f"{example.sha}, stored {stored}); give the row a new id, or embed into a new store"
            )
        return stored is not None

    def find(self, name: RowId) -> KnownRow | None:
        """The row of this id in the parts that are stored."""
        return self._known.find(str(name))

    def with_text(self, example: Example) -> int | None:
        """The number of a row, among those stored before the first call, that has this text under any id."""
        numbers = map(self._known.with_sha, known_hashes(example, former=self._by_published))
        return next((number for number in numbers if number is not None), None)

    def same_text(self, sha: str, example: Example) -> bool:
        """Whether a row that is stored with this sha has the text of `example`."""
        return same_text(sha, example, former=self._by_published)

    def fields_of(self, example: Example) -> dict[str, Any]:
        """The fields of a row that the store carries along."""
        return kept_fields(example, self.keep)

    def _stored_sha(self, name: str) -> str | None:
        if name in self._recent:
            return self._recent[name].sha
        known = self._known.find(name)
        return known.sha if known else None

    def append(
        self,
        examples: Sequence[Example],
        embeddings: NDArray[Any],
        *,
        skip_stored: bool = False,
        cuts: NDArray[np.uint8] | None = None,
    ) -> None:
        """Append n rows and their (n, D) embeddings; all of them or, on an InputError, none.

        Args:
            skip_stored: leave out rows that `has` knows, instead of refusing them.
            cuts: what the token limit cut of each, (n,) `Cut`; None: not known.

        Raises:
            InputError: wrong shape, a value that is not finite or does not fit the dtype, an id that is
                stored already.
            StorageError: a part could not be written; nothing half-written stays.
        """
        if self._lock.closed:
            raise ValueError("the store writer is closed")
        vectors = self._checked(examples, embeddings)
        rows: dict[str, _Pending] = {}
        known_cuts = [None] * len(examples) if cuts is None else cuts.tolist()
        for example, vector, cut in zip(examples, vectors, known_cuts, strict=True):
            stored = self.has(example)
            if stored and skip_stored:
                continue
            if stored or str(example.id) in rows:
                raise InputError(
                    f"{self.path}: id {example.id!r} is stored already; ids must be unique: leave it out "
                    "or rename it"
                )
            rows[str(example.id)] = self._pending(example, vector, cut)
        self._recent.update(rows)
        self._state[1].extend(rows.values())
        self.added += len(rows)
        self._held += sum(len(row.line) + row.vector.nbytes + _ROW_BYTES for row in rows.values())
        early = time.monotonic() - self._written > PART_SECONDS or self._held > self._room
        self._flush(1 if early else self.part_rows)

    def _checked(self, examples: Sequence[Example], embeddings: NDArray[Any]) -> NDArray[np.floating[Any]]:
        embeddings = np.asarray(embeddings)
        expected = (len(examples), self.space.dimension)
        if embeddings.shape != expected or embeddings.dtype.kind != "f":
            raise InputError(
                f"{self.path}: embeddings are {embeddings.dtype} {embeddings.shape}, "
                f"expected floats {expected}, one row an example; use the encoder the store was made for"
            )
        with np.errstate(over="ignore"):
            vectors = embeddings.astype(DTYPES[self.dtype], order="C")  # a copy: callers reuse buffers
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            row = embeddings[bad[0]]
            name = examples[bad[0]].id
            if np.isfinite(row).all():
                raise InputError(
                    f"{self.path}: the embedding of {name!r} reaches {np.abs(row).max():g}, too large for "
                    f"{self.dtype}; store with a larger dtype"
                )
            raise InputError(
                f"{self.path}: the embedding of {name!r} holds NaN or infinity; "
                "the model overflows on it: use precision fp32 or leave the row out"
            )
        return vectors

    def _pending(self, example: Example, vector: NDArray[np.floating[Any]], cut: int | None) -> _Pending:
        sha, fields = example.sha, self.fields_of(example)
        line = row_line(example.id, sha, fields)
        return _Pending(example.id, sha, fields_hash(example.id, fields), line, vector, cut)

    def flush(self) -> None:
        """Store what is in memory, as a short part if it must be.

        Raises:
            StorageError: a part could not be written.
        """
        self._flush(1)

    def _flush(self, least: int) -> None:
        """Store what is in memory as parts until fewer than `least` rows are left."""
        while len(self._state[1]) >= least:
            rows = self._state[1][: self.part_rows]
            self._write_part(rows)
            self._known.add(((str(row.id), row.sha, row.fields) for row in rows), len(rows))
            for row in rows:
                self._recent.pop(str(row.id), None)
            self._held -= sum(len(row.line) + row.vector.nbytes + _ROW_BYTES for row in rows)
            self._written = time.monotonic()

    def _write_part(self, rows: list[_Pending]) -> None:
        parts, pending = self._state
        file, rows_file = part_names(len(parts))
        vectors, lines = (row.vector.data for row in rows), (row.line for row in rows)
        try:
            part = write_part(
                self.path, len(parts), self.space.dimension, DTYPES[self.dtype], len(rows), vectors, lines
            )
            cut = _counted(self._cut, rows)
            self._write_listing((*parts, part), cut)
            self._state, self._cut = ((*parts, part), pending[len(rows) :]), cut
        except BaseException:
            # The listing may be in place already (an error or Ctrl-C just after its rename): then the
            # part exists, and taking its files away would break the store.
            with contextlib.suppress(InputError, OSError):
                store = EmbeddingStore.open(self.path)
                if len(store.parts) > len(parts):
                    self._state, self._cut = (store.parts, pending[len(rows) :]), store.cut
                else:
                    (self.path / file).unlink(missing_ok=True)
                    (self.path / rows_file).unlink(missing_ok=True)
            raise

    def _write_listing(self, parts: tuple[Part, ...], cut: CutCounts | None) -> None:
        store = EmbeddingStore(
            self.path,
            self.space,
            DTYPES[self.dtype],
            self.pooling_scale,
            parts,
            self.shard,
            cut=cut,
            calibration=self._calibration,
            query_map=self._query_map,
            former_hashes=self._former_hashes,
        )
        write_listing(self.path, store.listing)

    def _existing(self) -> EmbeddingStore | None:
        return open_to_extend(
            self.path,
            self.space,
            dtype=self.dtype,
            pooling_scale=self.pooling_scale,
            shard=self.shard,
            query_map=self._query_map,
        )


def _counted(before: CutCounts | None, rows: Sequence[_Pending]) -> CutCounts | None:
    cuts = [row.cut for row in rows if row.cut is not None]
    if before is None or len(cuts) < len(rows):
        return None
    return before + CutCounts.of(np.array(cuts, np.uint8))
