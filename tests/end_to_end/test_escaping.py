"""Whatever files, ids and fields are called, no command prints what a terminal would obey."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import airrep_export.cli
import pytest
from click.testing import CliRunner

import airrep_infer.cli
import airrep_train.cli

# A colour, a window title, text from right to left, a new line, a return to its start, and a C1 control.
EVIL = "e\x1b[31m\x1b]0;t\x07\u202e\n\r\x9bl"
ROOT = Path(airrep_infer.cli.__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, a bundle, a store and an index, all with such names."""
    folder = tmp_path_factory.mktemp("evil") / EVIL
    shutil.copytree(tiny_bundle, folder / "bundle")
    rows = [
        {"id": f"{EVIL}{n}", EVIL: EVIL, "prompt": f"{EVIL}?", "response": "Paris " * (n + 1)}
        for n in range(12)
    ]
    write(folder / "rows.jsonl", rows)
    write(folder / "fewer.jsonl", rows[3:])
    write(folder / "twice.jsonl", [*rows, rows[2]])
    write(folder / "bad.jsonl", [{EVIL: 1}])
    return folder


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def outputs(folder: Path) -> Iterator[tuple[str, int, str]]:
    """(the command, its exit status, what it printed) of commands that succeed and of those that fail."""
    bundle, rows, store = folder / "bundle", folder / "rows.jsonl", folder / "s"
    infer: list[tuple[object, ...]] = [
        ("embed", rows, "--model", bundle, "-o", store),
        ("embed", folder / "fewer.jsonl", "--model", bundle, "-o", store),
        ("embed", folder / "twice.jsonl", "--model", bundle, "-o", folder / "t"),
        ("embed", folder / "twice.jsonl", "--model", bundle, "-o", folder / "t", "--on-error", "skip"),
        ("embed", folder / "bad.jsonl", "--model", bundle, "-o", folder / "u"),
        ("embed", folder / "none.jsonl", "--model", bundle, "-o", store, "--keep", EVIL),
        ("merge", store, "-o", folder / "merged"),
        ("merge", store, store, "-o", folder / "merged-2"),
        ("compact", store),
        ("info", store, "--verify"),
        ("info", bundle),
        ("info", folder),
        ("index", store, "-o", folder / "index", "-k", 3),
        ("info", folder / "index"),
        ("attribute", "--train", store, "--query", rows, "--model", bundle, "--by", EVIL, "--show"),
        ("attribute", "--train", store, "--query", store, "--by", EVIL + "x"),
        ("attribute", "--train", store, "--query-id", EVIL),
        (
            "attribute",
            "--train",
            store,
            "--query",
            store,
            "--index",
            folder / "index",
            "-o",
            folder / "out.jsonl",
        ),
        ("select", "--train", store, "--query", store, "-n", 2, "--ids", "-o", folder / "ids.jsonl"),
        ("select", "--train", store, "--query", store, "-n", 2, "--quota", f"{EVIL}={EVIL}x:2", "--ids"),
        ("report", folder / "out.jsonl", "--train", rows, "--query", rows, "-o", folder / "page.html"),
        ("report", folder / "none.jsonl", "--train", rows, "--query", rows, "-o", folder / "page.html"),
        (EVIL,),
        ("info", store, f"--{EVIL}"),
    ]
    train: list[tuple[object, ...]] = [
        (
            "sample",
            rows,
            "-o",
            folder / "subsets.jsonl",
            "--splits",
            2,
            "--dev-size",
            2,
            "--pool-size",
            6,
            "--subset-size",
            2,
            "--subsets",
            2,
        ),
        (
            "label",
            rows,
            "--subsets",
            folder / "none",
            "--target",
            folder / "none",
            "-o",
            folder / "losses.jsonl",
        ),
        ("evaluate", rows, "--subsets", folder / "none", "--losses", folder / "none", "--model", bundle),
        ("run", folder / "none.toml"),
        ("gradients", folder / "bad.jsonl", "--target", folder / "none", "-o", folder / "gradients"),
    ]
    export: list[tuple[object, ...]] = [(folder / "none", "-o", folder / "b"), (bundle, "-o", folder / "b")]
    for main, calls in (
        (airrep_infer.cli.main, infer),
        (airrep_train.cli.main, train),
        (airrep_export.cli.main, export),
    ):
        for call in calls:
            result = CliRunner().invoke(main, [*map(str, call)])
            assert result.exception is None or isinstance(result.exception, SystemExit), (
                call,
                result.exception,
            )
            yield repr(call[:3]), result.exit_code, result.output


def test_no_command_prints_what_a_terminal_obeys(folder: Path) -> None:
    statuses = []
    for call, status, output in outputs(folder):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", output), (
            call,
            output,
        )
        if status:  # a usage line or two, and one line of what is wrong
            assert len(output.splitlines()[-1]) > 10 and output.count("rror: ") == 1, (call, output)
        statuses.append(status)
    assert set(statuses) == {0, 2} and statuses.count(0) >= 12


def test_commands_print_through_one_door() -> None:
    for package in ("airrep_infer", "airrep_train", "export"):
        for file in (ROOT / package).rglob("*.py"):
            lines = re.findall(r"^ *((?:click\.)?s?e?(?:echo|print)\(.*\))$", file.read_text(), re.MULTILINE)
            if file.name == "info.py":
                lines.remove("click.echo(json.dumps(facts, ensure_ascii=False).encode())")
            # The door itself, a script of ours, and rich, whose cells are `plain`.
            assert file.name in ("command.py", "scan_graph.py", "terminal.py") or not lines, (file, lines)
