"""How rows are verified."""

from __future__ import annotations

from dataclasses import dataclass

from airrep_infer.command import check_options, option
from airrep_infer.errors import InputError
from airrep_train.verify.names import RANDOM, name_rivals

_ANSWER_TOKENS = 64


@dataclass(frozen=True)
class VerifyOptions:
    """What the arms of a verify run are; how each is fine-tuned is in `FineTuneOptions`."""

    add: bool = option("Add the named rows to --base instead of removing them from --pool.", default=False)
    seeds: int = option("Fine-tunings of every arm, each with an order of the rows.", default=3, least=1)
    against: tuple[str, ...] = option(
        "What the named rows are compared with: random, tfidf, response-tfidf, bm25, scores of any method as "
        "for `evaluate --scores`, or a file of rows as for --rows; repeatable.",
        default=("random",),
    )
    match: str | None = option(
        "Draw the random rows from the same values of this field.", default=None, unset="from all rows"
    )
    generate: bool = option("Write each arm's answers to the prompts of the queries.", default=False)
    answer_tokens: int = option(
        "With --generate: tokens of an answer, at most.", default=_ANSWER_TOKENS, least=1
    )

    def __post_init__(self) -> None:
        check_options(self)
        if RANDOM not in name_rivals(self.against) and self.match is not None:
            raise InputError(
                "match is for the random rows, and random is not among against: leave it out, or add random"
            )
        if self.answer_tokens != _ANSWER_TOKENS and not self.generate:
            raise InputError("answer_tokens is for generate: leave it out, or generate answers")
