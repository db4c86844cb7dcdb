"""Which rows a file excludes: by id, as near copies, and by 13 shared words."""

import json

import pytest

from airrep_infer.errors import InputError
from airrep_infer.rows.example import Example
from airrep_infer.rows.exclusion import Exclusion

STORY = "Once upon a time a small fox lived under the old bridge and ate only blue plums."
WORDS = STORY.lower().rstrip(".").split()


def file_of(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def row(response, prompt=None, name="r"):
    return Example(name, prompt, response)


@pytest.fixture
def evaluation(tmp_path):
    return Exclusion(
        file_of(
            tmp_path / "eval.jsonl",
            {"id": "e1", "prompt": "What is the capital of France?", "response": "Paris, on the Seine"},
            {"id": "e2", "text": f"{STORY} The end."},
            {"id": "e3", "text": "café"},
        )
    )


def test_near_copies(evaluation):
    copy = row("Paris,  on the SEINE", "What is the capital of France?")
    found = evaluation.check("r", copy)
    assert (found.reason, found.of, found.similarity) == ("near copy", "e1", 1.0)
    found = evaluation.check("r", row("Paris, on the Seine.", "What is the capital of France??"))
    assert found.of == "e1" and 0.8 <= found.similarity < 1
    assert evaluation.check("r", row("Madrid, on the Manzanares", "What is the capital of Spain?")) is None
    assert evaluation.check("r", row("Paris")) is None  # a part of a row is no copy of it
    assert evaluation.check("r", row("Café")).of == "e3"


def test_similarity_is_that_of_the_sets_of_runs(tmp_path):
    def runs(text):
        return {text[n : n + 5] for n in range(len(text) - 4)}

    base = "the quick brown fox jumps over the lazy dog and runs away"
    exclusion = Exclusion(
        file_of(tmp_path / "e.jsonl", {"id": "far", "text": "x" * 50}, {"id": "e", "text": base})
    )
    for cut in range(len(base) - 5):
        other = base[cut:].strip()
        similarity = len(runs(base) & runs(other)) / len(runs(base) | runs(other))
        found = exclusion.check("r", row(other))
        near = found is not None and found.reason == "near copy"
        assert near == (similarity >= 0.8), other
        if near:
            assert found.similarity == pytest.approx(similarity, abs=1e-3)


def test_thirteen_shared_words(evaluation):
    around = "something else entirely before it, with many other words about trains and harbours: "
    found = evaluation.check("r", row(around + " ".join(WORDS[2:15]).upper() + "! And more."))
    assert (found.reason, found.of, found.words) == ("shared words", "e2", " ".join(WORDS[2:15]))
    assert evaluation.check("r", row(around + " ".join(WORDS[2:14]) + " instead of plums.")) is None


def test_ids_in_any_form(tmp_path):
    plain = tmp_path / "ids.txt"
    plain.write_text("r1\n\n r2 \n")
    selected = file_of(
        tmp_path / "s.jsonl", {"rank": 1, "id": "r1", "score": 1.0, "reason": "q"}, {"id": "r2"}
    )
    for path in (str(plain), selected):
        exclusion = Exclusion(path)
        assert not exclusion.needs_texts
        assert exclusion.check("r2", None).to_json() == {"id": "r2", "reason": "id", "file": path}
        assert exclusion.check("r3", None) is None


@pytest.mark.parametrize("text", ["r1\r\n r2 \r\n", "r1\rr2", '{"id": "r1"}\r\n{"id": "r2"}\r\n'])
def test_a_byte_order_mark_and_other_line_ends_are_no_part_of_an_id(tmp_path, text):
    """As Windows editors write them. The first id was lost, and no one was told."""
    for name in ("ids.txt", "ids"):
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert Exclusion(str(path)).ids == {"r1", "r2"}


def test_unusable_files_are_named(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for path, message in (
        (str(tmp_path / "none.jsonl"), "no such file"),
        (str(empty), "has no ids"),
        (file_of(tmp_path / "bad.jsonl", {"id": "a", "prompt": "x"}), r"bad\.jsonl:1: no response found"),
        (
            file_of(tmp_path / "mixed.jsonl", {"id": "a"}, {"id": "b", "text": "x"}),
            r"mixed\.jsonl:2: no id alone",
        ),
    ):
        with pytest.raises(InputError, match=message):
            Exclusion(path)
