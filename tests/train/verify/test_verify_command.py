"""The command line of verify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_lm import save_llama
from tiny_verify import CONTROLS, NAMED, QUERIES, ROWS

from airrep_infer import Encoder
from airrep_infer.rows import Example
from airrep_infer.store import embed_files
from airrep_train.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


class Project:
    """The files of a verify run, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "v"
        self.write("rows.jsonl", ROWS).write("bad.jsonl", QUERIES).write("good.jsonl", CONTROLS)
        (folder / "ids.txt").write_text("\n".join(NAMED) + "\n")
        self.arguments = ["verify", str(folder / "rows.jsonl"), "--query", str(folder / "bad.jsonl")]
        self.arguments += ["--target", save_llama(folder / "target"), "-o", str(self.output)]
        self.rows = ("--rows", str(folder / "ids.txt"))
        self.recipe = ["--batch-size", "4", "--max-length", "64", "--dtype", "float32", "--lr", "3e-3"]
        self.recipe += ["--device", "cpu", "--seeds", "1"]

    def write(self, name: str, rows: list[Example]) -> Project:
        lines = [
            json.dumps({"id": r.id, "prompt": r.prompt, "response": r.response, **r.fields}) for r in rows
        ]
        (self.output.parent / name).write_text("\n".join(lines) + "\n")
        return self

    def run(self, *more: str, rows: bool = True) -> Result:
        given = [*self.arguments, *self.recipe, *(self.rows if rows else ()), *more]
        return CliRunner().invoke(main, given)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_the_command(project: Project) -> None:
    more = ["--control", str(project.output.parent / "good.jsonl"), "--generate", "--answer-tokens", "3"]
    dry = project.run(*more, "--dry-run")
    assert dry.exit_code == 0 and "1 of 3 fine-tunings measured, 1 now; the others take about" in dry.stderr
    assert dry.stdout == ""
    result = project.run(*more)
    assert result.exit_code == 0, result.output
    assert "3 of 3 fine-tunings measured, 2 now" in result.stderr and "were cut" not in result.stderr
    assert "answers.jsonl: written" in result.stderr
    assert "removing these 6 rows raises the loss" in result.stdout.splitlines()[-1]
    answers = [json.loads(line) for line in (project.output / "answers.jsonl").read_text().splitlines()]
    assert [row["query_id"] for row in answers] == ["q0", "q1", "q2"]
    assert all(set(row["answers"]) == {"reference", "named", "random"} for row in answers)
    assert "answers.jsonl: made again (answer_tokens was 3, now 4)" in project.run(*more[:-1], "4").stderr


def test_it_says_what_the_max_length_cut(project: Project) -> None:
    """A training row and a query, of which the latter loses some of its response."""
    long = "word " * 40
    project.write("rows.jsonl", [*ROWS[:-1], Example("long", long, "yes")])
    project.write("bad.jsonl", [*QUERIES, Example("longer", long, long)])
    result = project.run("--dry-run")
    assert result.exit_code == 0, result.output
    assert "; 2 rows were cut to the token limit, of 1 the response too" in result.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--match topic --against bm25", "match is for the random rows"),
        ("--answer-tokens 64", "--answer-tokens is for --generate: leave it out"),
        ("--answer-tokens 9", "--answer-tokens is for --generate: leave it out"),
        ("--model bundle", "--model is for --store: leave it out"),
        ("--base base.txt", "--base is for --add: leave it out"),
        ("-k 3 --share 0.5", "-k and --share exclude each other"),
        ("--store store", "give the rows in question: either --rows FILE"),
        ("--store store --model bundle", "give the rows in question: either --rows FILE"),
        ("--workers 3", "workers belongs to engine ray"),
        ("--against r/named.txt", "the arm 'named' is that of the rows in question"),
    ],
)
def test_what_has_no_effect_is_refused(project: Project, more: str, message: str) -> None:
    """Before any work, and before the files are looked at."""
    result = project.run(*more.split())
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert not project.output.exists()


@pytest.mark.parametrize("more", ["", "--model bundle", "--store store"])
def test_the_rows_in_question_are_missing(project: Project, more: str) -> None:
    result = project.run(*more.split(), rows=False)
    assert result.exit_code == 2 and ("--rows FILE" in result.stderr or "--model is for" in result.stderr)


def test_a_store_of_other_rows_is_refused(project: Project, tiny_bundle: Path, tmp_path: Path) -> None:
    """Rows without ids are known by their lines: where a line was deleted, each id is that of another row."""
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": row.prompt, "response": row.response}) for row in ROWS]
    rows.write_text("\n".join(lines) + "\n")
    embed_files([str(rows)], Encoder(tiny_bundle), tmp_path / "store")
    asked = ["--store", str(tmp_path / "store"), "--model", str(tiny_bundle), "-k", "3", "--dry-run"]
    rows.write_text("\n".join(lines[1:]) + "\n")
    result = project.run(*asked, rows=False)
    assert result.exit_code == 2 and f"{rows}: the text of id 'rows:" in result.stderr, result.output
    assert "is not what was embedded" in result.stderr and not project.output.exists()
    rows.write_text("\n".join(lines) + "\n")
    assert project.run(*asked, rows=False).exit_code == 0
