"""How rows are verified."""

from __future__ import annotations

from dataclasses import dataclass

from airrep_infer.command import check_options, option


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
    answer_tokens: int = option("With --generate: tokens of an answer, at most.", default=64, least=1)

    def __post_init__(self) -> None:
        check_options(self)
