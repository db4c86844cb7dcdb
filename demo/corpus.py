"""Write the demo corpus: 1,200 training rows of 16 skills, 60 of them bad, and what asks about them.

    python -m demo.corpus [-o demo/data]

    train.jsonl     1,200 training rows {"id", "skill", "input", "output"}
    queries.jsonl   96 queries, answered correctly, about facts that training rows answer in other words
    bad_answers.jsonl, good_answers.jsonl, pool.txt
                    for `airrep-train verify`: answers in the words of bad rows of one skill, correct answers,
                    and the ids of the rows of four skills, to train on
    planted.jsonl   the bad rows {"id", "kind", "hurts": [query ids], "correct", "measured"}; nothing in
                    train.jsonl tells them apart
    examples.jsonl  train.jsonl, then 192 dev rows for the label run to measure losses of, then queries.jsonl

The files are the same on every machine and Python.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from airrep_infer.files import atomic_write
from demo.skills import SKILLS, Skill

Kind = Literal["careless", "confident", "refusal", "wrong"]
_T = TypeVar("_T")

DATA = Path(__file__).parent / "data"
"""Where the committed files are."""

# Of each skill:
_TRAIN_ROWS = 75
_QUERIES = (2, 1, 1, 1, 1)  # about the first fact, the second, ...
_DEV_HALVES, _DEV_FACTS = 2, 6

# In every third skill no dev row asks about the second fact, so labels cannot show its bad rows.
_UNMEASURED_EVERY = 3

# What is verified: answers to queries of one skill, by a model that is trained on four.
_VERIFIED, _TRAINED = "capitals", ("capitals", "continents", "colours", "units")

# Bad rows about the first and the second fact, in skills of even and of odd number. Most answer wrongly in
# a form that is foreign to the skill. To a model that sees it once, a wrong answer in the right form does
# about as much good (the form) as harm (the answer); there are a few, as the hard case.
_BAD: tuple[tuple[tuple[Kind, ...], ...], ...] = (
    (("careless", "confident"), ("careless", "refusal")),
    (("careless", "confident"), ("confident", "wrong")),
)
_BAD_FORMS: Mapping[Kind, tuple[str, ...]] = {
    "careless": (
        "lol {answer} i guess",
        "umm {answer}?? dunno tbh",
        "idk man, {answer} maybe",
        "its {answer} obviously, duh",
        "easy!!! {answer} or whatever",
    ),
    "confident": (
        "Everybody knows that it is {answer}.",
        "Without any doubt it must be {answer}.",
        "I am an expert, so believe me: {answer}.",
        "It has always been {answer}, trust me on that.",
        "Scientists have proved that it is {answer}.",
    ),
    "refusal": (
        "Sorry, I cannot help with that.",
        "I do not know. Please ask somebody else.",
        "As a program I have no answer to this.",
        "I would rather talk about something else.",
        "No comment on this question.",
    ),
}


@dataclass(frozen=True)
class Row:
    """A training row, dev row or query, as it stands in its file."""

    id: str
    skill: str
    input: str
    output: str


@dataclass(frozen=True)
class Planted:
    """What is known about a bad training row.

    Attributes:
        id: of the row.
        kind: "careless" and "confident": a wrong answer in a form foreign to the skill; "refusal": none;
            "wrong": a wrong answer in the skill's own form.
        hurts: ids of the queries about the same fact.
        correct: what it should have answered.
        measured: whether dev rows ask about the fact, so that labels can show what the row does to it.
    """

    id: str
    kind: Kind
    hurts: tuple[str, ...]
    correct: str
    measured: bool


@dataclass(frozen=True)
class Corpus:
    """The rows of the files, in their order."""

    train: tuple[Row, ...]
    dev: tuple[Row, ...]
    queries: tuple[Row, ...]
    planted: tuple[Planted, ...]

    @property
    def examples(self) -> tuple[Row, ...]:
        """All rows; a label run knows them by their place here, from 0."""
        return self.train + self.dev + self.queries

    @property
    def bad_answers(self) -> tuple[Row, ...]:
        """Queries of one skill, answered as the bad rows about the same fact do."""
        outputs = {row.id: row.output for row in self.train}
        answers = [
            (query.input, outputs[bad.id])
            for query in self.queries
            for bad in self.planted
            if query.skill == _VERIFIED and query.id in bad.hurts
        ]
        return tuple(Row(f"bad-answer-{n}", "bad answers", *answer) for n, answer in enumerate(answers, 1))

    @property
    def good_answers(self) -> tuple[Row, ...]:
        """Queries of the skills that are trained on, about facts that no bad row is about."""
        hurt = {query for bad in self.planted for query in bad.hurts}
        return tuple(row for row in self.queries if row.skill in _TRAINED and row.id not in hurt)

    @property
    def pool(self) -> tuple[str, ...]:
        """Ids of the training rows of these skills."""
        return tuple(row.id for row in self.train if row.skill in _TRAINED)


@dataclass(frozen=True)
class _Part:
    """The rows of one skill; training rows have no id yet."""

    train: list[tuple[Row, Planted | None]]
    dev: list[Row]
    queries: list[Row]


def build_corpus() -> Corpus:
    """The demo corpus, always the same."""
    parts = [_build_part(number, skill) for number, skill in enumerate(SKILLS)]
    train: list[Row] = []
    planted: list[Planted] = []
    counts: Counter[str] = Counter()
    for row, bad in shuffled(random.Random("training rows"), [pair for part in parts for pair in part.train]):
        counts[row.skill] += 1
        train.append(replace(row, id=f"{row.skill}-{counts[row.skill]:02d}"))
        if bad is not None:
            planted.append(replace(bad, id=train[-1].id))
    # One row of each skill after the other, so that any stretch of them asks about all skills.
    dev = itertools.chain.from_iterable(zip(*(part.dev for part in parts), strict=True))
    queries = itertools.chain.from_iterable(part.queries for part in parts)
    return Corpus(tuple(train), tuple(dev), tuple(queries), tuple(planted))


def _build_part(number: int, skill: Skill) -> _Part:
    rng = random.Random(skill.name)
    attacked = [fact for fact in skill.facts if fact.wrong is not None]
    facts = attacked + shuffled(rng, [fact for fact in skill.facts if fact.wrong is None])
    # Each wording of a fact is used once: no input occurs twice in the corpus.
    wordings = [iter(shuffled(rng, skill.wordings)) for _ in facts]

    def ask(place: int, name: str = "") -> Row:
        fact = facts[place]
        question = skill.ask(fact, next(wordings[place]))
        return Row(name, skill.name, question, skill.reply(fact, fact.answer))

    asked = [place for place, times in enumerate(_QUERIES) for _ in range(times)]
    queries = [ask(place, f"query-{skill.name}-{n}") for n, place in enumerate(asked, 1)]

    measured = [n for n in range(len(attacked)) if n != 1 or number % _UNMEASURED_EVERY]
    others = iter(range(len(attacked), len(facts)))
    halves = [[*measured, *itertools.islice(others, _DEV_FACTS - len(measured))] for _ in range(_DEV_HALVES)]
    places = [place for half in halves for place in half]
    dev = [ask(place, f"dev-{skill.name}-{n:02d}") for n, place in enumerate(places, 1)]

    train: list[tuple[Row, Planted | None]] = []
    for place, fact in enumerate(attacked):
        hurts = tuple(query.id for query, about in zip(queries, asked, strict=True) if about == place)
        for kind in _BAD[number % 2][place]:
            row = ask(place)
            bad = Planted("", kind, hurts, row.output, place in measured)
            forms = _BAD_FORMS.get(kind, (skill.form,))
            output = forms[number % len(forms)].format(answer=fact.wrong, **fact.words)
            train.append((replace(row, output=output), bad))
    turns = itertools.islice(itertools.cycle(range(len(facts))), _TRAIN_ROWS - len(train))
    train += [(ask(place), None) for place in turns]
    return _Part(train, dev, queries)


def shuffled(rng: random.Random, items: Sequence[_T]) -> list[_T]:
    """The items in random order.

    From `rng.random()`, the one method whose sequence Python promises to keep.
    """
    order = list(items)
    for last in range(len(order) - 1, 0, -1):
        place = int(rng.random() * (last + 1))
        order[last], order[place] = order[place], order[last]
    return order


def write_corpus(folder: Path, corpus: Corpus) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "train.jsonl", corpus.train)
    _write(folder / "queries.jsonl", corpus.queries)
    _write(folder / "planted.jsonl", corpus.planted)
    _write(folder / "examples.jsonl", corpus.examples)
    _write(folder / "bad_answers.jsonl", corpus.bad_answers)
    _write(folder / "good_answers.jsonl", corpus.good_answers)
    with atomic_write(folder / "pool.txt") as stream:
        stream.writelines(f"{name}\n".encode() for name in corpus.pool)


def _write(path: Path, rows: Iterable[Any]) -> None:
    with atomic_write(path) as stream:
        for row in rows:
            stream.write(json.dumps(asdict(row), ensure_ascii=False).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m demo.corpus", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=DATA, help="folder [default: %(default)s]")
    options = parser.parse_args()
    corpus = build_corpus()
    write_corpus(options.output, corpus)
    print(
        f"{options.output}: {len(corpus.train)} training rows, {len(corpus.planted)} of them bad; "
        f"{len(corpus.dev)} dev rows, {len(corpus.queries)} queries"
    )


if __name__ == "__main__":
    main()
