"""What all commands share: repeated options, outputs over inputs, signals, closed streams, odd text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from airrep_infer.cli import main as infer
from airrep_infer.command import Command, Commands, check_output, printable
from airrep_infer.errors import InputError
from airrep_infer.rows.output import SelectedRow, write_rows


@click.command(cls=Command)
@click.argument("name", default="x")
@click.option("-k", "--count", "number", type=int, default=1)
@click.option("--flag/--no-flag", default=True)
@click.option("--file", multiple=True)
@click.option("-v", "verbose", count=True)
@click.option("--fail", is_flag=True)
def tool(name: str, number: int, flag: bool, file: tuple[str, ...], verbose: int, fail: bool) -> None:
    """A command."""
    if fail:
        raise InputError(name)
    click.echo(f"{name} {number} {flag} {file} {verbose}")


@click.group(cls=Commands)
def tools() -> None:
    """A group."""


tools.add_command(tool)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-k", "1", "-k", "1"], "-k/--count is given twice; give it once"),
        (["--count=1", "a", "-k2", "-k3"], "-k/--count is given 3 times; give it once"),
        (["--flag", "--no-flag"], "--flag is given twice"),
    ],
)
def test_a_single_valued_option_cannot_be_repeated(arguments: list[str], message: str) -> None:
    for run, prefix in ((tool, []), (tools, ["tool"])):
        result = CliRunner().invoke(run, [*prefix, *arguments])
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


def test_what_may_be_repeated_is() -> None:
    result = CliRunner().invoke(tools, ["tool", "--file", "a", "--file", "b", "-v", "-v", "-k", "3"])
    assert (result.exit_code, result.output) == (0, "x 3 True ('a', 'b') 2\n")


def test_help_has_two_names_however_a_command_is_called_first() -> None:
    @click.command(cls=Command)
    def alone() -> None:
        """A command."""

    group = Commands(commands={"alone": alone})
    for run, prefix in ((alone, []), (group, ["alone"]), (group, [])):
        for flag in ("--help", "-h"):
            result = CliRunner().invoke(run, [*prefix, flag])
            assert result.exit_code == 0
            assert "-h, --help" in result.output


def test_every_command_has_these_manners() -> None:
    for name, command in infer.commands.items():
        assert isinstance(command, Command), name


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\rb", "a\u202eb", "a\x00b".replace("\x00", "\x9b")])
def test_control_characters_are_escaped_in_messages(name: str) -> None:
    for arguments in ([name, "--fail"], [f"--{name}"], ["-k", name]):
        result = CliRunner().invoke(tool, arguments)
        assert result.exit_code == 2
        assert all(letter.isprintable() for letter in result.stderr.replace("\n", ""))
    assert printable("café 🙂\n\x1b") == "café 🙂\\n\\x1b"


# --- outputs and inputs ---


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "link.jsonl").symlink_to("q.jsonl")
    (tmp_path / "hard.jsonl").hardlink_to("q.jsonl")
    for folder, marker, kind in (
        ("s", "store.json", "airrep-store"),
        ("i", "index.json", "airrep-index"),
        ("b", "airrep.json", "airrep-bundle"),
        ("web", "index.json", "a page of someone else"),
    ):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / marker).write_text(json.dumps({"kind": kind}))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "model.safetensors").touch()
    yield tmp_path


@pytest.mark.parametrize("output", ["q.jsonl", "./q.jsonl", "link.jsonl", "hard.jsonl", "s/../q.jsonl"])
def test_an_input_is_not_an_output(here: Path, output: str) -> None:
    for reads in (["q.jsonl"], [None, "-", "absent", here / "q.jsonl"], ["link.jsonl"]):
        with pytest.raises(InputError, match="is an input, which would be overwritten"):
            check_output(output, reads)
    with pytest.raises(InputError, match=r"new\.jsonl: is an input"):  # an output that another step makes
        check_output("new.jsonl", ["./new.jsonl"])


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("s/out.jsonl", "lies in .*s, which is a store"),
        ("s/store.json", "which is a store"),
        ("s/sub/out.jsonl", "which is a store"),
        ("i/out", "which is an index"),
        ("b/encoder.onnx", "which is a bundle"),
        ("c/lds.json", "which is a checkpoint"),
        ("s", "s: is a folder; name a file"),
        ("no/out", "no: no such folder; make it"),
        ("q.jsonl/out", "q.jsonl: is a file, not a folder"),
    ],
)
def test_an_output_lies_where_it_can(here: Path, output: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        check_output(output, [])


def test_good_outputs(here: Path) -> None:
    for output in ("-", "/dev/null", "out.jsonl", "web/out.jsonl", "web/index.json"):
        check_output(output, ["q.jsonl", "s", None])
    for output in ("s", "new", "new/er", "web/sub"):
        check_output(output, ["q.jsonl"], folder=True)
    with pytest.raises(InputError, match="s: is an input"):
        check_output("s", ["s"], folder=True)
    with pytest.raises(InputError, match="which is a store"):
        check_output("s/sub/new", [], folder=True)
    with pytest.raises(InputError, match=r"q\.jsonl: is a file, not a folder"):
        check_output("q.jsonl/new", [], folder=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "q.jsonl", "--model", "b", "-o", "q.jsonl"],
        ["embed", "q.jsonl", "--model", "b", "-o", "b"],
        ["embed", "q.jsonl", "--model", "b", "-o", "i/new"],
        ["attribute", "--train", "s", "--query", "q.jsonl", "-o", "hard.jsonl"],
        ["attribute", "--train", "s", "--query", "q.jsonl", "--groups", "g", "-o", "g"],
        ["attribute", "--train", "s", "--query", "q.jsonl", "-o", "s/store.json"],
        ["select", "--train", "q.jsonl", "--query", "s", "-n", "3", "-o", "q.jsonl"],
        ["report", "q.jsonl", "--train", "t", "--query", "r", "-o", "q.jsonl"],
        ["report", "o", "--train", "t", "--query", "q.jsonl", "-o", "link.jsonl"],
        ["merge", "s", "i", "-o", "s"],
        ["index", "s", "-o", "s"],
        ["info", "s", "--parquet", "s/part-00000.npy"],
    ],
)
def test_no_command_writes_over_what_it_reads(here: Path, arguments: list[str]) -> None:
    before = {file: file.read_bytes() for file in here.rglob("*") if file.is_file()}
    result = CliRunner().invoke(infer, arguments)
    assert result.exit_code == 2
    assert "choose" in result.stderr and "error: " in result.stderr
    assert {file: file.read_bytes() for file in here.rglob("*") if file.is_file()} == before


# --- streams and signals, which need a process ---

SCRIPT = """
import sys, time
import click
from airrep_infer.command import Command
from airrep_infer.rows.output import SelectedRow, write_rows

