"""Sentences of a row, the row without each, and shared runs of words."""

from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer.rows.example import Example
from airrep_infer.rows.passages import MAX_PASSAGES, shared_spans, split_passages


def texts(prompt, response):
    return [passage.text for passage in split_passages(Example("r", prompt, response))]


def test_sentences_of_prompt_and_response():
    assert texts("Who? Say it!", "It costs 3.50 euros. “Yes.” Really…\n- a line\n\nEnd") == [
        "Who?",
        "Say it!",
        "It costs 3.50 euros.",
        "“Yes.”",
        "Really…",
        "- a line",
        "End",
    ]
    assert texts(None, "東京は大きい。京都は古い。") == ["東京は大きい。", "京都は古い。"]
    assert texts(None, "no mark at all") == ["no mark at all"]


def test_the_row_without_a_sentence():
    passages = split_passages(Example("r", "Who? Say it!", "I do. You do.", {"a": 1}, ("user: Who?",)))
    rest = [(passage.without.prompt, passage.without.response) for passage in passages]
    assert rest == [
        ("Say it!", "I do. You do."),
        ("Who? ", "I do. You do."),
        ("Who? Say it!", "You do."),
        ("Who? Say it!", "I do. "),
    ]
    assert all(passage.without.turns == () for passage in passages)


@settings(max_examples=100, deadline=None)
@given(st.text("a.!? \n。", max_size=300).filter(str.strip))
def test_every_character_is_in_one_passage(text):
    passages = split_passages(Example("r", None, text))
    assert len(passages) <= MAX_PASSAGES
    assert sum(len(text) - len(passage.without.response) for passage in passages) == len(text)
    assert all(passage.text for passage in passages)


def test_a_long_row_is_taken_in_pieces():
    passages = split_passages(Example("r", "Why?", "One more. " * 100))
    assert len(passages) <= MAX_PASSAGES
    assert passages[0].text == "Why?One more. One more."
    assert passages[0].without.prompt == "" and len(passages[0].without.response) == 980


def test_the_longest_shared_runs():
    row = Example("r", "Refunds?", "We never refund BROKEN goods, sorry: keep the plate, please.")
    assert shared_spans(row, "Bad luck, keep the plate. We never refund broken goods!") == (
        "We never refund BROKEN goods",
    )
    answer = "We never refund broken goods, so keep the plate"
    assert shared_spans(row, answer) == ("We never refund BROKEN goods", "keep the plate")
    assert shared_spans(row, "goods") == ("goods",)  # an answer of one word
    assert shared_spans(row, "refund the other goods") == ()  # runs of one word say nothing
    assert shared_spans(row, "!?") == ()
