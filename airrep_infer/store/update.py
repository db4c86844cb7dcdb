"""A store that follows its input: what changed there is found row by row and put in place in one step.

New rows are added to the store as they are embedded. Rows that replace others wait in a store of their own
inside the folder, `changes`, so that a run which was stopped resumes; at the end the store is written anew.
"""

from __future__ import annotations

import hashlib
import shutil
from array import array
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.files import remove_leftovers
from airrep_infer.progress import Progress
from airrep_infer.rows import CutCounts, Example, RowId
from airrep_infer.store.lines import fields_hash, row_line
from airrep_infer.store.rewrite import rewrite_store, staged_fields, with_absent
from airrep_infer.store.store import EmbeddingStore
from airrep_infer.store.writer import StoreWriter

CHANGES = "changes"
NAMED = 20
"""Ids of rows that left the input, in a summary."""

_EMBEDDED, _COPIED = -1, -2  # new rows in the order of the input


@dataclass(frozen=True)
class UpdateSummary:
    """What an input changed in its store, in rows.

    Attributes:
        renamed: new ids whose text the store had under another id.
        replaced: rows whose text changed.
        updated: rows whose fields changed.
        absent: rows of the store that the input does not have; `absent_ids` names the first of them.
        removed: whether they were removed.
    """

    renamed: int = 0
    replaced: int = 0
    updated: int = 0
    absent: int = 0
    absent_ids: tuple[RowId, ...] = ()
    removed: bool = False


