"""Conversations: lists of turns in the layouts people publish, and the one way they become text.

A turn is `role: content`. A tool call is a line `[call NAME ARGUMENTS]` after the content, arguments as they
are written in the row. A tool's result is the turn of role `tool`. A prompt of a single user turn is that
turn's content alone, so that a chat of one question equals a plain prompt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from airrep_infer.json_reader import kind_of
from airrep_infer.rows.values import EMPTY

LastTurn = Literal["error", "drop"]

# ShareGPT's names of the roles.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_ROLE_KEYS = ("role", "from")
_CONTENT_KEYS = ("content", "value")
_CALL_KEYS = ("tool_calls", "function_call")
# What links or describes a turn without being said in it.
_NOT_SAID = frozenset({"id", "tool_call_id", "type", "index", "timestamp", "weight", "name"})


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: who speaks (`user`, `assistant`, `system`, `tool`, ...) and what, tool calls included.

    Attributes:
        name: of the speaker or the tool, where the row has one.
        trained: False where OpenAI's `weight` is 0: the turn is context only.
    """

    role: str
    text: str
    name: str = ""
    trained: bool = True

    def __str__(self) -> str:
        return f"{self.role} {self.name}: {self.text}" if self.name else f"{self.role}: {self.text}"


def is_conversation(value: object) -> bool:
    """Whether a value is a list of turns rather than a text."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def read_turns(value: object, key: str, *, answered: bool = False) -> list[Turn]:
    """The turns of a list; turns without any content are left out.

    Args:
        answered: the last turn is the response, so that of the assistant stays though it is empty.

    Raises:
        ValueError: something in it is not a turn, or is content that has no text.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} must be a list of at least one turn")
    turns = [_read_turn(turn, f"{key}[{number}]") for number, turn in enumerate(value)]
    kept = [turn for turn in turns if turn.text]
    return [*kept, turns[-1]] if answered and turns[-1].role == "assistant" and not turns[-1].text else kept


def split_response(turns: list[Turn], key: str, last_turn: LastTurn) -> tuple[list[Turn], str]:
    """The turns before the response, and the response: the last assistant turn, which nothing may follow.

    Args:
        last_turn: "drop" leaves out the turns that follow the last assistant turn.
    """
    last = max((n for n, turn in enumerate(turns) if turn.role == "assistant"), default=None)
    if last is None:
        raise ValueError(f"{key} has no assistant turn to be the response")
    if last + 1 < len(turns) and last_turn == "error":
        raise ValueError(
            f"{key} ends with a {turns[-1].role} turn, which no response follows; end with the assistant "
            "turn, or leave out what follows it with --last-turn drop"
        )
    if not turns[last].trained:
        raise ValueError(
            f"the last assistant turn of {key} has weight 0, so nothing was trained on it; leave out the "
            "turns after the one that was, or the row"
        )
    return turns[:last], turns[last].text


def join_turns(turns: list[Turn]) -> tuple[str, tuple[str, ...]]:
    """The prompt that some turns make, and the turns as text where there are several."""
    if len(turns) == 1 and turns[0].role == "user" and not turns[0].name:
        return turns[0].text, ()
    lines = tuple(map(str, turns))
    return "\n".join(lines), lines if len(lines) > 1 else ()


def tools_turn(tools: object, key: str) -> Turn:
    """The turn that declares the tools a conversation may call: their definitions as compact JSON."""
    if not isinstance(tools, str | list):
        raise ValueError(f"{key} must be a list of tools, got {kind_of(tools)}")
    return Turn("tools", tools if isinstance(tools, str) else _compact(tools))


def _read_turn(turn: object, place: str) -> Turn:
    if not isinstance(turn, dict):
        raise ValueError(f"{place} must be an object with a role and a content")
    role = next((turn[key] for key in _ROLE_KEYS if turn.get(key) is not None), None)
    if not isinstance(role, str):
        raise ValueError(f"{place} must be an object with a role and a content")
    unknown = [
        key
        for key, value in turn.items()
        if key not in (*_ROLE_KEYS, *_CONTENT_KEYS, *_CALL_KEYS, *_NOT_SAID, "refusal")
        and value not in EMPTY
        and not isinstance(value, bool | int | float)
    ]
    if unknown:
        raise ValueError(
            f"{place}.{unknown[0]} is content that is not read; a turn has role, content, name, tool_calls; "
            f"move it into the content, or leave it out of the file"
        )
    filled = [key for key in (*_CONTENT_KEYS, "refusal") if turn.get(key) not in (None, "")]
    if len(filled) > 1:
        raise ValueError(f"{place} has both {filled[0]} and {filled[1]}; keep one of them")
    said = [_said(turn[filled[0]], f"{place}.{filled[0]}")] if filled else []
    said += _calls(turn, place)
    name = turn.get("name") or ""
    if not isinstance(name, str):
        raise ValueError(f"{place}.name must be a string, got {kind_of(name)}")
    return Turn(_ROLES.get(role, role), "\n".join(said), name, turn.get("weight") != 0)


def _said(content: object, place: str) -> str:
    if isinstance(content, list):  # content parts; only text can be attributed
        for number, part in enumerate(content):
            if not isinstance(part, dict) or not isinstance(part.get("text"), str):
                named = isinstance(part, dict) and part.get("type")
                kind = f"a part of type {named!r}" if named else kind_of(part)
                raise ValueError(
                    f"{place}[{number}] is {kind}, not text; only text can be attributed: leave the row out"
                )
        return "\n".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise ValueError(f"{place} must be a string, got {kind_of(content)}")
    return content


def _calls(turn: dict[str, Any], place: str) -> list[str]:
    calls = turn.get("tool_calls") or []
    if not isinstance(calls, list):
        raise ValueError(f"{place}.tool_calls must be a list, got {kind_of(calls)}")
    functions = [call.get("function", call) if isinstance(call, dict) else call for call in calls]
    if turn.get("function_call"):
        functions.append(turn["function_call"])
    lines = []
    for function in functions:
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError(f"{place}: a tool call must be an object with the function's name and arguments")
        arguments = function.get("arguments")
        shown = arguments if isinstance(arguments, str) else _compact(arguments or {})
        lines.append(f"[call {function['name']} {shown}]")
    return lines


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
