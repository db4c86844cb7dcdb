"""What a report page shows, from files to one compact value: attributions checked, ids turned into texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airrep_infer.errors import InputError, name_of
from airrep_infer.report.lookup import Found, find_examples
from airrep_infer.rows import (
    AS_WRITTEN,
    AttributionRow,
    Example,
    Reading,
    RowId,
    ScoredRow,
    group_of,
    has_field,
    read_attributions,
    refuse_other_texts,
    shas_of,
)

_PAGE_CHARS, _MOST_CHARS, _LEAST_CHARS = 40_000_000, 20_000, 1_000
_DIGITS = 5  # significant digits of a score on the page, which prints three


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
    attributions: str,
    train: Sequence[str],
    query: Sequence[str],
    *,
    by: str | None,
    chars: int | None,
    reading: Reading = AS_WRITTEN,
) -> ReportData:
    """Everything the page shows. Each training row is there once; hits name it by its position.

    Args:
        by: the field that groups queries and training rows; None: no groups but those of the rows.
        chars: prompts and responses are cut after so many characters, and say so; None: see `fitting_chars`.

    Raises:
        InputError: a file cannot be used, an id is in none of the files, or no row has the field `by`.
    """
    reading = reading.keeping(by)
    lines, rows = zip(*read_attributions(attributions), strict=True)
    if any(scored.share is not None for row in rows for scored in row.proponents):
        raise InputError(
            f"{name_of(attributions)}: attributions of pooled queries, which have no text; make the page of "
            "those of the queries themselves (without --pool-queries): it pools them by itself"
        )
    queries = find_examples(query, {str(row.query_id) for row in rows}, reading)
    shown = {str(scored.id) for row in rows for scored in (*row.proponents, *row.opponents)}
    trained = find_examples(train, shown, reading)
    # First: where lines shifted, the last id is missing too, and more files would not help.
    refuse_other_texts(
        trained.examples.values(), shas_of(rows), ", ".join(map(name_of, train)), done="attributed"
    )
    for line, row in zip(lines, rows, strict=True):
        _check_found(f"{name_of(attributions)}:{line}", row, trained, queries, train, query)
    return describe(rows, queries, trained, by=by, chars=chars)


def describe(
    rows: Sequence[AttributionRow], queries: Found, trained: Found, *, by: str | None, chars: int | None
) -> ReportData:
    """As `collect`, of attributions and examples that were read, all of them there.

    Raises:
        InputError: no row has the field `by`.
    """
    places = {name: place for place, name in enumerate(trained.examples)}
    asked = [queries.examples[str(row.query_id)] for row in rows]
    if by is not None:
        _check_field(by, [*asked, *trained.examples.values()])
    if chars is None:
        chars = fitting_chars([*asked, *trained.examples.values()])
    query_groups, query_codes = _group(asked, by)
    train_groups, train_codes = _group(trained.examples.values(), by)
    columns = list(rows[0].groups or ())
    value = {
        "by": by,
        "chars": chars,
        "cut": any(_is_cut(row, chars) for row in (*asked, *trained.examples.values())),
        "totals": [queries.total, trained.total],
        "queryGroups": query_groups,
        "trainGroups": train_groups,
        "columns": columns,
        "queries": _texts(asked, query_codes, chars),
        "train": {
            **_texts(trained.examples.values(), train_codes, chars),
            "fields": _fields(trained.examples.values(), chars),
        },
        "influence": [_short(row.group_influence) for row in rows],
        "errors": [
            None if row.group_influence_error is None else _short(row.group_influence_error) for row in rows
        ],
        "groups": [[_short((row.groups or {})[name]) for name in columns] for row in rows],
        "proponents": [_flat(row.proponents, places) for row in rows],
        "opponents": [_flat(row.opponents, places) for row in rows],
        "evidence": _evidence(rows),
        "numbers": _numbers(rows),
    }
    return ReportData(value, len(rows), len(places))


def _check_found(
    place: str,
    row: AttributionRow,
    trained: Found,
    queries: Found,
    train: Sequence[str],
    query: Sequence[str],
) -> None:
    if str(row.query_id) not in queries.examples:
        raise _missing(f"{place}: query", row.query_id, query, "--query")
    for end, scored_rows in (("proponent", row.proponents), ("opponent", row.opponents)):
        for scored in scored_rows:
            if str(scored.id) not in trained.examples:
                raise _missing(f"{place}: {end}", scored.id, train, "--train")


def _missing(place: str, name: RowId, files: Sequence[str], option: str) -> InputError:
    return InputError(
        f"{place} {name!r} is not in {', '.join(map(name_of, files))}; "
        f"give {option} all the files that the attributions were made from"
    )


def _check_field(by: str, examples: Sequence[Example]) -> None:
    if not any(has_field(example.fields, by) for example in examples):
        have = ", ".join(dict.fromkeys(name for example in examples for name in example.fields)) or "none"
        raise InputError(
            f"--by {by}: neither a query nor a training row has this field; their fields: {have}"
        )


def _group(examples: Iterable[Example], by: str | None) -> tuple[list[str], list[int]]:
    """The sorted values of a field and for every example the position of its own; empty where none has it."""
    examples = list(examples)
    if by is None or not any(has_field(example.fields, by) for example in examples):
        return [], []
    values = [group_of(example.fields, by) for example in examples]
    names = sorted(set(values), key=_natural)
    codes = {name: code for code, name in enumerate(names)}
    return names, [codes[value] for value in values]


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts "group 2" before "group 10"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts)


def fitting_chars(examples: Sequence[Example]) -> int:
    """How many characters of a prompt or a response a page can hold: all, up to 20,000, if they fit.

    Where the texts are more than 40 million characters, which a browser opens slowly, as many of each as fit,
    but 1,000 at least.
    """
    lengths = sorted(len(text) for example in examples for text in (example.prompt or "", example.response))
    left = _PAGE_CHARS
    for number, length in enumerate(lengths):
        share = left // (len(lengths) - number)
        if length > share:  # this text and all longer ones are cut to what is left for each
            return min(_MOST_CHARS, max(_LEAST_CHARS, share))
        left -= length
    return _MOST_CHARS


def _fields(examples: Iterable[Example], chars: int) -> dict[str, list[str | None]]:
    """By name of a field its value in every row, None where a row has none."""
    examples = list(examples)
    names = dict.fromkeys(name for example in examples for name in example.fields)
    return {
        name: [_cut(_field_text(row.fields[name]), chars) if name in row.fields else None for row in examples]
        for name in names
    }


def _field_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _evidence(rows: Sequence[AttributionRow]) -> dict[str, dict[str, Any]]:
    """What hits have, by "query end place", all counted from 0."""
    return {
        f"{query} {end} {place}": scored.evidence.to_json()
        for query, row in enumerate(rows)
        for end, scored_rows in (("proponents", row.proponents), ("opponents", row.opponents))
        for place, scored in enumerate(scored_rows)
        if scored.evidence is not None
    }


def _numbers(rows: Sequence[AttributionRow]) -> dict[str, dict[str, list[list[float | None]]]]:
    """What hits have besides scores (percentile, ...): by name and end a list a query, a number a hit."""
    ends = {"proponents": [row.proponents for row in rows], "opponents": [row.opponents for row in rows]}
    hits = [scored for lists in ends.values() for scored_rows in lists for scored in scored_rows]
    names = dict.fromkeys(name for scored in hits for name in scored.numbers())
    return {
        name: {
            end: [
                [
                    None if (number := scored.numbers().get(name)) is None else _short(number)
                    for scored in scored_rows
                ]
                for scored_rows in lists
            ]
            for end, lists in ends.items()
        }
        for name in names
    }


def _texts(examples: Iterable[Example], codes: list[int], chars: int) -> dict[str, Any]:
    """Columns; of a conversation `prompt` is the last turn, and `earlier` what was said before it."""
    examples = list(examples)
    return {
        "id": [str(example.id) for example in examples],
        "prompt": [None if row.prompt is None else _cut(_last_turn(row), chars) for row in examples],
        "earlier": [_cut_start("\n".join(row.turns[:-1]), chars) if row.turns else None for row in examples],
        "response": [_cut(example.response, chars) for example in examples],
        "group": codes,
    }


def _is_cut(row: Example, chars: int) -> bool:
    return max(len(row.response), len(_last_turn(row)), len("\n".join(row.turns[:-1]))) > chars


def _last_turn(row: Example) -> str:
    return row.turns[-1] if row.turns else row.prompt or ""


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[:chars]}… [{len(text) - chars:,} more characters]"


def _cut_start(text: str, chars: int) -> str:
    """The end of a text: of what was said before, the latest is nearest to the answer."""
    return text if len(text) <= chars else f"[{len(text) - chars:,} more characters] \u2026{text[-chars:]}"


def _flat(scored_rows: Sequence[ScoredRow], places: Mapping[str, int]) -> list[float]:
    """[row, score, row, score, ...]: half the size of a list of pairs."""
    return [number for scored in scored_rows for number in (places[str(scored.id)], _short(scored.score))]


def _short(number: float) -> float:
    short = float(f"{number:.{_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
