"""The output rows: what `attribute` and `select` give, how they are written, and how they are read again.

Their columns stand here and nowhere else; docs/files.md describes them to people.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from airrep_infer.command import is_stream
from airrep_infer.errors import InputError, name_of
from airrep_infer.files import atomic_write
from airrep_infer.json_reader import read_objects
from airrep_infer.rows.example import RowId, is_row_id

_EXPECTED = '{"query_id", "group_influence", "proponents": [{"id", "score"}...], "opponents": [...]}'
_KEYS = frozenset(
    {
        "query_id",
        "group_influence",
        "group_influence_error",
        "proponents",
        "opponents",
        "groups",
        "group_nats",
    }
)
_HIT_NUMBERS = ("percentile", "strength", "share", "attention")
_NATS = "predicted_nats"
_HIT_KEYS = frozenset({"id", "score", "evidence", "sha", _NATS, *_HIT_NUMBERS})


class OutputRow(Protocol):
    """A result that is a row of an output file."""

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object, its keys in the order in which they are written."""
        ...


@dataclass(frozen=True, slots=True)
class Evidence:
    """Which part of a training row speaks for its score, for people to check.

    `sentences`: each sentence of the row, and by how much the score falls without it. `spans`: the longest
    runs of words that the row and the response have in common.
    """

    sentences: tuple[tuple[str, float], ...] = ()
    spans: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it stands in an output row."""
        return {"sentences": [list(sentence) for sentence in self.sentences], "spans": list(self.spans)}


@dataclass(frozen=True, slots=True)
class PredictedNats:
    """By how many nats a query's loss is expected to fall, with the 95% interval of what that rests on."""

    nats: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """As it stands in an output row."""
        return {"nats": self.nats, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, value: object, what: str) -> PredictedNats:
        """Those of a decoded object; a `ValueError` says what it has instead."""
        if not isinstance(value, dict) or set(value) != {"nats", "low", "high"}:
            raise ValueError(f'{what} must be {{"nats", "low", "high"}}')
        return cls(*(_number(value[name], f"{name} of {what}") for name in ("nats", "low", "high")))


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A training row by its id, its score s = q . z for a query, and what else is known of it.

    Attributes:
        evidence: which part of the row speaks for its score.
        percentile: percent of the other rows that rank below it for this query, 100 for the first.
        strength: where queries are pooled, how far it stands above what a query lists, the mean over them.
        share: where queries are pooled, the share of them that have the row in their own list.
        attention: there, the mean over the queries of the row's attention.
        predicted_nats: fall of the query's loss that is expected of the row, in the place of a random one;
            None where the encoder is not calibrated.
        sha: what the store knows the row's text by, `Example.sha`, so that another text with the same id is
            not taken for it; None where that is not known.
    """

    id: RowId
    score: float
    evidence: Evidence | None = None
    percentile: float | None = None
    strength: float | None = None
    share: float | None = None
    attention: float | None = None
    predicted_nats: PredictedNats | None = None
    sha: str | None = None

    def numbers(self) -> dict[str, float]:
        """The numbers that are known besides the score, by the names of their columns."""
        known = {name: getattr(self, name) for name in _HIT_NUMBERS}
        numbers = {name: value for name, value in known.items() if value is not None}
        return numbers | nats_columns(self.predicted_nats)

    def to_json(self) -> dict[str, Any]:
        """As it stands in an output row."""
        value: dict[str, Any] = {"id": self.id, "score": self.score}
        value |= {name: number for name in _HIT_NUMBERS if (number := getattr(self, name)) is not None}
        if self.predicted_nats is not None:
            value[_NATS] = self.predicted_nats.to_json()
        if self.sha is not None:
            value["sha"] = self.sha
        if self.evidence is not None:
            value["evidence"] = self.evidence.to_json()
        return value


def nats_columns(nats: PredictedNats | None) -> dict[str, float]:
    """Predicted nats as columns of a table; none where they are not known."""
    return {} if nats is None else {_NATS: nats.nats, "nats_low": nats.low, "nats_high": nats.high}


@dataclass(frozen=True, slots=True)
class AttributionRow:
    """What `attribute` says of one query.

    `group_influence` is f(q, S) of the whole training set, off by at most `group_influence_error`, which is
    None where it is exact. `proponents` have the highest score first, `opponents` the lowest. `groups` has
    f(q, S) of every group by its name; None where none were asked for. `group_nats` has the fall of the
    query's loss that is expected of each group, in the place of as many random rows; None where the encoder
    is not calibrated.
    """

    query_id: RowId
    group_influence: float
    proponents: tuple[ScoredRow, ...]
    opponents: tuple[ScoredRow, ...]
    groups: Mapping[str, float] | None = None
    group_influence_error: float | None = None
    group_nats: Mapping[str, PredictedNats] | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object, its keys in the order in which they are written."""
        value: dict[str, Any] = {"query_id": self.query_id, "group_influence": self.group_influence}
        if self.group_influence_error is not None:
            value["group_influence_error"] = self.group_influence_error
        value["proponents"] = [row.to_json() for row in self.proponents]
        value["opponents"] = [row.to_json() for row in self.opponents]
        if self.groups is not None:
            value["groups"] = dict(self.groups)
        if self.group_nats is not None:
            value["group_nats"] = {name: nats.to_json() for name, nats in self.group_nats.items()}
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AttributionRow:
        """The row of a decoded JSON object.

        Raises:
            ValueError: a key is missing or unknown, or a value is of the wrong type or not finite. The
                caller says in which file and line.
        """
        if not is_row_id(value.get("query_id")):
            raise ValueError(f"no attribution; expected {_EXPECTED}")
        unknown = sorted(set(value) - _KEYS)
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}; expected {_EXPECTED}, groups, group_nats")
        error = value.get("group_influence_error")
        return cls(
            query_id=value["query_id"],
            group_influence=_number(value.get("group_influence"), "group_influence"),
            proponents=_scored_rows(value, "proponents"),
            opponents=_scored_rows(value, "opponents"),
            groups=_groups(value.get("groups")),
            group_influence_error=None if error is None else _number(error, "group_influence_error"),
            group_nats=_group_nats(value.get("group_nats")),
        )


