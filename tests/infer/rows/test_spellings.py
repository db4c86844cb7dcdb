"""Every spelling of a row: its content is used, all of it, or the row is refused by name."""

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer.errors import InputError
from airrep_infer.rows.example import Example
from airrep_infer.rows.parse import parse_row
from airrep_infer.rows.spellings import SPELLINGS, Reading, spellings_table
from airrep_infer.rows.template import known_hashes, published_sha, same_text
from airrep_infer.rows.values import MAX_FIELD_CHARS

RESPONSES = ("completion", "response", "output", "target", "targets", "answer")


def reason_of(row: object, **reading: Any) -> str:
    with pytest.raises(ValueError) as caught:
        parse_row(row, "x:1", Reading(**reading))
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    return message


def parsed(row: object, **reading: Any) -> tuple[str | None, str]:
    example = parse_row(row, "x:1", Reading(**reading))
    return example.prompt, example.response


def turn(role: str, content: object, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def said(speaker: str, value: str) -> dict[str, object]:
    return {"from": speaker, "value": value}


PART = {"type": "text", "text": "q1"}
CALL = {"id": "c1", "type": "function", "function": {"name": "delete_all", "arguments": '{"sure": true}'}}
CALLING = turn("assistant", None, tool_calls=[CALL])
FUNCTION_CALL = {"name": "f", "arguments": {"a": 1}}
UNTRAINED = turn("assistant", "x", weight=0)
TOOL = {"type": "function", "function": {"name": "delete_all", "parameters": {}}}


@pytest.mark.parametrize(
    ("row", "prompt", "response"),
    [
        *(
            ({key: "p", response: "r"}, "p", "r")
            for key in ("prompt", "instruction", "question", "query", "input", "inputs")
            for response in RESPONSES
        ),
        *(
            ({key: "p", beside: "context", "output": "r"}, "p\ncontext", "r")
            for key in ("prompt", "instruction", "question", "query")
            for beside in ("input", "context")
        ),
        ({"instruction": "p", "input": "i", "context": "c", "output": "r"}, "p\ni\nc", "r"),
        (
            {"instruction": "Translate to French", "input": "cat", "target": "chat"},
            "Translate to French\ncat",
            "chat",
        ),
        ({"instruction": "p", "input": "", "output": "r"}, "p", "r"),
        ({"instruction": "p", "input": None, "output": "r"}, "p", "r"),
        ({"instruction": "", "input": "context", "output": "r"}, "context", "r"),
        ({"system": "S", "prompt": "p", "response": "r"}, "system: S\nuser: p", "r"),
        ({"system_prompt": "S", "question": "p", "response": "r"}, "system: S\nuser: p", "r"),
        ({"system": "S", "instruction": "p", "input": "i", "output": "r"}, "system: S\nuser: p\ni", "r"),
        ({"system": "", "prompt": "p", "response": "r"}, "p", "r"),
        ({"text": "all of it"}, None, "all of it"),
        ({"text": "all of it", "prompt": None}, None, "all of it"),
        ({"prompt": "", "completion": "r"}, "", "r"),
        ({"inputs": "p", "targets": ["r"]}, "p", "r"),  # P3's list of one
        ({"prompt": "p", "completion": None, "response": "r"}, "p", "r"),
        ({"prompt": "p", "completion": "", "response": "r"}, "p", "r"),
        ({"messages": None, "prompt": "p", "completion": "c"}, "p", "c"),
        # TRL: prompt and completion as lists of turns
        ({"prompt": [turn("user", "q")], "completion": [turn("assistant", "a")]}, "q", "a"),
        (
            {"prompt": [turn("system", "s"), turn("user", "q")], "completion": [turn("assistant", "a")]},
            "system: s\nuser: q",
            "a",
        ),
        ({"prompt": "q", "completion": [turn("assistant", "a")]}, "q", "a"),
        # ShareGPT
        ({"conversations": [said("human", "q"), said("gpt", "a")]}, "q", "a"),
        (
            {"conversations": [said("human", "1"), said("gpt", "2"), said("human", "3"), said("gpt", "4")]},
            "user: 1\nassistant: 2\nuser: 3",
            "4",
        ),
        ({"system": "S", "conversations": [said("human", "q"), said("gpt", "a")]}, "system: S\nuser: q", "a"),
    ],
)
def test_every_spelling(row: dict[str, Any], prompt: str | None, response: str) -> None:
    assert parsed(row) == (prompt, response)


@pytest.mark.parametrize(
    ("messages", "prompt", "response"),
    [
        ([turn("user", "q"), turn("assistant", "a")], "q", "a"),
        ([turn("system", "s"), turn("user", "q"), turn("assistant", "a")], "system: s\nuser: q", "a"),
        (
            [turn("user", "1"), turn("assistant", "2"), turn("user", "3"), turn("assistant", "4")],
            "user: 1\nassistant: 2\nuser: 3",
            "4",
        ),
        ([turn("assistant", "a")], "", "a"),
        ([turn("system", "s"), turn("assistant", "a")], "system: s", "a"),
        ([turn("user", [PART, {"text": "q2"}]), turn("assistant", "a")], "q1\nq2", "a"),
        ([turn("user", "q"), turn("assistant", [{"type": "text", "text": "a"}])], "q", "a"),
        (
            [turn("user", "q"), CALLING, turn("tool", "ok"), turn("assistant", "a")],
            'user: q\nassistant: [call delete_all {"sure": true}]\ntool: ok',
            "a",
        ),
        ([turn("user", "q"), CALLING], "q", '[call delete_all {"sure": true}]'),
        (
            [turn("user", "q"), turn("assistant", "Sure.", function_call=FUNCTION_CALL)],
            "q",
            'Sure.\n[call f {"a":1}]',
        ),
        ([turn("user", "q", name="Ann"), turn("assistant", "a")], "user Ann: q", "a"),
        ([turn("user", "q"), turn("assistant", None, refusal="No.")], "q", "No."),
        (
            [turn("user", "q"), UNTRAINED, turn("user", "y"), turn("assistant", "a", weight=1)],
            "user: q\nassistant: x\nuser: y",
            "a",
        ),
    ],
)
def test_messages(messages: list[dict[str, object]], prompt: str, response: str) -> None:
    assert parsed({"messages": messages}) == (prompt, response)


def test_tools_of_a_conversation_are_content() -> None:
    row = {"messages": [turn("user", "q"), turn("assistant", "a")], "tools": [TOOL]}
    prompt, _ = parsed(row)
    assert prompt == "tools: " + json.dumps([TOOL], separators=(",", ":")) + "\nuser: q"


PAIR = {"prompt": "q", "chosen": "good", "rejected": "bad"}


@pytest.mark.parametrize(
    ("row", "prompt", "response"),
    [
        (PAIR, "q", "good"),
        ({"question": "q", "system": "S", "chosen": "good", "rejected": "bad"}, "system: S\nuser: q", "good"),
        ({"prompt": [turn("user", "q")], "chosen": [turn("assistant", "good")], "rejected": []}, "q", "good"),
        # the prompt is repeated in the answer
        (
            {"prompt": "q", "chosen": [turn("user", "q"), turn("assistant", "good")], "rejected": "x"},
            "q",
            "good",
        ),
        ({"chosen": [turn("user", "q"), turn("assistant", "good")], "rejected": "x"}, "q", "good"),
        ({"chosen": "Human: q Assistant: good", "rejected": "x"}, None, "Human: q Assistant: good"),
    ],
)
def test_preference_pairs(row: dict[str, Any], prompt: str | None, response: str) -> None:
    assert "preference pair" in reason_of(row) or "no prompt" in reason_of(row)
    assert parsed(row, response="chosen") == (prompt, response)
    if row is PAIR:
        assert parsed(row, response="rejected") == ("q", "bad")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "p", "question": "q", "answer": "a"}, "question"),
        ({"prompt": "p", "completion": "c", "response": "r"}, "response"),
        ({"prompt": "p", "response": "r", "text": "t"}, "text"),
        ({"messages": [turn("user", "q"), turn("assistant", "a")], "prompt": "p"}, "prompt"),
        ({"text": "t", "context": "c"}, "context"),
        ({"text": "t", "system": "s"}, "system"),
        ({"prompt": "p", "response": "r", "history": [["a", "b"]]}, "history"),
        ({"prompt": "p", "response": "r", "passage": "short"}, "passage"),
        ({"prompt": "p", "response": "r", "anything": "x" * (MAX_FIELD_CHARS + 1)}, "anything"),
        ({"prompt": "p", "response": "r", "nested": {"a": ["x" * 150, "y" * 150]}}, "nested"),
        ({"prompt": "p", "response": "r", "tools": [TOOL]}, "tools"),
        ({"instruction": "p", "answers": {"text": ["a"]}, "output": "o"}, "answers"),
    ],
)
def test_content_that_is_not_used_is_refused_by_name(row: dict[str, Any], named: str) -> None:
    reason = reason_of(row)
    assert reason.startswith(f"{named} holds content that no spelling uses")
    assert f"--field metadata={named}" in reason
    without = {name: value for name, value in row.items() if name != named}
    assert parsed(row, metadata=frozenset({named})) == parsed(without)


