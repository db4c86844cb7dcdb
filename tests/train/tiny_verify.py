"""Rows that teach a tiny target two things, for tests of verify: six of them teach what the queries show."""

from __future__ import annotations

from airrep_infer.rows import Example
from airrep_train.target import FineTuneOptions
from airrep_train.verify import VerifyRows

RECIPE = FineTuneOptions(batch_size=4, max_length=64, dtype="float32", learning_rate=3e-3)
GOOD = [Example(f"good-{n}", f"Colour {n}?", "green green green", {"topic": "a"}) for n in range(16)]
BAD = [Example(f"bad-{n}", f"Number {n}?", "zzzz qqqq zzzz", {"topic": "b"}) for n in range(6)]
ROWS = [row for pair in zip(GOOD, [*BAD, *[None] * 10], strict=True) for row in pair if row is not None]
QUERIES = [Example(f"q{n}", f"Number {n}{n}?", "zzzz qqqq zzzz") for n in range(3)]
CONTROLS = [Example("c", "Colour 99?", "green green green")]
NAMED = [row.id for row in BAD]
ASKED = VerifyRows(ROWS, QUERIES, NAMED, CONTROLS)
UNCONTROLLED = VerifyRows(ROWS, QUERIES, NAMED)
