"""One decoded row becomes an `Example`: every content key is used, or the row is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airrep_infer.json_reader import kind_of
from airrep_infer.rows.conversation import (
    Turn,
    is_conversation,
    join_turns,
    read_turns,
    split_response,
    tools_turn,
)
from airrep_infer.rows.example import Example, RowId, is_row_id
from airrep_infer.rows.spellings import (
    ASKED,
    CHAT,
    CONTEXTS,
    EXPECTED,
    INPUT,
    KNOWN,
    PREFERENCES,
    RESPONSES,
    ROLE_KEYS,
    SYSTEMS,
    TOOLS,
    UNREAD,
    Reading,
)
from airrep_infer.rows.values import EMPTY, HALF_SURROGATE, as_field, holds_much_text, show_keys

AS_WRITTEN = Reading()

_OPTIONAL = frozenset({*SYSTEMS, *CONTEXTS, *TOOLS, *UNREAD}) - frozenset(INPUT.main)
"""Keys that a row can do without."""

_Content = tuple[str | None, str, tuple[str, ...]]  # prompt, response, turns: see `Example`


def parse_row(row: object, default_id: str, reading: Reading = AS_WRITTEN) -> Example:
    """Read one decoded row in any accepted spelling.

    Raises:
        ValueError: why the row is not an example (no file or line: the caller knows those).
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {kind_of(row)}")
    content, metadata = _sort_keys(row, reading)
    prompt, response, turns = _read_content(content, reading, row)
    if not response.strip():
        raise ValueError("the response is empty" if prompt is not None else "the text is empty")
    name = _read_id(row.get(reading.columns.get("id", "id")), default_id)
    fields = {
        key: field
        for key, value in metadata.items()
        if (field := as_field(value, long=key in reading.keep)) is not None
    }
    labels = "".join(f"{key}{value}" for key, value in fields.items())
    for what, text in (("id", str(name)), ("prompt", prompt), ("response", response), ("a field", labels)):
        if text and not text.isascii() and HALF_SURROGATE.search(text):
            raise ValueError(f"{what} holds half a surrogate pair (\\ud800-\\udfff), not text")
    return Example(name, prompt, response, fields, turns)


def _read_id(value: object, default: str) -> RowId:
    if value is None:
        return default
    if not isinstance(value, str | int) or not is_row_id(value):
        raise ValueError(f"id must be a string or an integer, got {kind_of(value)}")
    if value == "":
        raise ValueError("id is empty")
    return value


