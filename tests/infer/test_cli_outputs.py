"""Every file that a command writes is compared with its inputs and the others, and has a fitting name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from named_store import write_store

from airrep_infer.cli import main
from airrep_infer.command import check_output, check_outputs
from airrep_infer.errors import InputError
from airrep_infer.rows import check_rows_file, check_suffix

SIDES = ["--train", "train", "--query", "train"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store, a file of rows under many names, and folders of ours."""
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "train", 6)
    for name in ("q.ids.json", "q.json", "q.excluded.jsonl", "q.groups.parquet", "q.rejects.jsonl"):
        (tmp_path / name).write_text('{"text": "a"}\n')
    (tmp_path / "b").mkdir()
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refused(here: Path, arguments: list[str], words: str) -> None:
    """Status 2 and one line; no file changed, and none is new."""
    before = contents(here)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert words in result.stderr, result.stderr
    assert contents(here) == before


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["attribute", "--train", "train", "--query", "q.ids.json", "--scores", "q.npy"], "q.ids.json"),
        (["attribute", *SIDES, "--groups", "q.ids.json", "--scores", "q.npy"], "q.ids.json"),
        (["attribute", "--train", "train", "--query", "q.groups.parquet", "-o", "q.parquet"], "q.groups"),
        (["select", "--train", "q.json", "--query", "train", "-n", "1", "-o", "q.jsonl"], "q.json"),
        (["select", *SIDES, "-n", "1", "--exclude", "q.excluded.jsonl", "-o", "q.jsonl"], "q.excluded"),
        (["embed", "q.rejects.jsonl", "--model", "b", "-o", "q", "--on-error", "skip"], "q.rejects.jsonl"),
        (["embed", "q.rejects.jsonl", "--model", "b", "-o", "q"], "q.rejects.jsonl"),
    ],
)
def test_what_lies_beside_an_output_is_no_input(here: Path, arguments: list[str], file: str) -> None:
    refused(here, arguments, "is an input, which would be overwritten by the ")
    assert file in run(*arguments).stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "s.ids.json", "--scores", "s.npy"], "would hold -o and the ids of --scores"),
        (["-o", "s.npy", "--scores", "s.npy"], "would hold -o and --scores"),
        (["-o", "s.parquet", "--scores", "s.parquet"], "would hold -o and --scores"),
        (["-o", "s.parquet", "--scores", "./s.groups.parquet"], "the influence of groups beside -o and --sc"),
    ],
)
def test_two_outputs_of_a_command_have_two_names(here: Path, options: list[str], words: str) -> None:
    refused(here, ["attribute", *SIDES, *options], words)


def test_outputs_are_compared_with_each_other(here: Path) -> None:
    (here / "link").symlink_to("new.jsonl")
    check_outputs({"-o": "new.jsonl", "--scores": "s.npy", "no": None}, ["q.json", None, "-"])
    check_outputs({"-o": "-", "--scores": "-"}, [])
    check_outputs({"-o": "/dev/null", "--scores": "/dev/null"}, [])
    for other in ("new.jsonl", "b/../new.jsonl", "link"):
        with pytest.raises(InputError, match="would hold -o and the list; choose another name for one"):
            check_outputs({"-o": "new.jsonl", "the list": other}, [])
    for one, other in (("made", "made/in"), ("made/in", "made"), ("b", "b/x/y")):
        with pytest.raises(InputError, match="one would lie inside of the other"):
            check_outputs({}, [], folders={"-o": one, "--copy": other})
    with pytest.raises(InputError, match=r"q\.json: is an input, which would be overwritten by the list;"):
        check_outputs({"-o": "x", "the list": "q.json"}, iter(["q.json"]))
    with pytest.raises(InputError, match="b: is a folder; name a file for the list"):
        check_outputs({"-o": "x", "the list": "b"}, [])


def test_good_outputs_are_written(here: Path) -> None:
    assert run("attribute", *SIDES, "-o", "s.jsonl", "--scores", "s.npy").exit_code == 0
    assert set(json.loads((here / "s.ids.json").read_text())) == {"queries", "rows"}
    assert run("select", *SIDES, "--ids", "-n", 2, "-o", "chosen").exit_code == 0
    assert (here / "chosen.json").is_file()
    # Nothing is written beside a device.
    assert run("select", *SIDES, "--ids", "-n", 2, "-o", "/dev/null").exit_code == 0


# --- names of other formats ---


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.json", "x.jsonl.gz", "x.arrow", "x.PARQUET", "x.Csv"])
@pytest.mark.parametrize("command", [["attribute", *SIDES], ["select", *SIDES, "--ids", "-n", "2"]])
def test_rows_get_no_name_of_another_format(here: Path, command: list[str], name: str) -> None:
    refused(here, [*command, "-o", name], "would hold JSONL, but its name says")
    assert f"{name}: " in run(*command, "-o", name).stderr
    assert "name a file that ends in .jsonl or .parquet" in run(*command, "-o", name).stderr


def test_other_outputs_get_no_name_of_another_format(here: Path) -> None:
    refused(here, ["info", "train", "--parquet", "x.csv"], "would hold Parquet, but its name says CSV")
    report = ["report", "q.json", "--train", "q.json", "--query", "q.json", "-o"]
    refused(
        here, [*report, "x.jsonl"], "would hold HTML, but its name says JSONL; name a file that ends in .html"
    )
    # Before any work: no row is scored, and the file that would be written first is not there.
    refused(here, ["attribute", *SIDES, "--scores", "x.csv"], "ends so")


def test_names_that_say_nothing_else_are_fine() -> None:
    for name in (
        "-",
        "x",
        "x.jsonl",
        "x.JSONL",
        "x.ndjson",
        "x.txt",
        "x.rows",
        "v1.2",
        ".hidden",
        "x.parquet",
    ):
        check_rows_file(name)
    check_suffix("x.pq", "Parquet")
    check_suffix("page.HTM", "HTML")


# --- folders of ours ---


@pytest.mark.parametrize(
    ("marker", "content", "kind"),
    [
        ("gradients.json", {"kind": "airrep-gradients"}, "a gradient folder"),
        ("arms.json", {"kind": "airrep-verify"}, "a verify run"),
        ("stage.json", {"stage": "label", "package": "airrep 0.1.0"}, "a finished stage of a pipeline"),
    ],
)
def test_an_output_lies_in_no_folder_of_training(
    here: Path, marker: str, content: dict[str, str], kind: str
) -> None:
    (here / "made").mkdir()
    (here / "made" / marker).write_text(json.dumps(content, indent=2))
    (here / "link.jsonl").symlink_to("made/losses.jsonl")  # as a pipeline links to the outputs of its stages
    for output, folder in (("made/x.jsonl", False), ("made/sub/new", True), ("link.jsonl", False)):
        with pytest.raises(InputError, match=f"which is {kind}; choose an output outside of it"):
            check_output(output, [], folder=folder)
    check_output("made", [], folder=True)  # the folder itself, which its own command resumes
    (here / "made" / marker).write_text('{"kind": "of someone else"}')
    check_output("made/x.jsonl", [])
