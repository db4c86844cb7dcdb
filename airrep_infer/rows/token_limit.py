"""Cutting rows to a token limit, in training, export, inference and for the target LM alike.

The whole row is kept where it fits. Where it does not, its pieces are tokenized apart and share the limit. A
piece of very many characters is shortened before it is tokenized: a row costs what is kept of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.rows.example import ANSWER, QUESTION, Example

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Tokenizes texts, without special tokens."""


class Cut(IntFlag):
    """Which parts of a row the token limit cut."""

    NOTHING = 0
    PROMPT = 1
    RESPONSE = 2


OnTruncate = Literal["cut", "error", "skip"]
"""What to do with rows that exceed a token limit; "skip" leaves them out."""


@dataclass(frozen=True)
class CutCounts:
    """How many rows were cut to a token limit, and of how many of them the response."""

    rows: int = 0
    responses: int = 0

    @classmethod
    def of(cls, cuts: NDArray[np.uint8]) -> CutCounts:
        """Of rows' `Cut`s, (n,)."""
        return cls(int((cuts != 0).sum()), int((cuts & Cut.RESPONSE != 0).sum()))

    @classmethod
    def together(cls, counts: Iterable[CutCounts | None]) -> CutCounts | None:
        """The sum; None where one of them is not known."""
        known = list(counts)
        return None if None in known else sum(filter(None, known), cls())

    def __add__(self, other: CutCounts) -> CutCounts:
        return CutCounts(self.rows + other.rows, self.responses + other.responses)

    def __str__(self) -> str:
        return f"{self.rows} rows were cut to the token limit, of {self.responses} the response too"


def refuse_cuts(rows: Sequence[Example], cuts: NDArray[np.uint8]) -> None:
    """Refuse rows that were cut, for who wants none.

    Raises:
        InputError: there is one; the message names the first.
    """
    if cuts.any():
        first = rows[int(np.flatnonzero(cuts)[0])]
        raise InputError(
            f"row {first.id!r} exceeds the token limit; raise the limit, shorten the row, or cut it with "
            "--on-truncate cut"
        )


# A longer piece is shortened, first to characters per token that normal text stays far below; where that
# gives too few tokens (a page of white space, a huge word), to a length that still bounds memory.
_CHARACTERS_A_TOKEN = 16
_MOST_CHARACTERS = 1 << 20
# Rows with more characters a token are taken apart at once: they hardly ever fit.
_SURELY_LONG = 8
# A shortened text ends between words, if there is white space so near to the end.
_WORD = 256


@dataclass(frozen=True)
class Fitted:
    """The tokens of a row within the limit: those from `start` on are the response's."""

    ids: list[int]
    start: int
    cut: Cut


def fit_examples(
    examples: Sequence[Example],
    tokens: int,
    encode: Encode,
    whole: Callable[[Example], tuple[str, ...]] = lambda example: (example.text,),
) -> list[Fitted]:
    """Tokenize examples that have a prompt, within a limit; see `share` for what is cut.

    Args:
        tokens: the limit, special tokens not counted; at least 1.
        encode: tokenizes texts.
        whole: the texts that an example is where nothing is cut; the last holds the response.
    """
    fitted: dict[int, Fitted] = {}
    likely = [n for n, row in enumerate(examples) if _length(row) <= _SURELY_LONG * tokens]
    for number, ids in zip(likely, _encode_rows(encode, [whole(examples[n]) for n in likely]), strict=True):
        if sum(map(len, ids)) <= tokens:
            fitted[number] = _joined(ids)
    long = [number for number in range(len(examples)) if number not in fitted]
    pieces = [Pieces.of(examples[number], tokens) for number in long]
    apart = _encode_rows(encode, [row.texts for row in pieces])
    for number, row, ids in zip(long, pieces, apart, strict=True):
        if not row.enough(ids):
            row = Pieces.of(examples[number], tokens, wide=True)
            ids = encode(row.texts)
        fitted[number] = row.fit(ids)
        if not fitted[number].cut:  # much text of few tokens, all of which fit
            fitted[number] = _joined(encode(whole(examples[number])))
    return [fitted[number] for number in range(len(examples))]


def fit_texts(texts: Sequence[str], tokens: int, encode: Encode) -> list[Fitted]:
    """Tokenize plain texts, which lose their end, within a limit."""
    short = [shorten(text, _CHARACTERS_A_TOKEN * tokens) for text in texts]
    fitted = []
    for text, part, ids in zip(texts, short, encode(short), strict=True):
        if len(part) < len(text) and len(ids) < tokens:
            part = shorten(text, _MOST_CHARACTERS)
            (ids,) = encode([part])
        cut = len(part) < len(text) or len(ids) > tokens
        fitted.append(Fitted(ids[:tokens], 0, Cut.RESPONSE if cut else Cut.NOTHING))
    return fitted