def _sort_keys(row: dict[str, Any], reading: Reading) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of a row under its usual names, and its metadata.

    Null is as good as absent, and so is what is empty where a row can do without it.
    """
    roles = {column: role for role, column in reading.columns.items()}
    for column, role in roles.items():
        if column not in row:
            raise ValueError(f"no column {column!r}, which --field {role}= names; keys: {show_keys(row)}")
    replaced = {key for role in reading.columns for key in ROLE_KEYS[role]}
    if reading.response:
        replaced.update(key for key in (*RESPONSES, *PREFERENCES) if key != reading.response)
    content: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for key, value in row.items():
        if key == "id" and "id" not in reading.columns:
            continue
        if key in roles:
            if roles[key] != "id" and value is not None:
                content[ROLE_KEYS[roles[key]][0]] = value
        elif key in reading.metadata or key in replaced or value is None:
            metadata[key] = value
        elif key in _OPTIONAL and value in EMPTY:
            continue
        elif key in KNOWN:
            content[key] = value
        elif (key in UNREAD and isinstance(value, str | list | dict)) or holds_much_text(value):
            raise ValueError(_refusal(key))
        else:
            metadata[key] = value
    for key in CHAT.main:
        if content.get(key) in EMPTY and any(content[other] not in EMPTY for other in content):
            content.pop(key, None)
    return content, metadata


def _refusal(key: str, beside: str = "") -> str:
    shown = key if key.isprintable() and len(key) <= 40 else repr(key[:40])
    return (
        f"{shown} holds content that no spelling uses{beside}; say what it is with --field ROLE={shown}, or "
        f"--field metadata={shown} to leave it out"
    )


def _read_content(content: dict[str, Any], reading: Reading, row: dict[str, Any]) -> _Content:
    """Prompt, response and turns, by the spelling that the keys are of."""
    if (key := _take_key(content, CHAT.main)) is not None:
        turns = [*_system(content), *_tools(content), *read_turns(content.pop(key), key, answered=True)]
        _check_all_used(content, f" beside {key}")
        before, response = split_response(turns, key, reading.last_turn)
        prompt, lines = join_turns(before)
        return prompt, response, lines
    asked = _take_key(content, ASKED.main) or _take_key(content, INPUT.main)
    answer = _take_key(content, (reading.response,) if reading.response else RESPONSES)
    if not reading.response and any(key in content for key in PREFERENCES):
        raise ValueError(
            "chosen and rejected are a preference pair; say which of them to read, with --response chosen "
            "or --response rejected"
        )
    if asked is None and answer is None and "text" in content:
        text = _string(content.pop("text"), "text")
        _check_all_used(content, " beside text")
        return None, text, ()
    if answer is None or (asked is None and not reading.response):
        missing = "prompt" if answer else "response"
        raise ValueError(f"no {missing} found; keys: {show_keys(row)}; expected one of: {EXPECTED}")
    prompt_value, reply = content.pop(asked) if asked else None, content.pop(answer)
    system = _system(content)
    if is_conversation(prompt_value) or is_conversation(reply):
        _check_all_used(content, f" beside the turns of {answer}")
        return _from_turns(system, asked, prompt_value, answer, reply, reading)
    context = _context(content)
    _check_all_used(content, f" beside {asked} and {answer}" if asked else f" beside {answer}")
    response = _string(reply, answer)
    if asked is None:  # a preference pair of whole texts
        if system or context:
            raise ValueError(f"no prompt found beside {answer}; keys: {show_keys(row)}")
        return None, response, ()
    question = "\n".join(part for part in (_string(prompt_value, asked), *context) if part)
    if not system:
        return question, response, ()
    prompt, lines = join_turns([*system, Turn("user", question)] if question else system)
    return prompt, response, lines


def _from_turns(
    system: list[Turn], asked: str | None, prompt: object, answer: str, reply: object, reading: Reading
) -> _Content:
    """A prompt and an answer of which at least one is a list of turns."""
    before: list[Turn] = []
    if asked is not None and is_conversation(prompt):
        before = read_turns(prompt, asked)
    elif asked is not None and prompt:
        before = [Turn("user", _string(prompt, asked))]
    if is_conversation(reply):
        after = read_turns(reply, answer, answered=True)
    else:
        after = [Turn("assistant", _string(reply, answer))]
    # Some preference sets repeat the prompt at the beginning of each answer.
    if before and after[: len(before)] == before:
        before = []
    turns, response = split_response([*system, *before, *after], answer, reading.last_turn)
    text, lines = join_turns(turns)
    return text, response, lines


def _take_key(content: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """The key of these that the row has; of several the one that is not empty.

    Raises:
        ValueError: two of them hold something.
    """
    present = [key for key in keys if key in content]
    filled = [key for key in present if content[key] not in EMPTY]
    if len(filled) > 1:
        raise ValueError(_refusal(filled[1], f" beside {filled[0]}"))
    return next(iter(filled or present), None)


def _system(content: dict[str, Any]) -> list[Turn]:
    return [Turn("system", text) for key in SYSTEMS if (text := _string(content.pop(key, ""), key))]


def _tools(content: dict[str, Any]) -> list[Turn]:
    return [tools_turn(content.pop(key), key) for key in TOOLS if content.get(key)]


def _context(content: dict[str, Any]) -> list[str]:
    return [_string(content.pop(key), key) for key in CONTEXTS if key in content]


def _check_all_used(content: Mapping[str, Any], beside: str) -> None:
    for key, value in content.items():
        if value not in EMPTY:
            raise ValueError(_refusal(key, beside))


def _string(value: object, key: str) -> str:
    # Some sets store one reference answer as a list of one (P3's `targets`, SQuAD's `answer`).
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string, got {kind_of(value)}")
    return value
