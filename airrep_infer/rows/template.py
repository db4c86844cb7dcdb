"""Templates: rules by which examples become text and are cut, each with a name and a version.

A template is part of an encoder: a checkpoint and a bundle say which one they were made with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from airrep_infer.rows.example import ANSWER, QUESTION, Example, update_in_blocks
from airrep_infer.rows.token_limit import Cut

TEXT = QUESTION + "{prompt}" + ANSWER + "{response}"
"""The text of a row that has a prompt."""
PROMPT_WORDS = 256
"""Words of the prompt that the published template keeps, split at white space."""


@dataclass(frozen=True)
class Template:
    """A rule of text and cutting; vectors of two templates cannot be compared."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}-{self.version}"


PUBLISHED = Template("published", 1)
"""That of the published checkpoint: 256 words of the prompt, white space collapsed; then the end is cut."""
SHARED = Template("shared", 1)
"""Ours: prompt and response share the tokens (see `token_limit.share`); white space stays."""
TEMPLATES = {str(template): template for template in (PUBLISHED, SHARED)}
TemplateName = Literal["published-1", "shared-1"]


def template_entry(template: Template) -> dict[str, str | int]:
    """What a bundle's manifest says of a template; that of `PUBLISHED` is older than their names."""
    if template == PUBLISHED:
        return {"text": TEXT, "prompt_words": PROMPT_WORDS}
    return {"name": template.name, "version": template.version, "text": TEXT}


def published_text(example: Example) -> str:
    """The text of the `PUBLISHED` template, its response uncut."""
    if example.prompt is None:
        return example.response
    return QUESTION + " ".join(_published_words(example.prompt)) + ANSWER + example.response


def published_sha(example: Example) -> str:
    """The first 16 hex digits of the sha256 of the published text: what stores of version 1 know a row by."""
    digest = hashlib.sha256()
    update_in_blocks(digest, published_text(example))
    return digest.hexdigest()[:16]


def known_hashes(example: Example, *, former: bool) -> Iterator[str]:
    """The hashes by which a store may know a row: `Example.sha`, and what stores of version 1 had instead.

    Args:
        former: whether a store of version 1 can be meant: its encoder has the `PUBLISHED` template. With
            others a vector depends on what `published_sha` ignores, so that hash would admit another text.
    """
    yield example.sha
    if former:
        yield published_sha(example)


def same_text(stored: str, example: Example, *, former: bool) -> bool:
    """Whether a row that is stored with this hash has the text of `example`; see `known_hashes`."""
    return stored in known_hashes(example, former=former)


def published_cut(example: Example) -> Cut:
    """Whether `published_text` lacks words of the prompt."""
    more = example.prompt is not None and len(example.prompt.split(None, PROMPT_WORDS)) > PROMPT_WORDS
    return Cut.PROMPT if more else Cut.NOTHING


def _published_words(prompt: str) -> list[str]:
    return prompt.split(None, PROMPT_WORDS)[:PROMPT_WORDS]
