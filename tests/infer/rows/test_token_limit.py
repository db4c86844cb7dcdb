"""What the token limit keeps of a row."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer as make_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from airrep_infer.encode.tokenization import TextTokenizer
from airrep_infer.rows import token_limit
from airrep_infer.rows.example import Example
from airrep_infer.rows.parse import parse_row
from airrep_infer.rows.template import PUBLISHED, SHARED, published_text
from airrep_infer.rows.token_limit import Cut, Pieces, fit_examples, fit_texts, share, shorten


@cache
def tiny_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """One for all tests: training it again can give other ids."""
    return make_tokenizer(kind)


def kept(
    turns: Sequence[int], response: int, room: int, system: bool = False
) -> tuple[list[tuple[int, int]], int]:
    shares = share(room, turns, response, system)
    return [(ends.first, ends.last) for ends in shares.turns], shares.response


def test_the_response_gets_half_and_what_the_prompt_leaves() -> None:
    assert kept([100], 100, 20) == ([(5, 5)], 10)
    assert kept([4], 100, 20) == ([(2, 2)], 16)
    assert kept([100], 3, 20) == ([(9, 8)], 3)
    assert kept([10], 10, 20) == ([(5, 5)], 10)
    assert kept([9], 9, 3) == ([(1, 0)], 2)


def test_a_conversation_loses_its_oldest_turns_first_and_the_system_turn_last() -> None:
    # 40 tokens for the prompt: the question whole, then the system turn, then from the newest turn back.
    assert kept([10, 10, 10, 10], 100, 80) == ([(0, 10), (0, 10), (0, 10), (5, 5)], 40)
    assert kept([20, 10, 10, 10], 100, 80) == ([(0, 10), (0, 10), (0, 10), (5, 5)], 40)
    assert kept([99, 99, 15, 10], 100, 80) == ([(0, 0), (0, 15), (0, 15), (5, 5)], 40)
    assert kept([10, 99, 15, 10], 100, 80, system=True) == ([(5, 5), (0, 5), (0, 15), (5, 5)], 40)
    assert kept([25, 99, 15, 10], 100, 80, system=True) == ([(13, 12), (0, 0), (0, 5), (5, 5)], 40)
    # The question is cut before the system turn, which is shortened last; neither takes all.
    assert kept([10, 99, 99], 100, 80, system=True) == ([(5, 5), (0, 0), (15, 15)], 40)
    assert kept([99, 99, 99], 100, 80, system=True) == ([(10, 10), (0, 0), (10, 10)], 40)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=6),
    st.integers(0, 50),
    st.integers(1, 60),
    st.booleans(),
)
def test_shares_fill_the_room(turns: list[int], response: int, room: int, system: bool) -> None:
    shares = share(room, turns, response, system and len(turns) > 1)
    used = [ends.first + ends.last for ends in shares.turns]
    assert sum(used) + shares.response == min(room, sum(turns) + response)
    assert all(0 <= n <= full for n, full in zip([*used, shares.response], [*turns, response], strict=True))
    assert shares.response >= min(response, room // 2)


def tokenizer(kind: str, limit: int, template: object = SHARED) -> TextTokenizer:
    definition = tiny_tokenizer(kind).backend_tokenizer.to_str()
    return TextTokenizer(definition, limit, template)  # type: ignore[arg-type]


def words(prefix: str, count: int) -> str:
    return " ".join(f"{prefix}{n}" for n in range(count))


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_a_row_that_fits_is_one_text(kind: str) -> None:
    texts = tokenizer(kind, 200)
    example = Example("a", "What is  the\ncapital?", "It is\tParis. ")
    tokenized = texts.tokenize([example, example.text])
    assert tokenized.ids[0].tolist() == tokenized.ids[1].tolist()
    assert tokenized.cuts.tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["modernbert", "roberta"])
def test_beginning_and_end_of_the_prompt_and_the_beginning_of_the_response_stay(kind: str) -> None:
    texts = tokenizer(kind, 64)
    long = Example("a", "first " + words("a", 300) + " last", "reply " + words("r", 300))
    (ids,), (cut,) = (made := texts.tokenize([long])).ids, made.cuts
    shown = tiny_tokenizer(kind).decode(ids, skip_special_tokens=True).lower()
    shown = shown.translate({ord(character): None for character in " \n#"})
    assert len(ids) == 64 and cut == Cut.PROMPT | Cut.RESPONSE
    assert shown.startswith("question:first") and "lastanswer:reply" in shown
    short_reply = texts.tokenize([Example("a", long.prompt, "reply")])
    assert short_reply.cuts.tolist() == [Cut.PROMPT] and len(short_reply.ids[0]) == 64
    assert texts.tokenize([Example("a", "q", long.response)]).cuts.tolist() == [Cut.RESPONSE]
    assert texts.tokenize([Example("a", None, long.response)]).cuts.tolist() == [Cut.RESPONSE]


def test_text_without_spaces_is_cut_by_tokens() -> None:
    texts = tokenizer("roberta", 64)
    chinese = "北京的秋天天气很好" * 40
    (ids,) = texts.encode([Example("a", chinese, "答" * 100)])
    assert len(ids) == 64
    changed = texts.encode([Example("a", chinese, "问" * 100)])[0]
    assert ids.tolist() != changed.tolist()
    # The published rule keeps the prompt, of one word, and loses the response.
    old = tokenizer("roberta", 64, PUBLISHED)
    same = old.encode([Example("a", chinese, "答" * 100), Example("a", chinese, "问" * 100)])
    assert same[0].tolist() == same[1].tolist()


def test_the_last_question_and_the_system_turn_of_a_long_conversation_stay() -> None:
    texts = tokenizer("roberta", 100)
    turns = [{"role": "system", "content": "pirate"}]
    for n in range(30):
        turns += [{"role": "user", "content": f"old {n}"}, {"role": "assistant", "content": words("x", 9)}]
    turns += [{"role": "user", "content": "norway?"}, {"role": "assistant", "content": "oslo"}]
    (ids,) = texts.encode([parse_row({"messages": turns}, "x")])
    shown = tiny_tokenizer("roberta").decode(ids, skip_special_tokens=True)
    assert shown.startswith("Question: system: pirate") and shown.endswith("user: norway?\nAnswer: oslo")
    assert "old 0" not in shown


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "modernbert"])
@pytest.mark.parametrize("limit", [5, 8, 16, 64])
def test_published_rows_get_the_tokens_they_always_had(kind: str, limit: int) -> None:
    texts = tokenizer(kind, limit, PUBLISHED)
    plain = Tokenizer.from_str(tiny_tokenizer(kind).backend_tokenizer.to_str())
    plain.enable_truncation(limit, strategy="longest_first", direction="right")
    rows = [
        Example("a", "What  is\nthis?", "It."),
        Example("b", words("w", 400), words("r", 50)),
        Example("c", "", "x"),
        Example("d", None, words("t", 9000)),
        Example("e", "p", " " * 3000 + "far behind white space"),
    ]
    expected = [plain.encode(published_text(row)).ids for row in rows]
    assert [ids.tolist() for ids in texts.encode(rows)] == expected
    assert texts.tokenize(rows[1:2]).cuts.tolist() == [Cut.PROMPT | Cut.RESPONSE]


# Shortening before tokenizing


TEXT = st.text(st.sampled_from("ab cd\n\tÄ中🙂."), max_size=300)


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.integers(6, 40), st.sampled_from(["bert", "roberta"]))
def test_shortening_first_gives_the_tokens_of_tokenizing_it_all(
    prompt: str, response: str, limit: int, kind: str
) -> None:
    encode = ENCODERS[kind]
    row = Example("a", prompt * 4, response * 4 + "x")
    whole = Pieces(
        ("Question:", f" {row.prompt}", "\nAnswer:", f" {row.response}"), limit, False, (False,) * 4
    ).fit(encode(["Question:", f" {row.prompt}", "\nAnswer:", f" {row.response}"]))
    (fitted,) = fit_examples([row], limit, encode)
    if whole.cut:
        assert (fitted.ids, fitted.cut) == (whole.ids, whole.cut)
    (text,) = fit_texts([row.response], limit, encode)
    assert text.ids == encode([row.response])[0][:limit]


def _encoder(kind: str) -> token_limit.Encode:
    plain = tiny_tokenizer(kind).backend_tokenizer
    return lambda texts: [made.ids for made in plain.encode_batch(list(texts), add_special_tokens=False)]


ENCODERS = {kind: _encoder(kind) for kind in ("bert", "roberta")}


def test_much_white_space_does_not_hide_text() -> None:
    texts = tokenizer("bert", 16)
    assert texts.encode(["a" + " " * 5000 + "b"])[0].tolist() == texts.encode(["a b"])[0].tolist()
    spaced = Example("a", "x" + " " * 5000 + "y", "z" + "\n" * 5000 + "x")
    assert texts.encode([spaced])[0].tolist() == texts.encode([Example("a", "x y", "z x")])[0].tolist()
    assert texts.tokenize([spaced]).cuts.tolist() == [0]


def test_texts_are_shortened_between_words() -> None:
    assert shorten("some words here", 20) == "some words here"
    assert shorten("some words here", 8) == "some"
    assert shorten("somewordshere", 8) == "somewords"[:8]
    assert shorten("some words in the middle here", 9, both_ends=True) == "some here"


GIANT = """
import resource, sys
from pathlib import Path
from airrep_infer import Encoder, embed_files
bundle, folder, warm, giant = sys.argv[1:]
encoder = Encoder(bundle, device="cpu", threads=1)
embed_files([warm], encoder, Path(folder) / "warm")
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
assert embed_files([giant], encoder, Path(folder) / "store").cut.responses == 1
print(peak() - before)
"""


def test_a_row_of_60_mb_takes_under_300_mb(tiny_bundle: Path, tmp_path: Path) -> None:
    rows = {
        "warm": {"text": "short"},
        "giant": {"prompt": "word " * 6_000_000, "response": "x" * 30_000_000},
    }
    paths = []
    for name, row in rows.items():
        path = tmp_path / f"{name}.jsonl"
        body = ", ".join(f'"{key}": "{value}"' for key, value in row.items())
        path.write_text("{" + body + "}\n")
        paths.append(str(path))
    command = [sys.executable, "-c", GIANT, str(tiny_bundle), str(tmp_path), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 300


def letters() -> TextTokenizer:
    words = ["[CLS]", "[SEP]", "?", "Question", "Answer", ":", *"abcdefghz"]
    raw = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return TextTokenizer(raw.to_str(), 40)


LETTERS = letters()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_change_of_any_kept_response_token_changes_the_input(data: st.DataObject) -> None:
    texts = LETTERS
    prompt = " ".join(data.draw(st.lists(st.sampled_from("abcdefgh"), max_size=60)))
    response = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60))
    ids = texts.encode([Example("a", prompt, " ".join(response))])[0]
    # Every letter is a token, and half of the 34 beside marks and special tokens are the response's.
    at = data.draw(st.integers(0, min(len(response), 17) - 1))
    other = [*response[:at], "z", *response[at + 1 :]]
    assert not np.array_equal(ids, texts.encode([Example("a", prompt, " ".join(other))])[0])
