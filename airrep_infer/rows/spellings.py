"""The spellings of a row: which keys hold its content, and how the user names them where none does.

`SPELLINGS` is the only table of them: `parse.parse_row` reads by it, and docs/rows.md shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from airrep_infer.errors import InputError, refuse_single
from airrep_infer.rows.conversation import LastTurn

Preference = Literal["chosen", "rejected"]


@dataclass(frozen=True)
class Spelling:
    """One layout of a row. A row has one key of `main`, any of `beside`, and one of `response`.

    Attributes:
        main: keys of which one holds the prompt, the conversation, or (without `response`) all of the text.
        beside: further content that belongs to the prompt.
        response: keys of which one holds the response; empty where `main` holds it too.
        prompt_is, response_is: what they become, for the docs.
    """

    main: tuple[str, ...]
    beside: tuple[str, ...]
    response: tuple[str, ...]
    prompt_is: str
    response_is: str


RESPONSES = ("completion", "response", "output", "target", "targets", "answer")
SYSTEMS = ("system", "system_prompt")
CONTEXTS = ("input", "context")
TOOLS = ("tools", "functions")
PREFERENCES: tuple[str, ...] = get_args(Preference)

SPELLINGS = (
    Spelling(
        ("messages", "conversations"),
        (*SYSTEMS, *TOOLS),
        (),
        "the turns before the response",
        "the last assistant turn",
    ),
    Spelling(
        ("prompt", "instruction", "question", "query"),
        (*CONTEXTS, *SYSTEMS),
        RESPONSES,
        "the prompt, below it the input or context; a list of turns is a conversation",
        "the response; a list of turns ends with it",
    ),
    Spelling(
        ("input", "inputs"),
        ("context", *SYSTEMS),
        RESPONSES,
        "the input, below it the context",
        "the response",
    ),
    Spelling(
        ("prompt",),
        SYSTEMS,
        PREFERENCES,
        "with `--response chosen` or `rejected`: the prompt, or the turns before the last",
        "that answer",
    ),
    Spelling(("text",), (), (), "none: the text is used as it is", "all of it"),
)
CHAT, ASKED, INPUT = SPELLINGS[:3]

# Content of layouts that no spelling reads, refused even where it is short. (Any field with much text is.)
UNREAD = frozenset(
    {"history", "passage", "document", "article", "story", "dialogue", "dialog", "premise", "hypothesis"}
    | {"answers", "choices", "options", "sentence", "body", "content", "turns", "reasoning", "thinking"}
)
KNOWN = frozenset(key for form in SPELLINGS for key in (*form.main, *form.beside, *form.response))
EXPECTED = "; ".join(
    " + ".join(["|".join(form.main), *(["|".join(form.response)] if form.response else [])])
    for form in SPELLINGS
)

Role = Literal["id", "prompt", "context", "system", "response", "text", "messages", "metadata"]
# The keys that a named column stands in for; "metadata" has none.
ROLE_KEYS: Mapping[str, tuple[str, ...]] = {
    "id": ("id",),
    "prompt": (*ASKED.main, "inputs"),
    "context": ("context",),
    "system": SYSTEMS,
    "response": (*RESPONSES, *PREFERENCES),
    "text": ("text",),
    "messages": CHAT.main,
}


@dataclass(frozen=True)
class Reading:
    """How rows are read where their own keys do not say it.

    Attributes:
        columns: role -> column ("prompt": "Q"): the column is the row's prompt, and the usual names of a
            prompt are metadata.
        metadata: columns that are not content, whatever their names and lengths.
        response: which answer of a preference pair is the response; without it such rows are refused.
        last_turn: what to do with turns after the last assistant turn, "error" or "drop".
        keep: metadata that is carried along however long it is.

    Raises:
        InputError: an unknown role, or one given twice.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    metadata: frozenset[str] = frozenset()
    response: Preference | None = None
    last_turn: LastTurn = "error"
    keep: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        refuse_single(self.metadata, "metadata")
        for role in self.columns:
            if role not in ROLE_KEYS:
                raise InputError(
                    f"no role {role!r} for a column; expected one of {', '.join(get_args(Role))}"
                )
        if self.response and "response" in self.columns:
            raise InputError(f"response {self.response!r} and a column for the response exclude each other")

    @property
    def identity(self) -> str:
        """What decides the content of the rows, as text."""
        content = [sorted(self.columns.items()), sorted(self.metadata), self.response, self.last_turn]
        return json.dumps(content, ensure_ascii=False)

    def keeping(self, *fields: str | None) -> Reading:
        """The same, with fields (or what `outer.inner` names in one) carried along however long they are."""
        names = [name for field in fields if field for name in (field, field.partition(".")[0])]
        return replace(self, keep=self.keep.union(names))

    def of_other_answer(self) -> Reading:
        """Of preference pairs the answer that is not `response`; of other rows the same."""
        if self.response is None:
            return self
        return replace(self, response="rejected" if self.response == "chosen" else "chosen")

    @classmethod
    def of(
        cls, fields: Iterable[str], response: Preference | None = None, last_turn: LastTurn = "error"
    ) -> Reading:
        """From the command line's `ROLE=COLUMN`s."""
        refuse_single(fields, "fields")
        columns: dict[str, str] = {}
        metadata = set()
        for given in fields:
            role, equals, column = given.partition("=")
            if not (role and equals and column):
                raise InputError(f"--field {given}: expected ROLE=COLUMN, such as prompt=question_text")
            if role == "metadata":
                metadata.add(column)
            elif role in columns:
                raise InputError(
                    f"--field {given}: {role} was given before, as {columns[role]}; name one column"
                )
            else:
                columns[role] = column
        return cls(columns, frozenset(metadata), response, last_turn)


def spellings_table() -> str:
    """The table of spellings in Markdown, for docs/rows.md."""
    lines = ["| keys of the row | prompt | response |", "|---|---|---|"]
    for form in SPELLINGS:
        keys = _code(form.main)
        if form.beside:
            keys += f" (may have {_code(form.beside)})"
        if form.response:
            keys += f" + {_code(form.response)}"
        lines.append(f"| {keys} | {form.prompt_is} | {form.response_is} |")
    return "\n".join(lines) + "\n"


def _code(keys: tuple[str, ...]) -> str:
    return ", ".join(f"`{key}`" for key in keys)