def _encode_rows(encode: Encode, rows: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """The tokens of every text of every row, by one call."""
    ids = iter(encode([text for row in rows for text in row]))
    return [[next(ids) for _ in row] for row in rows]


def _joined(ids: Sequence[list[int]]) -> Fitted:
    before = [token for text in ids[:-1] for token in text]
    return Fitted(before + ids[-1], len(before), Cut.NOTHING)


def _length(example: Example) -> int:
    return len(example.prompt or "") + len(example.response)


@dataclass(frozen=True)
class Pieces:
    """An example as pieces to tokenize apart: the mark before the prompt, its turns, the mark before the
    response, the response. Joined they are `Example.text`, as far as nothing was shortened.

    Attributes:
        tokens: the limit that they are made for.
        system: the first of several turns is a system turn.
        shortened: what was shortened before tokenizing.
    """

    texts: tuple[str, ...]
    tokens: int
    system: bool
    shortened: tuple[bool, ...]

    @classmethod
    def of(cls, example: Example, tokens: int, *, wide: bool = False) -> Pieces:
        """Take an example with a prompt apart.

        Args:
            tokens: the limit.
            wide: keep as much text as memory allows, for rows of few tokens in much text.
        """
        turns = example.turns or (str(example.prompt),)
        # Every turn has a token at least, so no more turns than tokens can be kept.
        turns = turns[:1] + turns[1:][-tokens:]
        marked = [f" {turns[0]}", *(f"\n{turn}" for turn in turns[1:])]
        width = _MOST_CHARACTERS if wide else _CHARACTERS_A_TOKEN * tokens
        texts = [
            QUESTION.rstrip(),
            *(shorten(turn, width, both_ends=True) for turn in marked),
            ANSWER.rstrip(),
            shorten(f" {example.response}", width),
        ]
        whole = [QUESTION.rstrip(), *marked, ANSWER.rstrip(), f" {example.response}"]
        shortened = tuple(len(text) < len(full) for text, full in zip(texts, whole, strict=True))
        return cls(tuple(texts), tokens, len(turns) > 1 and turns[0].startswith("system: "), shortened)

    def enough(self, ids: Sequence[Sequence[int]]) -> bool:
        """Whether the tokens of the pieces suffice: what was shortened has as many as can be kept."""
        return all(
            not shortened or len(piece) >= self.tokens
            for shortened, piece in zip(self.shortened, ids, strict=True)
        )

    def fit(self, ids: Sequence[Sequence[int]]) -> Fitted:
        """Cut the tokens of the pieces to the limit; see `share`."""
        question, *turns, answer, response = map(list, ids)
        room = self.tokens - len(question) - len(answer)
        if room < 2:  # a limit of a few tokens: the marks go first
            question, answer, room = [], [], self.tokens
        shares = share(room, [len(turn) for turn in turns], len(response), self.system)
        kept = [token for turn, ends in zip(turns, shares.turns, strict=True) for token in ends.of(turn)]
        prompt = question + kept + answer
        cut = Cut.NOTHING
        if len(kept) < sum(map(len, turns)) or any(self.shortened[:-1]):
            cut |= Cut.PROMPT
        if shares.response < len(response) or self.shortened[-1]:
            cut |= Cut.RESPONSE
        return Fitted(prompt + response[: shares.response], len(prompt), cut)


@dataclass(frozen=True)
class Ends:
    """How many tokens are kept from the beginning and from the end of a turn."""

    first: int
    last: int

    def of(self, tokens: list[int]) -> list[int]:
        """The tokens that are kept."""
        return tokens[: self.first] + tokens[len(tokens) - self.last :]


@dataclass(frozen=True)
class Shares:
    """What each turn keeps, and how many tokens of the response are kept."""

    turns: list[Ends]
    response: int


def share(room: int, turns: Sequence[int], response: int, system: bool = False) -> Shares:
    """Share out the tokens between the turns of a prompt and its response.

    The response gets up to half, and all that the prompt leaves. In the prompt the last turn, which asks,
    comes first: it gets up to half, and all that the system turn leaves; then the system turn; then the other
    turns, from the newest to the oldest. The last turn and the system turn are cut in the middle, so that
    their beginning and end stay; another turn loses its beginning.

    Args:
        room: tokens, at least 1.
        turns: tokens of each turn; a plain prompt is one turn.
        response: tokens of the response.
        system: the first of several turns is a system turn.
    """
    kept_response = min(response, max((room + 1) // 2, room - sum(turns)))
    left = room - kept_response
    kept = [0] * len(turns)
    system_turn = turns[0] if system else 0
    kept[-1] = min(turns[-1], max((left + 1) // 2, left - system_turn))
    left -= kept[-1]
    if system:
        kept[0] = min(system_turn, left)
        left -= kept[0]
    for number in range(len(turns) - 2, 0 if system else -1, -1):
        kept[number] = min(turns[number], left)
        left -= kept[number]
    middle_cut = {len(turns) - 1, *([0] if system else [])}
    ends = [Ends(n - n // 2, n // 2) if turn in middle_cut else Ends(0, n) for turn, n in enumerate(kept)]
    return Shares(ends, kept_response)


def shorten(text: str, width: int, *, both_ends: bool = False) -> str:
    """The first `width` characters of a text (`both_ends`: and its last ones), up to white space nearby."""
    if len(text) <= (2 * width if both_ends else width):
        return text
    head = text[:width]
    space = re.search(r"\s(?=\S*\Z)", head[-_WORD:])
    if space:
        head = head[: len(head) - len(head[-_WORD:]) + space.start()]
    if not both_ends:
        return head
    tail = text[-width:]
    space = re.search(r"\s", tail[:_WORD])
    return head + (tail[space.start() :] if space else tail)
