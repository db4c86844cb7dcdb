"""The sentences of a row, each with the row without it, and the words that a row shares with an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from airrep_infer.rows.example import Example

MAX_PASSAGES = 40
"""A row of more sentences is taken in so many pieces of several sentences each."""
MOST_SPANS, SHORTEST_SPAN = 3, 3
"""Shared runs that are shown, and the words that one has at least, or all of an answer that has fewer."""
# A sentence ends after its mark and white space, after a full stop of Chinese or Japanese, or with the line.
_END = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]\s*|\n\s*")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a row, and the row without it."""

    text: str
    without: Example


def split_passages(example: Example) -> list[Passage]:
    """The sentences of a row's prompt and response, in order.

    The row without a sentence is one prompt and one response, even where it was a conversation.
    """
    whole = replace(example, turns=())
    pieces = [("response", *ends) for ends in _sentences(example.response)]
    if example.prompt is not None:
        pieces = [*(("prompt", *ends) for ends in _sentences(example.prompt)), *pieces]
    together = -(-len(pieces) // MAX_PASSAGES)
    passages = []
    for place in range(0, len(pieces), together):
        texts, without = [], whole
        # From the back: what is cut first does not move what is cut next.
        for part, start, end in reversed(pieces[place : place + together]):
            text = getattr(without, part)
            texts.append(text[start:end])
            rest = text[:start] + text[end:]
            without = replace(without, prompt=rest) if part == "prompt" else replace(without, response=rest)
        passages.append(Passage("".join(reversed(texts)).strip(), without))
    return passages


def shared_spans(example: Example, answer: str) -> tuple[str, ...]:
    """The longest runs of words that a row and an answer have in common, longest first, as the row has them.

    Case and punctuation do not matter. Runs of a row do not overlap and come in one order in both.
    """
    text = example.content
    row_words, answer_words = (list(_WORD.finditer(each)) for each in (text, answer))
    of_row, of_answer = ([word.group().lower() for word in words] for words in (row_words, answer_words))
    shortest = min(SHORTEST_SPAN, len(of_answer))
    blocks = SequenceMatcher(None, of_row, of_answer, autojunk=False).get_matching_blocks()
    longest = sorted(
        (block for block in blocks if block.size >= max(1, shortest)), key=lambda block: -block.size
    )
    return tuple(
        text[row_words[block.a].start() : row_words[block.a + block.size - 1].end()]
        for block in longest[:MOST_SPANS]
    )


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Where each sentence starts and ends, with the white space after it."""
    start = 0
    for end in [*(match.end() for match in _END.finditer(text)), len(text)]:
        if text[start:end].strip():
            yield start, end
            start = end
