"""Which training rows a file of ids or of evaluation rows excludes, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from airrep_infer.errors import InputError, name_of
from airrep_infer.rows.example import Example, RowId
from airrep_infer.rows.examples import ExampleReader
from airrep_infer.rows.id_list import id_lines
from airrep_infer.rows.near_copies import NearCopies
from airrep_infer.rows.parse import AS_WRITTEN
from airrep_infer.rows.readers import read_rows
from airrep_infer.rows.spellings import Reading

SHARED_WORDS = 13
"""Words in a row that a training row may not share with an evaluation row (as in the GPT-3 report)."""
_OF_A_SELECTION = frozenset({"id", "rank", "score", "reason"})


@dataclass(frozen=True, slots=True)
class ExcludedRow:
    """A training row that may not be selected, and why.

    Attributes:
        reason: "id", "near copy" or "shared words".
        file: which names the id, or holds the evaluation row.
        of: the id of the evaluation row.
        similarity: of a near copy.
        words: that are shared.
    """

    id: RowId
    reason: str
    file: str
    of: RowId | None = None
    similarity: float | None = None
    words: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object, without what it does not have."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None}


class Exclusion:
    """What one file excludes: the training rows with its ids, or those that are too close to its rows.

    A text file (`.txt`, or a name without a suffix) has an id a line. So has JSONL whose rows hold an `id`
    and no content, as `select --ids` writes it. Everything else is read as examples.

    Raises:
        InputError: the file is unreadable, has nothing in it, or a row is not an example (`file:line`).
    """

    def __init__(self, path: str, reading: Reading = AS_WRITTEN) -> None:
        self.path = path
        self.ids = frozenset(_read_ids(path))
        self._examples: Sequence[Example] = []
        self._by_words: dict[str, int] = {}
        if self.ids:
            return
        self._examples = list(ExampleReader([path], reading=reading))
        self._near_copies = NearCopies(self._examples)
        for number, example in enumerate(self._examples):
            for words in _word_runs(example.content):
                self._by_words.setdefault(words, number)

    @property
    def needs_texts(self) -> bool:
        """Whether training rows are compared by their text, not by their id."""
        return not self.ids

    def check(self, name: RowId, example: Example | None) -> ExcludedRow | None:
        """Why the training row with this id is excluded; None if it is not."""
        if self.ids:
            return ExcludedRow(name, "id", self.path) if str(name) in self.ids else None
        assert example is not None
        near = self._near_copies.of(example)
        if len(near.rows):
            best = np.argmax(near.similarity)
            of, similarity = self._examples[near.rows[best]].id, float(near.similarity[best])
            return ExcludedRow(name, "near copy", self.path, of, round(similarity, 3))
        for words in _word_runs(example.content):
            if words in self._by_words:
                of = self._examples[self._by_words[words]].id
                return ExcludedRow(name, "shared words", self.path, of, words=words)
        return None


def _word_runs(text: str) -> Iterable[str]:
    """Every run of 13 words, in lower case and without punctuation."""
    words = re.findall(r"\w+", text.lower())
    return (" ".join(words[start : start + SHARED_WORDS]) for start in range(len(words) - SHARED_WORDS + 1))


def _read_ids(path: str) -> list[str]:
    """The ids that a file lists; none if it holds rows."""
    if not Path(path).is_file():
        if Path(path).exists():
            return []
        raise InputError(f"{path}: no such file")
    if Path(path).suffix in ("", ".txt"):
        ids = [line.decode() for _, line in id_lines(path)]
        if not ids:
            raise InputError(f"{path}: the file has no ids; give one a line")
        if not ids[0].startswith("{"):
            return ids
    ids = []
    for row in read_rows(path):
        if not isinstance(row.value, dict) or "id" not in row.value or set(row.value) - _OF_A_SELECTION:
            if ids:
                raise InputError(
                    f"{name_of(path)}:{row.line}: no id alone, as the rows before it; keep one kind"
                )
            return []
        ids.append(str(row.value["id"]))
    return ids
