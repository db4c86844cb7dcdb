"""One training row or query: its content, and the hash that identifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

QUESTION, ANSWER = "Question: ", "\nAnswer: "
"""What stands before the prompt and before the response in the text of an example."""

PROMPT_WORDS = 256
TEMPLATE = QUESTION + "{prompt}" + ANSWER + "{response}"

Scalar = str | int | float | bool

_CHARACTERS_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Example:
    """One training row or query.

    Attributes:
        prompt: None for a row that is plain text; then `response` is all of it.
        fields: the row's short scalar metadata (task, source, ...), any of which can name a group.
        turns: for a conversation of several turns, these turns as text; `prompt` is them joined by line ends.
    """

    id: str
    prompt: str | None
    response: str
    fields: Mapping[str, Scalar] = field(default_factory=dict)
    turns: tuple[str, ...] = ()

    @property
    def content(self) -> str:
        """All content as one text, uncut: what `sha` covers. A template says what the encoder sees of it."""
        return "".join(self._pieces())

    @property
    def text(self) -> str:
        """The text that the encoder sees."""
        return published_text(self)

    @property
    def sha(self) -> str:
        """The first 16 hex digits of a sha256 of all content: what a store knows a row by.

        It is that of `content`. Where other content has the same text (the prompt or the response quotes the
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

    @property
    def former_sha(self) -> str:
        """What stores of format version 1 know the row by: the hash of its `published_text`."""
        return hashlib.sha256(published_text(self).encode()).hexdigest()[:16]

    def _pieces(self) -> tuple[str, ...]:
        if self.prompt is None:
            return (self.response,)
        return QUESTION, self.prompt, ANSWER, self.response


def published_text(example: Example) -> str:
    """The text of the published template: the first 256 words of the prompt, white space collapsed."""
    if example.prompt is None:
        return example.response
    return QUESTION + " ".join(example.prompt.split()[:PROMPT_WORDS]) + ANSWER + example.response


def update_in_blocks(digest: Any, text: str) -> None:
    """Hash a text without holding all of it a second time, as bytes."""
    for start in range(0, len(text), _CHARACTERS_AT_ONCE):
        digest.update(text[start : start + _CHARACTERS_AT_ONCE].encode())