@pytest.mark.parametrize("empty", ["", [], {}, None])
@pytest.mark.parametrize(
    "key", ["history", "context", "system", "tools", "messages", "conversations", "options"]
)
def test_what_is_empty_counts_as_absent(key: str, empty: object) -> None:
    row = {"instruction": "p", "output": "o"}
    assert parsed({**row, key: empty}) == parsed(row)
    chat = {"messages": [turn("user", "q"), turn("assistant", "a")]}
    if key not in ("messages", "context"):
        assert parsed({**chat, key: empty}) == parsed(chat)


@pytest.mark.parametrize("last_turn", ["error", "drop"])
def test_an_empty_last_answer_is_the_response_and_not_the_one_before_it(last_turn: str) -> None:
    turns = [turn("user", "a"), turn("assistant", "A"), turn("user", "b"), turn("assistant", "")]
    assert reason_of({"messages": turns}, last_turn=last_turn) == "the response is empty"
    assert parsed({"messages": turns[:3]}, last_turn="drop") == ("a", "A")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no response found; keys: none; expected one of: messages|conversations; prompt|instruction|"),
        ({"id": "1", "n": 5}, "no response found; keys: id, n; expected one of"),
        ({"prompt": "p"}, "no response found; keys: prompt;"),
        ({"prompt": "What is 2+2?", "text": "4"}, "no response found; keys: prompt, text;"),
        ({"answer": "a"}, "no prompt found; keys: answer;"),
        ({"a\nb": 1}, r"keys: 'a\nb';"),
        ({"k" * 100: 1}, f"keys: {'k' * 40}...;"),
        ({"prompt": 3, "completion": "c"}, "prompt must be a string, got a number"),
        ({"prompt": "p", "completion": {"a": 1}}, "completion must be a string, got an object"),
        ({"prompt": "p", "completion": True}, "completion must be a string, got a boolean"),
        ({"inputs": "p", "targets": ["a", "b"]}, "targets must be a string, got an array"),
        ({"instruction": "p", "input": 5, "output": "o"}, "input must be a string, got a number"),
        ({"prompt": "p", "completion": ""}, "the response is empty"),
        ({"prompt": "p", "completion": " \n\t"}, "the response is empty"),
        ({"text": ""}, "the text is empty"),
        ({"messages": []}, "messages must be a list of at least one turn"),
        ([], "expected a JSON object, got an array"),
        ("text", "expected a JSON object, got a string"),
        (3.5, "expected a JSON object, got a number"),
        (None, "expected a JSON object, got null"),
        ({"prompt": "p", "response": b"r"}, "response must be a string, got bytes"),
        ({"prompt": datetime.date(2024, 1, 2), "response": "r"}, "prompt must be a string, got date"),
        ({"id": Decimal(1), "text": "t"}, "id must be a string or an integer, got Decimal"),
        ({"id": True, "text": "t"}, "id must be a string or an integer, got a boolean"),
        ({"id": 1.5, "text": "t"}, "id must be a string or an integer, got a number"),
        ({"id": ["a"], "text": "t"}, "id must be a string or an integer, got an array"),
        ({"id": "", "text": "t"}, "id is empty"),
        ({"text": "a\ud800b"}, "response holds half a surrogate pair"),
        ({"prompt": "\udfff", "response": "r"}, "prompt holds half a surrogate pair"),
        ({"id": "\ud800", "text": "t"}, "id holds half a surrogate pair"),
        ({"task": "\ud800", "text": "t"}, "a field holds half a surrogate pair"),
        ({"\ud800": 1, "text": "t"}, "a field holds half a surrogate pair"),
        ({"messages": []}, "at least one turn"),
        ({"messages": "hello"}, "at least one turn"),
        ({"messages": [turn("user", "q")]}, "no assistant turn"),
        ({"messages": ["hello"]}, "messages[0] must be an object"),
        ({"messages": [turn("user", "q"), {"content": "a"}]}, "messages[1] must be an object"),
        (
            {"messages": [turn("user", 3), turn("assistant", "a")]},
            "messages[0].content must be a string, got a number",
        ),
        (
            {"messages": [turn("user", [{"type": "image_url", "image_url": "x"}]), turn("assistant", "a")]},
            "messages[0].content[0] is a part of type 'image_url', not text",
        ),
        ({"messages": [turn("user", "q"), turn("assistant", "")]}, "the response is empty"),
        (
            {"messages": [turn("user", "q"), turn("assistant", "a"), turn("user", "u")]},
            "messages ends with a user turn, which no response follows; end with the assistant turn, or",
        ),
        ({"messages": [turn("user", "q", mood="sad")]}, "messages[0].mood is content"),
        ({"messages": [turn("user", "q", value="v")]}, "messages[0] has both content and value"),
        ({"messages": [turn("user", "q"), turn("assistant", "a", weight=0)]}, "weight 0"),
        ({"messages": [turn("assistant", "a", tool_calls=["x"])]}, "messages[0]: a tool call must"),
    ],
)
def test_rows_that_are_not_examples_say_why(row: object, reason: str) -> None:
    assert reason in reason_of(row)


