"""Groups of corpus rows, whose influence is asked for: from a field of the rows, a file, or Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_objects
from airrep_infer.store import EmbeddingStore


@dataclass(frozen=True, eq=False)
class Groups:
    """Named groups of corpus rows, which may overlap and need not cover the corpus.

    Membership m says that row `rows[m]` is in the group `names[codes[m]]`. Both are (M,) arrays, sorted by
    row and then by code. `corpus_rows` is how many rows the corpus must have, None if any number may follow.
    """

    names: tuple[str, ...]
    rows: NDArray[np.int64]
    codes: NDArray[np.int32]
    corpus_rows: int | None = None

    @classmethod
    def from_codes(cls, names: Sequence[str], codes: ArrayLike) -> Groups:
        """At most one group a row: for every corpus row the position of its name (negative: none)."""
        of_rows = np.asarray(codes, np.int32)
        if of_rows.ndim != 1:
            raise InputError(f"codes are an array (n,) of one group a row, got {of_rows.shape}")
        rows = np.flatnonzero(of_rows >= 0)
        return cls(tuple(names), rows, of_rows[rows], len(of_rows))

    @classmethod
    def from_members(cls, members: Mapping[str, ArrayLike]) -> Groups:
        """Row numbers by the name of the group; a row may be in several."""
        numbers = [np.asarray(rows, np.int64).reshape(-1) for rows in members.values()]
        rows = np.concatenate([np.empty(0, np.int64), *numbers])
        codes = np.repeat(np.arange(len(numbers), dtype=np.int32), [len(group) for group in numbers])
        order = np.argsort(rows, kind="stable")  # the codes of one row stay sorted
        return cls(tuple(members), rows[order], codes[order])

    @cached_property
    def disjoint(self) -> bool:
        """Whether no row is in two groups, so that a corpus row has one place."""
        return not (self.rows[1:] == self.rows[:-1]).any()

    def places(self, corpus_rows: int) -> NDArray[np.int32]:
        """The code of every corpus row's group, where groups are disjoint; G, one more, for a row of none."""
        places = np.full(corpus_rows, len(self.names), np.int32)
        places[self.rows] = self.codes
        return places

    def sizes(self) -> NDArray[np.int64]:
        """How many rows each group has, (G,)."""
        return np.bincount(self.codes, minlength=len(self.names))

    def sizes_among(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of some rows (m,) each group has, (G,)."""
        first = np.searchsorted(self.rows, rows)
        each = np.searchsorted(self.rows, rows, side="right") - first
        # The memberships of one row stand together: `each` of them from `first` on.
        memberships = np.repeat(first - np.cumsum(each) + each, each) + np.arange(each.sum())
        return np.bincount(self.codes[memberships], minlength=len(self.names))

    def check(self, corpus_rows: int) -> None:
        """Raises InputError unless every group has at least one row, all exist, and none is twice in one."""
        if len(set(self.names)) != len(self.names) or not self.names:
            raise InputError(f"groups need distinct names, at least one; got {len(self.names)}")
        if self.corpus_rows not in (None, corpus_rows):
            raise InputError(
                f"groups cover {self.corpus_rows} rows, the corpus has {corpus_rows}; give one a row"
            )
        if len(self.codes) and self.codes.max() >= len(self.names):
            raise InputError(f"a row is in group {self.codes.max()}, but there are {len(self.names)} names")
        if not self.sizes().all():
            raise InputError(f"group {self.names[int(np.argmin(self.sizes()))]!r} has no rows; leave it out")
        outside = np.flatnonzero((self.rows < 0) | (self.rows >= corpus_rows))
        if len(outside):
            name, row = self.names[self.codes[outside[0]]], self.rows[outside[0]]
            raise InputError(f"group {name!r} names row {row}; the corpus has rows 0 to {corpus_rows - 1}")
        twice = np.flatnonzero((self.rows[1:] == self.rows[:-1]) & (self.codes[1:] == self.codes[:-1]))
        if len(twice):
            name, row = self.names[self.codes[twice[0]]], self.rows[twice[0]]
            raise InputError(f"group {name!r} names row {row} twice; name each row once")


def groups_by_field(store: EmbeddingStore, field: str) -> Groups:
    """One group for each value of a field.

    Raises:
        InputError: a row does not have the field.
    """
    names, codes = store.groups(field)
    return Groups.from_codes(names, codes)


def groups_from_file(store: EmbeddingStore, path: str | Path) -> Groups:
    """Groups from JSONL rows `{"group": name, "ids": [...]}`; groups may overlap.

    Raises:
        InputError: an unreadable row (`file:line`), a name given twice, an id the store does not have.
    """
    ids_by_name: dict[str, list[str]] = {}
    for line, row in read_objects(path):
        if "group" not in row or "ids" not in row:
            raise InputError(f'{path}:{line}: expected {{"group": name, "ids": [...]}}')
        name, ids = row["group"], row["ids"]
        if not isinstance(name, str) or not isinstance(ids, list) or not ids:
            raise InputError(f"{path}:{line}: group must be a string and ids a list of at least one id")
        if name in ids_by_name:
            raise InputError(f"{path}:{line}: group {name!r} was given before; put all its ids in one row")
        ids_by_name[name] = list(map(str, ids))
    if not ids_by_name:
        raise InputError(f"{path}: no groups in the file")
    needed = {row_id for ids in ids_by_name.values() for row_id in ids}
    numbers = {str(row.id): number for number, row in enumerate(store.rows()) if str(row.id) in needed}
    for name, ids in ids_by_name.items():
        missing = [row_id for row_id in ids if row_id not in numbers]
        if missing:
            raise InputError(
                f"{path}: group {name!r}: id {missing[0]!r} is not in {store.path} "
                f"({len(missing)} missing in all)"
            )
    return Groups.from_members({name: [numbers[row] for row in ids] for name, ids in ids_by_name.items()})
