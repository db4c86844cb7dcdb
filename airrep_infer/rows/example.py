"""One training row or query: its content, and the hash that identifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

QUESTION, ANSWER = "Question: ", "\nAnswer: "
"""What stands before the prompt and before the response in the text of an example."""

RowId = str | int
"""An id as the row has it; 7 and "7" are one id."""

_CHARACTERS_AT_ONCE = 1 << 20


def is_row_id(value: object) -> bool:
    """Whether a value can be an id."""
    return isinstance(value, str | int) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Example:
    """One training row or query.

    Attributes:
        id: as the row has it, a number or a text.
        prompt: None for a row that is plain text; then `response` is all of it.
        fields: the row's metadata (task, source, ...), any of which can name a group; see `values.as_field`.
        turns: for a conversation of several turns, these turns as text; `prompt` is them joined by line ends.
    """

    id: RowId
    prompt: str | None
    response: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All content as one text, uncut; a `template.Template` says what an encoder sees of it."""
        return "".join(self._pieces())

    @property
    def content(self) -> str:
        """Prompt, a line end and response, without the words of a template: what is compared or counted."""
        return self.response if self.prompt is None else f"{self.prompt}\n{self.response}"

    @property
    def sha(self) -> str:
        """The first 16 hex digits of a sha256 of all content: what a store knows a row by.

        It is that of `text`. Where other content has the same text (the prompt or the response quotes the
        words of the template), the length of the prompt is hashed as well.
        """
        digest = hashlib.sha256()
        for piece in self._pieces():
            update_in_blocks(digest, piece)
        if self.prompt is None and self.response.startswith(QUESTION) and ANSWER in self.response:
            digest.update(b"\0plain text")
        elif self.prompt is not None and (ANSWER in self.prompt or ANSWER in self.response):
            digest.update(f"\0{len(self.prompt)}".encode())
        return digest.hexdigest()[:16]

    def _pieces(self) -> tuple[str, ...]:
        if self.prompt is None:
            return (self.response,)
        return QUESTION, self.prompt, ANSWER, self.response


def update_in_blocks(digest: Any, text: str) -> None:
    """Hash a text without holding all of it a second time, as bytes."""
    for start in range(0, len(text), _CHARACTERS_AT_ONCE):
        digest.update(text[start : start + _CHARACTERS_AT_ONCE].encode())