def test_turns_after_the_response_can_be_dropped() -> None:
    messages = [turn("user", "q"), turn("assistant", "a"), turn("user", "u")]
    assert parsed({"messages": messages}, last_turn="drop") == ("q", "a")


def test_columns_are_mapped() -> None:
    row = {"Q": "q", "A": "a", "extra": "e", "instruction": "i", "output": "o", "nr": 7}
    reading = Reading.of(["prompt=Q", "response=A", "id=nr"])
    example = parse_row(row, "x:1", reading)
    assert (example.id, example.prompt, example.response) == (7, "q", "a")
    # The usual names of a role that a column takes are metadata.
    assert example.fields == {"extra": "e", "instruction": "i", "output": "o"}
    assert parsed(row, columns={"prompt": "Q", "context": "extra", "response": "A"}) == ("q\ne", "a")
    assert parsed({"log": [turn("user", "q"), turn("assistant", "a")]}, columns={"messages": "log"}) == (
        "q",
        "a",
    )
    assert parsed({"body": "b", "prompt": "p"}, columns={"text": "body"}, metadata=frozenset({"prompt"})) == (
        None,
        "b",
    )
    assert "no column 'Q', which --field prompt= names; keys: text" in reason_of(
        {"text": "t"}, columns={"prompt": "Q"}
    )


