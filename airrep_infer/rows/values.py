"""What a value of a row is: for messages, and to tell metadata from content."""

from __future__ import annotations

import math
import re
from typing import Any

MAX_FIELD_CHARS = 200
"""A field with more text than this is content, not a label."""

HALF_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def kind_of(value: object) -> str:
    """What a JSON value is, for a message."""
    return _KINDS.get(type(value), "a number")


def is_label(value: object) -> bool:
    """Whether a value can travel along with a row and name a group."""
    if isinstance(value, str):
        return len(value) <= MAX_FIELD_CHARS
    # Not NaN or Infinity, which json.loads takes but JSON does not have.
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


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
