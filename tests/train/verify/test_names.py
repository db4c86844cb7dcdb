from __future__ import annotations

import pytest

from airrep_infer.errors import InputError
from airrep_train.verify import VerifyOptions
from airrep_train.verify.names import name_rivals


def test_methods_keep_their_names_and_files_have_theirs() -> None:
    given = ("random", "bm25", "runs/other.jsonl", "scores/", "tfidf.npy")
    names = ["random", "bm25", "other", "scores", "tfidf"]
    assert list(name_rivals(given).items()) == list(zip(names, given, strict=True))
    assert "" not in name_rivals(["."])


@pytest.mark.parametrize(
    ("against", "message"),
    [
        (("r/named.txt",), "r/named.txt: the arm 'named' is that of the rows in question"),
        (("bm25", "r/reference.txt"), "r/reference.txt: the arm 'reference' is that of all rows"),
        (("r/random.txt",), "r/random.txt: the arm 'random' is that of random rows"),
        (("random", "random.npy"), "random.npy: the arm 'random' is"),
        (("tfidf", "r/tfidf.txt"), "tfidf and against r/tfidf.txt: both arms would be called 'tfidf'"),
        (("a/x.txt", "b/x.txt"), "a/x.txt and against b/x.txt: both arms would be called 'x'; give the file"),
        (("x.npy", "x.jsonl"), "both arms would be called 'x'"),
        (("random", "bm25", "random"), "against random is given twice; give it once"),
        (("x.txt", "./x.txt"), "x.txt is given twice"),
    ],
)
def test_no_two_arms_share_a_name(against: tuple[str, ...], message: str) -> None:
    """One would be measured, and its losses shown as those of both."""
    with pytest.raises(InputError, match=message):
        VerifyOptions(against=against)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "topic", "against": ("bm25",)}, "match is for the random rows, and random is not among"),
        ({"match": "topic", "against": ()}, "match is for the random rows"),
        ({"answer_tokens": 9}, "answer_tokens is for generate"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VerifyOptions(**options)  # type: ignore[arg-type]