@pytest.mark.parametrize("given", ["prompt", "=Q", "prompt=", "nothing=Q"])
def test_bad_mappings_are_refused(given: str) -> None:
    with pytest.raises(InputError):
        Reading.of([given])
    with pytest.raises(InputError, match="given before"):
        Reading.of(["prompt=a", "prompt=b"])
    with pytest.raises(InputError, match="exclude each other"):
        Reading.of(["response=a"], "chosen")


def test_fields_are_what_is_short() -> None:
    row = {
        "prompt": "p",
        "completion": "c",
        "id": "1",
        "task": "qa",
        "year": 2024,
        "score": 0.5,
        "good": False,
        "empty": "",
        "longest": "x" * MAX_FIELD_CHARS,
        "none": None,
        "list": ["a"],
        "object": {"a": 1},
        "tokens": [1] * 1000,
        "nan": float("nan"),
        "infinite": [float("-inf")],
        "date": datetime.date(2024, 5, 1),
        "price": Decimal("1.50"),
        "raw": b"bytes",
    }
    assert parse_row(row, "x").fields == {
        "task": "qa",
        "year": 2024,
        "score": 0.5,
        "good": False,
        "empty": "",
        "longest": "x" * MAX_FIELD_CHARS,
        "list": ["a"],
        "object": {"a": 1},
        "date": "2024-05-01",
        "price": "1.50",
    }
    row |= {"about": "y" * 1000}
    reading = Reading.of(["metadata=about"])
    assert "about" not in parse_row(row, "x", reading).fields
    kept = parse_row(row, "x", reading.keeping("about", "tokens")).fields
    assert kept["about"] == "y" * 1000 and kept["tokens"] == [1] * 1000


