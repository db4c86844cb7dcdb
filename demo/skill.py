"""What a skill of the demo corpus is: facts of one kind, wordings that ask for them, a form of answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """Something to ask.

    Attributes:
        words: what the wordings and the form of the answer name in braces.
        answer: the true answer.
        wrong: a false one that somebody might give; None: no bad row is planted about it.
    """

    words: Mapping[str, str]
    answer: str
    wrong: str | None = None


@dataclass(frozen=True)
class Skill:
    """Facts of one kind.

    Attributes:
        name: of the skill.
        form: of an answer, with `{answer}` and the fact's words.
        wordings: questions, with the fact's words.
        facts: those with a wrong answer first.
    """

    name: str
    form: str
    wordings: tuple[str, ...]
    facts: tuple[Fact, ...]

    def ask(self, fact: Fact, wording: str) -> str:
        """The question."""
        return wording.format(**fact.words)

    def reply(self, fact: Fact, answer: str) -> str:
        """An answer in the skill's form."""
        return self.form.format(answer=answer, **fact.words)
