"""Embeddings on disk, in parts: every part is whole or absent, runs resume, reading is memory-mapped.

`store.json` is the only truth. A part is written, fsynced and renamed first and listed there last, so
whatever a crash leaves is not listed: readers do not see it and the next writer removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.bundle import Calibration
from airrep_infer.encode import EmbeddingSpace
from airrep_infer.errors import InputError, refuse_single
from airrep_infer.files import sample_sha256, sha256_file
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import CutCounts, RowId
from airrep_infer.store.checksums import MappedPart, open_checked
from airrep_infer.store.lines import StoreRow, group_codes
from airrep_infer.store.listing import (
    AGAIN,
    DTYPES,
    FORMAT_VERSION,
    LISTING,
    Listing,
    Part,
    Shard,
    VectorDtype,
    listing_state,
    read_listing,
)
from airrep_infer.store.part import map_vectors


@dataclass(frozen=True)
class EmbeddingStore:
    """The embeddings of a corpus, read-only, as they were listed when the store was opened.

    A writer may extend the folder meanwhile; parts never change, so this view stays valid. Where another
    store takes its place, reading on is an error, and so is a damaged block of vectors or rows. `calibration`
    says what influence meant in nats; None where that was not measured. For `cut`, `query_map` and
    `former_hashes` see `Listing`.
    """

    path: Path
    space: EmbeddingSpace
    dtype: np.dtype[Any]
    pooling_scale: float
    parts: tuple[Part, ...]
    shard: Shard | None = None
    format_version: int = FORMAT_VERSION
    cut: CutCounts | None = None
    calibration: Calibration | None = None
    query_map: str = ""
    former_hashes: bool = False
    _listed: dict[str, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)
    """The state of the listing when it was last compared with `parts`, by the folder of the parts' files, as
    `Part.file` has it; empty: never."""
    _checked: set[tuple[str, int]] = field(default_factory=set, compare=False, repr=False)
    """The blocks of vectors that were compared with their checksums, see `MappedPart`."""

    @classmethod
    def open(cls, path: str | Path) -> EmbeddingStore:
        """Open a store and check that every part is there with its recorded size, shape, dtype and sample.

        A few pages of each part are read; `verify` reads them all.

        Raises:
            InputError: there is no store, it is of another format version, or it is damaged.
        """
        path = Path(path)
        state = listing_state(path / LISTING)
        listing = read_listing(path)
        store = cls(
            path,
            EmbeddingSpace(listing.fingerprint, listing.precision, listing.dimension),
            DTYPES[listing.dtype],
            listing.pooling_scale,
            listing.parts,
            listing.shard,
            listing.format_version,
            listing.cut,
            listing.calibration,
            listing.query_map,
            listing.former_hashes,
            {".": state},
        )
        for part in store.parts:
            store._mapped(part)
            store._check_size(part.rows_file, part.rows_bytes)
            store._check_sample(part.file, part.sample)
            store._check_sample(part.rows_file, part.rows_sample)
        return store

    @property
    def listing(self) -> Listing:
        """What `store.json` is to say of it."""
        return Listing(
            **asdict(self.space),
            dtype=self.dtype.name,
            pooling_scale=self.pooling_scale,
            parts=self.parts,
            shard=self.shard,
            cut=self.cut,
            calibration=self.calibration,
            query_map=self.query_map,
            former_hashes=self.former_hashes,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Another process, perhaps on another machine, compares what it reads itself."""
        return {**vars(self), "_checked": set()}

    def __len__(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def vector_dtype(self) -> VectorDtype:
        """`dtype` by its name, as a writer takes it."""
        return "float16" if self.dtype == np.float16 else "float32"

    @property
    def unchecked(self) -> int:
        """Rows whose damage only `verify` finds: an earlier version, which had no checksums, wrote them."""
        return sum(part.count for part in self.parts if not part.checksums)

    @property
    def fingerprint(self) -> str:
        """A sha256 in hex of what the store holds: its space and the recorded hashes of its parts."""
        parts = [part.content for part in self.parts]
        return hashlib.sha256(json.dumps([asdict(self.space), parts]).encode()).hexdigest()

    def blocks(
        self, size: int, wanted: Callable[[int, int], bool] | None = None
    ) -> Iterator[tuple[int, NDArray[np.floating[Any]]]]:
        """(number of the first row, memory-mapped (<= size, D) slice in the store's dtype), in row order.

        No block crosses a part, and one part is mapped at a time.

        Args:
            wanted: asked once for each block, in order, whether to read the rows from one number to before
                another; None: all.

        Raises:
            InputError: a block is damaged.
        """
        if size < 1:
            raise ValueError(f"block size must be at least 1, got {size}")
        first = 0
        for part in self.parts:
            mapped = None
            for start in range(0, part.count, size):
                end = min(start + size, part.count)
                if wanted is None or wanted(first + start, first + end):
                    mapped = mapped or self._mapped(part, first)
                    yield first + start, mapped.rows(start, end)
            first += part.count

    def mapped(self) -> Iterator[MappedPart]:
        """The parts, each mapped into memory, which keeps its file open."""
        first = 0
        for part in self.parts:
            yield self._mapped(part, first)
            first += part.count

    def rows(self) -> Iterator[StoreRow]:
        """What is known of every row, in row order, streaming."""
        for part in self.parts:
            for number, line in enumerate(self._lines(part), 1):
                yield self._parse_row(part, number, line)

    def lines(self) -> Iterator[bytes]:
        """The rows as their JSONL has them, in row order, streaming."""
        return chain.from_iterable(map(self._lines, self.parts))

    def fields_of(self, ids: Collection[RowId]) -> dict[RowId, Mapping[str, Any]]:
        """The fields of the rows with these ids, by id."""
        refuse_single(ids, "ids")
        return {row.id: row.fields for row in self.rows() if row.id in ids}

    def ids(self, numbers: ArrayLike) -> list[RowId]:
        """The ids of rows, by row number; any order, duplicates allowed."""
        return [name for name, _ in self.ids_and_shas(numbers)]

    def ids_and_shas(self, numbers: ArrayLike) -> list[tuple[RowId, str]]:
        """What identifies rows, see `StoreRow`, by row number; any order, duplicates allowed."""
        wanted, inverse = self._wanted(numbers)
        names: list[tuple[RowId, str]] = []
        for part, local in self._by_part(wanted):
            with contextlib.closing(self._lines(part)) as lines:
                for before, number in pairwise([-1, *local.tolist()]):
                    line = next(islice(lines, number - before - 1, None))
                    row = self._parse_row(part, number + 1, line)
                    names.append((row.id, row.sha))
        return [names[number] for number in inverse]

    def take(self, numbers: ArrayLike) -> NDArray[np.float32]:
        """The vectors of rows, by row number: (n, D) float32; any order, duplicates allowed."""
        wanted, inverse = self._wanted(numbers)
        vectors = np.empty((len(wanted), self.space.dimension), np.float32)
        done = 0
        for part, local in self._by_part(wanted):
            first = int(wanted[done] - local[0])
            vectors[done : done + len(local)] = self._mapped(part, first).take(local)
            done += len(local)
        return vectors[inverse]

    def groups(self, field: str) -> tuple[list[str], NDArray[np.int32]]:
        """The sorted groups that a field makes, and for every row (n,) which one it is in; see `group_of`.

        Raises:
            InputError: no row has the field.
        """
        return group_codes((row.fields for row in self.rows()), len(self), field, str(self.path))

    def describe(self) -> dict[str, Any]:
        """What `airrep-infer info` says of the store."""
        return {
            "kind": "store",
            "format_version": self.format_version,
            "path": str(self.path),
            "rows": len(self),
            "dtype": str(self.dtype),
            "space": asdict(self.space),
            "pooling_scale": self.pooling_scale,
            **({"calibration": asdict(self.calibration)} if self.calibration else {}),
            **({"query_map": self.query_map} if self.query_map else {}),
            "content": self.fingerprint,
            **({"rows_without_checksums": self.unchecked} if self.unchecked else {}),
            **({"cut": asdict(self.cut)} if self.cut else {}),
            **({"shard": asdict(self.shard)} if self.shard else {}),
        }

    def verify(self, progress: Progress | None = None) -> None:
        """Read every part in full and compare it with its recorded sha256.

        Args:
            progress: told of the stage "verify", in rows.

        Raises:
            InputError: a file has changed; the message names the first one.
        """
        add = begin(progress, "verify", len(self))
        for part in self.parts:
            for file, recorded in ((part.file, part.sha256), (part.rows_file, part.rows_sha256)):
                actual = sha256_file(self.path / file)
                if actual != recorded:
                    raise InputError(
                        f"{self.path / file}: damaged: sha256 is {actual}, recorded {recorded}; {AGAIN}"
                    )
            add(part.count)

    def _mapped(self, part: Part, first: int = 0) -> MappedPart:
        """The vectors of the part whose first row has the number `first`."""
        # The size first: touching a mapped page behind the end of a file kills the process (SIGBUS).
        self._check_size(part.file, part.bytes)
        file = self.path / part.file
        vectors = map_vectors(file)
        self._check_listed(part)
        expected = (part.count, self.space.dimension)
        if vectors.shape != expected or vectors.dtype != self.dtype or not vectors.flags.c_contiguous:
            order = "" if vectors.flags.c_contiguous else ", Fortran order"
            raise InputError(
                f"{file}: holds {vectors.dtype} {vectors.shape}{order}, "
                f"expected {self.dtype} {expected}; {AGAIN}"
            )
        # A memmap is slower to index than the array that it is.
        return MappedPart(np.asarray(vectors), file, first, part.checksums, self._checked)

    def _check_listed(self, part: Part) -> None:
        """Refuse to read on where another store was put in the place of a part's, after a file was opened."""
        here = str(Path(part.file).parent)
        folder = self.path / here
        state = listing_state(folder / LISTING)
        if self._listed.get(here, state) == state:
            return
        parts = tuple(each for each in self.parts if str(Path(each.file).parent) == here)
        listed = read_listing(folder).parts[: len(parts)]
        if [each.content for each in listed] != [each.content for each in parts]:
            raise InputError(
                f"{folder}: a new version of the store was put in place while this one was read; run the "
                "command again"
            )
        self._listed[here] = state

    def _check_size(self, file: str, expected: int) -> None:
        try:
            actual = (self.path / file).stat().st_size
        except OSError as error:
            raise InputError(f"{self.path / file}: cannot read: {error.strerror}; {AGAIN}") from error
        if actual != expected:
            raise InputError(f"{self.path / file}: {actual} bytes, expected {expected}; damaged: {AGAIN}")

    def _check_sample(self, file: str, recorded: str) -> None:
        if recorded and sample_sha256(self.path / file) != recorded:
            raise InputError(f"{self.path / file}: damaged: its content is not what was written; {AGAIN}")

    def _lines(self, part: Part) -> Generator[bytes, None, None]:
        """The lines of a part's rows file: exactly as many as the part has rows."""
        file = self.path / part.rows_file
        count = 0
        try:
            with open_checked(file, part.rows_checksums) as stream:
                self._check_listed(part)
                for count, line in enumerate(stream, 1):
                    if count > part.count:
                        break
                    yield line
        except OSError as error:
            raise InputError(f"{file}: cannot read: {error.strerror}; {AGAIN}") from error
        if count != part.count:
            kind = "more" if count > part.count else f"{count}"
            raise InputError(f"{file}: {kind} rows, expected {part.count}; damaged: {AGAIN}")

    def _parse_row(self, part: Part, number: int, line: bytes) -> StoreRow:
        try:
            return StoreRow.of_line(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            where = f"{self.path / part.rows_file}:{number}"
            raise InputError(f"{where}: damaged row ({error}); {AGAIN}") from error

    def _wanted(self, numbers: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        given = np.asarray(numbers)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise TypeError(f"row numbers must be a 1-D array of integers, got {given.dtype} {given.shape}")
        unique, inverse = np.unique(given.astype(np.int64), return_inverse=True)
        if len(unique) and not (unique[0] >= 0 and unique[-1] < len(self)):
            raise IndexError(f"row numbers {unique[0]} to {unique[-1]} asked of a store of {len(self)} rows")
        return unique, inverse

    def _by_part(self, wanted: NDArray[np.int64]) -> Iterator[tuple[Part, NDArray[np.int64]]]:
        """The parts that hold some of the sorted row numbers, with these numbers relative to the part."""
        first = 0
        for part in self.parts:
            low, high = np.searchsorted(wanted, [first, first + part.count])
            if low < high:
                yield part, wanted[low:high] - first
            first += part.count
