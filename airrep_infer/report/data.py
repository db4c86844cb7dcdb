"""What a report page shows, from files to one compact value: attributions checked, ids turned into texts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_objects
from airrep_infer.report.lookup import Found, find_examples
from airrep_infer.rows.examples import Example

_ROW = '{"query_id", "group_influence", "proponents": [{"id", "score"}...], "opponents": [...]}'
_DIGITS = 5  # significant digits of a score on the page, which prints three


@dataclass(frozen=True, slots=True)
class AttributionRow:
    """One row of an attributions file and its line; proponents and opponents as (id, score)."""

    line: int
    query_id: str
    group_influence: float
    proponents: tuple[tuple[str, float], ...]
    opponents: tuple[tuple[str, float], ...]
    groups: Mapping[str, float] | None
    error: float | None
    """How far `group_influence` may be off; None where it is exact."""


def read_attributions(path: str) -> list[AttributionRow]:
    """Read what `airrep-infer attribute` wrote; `-` is standard input.

    Raises:
        InputError: unreadable, or a row that is no attribution, is of a query seen before, or names other
            groups than the first row (`file:line`).
    """
    rows: list[AttributionRow] = []
    seen: dict[str, int] = {}
    for line, value in read_objects(path):
        try:
            row = _parse(line, value)
            if row.query_id in seen:
                raise ValueError(f"query {row.query_id!r} was on line {seen[row.query_id]}; keep one of them")
            if rows and _names(row) != _names(rows[0]):
                raise ValueError(f"its groups are not those of line {rows[0].line}; attribute all at once")
        except ValueError as error:
            raise InputError(f"{_name(path)}:{line}: {error}") from error
        seen[row.query_id] = line
        rows.append(row)
    if not rows:
        raise InputError(f"{_name(path)}: no attributions in it; make some with `airrep-infer attribute`")
    return rows


def _parse(line: int, value: dict[str, Any]) -> AttributionRow:
    if not isinstance(value.get("query_id"), str):
        raise ValueError(f"no attribution; expected {_ROW}")
    groups, error = value.get("groups"), value.get("group_influence_error")
    if groups is not None:
        if not isinstance(groups, dict):
            raise ValueError('groups must be {"name": influence}')
        groups = {_text(name): _number(number, f"groups[{name!r}]") for name, number in groups.items()}
    return AttributionRow(
        line,
        value["query_id"],
        _number(value.get("group_influence"), "group_influence"),
        _hits(value, "proponents"),
        _hits(value, "opponents"),
        groups,
        None if error is None else _number(error, "group_influence_error"),
    )


def _hits(value: dict[str, Any], end: str) -> tuple[tuple[str, float], ...]:
    hits = value.get(end)
    if not isinstance(hits, list):
        raise ValueError(f"{end} must be a list; expected {_ROW}")
    for hit in hits:
        if not isinstance(hit, dict) or not isinstance(hit.get("id"), str):
            raise ValueError(f'{end} must hold {{"id": string, "score": number}}')
    return tuple((hit["id"], _number(hit.get("score"), f"the score of {hit['id']!r}")) for hit in hits)


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} must be a finite number, got {value!r}")
    return float(value)


def _text(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"group {name!r} holds half a surrogate pair, not text") from error
    return name


def _names(row: AttributionRow) -> set[str] | None:
    return None if row.groups is None else set(row.groups)


def _name(path: str) -> str:
    return "<stdin>" if path == "-" else path


@dataclass(frozen=True)
class ReportData:
    """The page's value (see `as_json`) and what the command says of it."""

    value: dict[str, Any]
    queries: int
    train_rows: int

    def as_json(self) -> str:
        """JSON that is safe inside a `<script>` element: `<` and the JavaScript line ends are escaped."""
        text = json.dumps(self.value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.translate({ord("<"): "\\u003c", 0x2028: "\\u2028", 0x2029: "\\u2029"})


def collect(
    attributions: str, train: Sequence[str], query: Sequence[str], *, by: str | None, chars: int
) -> ReportData:
    """Everything the page shows. Each training row is there once; hits name it by its position.

    Args:
        by: the field that groups queries and training rows; None: no groups but those of the rows.
        chars: prompts and responses are cut after so many characters, and say so.

    Raises:
        InputError: a file cannot be used, an id is in none of the files, or no row has the field `by`.
    """
    rows = read_attributions(attributions)
    queries = find_examples(query, {row.query_id for row in rows})
    wanted = {name for row in rows for name, _ in (*row.proponents, *row.opponents)}
    trained = find_examples(train, wanted)
    _check_found(_name(attributions), rows, trained, queries, train, query)

    places = {name: place for place, name in enumerate(trained.examples)}
    asked = [queries.examples[row.query_id] for row in rows]
    if by is not None:
        _check_field(by, [*asked, *trained.examples.values()])
    query_groups, query_codes = _group(asked, by)
    train_groups, train_codes = _group(trained.examples.values(), by)
    columns = list(rows[0].groups or ())
    value = {
        "by": by,
        "chars": chars,
        "totals": [queries.total, trained.total],
        "queryGroups": query_groups,
        "trainGroups": train_groups,
        "columns": columns,
        "queries": _texts(asked, query_codes, chars),
        "train": _texts(trained.examples.values(), train_codes, chars),
        "influence": [_short(row.group_influence) for row in rows],
        "errors": [None if row.error is None else _short(row.error) for row in rows],
        "groups": [[_short((row.groups or {})[name]) for name in columns] for row in rows],
        "proponents": [_flat(row.proponents, places) for row in rows],
        "opponents": [_flat(row.opponents, places) for row in rows],
    }
    return ReportData(value, len(rows), len(places))


def _check_found(
    attributions: str,
    rows: Sequence[AttributionRow],
    trained: Found,
    queries: Found,
    train: Sequence[str],
    query: Sequence[str],
) -> None:
    for row in rows:
        if row.query_id not in queries.examples:
            raise _missing(f"{attributions}:{row.line}: query", row.query_id, query, "--query")
        for end, hits in (("proponent", row.proponents), ("opponent", row.opponents)):
            for name, _ in hits:
                if name not in trained.examples:
                    raise _missing(f"{attributions}:{row.line}: {end}", name, train, "--train")


def _missing(place: str, name: str, files: Sequence[str], option: str) -> InputError:
    return InputError(
        f"{place} {name!r} is not in {', '.join(map(_name, files))}; "
        f"give {option} all the files that the attributions were made from"
    )


def _check_field(by: str, examples: Sequence[Example]) -> None:
    if not any(by in example.fields for example in examples):
        have = ", ".join(dict.fromkeys(name for example in examples for name in example.fields)) or "none"
        raise InputError(
            f"--by {by}: neither a query nor a training row has this field; their fields: {have}"
        )


def _group(examples: Iterable[Example], by: str | None) -> tuple[list[str], list[int]]:
    """The sorted values of a field and for every example the position of its own; empty where none has it."""
    examples = list(examples)
    if by is None or not any(by in example.fields for example in examples):
        return [], []
    values = [str(example.fields.get(by, f"(no {by})")) for example in examples]
    names = sorted(set(values))
    codes = {name: code for code, name in enumerate(names)}
    return names, [codes[value] for value in values]


def _texts(examples: Iterable[Example], codes: list[int], chars: int) -> dict[str, Any]:
    examples = list(examples)
    return {
        "id": [example.id for example in examples],
        "prompt": [None if example.prompt is None else _cut(example.prompt, chars) for example in examples],
        "response": [_cut(example.response, chars) for example in examples],
        "group": codes,
    }


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[:chars]}… [{len(text) - chars:,} more characters]"


def _flat(hits: Sequence[tuple[str, float]], places: Mapping[str, int]) -> list[float]:
    """[row, score, row, score, ...]: half the size of a list of pairs."""
    return [number for name, score in hits for number in (places[name], _short(score))]


def _short(number: float) -> float:
    short = float(f"{number:.{_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
