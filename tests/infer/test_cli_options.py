"""A default or a choice of airrep-infer stands once: the command line has those of the Python calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, signature
from typing import Any, get_type_hints

import click
import pytest
from click.testing import CliRunner

from airrep_infer.cli import main
from airrep_infer.command import bare_type, choices_of, facts_of
from airrep_infer.encode import EncoderOptions
from airrep_infer.engines import Engine
from airrep_infer.index import AnnIndex, build_index
from airrep_infer.report import write_report
from airrep_infer.rows import Reading
from airrep_infer.score import SelectOptions, attribute, select
from airrep_infer.store import compact_store, embed_files

SOURCES: dict[str, list[Any]] = {
    "embed": [EncoderOptions, Engine, Reading.of, embed_files],
    "attribute": [EncoderOptions, Engine, Reading.of, attribute],
    "select": [EncoderOptions, Reading.of, SelectOptions, select],
    "merge": [],
    "compact": [compact_store],
    "index": [EncoderOptions, Reading.of, build_index],
    "report": [Reading.of, write_report],
    "info": [],
}
ONLY_HERE = {"output"}  # standard output
OF_THE_STORE = {"pooling_scale"}  # the calls over arrays know no store


def asked(command: str, option: click.Parameter) -> tuple[Any, Any] | None:
    """The type and the default that a dataclass or a call has for an option."""
    for source in SOURCES[command]:
        hints = get_type_hints(source)
        if is_dataclass(source):
            defaults = {each.name: each.default for each in fields(source)}
        else:
            defaults = {name: each.default for name, each in signature(source).parameters.items()}
        if option.name in defaults and option.name in hints:
            return hints[option.name], defaults[option.name]
    return None


def default_of(option: click.Option) -> Any:
    """The default; None stands for none, and for what is off or empty."""
    return option.to_info_dict()["default"] or None


def options_of(command: str) -> list[click.Option]:
    return [option for option in main.commands[command].params if isinstance(option, click.Option)]


def test_every_command_is_compared() -> None:
    assert set(SOURCES) == set(main.commands)


@pytest.mark.parametrize("command", SOURCES)
def test_defaults_and_choices_are_those_of_the_calls(command: str) -> None:
    for option in options_of(command):
        found = asked(command, option)
        if found is None:
            # What the command line alone has, such as --show, has no default and no choices of its own.
            assert option.name in ONLY_HERE or default_of(option) is None, option.name
            assert not isinstance(option.type, click.Choice), option.name
            continue
        hint, default = found
        expected = None if default in (MISSING, Parameter.empty) or option.name in OF_THE_STORE else default
        assert default_of(option) == (expected or None), option.name
        choices = choices_of(bare_type(hint))
        assert bool(choices) == isinstance(option.type, click.Choice), option.name
        assert not choices or option.type.to_info_dict()["choices"] == choices


@pytest.mark.parametrize("cls", [EncoderOptions, Engine, SelectOptions])
def test_help_says_what_the_fields_say(cls: type[Any]) -> None:
    shown = {
        option.name: str(option.help)
        for command, sources in SOURCES.items()
        if cls in sources and command != "index"  # which takes one field alone
        for option in options_of(command)
    }
    for each in fields(cls):
        facts = facts_of(each)
        assert facts.help in shown[each.name]
        assert facts.least is None or f"at least {facts.least}" in shown[each.name]
        assert facts.unset is None or f"[default: {facts.unset}]" in shown[each.name]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("embed x --model m -o s --threads 0", "threads must be at least 1, got 0"),
        ("embed x --model m -o s --workers 0", "workers must be at least 1, got 0"),
        ("attribute --train x --query y -k 0", "k must be a whole number >= 1, got 0"),
        ("select --train x --query y -n 0", "n must be at least 1, got 0"),
        ("select --train x --query y --share 1.5", "share must be positive and at most 1, got 1.5"),
        ("select --train x --query y -n 1 --max-cosine 2", "max_cosine must be at least -1 and at most 1"),
        ("report x --train x --query y -o z.html --chars 0", "1 character at least, got 0"),
    ],
)
def test_a_value_out_of_range_is_one_line_and_status_2(
    line: str, reason: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "xym":
        (tmp_path / name).touch()
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and reason in result.stderr


def test_the_tail_of_an_index_is_as_long_as_help_says() -> None:
    (tail,) = (option for option in options_of("attribute") if option.name == "tail")
    call: Callable[..., object] = AnnIndex.attribute
    assert tail.show_default == str(signature(call).parameters["tail"].default)
