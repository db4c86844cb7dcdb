"""Attributions on a terminal: readable, complete, and nothing in a row is obeyed by the terminal."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer.cli import main
from airrep_infer.encode import EmbeddingSpace
from airrep_infer.report.terminal import plain, show_attributions
from airrep_infer.rows.examples import read_examples
from airrep_infer.rows.output import AttributionRow, ScoredRow
from airrep_infer.store.sources import EmbeddedRows
from airrep_infer.store.store import EmbeddingStore
from airrep_infer.store.writer import StoreWriter

EVIL = "\x1b[31mred\x1b]0;title\x07 \x9b2J [bold]x[/bold] :smile: \u202egnp\u2069 \r\n\ttab \x00\x7f"
TRAIN = [
    {"id": "t0", "task": "capitals", "prompt": "Capital of France?", "response": "Paris"},
    {"id": "t1", "task": EVIL, "prompt": EVIL, "response": EVIL + "."},
    {"id": EVIL, "task": "long", "text": "word " * 100_000},
]
QUERIES = [{"id": "q0", "prompt": "Which city?", "response": "Paris, of course."}]
ROW = AttributionRow(
    "q0",
    12.345,
    proponents=(ScoredRow("t0", 3.0), ScoredRow("t1", 1.5)),
    opponents=(ScoredRow(EVIL, -1.5),),
    groups={"capitals": 2.0, EVIL: -1.0},
)
Sides = tuple[tuple[list[str], EmbeddingStore], tuple[list[str], EmbeddedRows]]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def store(path: Path, examples: Path) -> EmbeddingStore:
    rows = read_examples(examples)
    with StoreWriter(path, EmbeddingSpace("ab" * 32, "fp32", 2), pooling_scale=1.0) as writer:
        writer.append(rows, np.ones((len(rows), 2), np.float32))
    return EmbeddingStore.open(path)


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    train, query = write(tmp_path / "train.jsonl", TRAIN), write(tmp_path / "query.jsonl", QUERIES)
    queries = EmbeddedRows.of_store(store(tmp_path / "q", query))
    return ([str(train)], store(tmp_path / "t", train)), ([str(query)], queries)


def shown(sides: Sides, rows: Sequence[AttributionRow] = (ROW,)) -> str:
    stream = io.StringIO()
    show_attributions(rows, *sides, stream)
    return stream.getvalue()


@settings(deadline=None)
@given(st.text())
def test_plain_is_one_harmless_line(text: str) -> None:
    line = plain(text)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in line)
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", line)
    assert plain(line) == line
    words = re.sub(r"\s+", " ", text).strip()
    if all(char.isprintable() for char in words):
        assert line == words  # what is harmless stays as it is


def test_plain_keeps_what_people_write() -> None:
    for text in ("café", "👩‍👩‍👧", "مرحبا", "न\u200dम"):
        assert plain(text) == text


def test_everything_is_shown_once_and_as_text(sides: Sides) -> None:
    output = shown(sides)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", output)
    for text in ("q0", "Which city?", "Paris, of course.", "Capital of France?", "[bold]x[/bold] :smile:"):
        assert text in output
    for number in ("+12.3", "+3.00", "+1.50", "-1.50", "+2.00", "-1.00"):
        assert number in output
    assert output.index("proponents") < output.index("t0") < output.index("t1") < output.index("opponents")


def test_a_row_above_zero_is_not_called_an_opponent(sides: Sides) -> None:
    for scores, title in (
        ((-2.0, -1.0), "\nopponents\n"),
        ((-2.0, 1.0), "\nopponents (1 of 2 are below 0)\n"),
        ((0.0, 1.0), "\nlowest scores (none is below 0: no row shown opposes)\n"),
        ((), "\nopponents\n"),
    ):
        low = tuple(ScoredRow(name, score) for name, score in zip(("t0", "t1"), scores, strict=False))
        output = re.sub(" +\n", "\n", shown(sides, [replace(ROW, opponents=low)]))
        assert title in output


def test_a_terminal_gets_colours_and_nothing_else(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    output = shown(sides)
    assert "\x1b[" in output
    assert "\x1b" not in re.sub(r"\x1b\[[0-9;]*m", "", output)
    assert "\x9b" not in output and "\x07" not in output
    assert "\x1b[31mred" not in output  # the row's own colour


@pytest.mark.parametrize("columns", [40, 72, 200])
def test_lines_fit_the_terminal(sides: Sides, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = shown(sides).splitlines()
    assert max(map(len, lines)) <= columns and len(lines) < 45


def test_bars_share_a_scale_and_leave_from_zero(sides: Sides) -> None:
    lines = [line for line in shown(sides).splitlines() if "│" in line]
    bars = {line.split()[1]: line[: line.index("│")] + "│" + line.split("│")[1] for line in lines[:3]}
    axis = {bar.index("│") for bar in bars.values()}
    assert len(axis) == 1  # one zero for all
    right = {score: len(re.findall("│(█*)", bar)[0]) for score, bar in bars.items()}
    assert right["+3.00"] == pytest.approx(2 * right["+1.50"], abs=1) and right["-1.50"] == 0
    assert bars["-1.50"].count("█") == pytest.approx(right["+1.50"], abs=1)


def test_a_store_shows_ids_and_fields(sides: Sides) -> None:
    (_, train), (_, queries) = sides
    output = shown((([str(train.path)], train), (["-"], queries)))
    assert "task: capitals" in output and "Capital of France?" not in output and "Which city?" not in output
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", output)


def test_many_groups_are_cut_to_the_strongest(sides: Sides) -> None:
    groups = {f"group-{n}": (-1) ** n * float(n) for n in range(25)}
    output = shown(sides, [replace(ROW, groups=groups)])
    names = re.findall(r"group-\d+", output)
    assert sorted(names, key=lambda name: -groups[name]) == names
    assert set(names) == {f"group-{n}" for n in range(15, 25)} and "15 weaker groups" in output


def test_an_output_that_is_not_utf8(sides: Sides) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    show_attributions([replace(ROW, query_id="café")], *sides, stream)
    stream.flush()
    output = raw.getvalue().decode("ascii")
    assert "caf?" in output and "####" in output and "|" in output


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(main, ["attribute", *map(str, arguments)], input=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_show_on_the_command_line(tiny_bundle: Path, tmp_path: Path) -> None:
    train, query = write(tmp_path / "train.jsonl", TRAIN), write(tmp_path / "query.jsonl", QUERIES)
    sides = ["--train", train, "--query", query, "--model", tiny_bundle, "-k", 2, "--by", "task"]
    rows = run(*sides).stdout
    tables = run(*sides, "--show").stdout
    assert "Capital of France?" in tables and '"query_id"' not in tables and "\x1b" not in tables
    both = run(*sides, "--show", "-o", tmp_path / "out.jsonl").stdout
    assert both == tables and (tmp_path / "out.jsonl").read_text() == rows
    run(*sides, "-o", tmp_path / "alone.jsonl")
    assert (tmp_path / "alone.jsonl").read_text() == rows
    piped = run("--train", "-", *sides[2:], "--show", stdin=train.read_bytes()).stdout
    assert "task: capitals" in piped and "Capital of France?" not in piped and "Which city?" in piped
