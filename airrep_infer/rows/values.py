"""What a value of a row is: for messages, and to tell metadata from content."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

MAX_FIELD_CHARS = 200
"""A field with more text than this is content, not a label."""

NO_GROUP = "(none)"
"""The group of rows that lack the field they are grouped by."""

EMPTY: tuple[object, ...] = (None, "", [], {})
"""Values that say nothing: a key with one of them counts as absent."""

HALF_SURROGATE = re.compile("[\ud800-\udfff]")


def as_field(value: object, *, long: bool = False) -> Any:
    """What travels along of a metadata value; None: nothing does.

    Short scalars, and lists and objects whose JSON is short. Dates and decimals, which tables have, become
    their text.

    Args:
        long: long ones too.
    """
    if isinstance(value, date | time | Decimal):
        return str(value)
    if isinstance(value, list | dict):
        try:
            size = len(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):  # what JSON does not have, such as bytes, NaN and Infinity
            return None
    else:
        size = len(value) if isinstance(value, str) else 0
        if not isinstance(value, str | bool | int) and not (
            isinstance(value, float) and math.isfinite(value)
        ):
            return None
    return value if long or size <= MAX_FIELD_CHARS else None


def has_field(fields: Mapping[str, Any], name: str) -> bool:
    """Whether a row has a field, or `outer.inner` for what is in an object."""
    return _look_up(fields, name) is not None


def group_of(fields: Mapping[str, Any], name: str) -> str:
    """The group that a row's field, or `outer.inner`, puts it in.

    See `group_text`. A row without the field, or with an empty one, is in `NO_GROUP`.
    """
    value = _look_up(fields, name)
    return NO_GROUP if value in EMPTY else group_text(value)


def field_groups(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The groups that a row's field, or `outer.inner`, names: its value, or those of a list; often none."""
    value = _look_up(fields, name)
    values = value if isinstance(value, list) else [value]
    return tuple(group_text(each) for each in values if each not in EMPTY)


def group_text(value: Any) -> str:
    """The name of the group of rows with this value.

    A text as it is, anything else as JSON, a whole number without decimals: 1, "1" and 1.0 are one group.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _look_up(fields: Mapping[str, Any], name: str) -> Any:
    if name in fields:
        return fields[name]
    outer, dot, inner = name.partition(".")
    within = fields.get(outer) if dot else None
    return _look_up(within, inner) if isinstance(within, Mapping) else None


def holds_much_text(value: object) -> bool:
    """Whether the strings in a value are together too long for metadata."""
    characters = 0
    waiting = [value]
    while waiting and characters <= MAX_FIELD_CHARS:
        part = waiting.pop()
        if isinstance(part, str):
            characters += len(part)
        elif isinstance(part, list):
            waiting.extend(part)
        elif isinstance(part, dict):
            waiting.extend(part.values())
    return characters > MAX_FIELD_CHARS


def show_keys(row: dict[str, Any]) -> str:
    """The keys of a row for a message: one line, printable, and not longer than anyone reads."""
    shown = [key if key.isprintable() else repr(key) for key in row]
    cut = [key if len(key) <= 40 else f"{key[:40]}..." for key in shown[:20]]
    return ", ".join([*cut, "..."] if len(shown) > 20 else cut) or "none"
