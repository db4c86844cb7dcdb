"""The worth of a sentence with an encoder that adds up words, so that it is known exactly."""

from types import SimpleNamespace

import numpy as np
import pytest

from airrep_infer.encode import EmbeddingSpace
from airrep_infer.errors import InputError
from airrep_infer.rows import AttributionRow, Example, ScoredRow
from airrep_infer.score import evidence
from airrep_infer.score.evidence import add_evidence, read_texts
from airrep_infer.store import EmbeddedRows, StoreRow

WORDS = ("broken", "goods", "refund", "never", "plate", "keep")


def vector(text):
    words = text.lower().replace(".", " ").split()
    return np.array([words.count(word) for word in WORDS], np.float32)


class Adds:
    """An encoder whose vector of a row counts its words."""

    def __init__(self):
        self.rows = 0

    def embed_windows(self, windows):
        for window in windows:
            self.rows += len(window)
            yield SimpleNamespace(vectors=np.stack([vector(row.text) for row in window]))


TRAIN = {
    "a": Example("a", "Broken?", "We never refund. Keep the plate. Bye."),
    "7": Example(7, None, "Plate plate plate."),
}
ANSWERS = {"q": Example("q", "May I?", "Keep the plate"), "p": Example("p", None, "never refund")}


@pytest.mark.parametrize("at_once", [1, 256])
def test_a_sentence_is_worth_what_its_words_are(at_once, monkeypatch):
    monkeypatch.setattr(evidence, "_ROWS_AT_ONCE", at_once)
    queries = SimpleNamespace(
        rows=list(ANSWERS.values()), vectors=np.stack([vector(row.text) for row in ANSWERS.values()])
    )
    hits = (ScoredRow("a", 2.0), ScoredRow(7, 1.0))
    rows = [AttributionRow(name, 0.0, hits, (ScoredRow("a", 2.0),)) for name in ANSWERS]
    encoder = Adds()
    first, second = add_evidence(rows, queries, encoder, TRAIN, ANSWERS)
    assert encoder.rows == 7  # each training row once, for both queries: a and its 4 sentences, 7 and its one
    assert first.proponents[0].evidence.sentences == (
        ("Broken?", 0.0),
        ("We never refund.", 0.0),
        ("Keep the plate.", 2.0),
        ("Bye.", 0.0),
    )
    assert first.proponents[0].evidence.spans == ("Keep the plate",)
    assert first.proponents[1].evidence.sentences == (("Plate plate plate.", 3.0),)
    assert second.proponents[0].evidence.sentences[1] == ("We never refund.", 2.0)
    assert first.opponents == rows[0].opponents and first.proponents[1].id == 7


def test_other_texts_are_refused(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text('{"id": 7, "text": "Plate plate plate."}\n{"id": "b", "text": "x"}\n')
    known = [StoreRow(7, TRAIN["7"].sha, {}), StoreRow("a", TRAIN["a"].sha, {})]

    def side(rows):
        return EmbeddedRows("t", EmbeddingSpace("", "fp32", 1), tuple(rows), np.zeros((len(rows), 1)))

    assert read_texts([str(file)], side(known), {"7"})["7"].response == "Plate plate plate."
    with pytest.raises(InputError, match=r"t\.jsonl: has no row with id 'a' \(1 missing in all\)"):
        read_texts([str(file)], side(known), {"7", "a"})
    with pytest.raises(InputError, match=r"t\.jsonl:1: the text of id '7' is not what was embedded"):
        read_texts([str(file)], side([StoreRow(7, "0" * 16, {})]), {"7"})
