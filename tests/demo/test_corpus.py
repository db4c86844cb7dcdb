from __future__ import annotations

import datetime
import re
from collections import Counter
from pathlib import Path

import pytest

from airrep_infer.rows.examples import read_examples
from demo.corpus import DATA, Corpus, Row, build_corpus, write_corpus
from demo.skills import SKILLS, Fact, Skill

FILES = (
    "train.jsonl",
    "queries.jsonl",
    "planted.jsonl",
    "examples.jsonl",
    "bad_answers.jsonl",
    "good_answers.jsonl",
    "pool.txt",
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return build_corpus()


@pytest.fixture(scope="module")
def good(corpus: Corpus) -> list[Row]:
    """All rows but the bad ones."""
    bad = {one.id for one in corpus.planted}
    return [row for row in corpus.examples if row.id not in bad]


def asked_by_input() -> dict[str, tuple[Skill, Fact]]:
    return {
        skill.ask(fact, wording): (skill, fact)
        for skill in SKILLS
        for fact in skill.facts
        for wording in skill.wordings
    }


def test_the_committed_files_are_what_the_generator_writes(corpus: Corpus, tmp_path: Path) -> None:
    write_corpus(tmp_path, corpus)
    for name in FILES:
        assert (DATA / name).read_bytes() == (tmp_path / name).read_bytes(), (
            f"run python -m demo.corpus: {name}"
        )


def test_sizes(corpus: Corpus) -> None:
    assert len(SKILLS) == 16
    for rows, each in ((corpus.train, 75), (corpus.dev, 12), (corpus.queries, 6)):
        assert Counter(row.skill for row in rows) == {skill.name: each for skill in SKILLS}
    assert len(corpus.planted) == 60
    # Labels are cheap because rows are short; a token has about four characters.
    assert max(len(row.input) + len(row.output) for row in corpus.examples) <= 120


def test_the_files_read_as_examples_and_do_not_tell_the_bad_rows_apart(corpus: Corpus) -> None:
    examples = read_examples(DATA / "examples.jsonl")
    assert [(e.id, e.prompt, e.response, e.fields) for e in examples] == [
        (row.id, row.input, row.output, {"skill": row.skill}) for row in corpus.examples
    ]
    assert examples[:1200] == read_examples(DATA / "train.jsonl")
    assert examples[-96:] == read_examples(DATA / "queries.jsonl")
    # Nor do their places or numbers.
    places = [place for place, row in enumerate(corpus.train) if row.id in {bad.id for bad in corpus.planted}]
    assert 400 < sum(places) / len(places) < 800
    assert max(Counter(place // 100 for place in places).values()) < 15


def test_no_input_occurs_twice(corpus: Corpus) -> None:
    twice = [text for text, times in Counter(row.input for row in corpus.examples).items() if times > 1]
    assert not twice


def test_all_rows_but_the_bad_ones_answer_truly_in_the_form_of_the_skill(good: list[Row]) -> None:
    asked = asked_by_input()
    for row in good:
        skill, fact = asked[row.input]
        assert (row.skill, row.output) == (skill.name, skill.reply(fact, fact.answer))


def test_bad_rows_give_the_wrong_answer_about_what_the_queries_they_hurt_ask(corpus: Corpus) -> None:
    asked = asked_by_input()
    by_id = {row.id: row for row in corpus.examples}
    bad_ids = {bad.id for bad in corpus.planted}
    for bad in corpus.planted:
        row = by_id[bad.id]
        skill, fact = asked[row.input]
        about = [query.id for query in corpus.queries if asked[query.input] == (skill, fact)]
        assert list(bad.hurts) == about and 1 <= len(about) <= 3
        assert bad.correct == skill.reply(fact, fact.answer) == by_id[about[0]].output
        assert fact.wrong not in (None, fact.answer)
        if bad.kind == "wrong":
            assert row.output == skill.reply(fact, str(fact.wrong))
        else:
            assert (str(fact.wrong) in row.output) == (bad.kind != "refusal")
        assert row.output != bad.correct
        assert bad.measured == any(asked[dev.input] == (skill, fact) for dev in corpus.dev)
    assert {bad.measured for bad in corpus.planted} == {True, False}
    assert min(Counter(bad.kind for bad in corpus.planted).values()) >= 5
    # Nobody answers a fact in the same wrong way without being listed.
    for train in corpus.train:
        skill, fact = asked[train.input]
        assert (train.output == skill.reply(fact, fact.answer)) != (train.id in bad_ids)


def test_every_query_and_dev_row_has_correct_training_rows_about_its_fact(
    corpus: Corpus, good: list[Row]
) -> None:
    asked = asked_by_input()
    correct = Counter(repr(asked[row.input]) for row in good if row in corpus.train)
    assert min(correct[repr(asked[row.input])] for row in corpus.queries) >= 2
    assert min(correct[repr(asked[row.input])] for row in corpus.dev) >= 2


def test_skills_have_forms_of_their_own() -> None:
    for skill in SKILLS:
        assert len(skill.wordings) == len(set(skill.wordings)) == 10
        assert len({repr(fact.words) for fact in skill.facts}) == len(skill.facts) == 24
    # Sorting and colours answer with what the facts hold: "a < b < c" and capitals.
    assert len({skill.form for skill in SKILLS}) == len(SKILLS) - 1


# What can be computed is computed again here, another way.


def facts_of(name: str) -> list[tuple[str, str]]:
    skill = next(skill for skill in SKILLS if skill.name == name)
    return [(fact.words["x"], fact.answer) for fact in skill.facts]


# In metres, grams, litres, seconds, months and square metres.
UNIT_SIZES: dict[str, float] = (
    {"kilometres": 1000, "metres": 1, "decimetres": 0.1, "centimetres": 0.01, "millimetres": 0.001}
    | {"miles": 1609.344, "yards": 0.9144, "feet": 0.3048, "inches": 0.0254}
    | {"tonnes": 1e6, "kilograms": 1000, "grams": 1, "milligrams": 0.001}
    | {"pounds": 453.59237, "ounces": 28.349523125}
    | {"litres": 1, "millilitres": 0.001, "gallons": 4.54609, "quarts": 1.1365225, "pints": 0.56826125}
    | {"fortnights": 1209600, "weeks": 604800, "days": 86400, "hours": 3600, "minutes": 60}
    | {"seconds": 1, "milliseconds": 0.001}
    | {"centuries": 1200, "decades": 120, "years": 12, "months": 1}
    | {"hectares": 10000, "square metres": 1}
)


def test_units() -> None:
    for asked, answer in facts_of("units"):
        (amount, unit), (result, result_unit) = asked.split(" ", 1), answer.split(" ", 1)
        size = int(amount) * UNIT_SIZES[unit]
        assert int(result) * UNIT_SIZES[result_unit] == pytest.approx(size)


def test_sums() -> None:
    for asked, answer in facts_of("arithmetic"):
        a, sign, b = asked.split()
        assert int(a) == int(answer) - int(b) if sign == "plus" else int(a) == int(answer) + int(b)
        assert 10 <= int(a) <= 99 and 10 <= int(b) <= 99


def test_sorting_never_shows_the_answer() -> None:
    for asked, answer in facts_of("sorting"):
        words = answer.split(" < ")
        assert words[0] < words[1] < words[2] and set(words) == set(asked.split(", "))
        assert asked != ", ".join(words)


def test_calendar() -> None:
    monday = datetime.date(2024, 1, 1)
    days = {(monday + datetime.timedelta(n)).strftime("%A"): monday + datetime.timedelta(n) for n in range(7)}
    months = {datetime.date(2024, n, 1).strftime("%B"): n for n in range(1, 13)}
    count = {"the": 1, "two": 2, "three": 3}
    for asked, answer in facts_of("calendar"):
        steps, unit, direction, name = asked.split()
        move = count[steps] * (1 if direction == "after" else -1)
        if unit.startswith("day"):
            assert (days[name] + datetime.timedelta(move)).strftime("%A") == answer
        else:
            assert (months[answer] - months[name] - move) % 12 == 0


def test_roman_numerals() -> None:
    values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500}
    for asked, answer in facts_of("roman"):
        digits = [values[letter] for letter in answer]
        signs = [-1 if n + 1 < len(digits) and d < digits[n + 1] else 1 for n, d in enumerate(digits)]
        assert sum(d * s for d, s in zip(digits, signs, strict=True)) == int(asked)
        assert not re.search(r"(.)\1{3}|(V|L|D)\2", answer)


def test_letter_counts() -> None:
    for asked, answer in facts_of("letters"):
        assert re.fullmatch(rf"[a-z]{{{answer}}}", asked)