class StoreUpdate:
    """Compares an input with the store that it is embedded into; a context manager.

    `note` is told every row of the input once, in its order. Where the input can be read twice that is before
    anything is embedded, and `all_noted` follows.

    Args:
        writer: of the store, just opened.
    """

    may_resume: bool = True
    """Whether the input may be that of a killed run: what is stored of it is its beginning, as it is."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self._store = EmbeddingStore.open(writer.path)
        rows = len(self._store)
        self._present = np.zeros(rows, bool)
        self._changed_to = np.zeros(rows, np.uint64)  # the hash of a changed row's new line; 0: as it was
        self._order = array("q")  # of the input: numbers in the store, _EMBEDDED or _COPIED
        self._copied = array("Q")  # the hashes of the lines of _COPIED rows
        self._replaced = self._updated = 0
        self._new = 0  # embedded rows with new ids, in the order of the input
        self._new_left_out: list[int] = []  # and which of them were left out
        self._copies = False
        self._staging: StoreWriter | None = None
        self._closing = ExitStack()

    def __enter__(self) -> StoreUpdate:
        # What a run left that was killed at its very end: the store that it had replaced.
        remove_leftovers(self._writer.path.resolve())
        if (self._writer.path / CHANGES).exists():
            self._open_staging()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self._closing.__exit__(kind, error, trace)
        return False

    @property
    def added(self) -> int:
        """Rows that this run added: embedded ones, and new ids whose vector was there."""
        return self._writer.added + (len(self._copied) if self._copies else 0)

    def note(self, window: Sequence[Example]) -> None:
        """Compare the next rows of the input with what is stored."""
        if len(self._present):
            for example in window:
                self._note(example)

    def _note(self, example: Example) -> None:
        stored = self._writer.find(example.id)
        if stored is None:
            known_text = self._writer.with_text(example) is not None
            self._order.append(_COPIED if known_text else _EMBEDDED)
            if known_text:
                self._copied.append(self._line_hash(example))
            return
        self._order.append(stored.number)
        self._present[stored.number] = True
        if not self._writer.same_text(stored.sha, example):
            self._replaced += 1
        elif stored.fields != fields_hash(example.id, self._writer.fields_of(example)):
            self._updated += 1
        else:
            return
        self._changed_to[stored.number] = self._line_hash(example)

    def all_noted(self) -> None:
        """Let new ids take the vectors of rows that have their text, if rows changed or left the input.

        Not where rows were only added: a stopped run has to resume to the bytes of an undisturbed one, and a
        vector's last bits depend on the rows that it was embedded with.
        """
        self._copies = bool(self._replaced or not self._present.all())
        order = np.array(self._order, np.int64)
        known = order[order >= 0]
        follow_each_other = bool((np.diff(known) == 1).all() and (order[: len(known)] >= 0).all())
        self.may_resume = follow_each_other and not self._replaced

    def needs_no_vector(self, example: Example) -> bool:
        """Whether a vector for this row is there: in the store, or among the changes of a stopped run."""
        stored = self._writer.find(example.id)
        if stored is None:
            return self._copies and self._writer.with_text(example) is not None
        if self._writer.same_text(stored.sha, example):
            return True
        return self._writer.with_text(example) is not None or self._is_staged(example)

    def copy_vectors(self, window: Sequence[Example]) -> None:
        """Stage those rows of a window that are to be written anew with a vector that is in the store."""
        if not len(self._present):
            return
        rows, numbers = [], []
        for example in window:
            number = self._copied_from(example)
            if number is not None and not self._is_staged(example):
                rows.append(example)
                numbers.append(number)
        if rows:
            self._stage(rows, self._store.take(numbers), np.zeros(len(rows), np.uint8))

    def add(
        self,
        rows: Sequence[Example],
        vectors: NDArray[np.float32],
        cuts: NDArray[np.uint8],
        *,
        leave_out_cut: bool = False,
    ) -> int:
        """Take embedded rows, (n, D) and (n,); those among them that need no vector are passed over.

        Args:
            leave_out_cut: do not take rows that were cut, as if the input did not have them.

        Returns:
            how many rows were left out.
        """
        replacing, new, left_out = [], [], 0
        for number, example in enumerate(rows):
            if self.needs_no_vector(example):
                continue
            stored = self._writer.find(example.id)
            out = leave_out_cut and bool(cuts[number])
            left_out += out
            if stored is not None:
                if out:
                    self._leave_out(stored.number)
                else:
                    replacing.append(number)
                continue
            if out:
                self._new_left_out.append(self._new)
            else:
                new.append(number)
            self._new += 1
        self._writer.append([rows[n] for n in new], vectors[new], cuts=cuts[new])
        if replacing:
            self._stage([rows[n] for n in replacing], vectors[replacing], cuts[replacing])
        return left_out

    def _leave_out(self, number: int) -> None:
        """Treat a stored row as if the input did not have it: what replaces it there is left out."""
        self._present[number] = False
        self._changed_to[number] = 0
        self._replaced -= 1

    def finish(self, *, prune: bool, progress: Progress | None) -> UpdateSummary:
        """Put the changes in place, in one step; the whole input was noted, and what needed it was added.

        Args:
            prune: remove the rows that the input does not have.
            progress: told of the stage "update", in rows, if the store has to be written anew.

        Raises:
            InputError: a part of the store is damaged.
            StorageError: there is no room, or the folder cannot be written.
        """
        self._writer.flush()
        self._closing.close()
        path = self._writer.path
        store, staged = EmbeddingStore.open(path), None
        if self._staging is not None:
            staged = EmbeddingStore.open(self._staging.path)
        absent = np.flatnonzero(~self._present)
        absent_ids = tuple(store.ids(absent[:NAMED]))
        sources, copied = self._sources(len(store), prune)
        if not np.array_equal(sources, np.arange(len(store))):
            lost = bool(self._replaced or copied or (prune and len(absent)))
            used = sources[sources >= len(store)] - len(store)
            rewrite_store(
                store,
                sources,
                staged,
                part_rows=self._writer.part_rows,
                cut=_cut_after(store, staged, used, lost),
                progress=progress,
            )
        elif staged is not None:
            shutil.rmtree(staged.path)
        return UpdateSummary(
            renamed=copied,
            replaced=self._replaced,
            updated=self._updated,
            absent=len(absent),
            absent_ids=absent_ids,
            removed=prune and len(absent) > 0,
        )

    def _sources(self, count: int, prune: bool) -> tuple[NDArray[np.int64], int]:
        """The rows that the store is to have, and how many took the vector of another id.

        Rows are numbers of the store of now `count` rows, and from there on those of the staged ones.
        """
        before = len(self._present)
        if not before:  # nobody was noted
            return np.arange(count), 0
        given = np.array(self._order, np.int64)
        if not self._copies:
            given[given == _COPIED] = _EMBEDDED
        keep = np.ones(len(given), bool)
        keep[np.flatnonzero(given == _EMBEDDED)[self._new_left_out]] = False
        keep[given >= 0] = self._present[given[given >= 0]]
        given = given[keep]
        embedded, copied = given == _EMBEDDED, given == _COPIED
        if before + embedded.sum() != count:
            raise RuntimeError(f"{count} rows stored, expected {before + embedded.sum()}")
        given[embedded] = np.arange(before, before + embedded.sum())
        given[copied] = np.arange(count, count + copied.sum())
        sources = np.arange(count + copied.sum())
        for number in np.flatnonzero(self._changed_to).tolist():
            sources[number] = count + self._staged_number(int(self._changed_to[number]))
        if copied.any():
            sources[count:] = [count + self._staged_number(line) for line in self._copied]
        order = given if prune else with_absent(given, len(sources))
        return sources[order], int(copied.sum())

    def _copied_from(self, example: Example) -> int | None:
        """The stored row whose vector this row is written anew with."""
        stored = self._writer.find(example.id)
        if stored is None:
            return self._writer.with_text(example) if self._copies else None
        if not self._writer.same_text(stored.sha, example):
            return self._writer.with_text(example)
        changed = stored.fields != fields_hash(example.id, self._writer.fields_of(example))
        return stored.number if changed else None

    def _line(self, example: Example) -> bytes:
        return row_line(example.id, example.sha, self._writer.fields_of(example))

    def _line_hash(self, example: Example) -> int:
        return max(1, int.from_bytes(hashlib.blake2b(self._line(example), digest_size=8).digest(), "little"))

    def _is_staged(self, example: Example) -> bool:
        return self._staging is not None and self._staging.has(_staged(self._line_hash(example)))

    def _staged_number(self, line_hash: int) -> int:
        row = self._staging.find(_staged(line_hash).id) if self._staging else None
        if row is None:
            raise RuntimeError("a changed row has no vector")
        return row.number

    def _stage(self, rows: Sequence[Example], vectors: NDArray[np.float32], cuts: NDArray[np.uint8]) -> None:
        if self._staging is None:
            self._open_staging()
        assert self._staging is not None
        waiting = [
            _staged(self._line_hash(row), staged_fields(self._line(row), cut))
            for row, cut in zip(rows, cuts.tolist(), strict=True)
        ]
        self._staging.append(waiting, vectors)

    def _open_staging(self) -> None:
        writer = self._writer
        path = writer.path / CHANGES

        def opened() -> StoreWriter:
            return StoreWriter(
                path,
                writer.space,
                pooling_scale=writer.pooling_scale,
                dtype=writer.dtype,
                part_rows=writer.part_rows,
            )

        try:
            self._staging = opened()
        except InputError:  # a kill while it was removed; its rows are embedded again
            shutil.rmtree(path)
            self._staging = opened()
        self._closing.push(self._staging)


def _staged(line_hash: int, fields: Mapping[str, str | int] = MappingProxyType({})) -> Example:
    """A row of the store of changes: known by the hash of its line, which its fields hold."""
    return Example(f"{line_hash:016x}", None, "", fields)


def _cut_after(
    store: EmbeddingStore, staged: EmbeddingStore | None, used: NDArray[np.int64], lost: bool
) -> CutCounts | None:
    """The counts after staged rows were put in; None: which rows went or were copied is not counted."""
    if store.cut is None or (store.cut.rows and lost):
        return None
    wanted = set(used.tolist())
    cuts = [
        row.fields["cut"] for number, row in enumerate(staged.rows() if staged else ()) if number in wanted
    ]
    return store.cut + CutCounts.of(np.array(cuts, np.uint8))
