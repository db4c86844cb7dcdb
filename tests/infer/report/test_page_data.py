"""What a page holds: as much of the texts as fits, conversations, fields, a verdict, an LDS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airrep_infer.errors import InputError
from airrep_infer.report.data import describe, fitting_chars
from airrep_infer.report.lookup import Found
from airrep_infer.report.verdict import read_lds, read_verdict
from airrep_infer.rows import AttributionRow, Example, ScoredRow


def value(query: Example, row: Example, **how: Any) -> dict[str, Any]:
    attribution = AttributionRow(query.id, 1.0, (ScoredRow(row.id, 2.0),), ())
    found = [Found({example.id: example}, 1) for example in (query, row)]
    return describe([attribution], *found, by=None, **{"chars": None, **how}).value


def written(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_as_much_of_the_texts_as_fits() -> None:
    short = [Example(str(n), None, "x" * 100) for n in range(10)]
    assert fitting_chars(short) == 20_000
    assert fitting_chars([*short, Example("long", "p", "x" * 1_000_000)]) == 20_000
    # 50,000,000 characters in 10,000 texts: 4,000 of each come to 40,000,000.
    assert fitting_chars([Example(str(n), None, "x" * 5000) for n in range(10_000)]) == pytest.approx(
        4000, abs=1
    )
    # The short ones leave more for the long ones.
    mixed = [Example(str(n), None, "x" * (2000 if n % 2 else 8000)) for n in range(10_000)]
    assert fitting_chars(mixed) == pytest.approx(6000, abs=1)
    assert fitting_chars([Example(str(n), None, "x" * 2000) for n in range(100_000)]) == 1000


def test_a_conversation_keeps_its_last_turn_and_the_end_of_what_was_before() -> None:
    turns = ("system: be brief", "user: one", "assistant: two", "user: three " + "!" * 30)
    chat = Example("c", "\n".join(turns), "four", turns=turns)
    queries = value(chat, Example("t", "p", "r"), chars=20)["queries"]
    assert queries["prompt"] == ["user: three !!!!!!!!" + "… [22 more characters]"]
    assert queries["earlier"] == ["[21 more characters] …: one\nassistant: two"]
    assert value(Example("q", "p", "r"), chat)["queries"]["earlier"] == [None]


def test_what_else_is_known_of_a_hit() -> None:
    attribution = AttributionRow(
        "q",
        1.0,
        proponents=(ScoredRow("t", 2.0, percentile=99.912345678), ScoredRow("t", 1.0)),
        opponents=(ScoredRow("t", -1.0, percentile=0.0),),
    )
    found = [Found({name: Example(name, "p", "r")}, 1) for name in ("q", "t")]
    data = describe([attribution], *found, by=None, chars=None).value
    assert data["numbers"] == {"percentile": {"proponents": [[99.912, None]], "opponents": [[0]]}}
    assert value(Example("q", "p", "r"), Example("t", "p", "r"))["numbers"] == {}


def test_fields_of_the_rows() -> None:
    data = value(
        Example("q", "p", "r", {"not": "shown"}), Example("t", "p", "r", {"stars": 3, "lang": ["en"]})
    )
    assert data["train"]["fields"] == {"stars": ["3"], "lang": ['["en"]']} and not data["cut"]
    assert value(Example("q", "p" * 11, "r"), Example("t", "p", "r"), chars=10)["cut"]


@pytest.mark.parametrize(
    "content", [{}, {"lds": None}, {"lds": {"mean": 0.5}}, {"lds": {"mean": "x", "ci95": [0, 1]}}]
)
def test_an_evaluation_without_an_lds(tmp_path: Path, content: dict[str, Any]) -> None:
    path = written(tmp_path / "evaluation.json", content)
    with pytest.raises(
        InputError, match=r"evaluation.json: no LDS with its interval .*airrep-train evaluate"
    ):
        read_lds(path)


VERDICT = {
    "kind": "airrep-verdict",
    "format_version": 1,
    "add": True,
    "rows": ["t1", "t2"],
    "queries": [{"id": "q", "losses": {"named": 1.5}, "difference": 0.5}],
    "sentence": "adding these 2 rows lowers the loss",
    "arms": [{"name": "named", "rows": 2, "query_loss": 1.5, "control_loss": None}],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "airrep-store"}, "kind 'airrep-store', format version 1; expected the verdict.json"),
        ({"format_version": 2}, "format version 2"),
        ({"arms": [{"name": "named"}]}, "not a whole verdict"),
        ({"arms": [{"name": "named", "rows": 2, "query_loss": "high", "control_loss": None}]}, "not a whole"),
    ],
)
def test_a_verdict_that_is_none(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_verdict(written(tmp_path / "verdict.json", VERDICT | changes))


def test_answers_beside_the_verdict(tmp_path: Path) -> None:
    path = written(tmp_path / "verdict.json", VERDICT)
    assert read_verdict(path).answers == {}
    written(tmp_path / "answers.jsonl", {"query_id": "q", "answers": {"named": "now", "reference": "then"}})
    assert read_verdict(path).answers == {"q": ("now",)}
    written(tmp_path / "answers.jsonl", {"query_id": "q", "answers": {"reference": "then"}})
    with pytest.raises(InputError, match=r"answers.jsonl:1: no answer of every arm .*\(named\)"):
        read_verdict(path)


def test_groups_are_sorted_as_people_count() -> None:
    names = ["group 10", "group 2", "(none)", "b", "group 2a", "2"]
    rows = {name: Example(name, "p", "r", {"by": name}) for name in names}
    queries = Found({"q": Example("q", "p", "r")}, 1)
    attribution = AttributionRow("q", 1.0, tuple(ScoredRow(name, 1.0) for name in names), ())
    data = describe([attribution], queries, Found(rows, len(rows)), by="by", chars=None).value
    assert data["trainGroups"] == ["2", "(none)", "b", "group 2", "group 2a", "group 10"]
    assert [data["trainGroups"][code] for code in data["train"]["group"]] == names


def test_a_verdict_is_titled_by_what_was_done(tmp_path: Path) -> None:
    added = read_verdict(written(tmp_path / "a.json", VERDICT))
    removed = read_verdict(written(tmp_path / "b.json", VERDICT | {"add": False}))
    assert (added.arms[0].name, removed.arms[0].name) == ("with named", "without named")
