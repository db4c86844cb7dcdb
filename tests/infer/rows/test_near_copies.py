"""Near copies against the plain formula, over all pairs and over rows of any length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer.rows import near_copies as module
from airrep_infer.rows.example import Example
from airrep_infer.rows.near_copies import NearCopies

_RUN = 5


def plain_runs(example: Example) -> set[str]:
    text = " ".join(f"{example.prompt or ''}\n{example.response}".lower().split())
    return {text[n : n + _RUN] for n in range(max(1, len(text) - _RUN + 1))}


def similarity_of(one: Example, other: Example) -> float:
    a, b = plain_runs(one), plain_runs(other)
    return len(a & b) / len(a | b)


def check(rows: list[Example], others: list[Example], similarity: float) -> None:
    near_copies = NearCopies(rows, similarity)
    for other in others:
        near = near_copies.of(other)
        expected = {
            n: similarity_of(row, other)
            for n, row in enumerate(rows)
            if similarity_of(row, other) >= similarity
        }
        assert dict(zip(near.rows.tolist(), near.similarity.tolist(), strict=True)) == pytest.approx(expected)


words = st.sampled_from(["river ", "sea\n", "the  ", "café", "🙂", "THE ", "a", "of Paris "])
texts = st.lists(words, max_size=12).map("".join)
examples = st.builds(Example, st.just("r"), st.none() | texts, texts)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(examples, max_size=8), st.lists(examples, max_size=4), st.sampled_from([0.1, 0.5, 0.55, 0.8, 1])
)
def test_near_copies_are_those_of_the_plain_formula(
    rows: list[Example], others: list[Example], similarity: float
) -> None:
    check(rows, [*others, *rows], similarity)


def test_all_of_a_long_row_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    def letters(count: int) -> str:
        return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz "), count))

    start = letters(4_000)
    rows = [Example("a", None, start + letters(6_000)), Example("b", None, "x")]
    others = [Example("c", None, start + letters(6_000)), Example("d", None, rows[0].response + letters(100))]
    for at_once in (1 << 20, 1_000, 7):
        monkeypatch.setattr(module, "_CHARACTERS_AT_ONCE", at_once)
        check(rows, others, 0.8)
        assert len(NearCopies(rows).of(others[0]).rows) == 0
        assert NearCopies(rows).of(others[1]).rows.tolist() == [0]