@click.command(cls=Command)
@click.argument("what")
def main(what):
    if what == "rows":
        write_rows((SelectedRow(n, f"café {n}", 0.5, "serves q") for n in range(1000)), "-")
    elif what == "echo":
        click.echo("café 🙂")
    elif what == "long":
        open("x" * 300)
    else:
        try:
            click.echo("started", err=True)
            time.sleep(60)
        except KeyboardInterrupt:
            click.echo("kept", err=True)
            raise
main()
"""


def process(what: str, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirect}', sys.executable, "-c", SCRIPT, what],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("what", ["rows", "echo"])
def test_a_full_standard_output_is_one_line(what: str) -> None:
    done = process(what, "> /dev/full")
    assert (done.returncode, done.stderr) == (1, b"error: standard output: No space left on device\n")


@pytest.mark.parametrize(
    ("redirect", "status", "message"),
    [
        (">&-", 2, b"error: standard output is closed; name a file with -o\n"),
        ("<&- 2>&-", 0, b""),
        ("<&- >&- 2>&-", 2, b""),
    ],
)
def test_closed_streams(redirect: str, status: int, message: bytes) -> None:
    done = process("rows", redirect)
    assert (done.returncode, done.stderr) == (status, message)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_rows_are_utf_8_whatever_the_terminal_is(encoding: str) -> None:
    rows = process("rows", PYTHONIOENCODING=encoding)
    assert rows.returncode == 0
    assert json.loads(rows.stdout.decode("utf-8").splitlines()[7])["id"] == "café 7"
    text = process("echo", PYTHONIOENCODING=encoding)
    assert text.returncode == 0
    assert "caf" in text.stdout.decode(encoding, errors="replace")  # click writes UTF-8 for ascii


def test_a_name_that_is_too_long_is_one_line() -> None:
    done = process("long")
    assert done.returncode == 2
    assert done.stderr == b"error: " + b"x" * 300 + b": File name too long\n"


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, b"terminated"), (signal.SIGINT, 130, b"interrupted")]
)
def test_a_stopped_command_keeps_its_work(number: int, status: int, word: bytes) -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT, "wait"], stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        assert running.stderr.readline() == b"started\n"
        running.send_signal(number)
        rest = running.stderr.read()
    assert rest == b"kept\n" + word + b"; run the same command again to resume\n"
    assert running.returncode == status


def test_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    CliRunner().invoke(tool, [])
    assert signal.getsignal(signal.SIGTERM) is before


def test_rows_go_to_a_file_whole(tmp_path: Path) -> None:
    write_rows([SelectedRow(1, "é", 0.5, "serves q")], tmp_path / "o")
    assert json.loads((tmp_path / "o").read_bytes()) == {
        "rank": 1,
        "id": "é",
        "score": 0.5,
        "reason": "serves q",
    }