@dataclass(frozen=True, slots=True)
class SelectedRow:
    """What `select` says of a training row that it chose.

    Its rank, from 1, the score that gave it, and the reason, which is the id of the query that it serves.
    """

    rank: int
    id: RowId
    score: float
    reason: RowId

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object, its keys in the order in which they are written."""
        return {"rank": self.rank, "id": self.id, "score": self.score, "reason": self.reason}


def shas_of(rows: Iterable[AttributionRow]) -> dict[str, str]:
    """What the store knew the texts of the training rows by, by the text of their id, where it is known."""
    hits = (hit for row in rows for hit in (*row.proponents, *row.opponents))
    return {str(hit.id): hit.sha for hit in hits if hit.sha is not None}


def write_rows(rows: Iterable[OutputRow], output: str | Path) -> None:
    """Write JSONL to a file (whole or not at all), to a device or pipe, or, for `-`, to standard output.

    Raises:
        StorageError: the file cannot be written.
    """
    lines = (json.dumps(row.to_json(), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    if str(output) == "-":
        if sys.stdout is None:
            raise InputError("standard output is closed; name a file with -o")
        sys.stdout.flush()
        # Bytes: JSONL is UTF-8 whatever the terminal's encoding is.
        sys.stdout.buffer.writelines(line.encode() for line in lines)
        return
    with Path(output).open("wb") if is_stream(output) else atomic_write(Path(output)) as stream:
        stream.writelines(line.encode() for line in lines)


def read_attributions(path: str | Path) -> Iterator[tuple[int, AttributionRow]]:
    """The rows that `airrep-infer attribute` wrote, with their line numbers; `-` is standard input.

    Raises:
        InputError: unreadable, empty, or a row that is no attribution, is of a query seen before, or names
            other groups than the first row (`file:line`).
    """
    name = name_of(path)
    lines_of_queries: dict[str, int] = {}
    first: tuple[int, AttributionRow] | None = None
    for line, value in read_objects(path):
        try:
            row = AttributionRow.from_json(value)
            if str(row.query_id) in lines_of_queries:
                before = lines_of_queries[str(row.query_id)]
                raise ValueError(f"query {row.query_id!r} was on line {before}; keep one of them")
            first = first or (line, row)
            if _group_names(row) != _group_names(first[1]):
                raise ValueError(f"its groups are not those of line {first[0]}; attribute all at once")
        except ValueError as error:
            raise InputError(f"{name}:{line}: {error}") from error
        lines_of_queries[str(row.query_id)] = line
        yield line, row
    if first is None:
        raise InputError(f"{name}: no attributions in it; make some with `airrep-infer attribute`")


def _scored_rows(value: Mapping[str, Any], end: str) -> tuple[ScoredRow, ...]:
    rows = value.get(end)
    if not isinstance(rows, list):
        raise ValueError(f"{end} must be a list; expected {_EXPECTED}")
    for row in rows:
        if not isinstance(row, dict) or not is_row_id(row.get("id")) or set(row) - _HIT_KEYS:
            raise ValueError(f'{end} must hold {{"id": string or integer, "score": number}}')
        if not isinstance(row.get("sha", ""), str):
            raise ValueError(f"the sha of {row['id']!r} must be a string, got {row['sha']!r}")
    return tuple(
        ScoredRow(
            row["id"],
            _number(row.get("score"), f"the score of {row['id']!r}"),
            None if row.get("evidence") is None else _evidence(row["evidence"], row["id"]),
            **{name: _number(row[name], f"{name} of {row['id']!r}") for name in _HIT_NUMBERS if name in row},
            predicted_nats=PredictedNats.from_json(row[_NATS], f"{_NATS} of {row['id']!r}")
            if _NATS in row
            else None,
            sha=row.get("sha"),
        )
        for row in rows
    )


def _evidence(value: object, name: RowId) -> Evidence:
    expected = f'the evidence of {name!r} must be {{"sentences": [[text, number]...], "spans": [text...]}}'
    if not isinstance(value, dict) or set(value) - {"sentences", "spans"}:
        raise ValueError(expected)
    sentences, spans = value.get("sentences", []), value.get("spans", [])
    pairs = isinstance(sentences, list) and all(isinstance(row, list) and len(row) == 2 for row in sentences)
    texts = [row[0] for row in sentences] if pairs else [None]
    if not isinstance(spans, list) or not all(isinstance(text, str) for text in [*texts, *spans]):
        raise ValueError(expected)
    return Evidence(
        tuple((text, _number(number, f"a sentence of {name!r}")) for text, number in sentences),
        tuple(spans),
    )


def _groups(value: object) -> Mapping[str, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError('groups must be {"name": influence}')
    return {name: _number(number, f"groups[{name!r}]") for name, number in value.items()}


def _group_nats(value: object) -> Mapping[str, PredictedNats] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError('group_nats must be {"name": {"nats", "low", "high"}}')
    return {name: PredictedNats.from_json(nats, f"group_nats[{name!r}]") for name, nats in value.items()}


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} must be a finite number, got {value!r}")
    return float(value)


def _group_names(row: AttributionRow) -> set[str] | None:
    return None if row.groups is None else set(row.groups)