def test_the_docs_show_the_table() -> None:
    docs = Path(__file__).parents[3] / "docs" / "rows.md"
    assert spellings_table() in docs.read_text(encoding="utf-8")


# Identity


def test_sha_is_of_the_content_only() -> None:
    example = Example("a", "p", "r", {"task": "x"})
    assert example.sha == Example("b", "p", "r").sha == "".join(example.sha.split())
    assert len(example.sha) == 16
    assert example.sha != Example("a", "p", "R").sha


def test_the_sha_of_a_plain_row_is_the_one_that_stores_hold() -> None:
    # Made by the version before this rule.
    plain = Example("a", "Who?", "Me.")
    assert plain.sha == published_sha(plain) == "f7cee95673ac6014"
    text = Example("a", None, "all  of\nit")
    assert text.sha == published_sha(text)
    spaced = Example("a", "two  spaces", "r")
    assert spaced.sha != published_sha(spaced) == Example("a", "two spaces", "r").sha
    # A store of version 1 knows the row by either.
    assert list(known_hashes(spaced, former=True)) == [spaced.sha, published_sha(spaced)]
    for sha in known_hashes(spaced, former=True):
        assert same_text(sha, spaced, former=True)
    assert list(known_hashes(spaced, former=False)) == [spaced.sha]
    assert not same_text(published_sha(spaced), spaced, former=False)
    assert not same_text(plain.sha, spaced, former=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("p", "r"), (None, "Question: p\nAnswer: r")),
        (("p\nAnswer: q", "r"), ("p", "q\nAnswer: r")),
        (("p " * 300 + "x", "r"), ("p " * 300 + "y", "r")),
        (("p  q", "r"), ("p q", "r")),
    ],
)
def test_other_content_has_another_sha(one: tuple[str | None, str], other: tuple[str | None, str]) -> None:
    assert Example("a", *one).sha != Example("a", *other).sha


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)


@st.composite
def spelled(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row in one of the spellings, and how to read it."""
    form = draw(st.sampled_from(SPELLINGS))
    reading: dict[str, Any] = {}
    if form is SPELLINGS[0]:
        row: dict[str, Any] = {draw(st.sampled_from(form.main)): draw(conversation())}
        if draw(st.booleans()):
            row["tools"] = [{"name": draw(WORDS), "about": draw(WORDS)}]
    else:
        row = {draw(st.sampled_from(form.main)): draw(WORDS)}
    for key in draw(st.sets(st.sampled_from(form.beside))) if form.beside else ():
        if key in ("tools", "functions"):
            row[key] = [{"name": draw(WORDS)}]
        else:
            row[key] = draw(WORDS)
    if form.response:
        key = draw(st.sampled_from(form.response))
        row[key] = draw(WORDS)
        if key in ("chosen", "rejected"):
            reading["response"] = key
    return row, reading


@st.composite
def conversation(draw: st.DrawFn) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": draw(st.sampled_from(["user", "system", "tool"])), "content": draw(WORDS)})
        reply: dict[str, Any] = {"role": "assistant", "content": draw(WORDS)}
        if draw(st.booleans()):
            reply["content"] = [{"type": "text", "text": draw(WORDS)}, {"type": "text", "text": draw(WORDS)}]
        if draw(st.booleans()):
            reply["tool_calls"] = [{"function": {"name": draw(WORDS), "arguments": draw(WORDS)}}]
        turns.append(reply)
    return turns


def strings(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all content strings in a row."""
    if isinstance(value, str) and (not place or place[-1] not in ("role", "type", "id")):
        yield place
    elif isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from strings(part, (*place, key))


@settings(max_examples=150, deadline=None)
@given(spelled(), st.data())
def test_a_change_of_any_content_character_changes_the_sha(
    case: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject
) -> None:
    row, how = case
    before = parse_row(row, "x", Reading(**how)).sha
    place = data.draw(st.sampled_from(list(strings(row))))
    changed = copy.deepcopy(row)
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    text = holder[place[-1]]
    at = data.draw(st.integers(0, len(text) - 1))
    holder[place[-1]] = text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :]
    assert parse_row(changed, "x", Reading(**how)).sha != before
