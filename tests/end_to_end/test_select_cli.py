"""Budgets, quotas and exclusions of `select`, from the command line to the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tokenizers import Tokenizer, models, pre_tokenizers

from airrep_infer.cli import main

WORDS = ("rivers", "Paris", "Danube", "the sea", "France", "Rhine", "Loire", "three")
ROWS = [
    {
        "id": f"r{n}",
        "source": f"s{n % 3}",
        "prompt": f"Name {WORDS[n % 8]} and {WORDS[n % 7]}",
        "response": f"{WORDS[n % 5]} {n} " * (n % 4 + 1),
    }
    for n in range(40)
]


def run(*words: object, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["select", *map(str, words)])
    assert result.exit_code == status, result.output
    return result


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def sides(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("select")
    pool, goal = write(folder / "pool.jsonl", ROWS), write(folder / "goal.jsonl", ROWS[:3])
    store = folder / "pool.store"
    made = CliRunner().invoke(main, ["embed", str(pool), "--model", str(tiny_bundle), "-o", str(store)])
    assert made.exit_code == 0, made.output
    return ["--train", store, "--rows", pool, "--query", goal, "--model", tiny_bundle]


def test_counts_of_values(sides: list[object], tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    run(*sides, "--share", 0.25, "--quota", "source=s1:2", "--at-least", "source=s2:6", "-o", out)
    sources = [row["source"] for row in lines(out)]
    assert len(sources) == 10 and sources.count("s1") == 2 and sources.count("s2") >= 6
    record = json.loads((tmp_path / "s.json").read_text())
    assert record["asked"]["quota"] == ["source=s1:2"] and record["selected"]["values"]["source"]["s1"] == 2
    run(*sides, "-n", 6, "--at-most", "source=2", "--strategy", "mean", "-o", out)
    sources = [row["source"] for row in lines(out)]
    assert sorted(sources) == ["s0", "s0", "s1", "s1", "s2", "s2"]


def test_tokens_are_those_of_the_tokenizer(sides: list[object], tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    tokenizer = Tokenizer.from_file(str(tiny_bundle / "tokenizer.json"))
    tokenizer.no_truncation()

    def tokens() -> int:
        texts = [f"{row['prompt']}\n{row['response']}" for row in lines(out)]
        return sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)

    run(*sides, "--tokens", 300, "-o", out)
    assert 240 < tokens() <= 300
    assert json.loads((tmp_path / "s.json").read_text())["selected"]["tokens"] == tokens()
    words = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tmp_path / "words.json"))
    run(*sides, "--tokens", 100, "--tokenizer", tmp_path / "words.json", "-o", out)
    counted = sum(len(f"{row['prompt']} {row['response']}".split()) for row in lines(out))
    assert json.loads((tmp_path / "s.json").read_text())["selected"]["tokens"] == counted
    assert 90 < counted <= 100


def test_exclusions_are_listed_with_their_reasons(sides: list[object], tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    ids = tmp_path / "held_out.txt"
    ids.write_text("r5\nr6\nnot-there\n")
    evaluation = write(tmp_path / "eval.jsonl", [{**ROWS[7], "id": "e7"}])
    excludes = ("--exclude", ids, "--exclude", evaluation)
    shown = run(*sides, "-n", 37, *excludes, "-o", out).output
    assert "excluded 3 rows" in shown
    assert {row["id"] for row in lines(out)} == {row["id"] for row in ROWS} - {"r5", "r6", "r7"}
    why = {row["id"]: row for row in lines(tmp_path / "s.excluded.jsonl")}
    assert why["r6"] == {"id": "r6", "reason": "id", "file": str(ids)}
    assert why["r7"]["reason"] == "near copy" and why["r7"]["of"] == "e7"
    refused = run(*sides, "-n", 38, *excludes, "-o", out, status=2).output
    assert "cannot select 38 rows: the corpus has 37" in refused
    run(*sides, "-n", 3, "-o", out)
    assert not (tmp_path / "s.excluded.jsonl").exists()  # a list of another selection


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give one budget"),
        (("-n", 3, "--share", 0.5), "give one budget"),
        (("-n", 3, "--tokenizer", "x"), "--tokenizer counts --tokens"),
        (("--tokens", 9, "--at-least", "source=s1:2"), "give no --quota or --at-least"),
        (("-n", 3, "--quota", "source:2"), "expected FIELD=VALUE:N"),
        (("-n", 3, "--at-most", "source=x"), "expected FIELD=N"),
        (("-n", 3, "--at-most", "colour=1"), "no row has the field 'colour'"),
        (("-n", 3, "--quota", "source=web:1"), "no row has this value; source is s0, s1, s2"),
        (("-n", 3, "--quota", "source=s1:1", "--at-least", "id2=a:1"), "of id2 and source"),
        (("-n", 3, "--quota", "source=s1:1", "--at-least", "source=s1:1"), "has a number already"),
        (("--tokens", 9, "--tokenizer", "nowhere"), "nowhere: no such file or folder"),
        (("-n", 3, "--exclude", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
    ],
)
def test_what_cannot_be_asked_is_named(sides: list[object], words: tuple[object, ...], message: str) -> None:
    assert message in run(*sides, *words, status=2).output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tokens", 9, "--tokenizer", "bad.json"), "bad.json: not a usable tokenizer.json"),
        (("-n", 3, "--exclude", "bad.json"), "bad.json"),
        (
            ("-n", 3, "--at-most", "colour=1"),
            "--at-most colour: no row has this field; the rows have: source",
        ),
        (("-n", 3, "--quota", "colour=red:1"), "--quota colour: no row has this field"),
    ],
)
def test_nothing_is_embedded_before_the_files_are_open(
    sides: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{")
    examples = ["--train", sides[3], *sides[4:]]
    shown = run(*examples, *words, status=2).stderr
    assert message in shown and "CPUExecutionProvider" not in shown
    assert run(*examples, "-n", 1).stderr.count("CPUExecutionProvider") == 1


def test_texts_are_needed_where_they_are_looked_at(sides: list[object], tmp_path: Path) -> None:
    without = [*sides[:2], *sides[4:], "--ids"]
    refused = run(*without, "--tokens", 50, status=2).stderr
    assert "give --rows" in refused and "CPUExecutionProvider" not in refused
    other = write(tmp_path / "other.jsonl", [{**ROWS[0], "response": "changed"}])
    with_other = [*sides[:2], "--rows", other, *sides[4:]]
    assert "not what was embedded" in run(*with_other, "--tokens", 50, status=2).output
    short = write(tmp_path / "short.jsonl", ROWS[:9])
    with_short = [*sides[:2], "--rows", short, *sides[4:]]
    assert "has no row with id 'r9' (31 missing in all)" in run(*with_short, "--tokens", 50, status=2).output


def test_white_space_and_late_words_of_a_prompt_are_of_the_text(tiny_bundle: Path, tmp_path: Path) -> None:
    """The hash of the first stores ignores both; the vectors of today's encoders do not."""
    long = " ".join(f"word{n}" for n in range(300))
    code = {"id": "code", "prompt": "Fix def f(a): return a def g(b): return b", "response": "Done."}
    late = {"id": "late", "prompt": long, "response": "Yes."}
    rows, other = tmp_path / "rows.jsonl", tmp_path / "other.jsonl"
    embed = ("embed", write(rows, [code, late]), "--model", tiny_bundle, "-o", tmp_path / "s")
    made = CliRunner().invoke(main, list(map(str, embed)))
    assert made.exit_code == 0, made.output
    sides = ("--train", tmp_path / "s", "--query", rows, "--model", tiny_bundle)
    for budget in (("-n", 2), ("--tokens", 5_000)):
        assert len(run(*sides, "--rows", rows, *budget).stdout.splitlines()) == 2
        for changed in (
            [{**code, "prompt": "Fix\ndef f(a):\n    return a\ndef g(b):\n    return b"}, late],
            [code, {**late, "prompt": long.replace("word299", "another")}],
        ):
            shown = run(*sides, "--rows", write(other, changed), *budget, status=2).stderr
            assert "is not what was embedded" in shown
