"""Every command that a page shows exists, with the options that the page gives it."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from pages import PAGES, ROOT, blocks, click_command, spans

PROGRAMS = ("airrep-infer", "airrep-train", "airrep-export")
FOREIGN_OPTIONS = {"--gpus"}  # of docker


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def all_options() -> set[str]:
    """Every option of every command."""
    found = set()
    for program in PROGRAMS:
        group, _ = click_command([program, "--help"]) if program == "airrep-export" else (None, None)
        if group is not None:
            commands = [group]
        else:
            module = __import__(f"{program.replace('-', '_')}.cli", fromlist=["main"])
            context = click.Context(module.main, help_option_names=["-h", "--help"])
            commands = [module.main.get_command(context, name) for name in module.main.list_commands(context)]
        for command in commands:
            for parameter in command.params:
                found.update(parameter.opts + parameter.secondary_opts)
    return found | {"--help"}


def check_command(words: list[str]) -> None:
    """The command parses: known options, values where they belong, everything required, known choices.

    Raises:
        click.UsageError: it does not.
        KeyError: no such command.
    """
    command, arguments = click_command(words)
    context = click.Context(command, help_option_names=["-h", "--help"])
    given, _, _ = command.make_parser(context).parse_args(list(arguments))
    for parameter in command.params:
        value = given.get(parameter.name or "")
        if parameter.required and value in (None, ()):
            raise click.MissingParameter(ctx=context, param=parameter)
        checked = isinstance(parameter.type, click.Choice | click.IntRange | click.types.IntParamType)
        if checked and value is not None:
            parameter.type_cast_value(context, value)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = set(re.findall(r"^(\w[\w-]*) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    for block in blocks(page):
        if block.language:
            continue
        for words in block.commands:
            where = f"{page_name(page)}:{block.line}: {' '.join(words)}"
            program = words[0]
            if program in PROGRAMS:
                try:
                    check_command(words)
                except (click.UsageError, KeyError) as error:
                    pytest.fail(f"{where}: {error}")
            elif program == "make":
                assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), where
            elif program == "pip":
                assert set(words[-1].removeprefix(".[").removesuffix("]").split(",")) <= extras, where
            elif program == "python" and words[1] == "-m":
                assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file(), where
            elif program == "python":
                source = (ROOT / words[1]).read_text(encoding="utf-8")
                assert all(word in source for word in words if word.startswith("--")), where
            elif program == "accelerate":
                check_command(["airrep-train", *words[words.index("fit") :]])
            else:
                assert program in ("ray", "git", "cd"), f"{where}: give the block a language"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_commands_and_options_in_a_pages_text_exist(page: Path) -> None:
    known = all_options() | FOREIGN_OPTIONS
    for span in spans(page):
        words = span.split()
        options = {word.split("=")[0] for word in words if re.fullmatch(r"--[a-z][a-z-]*(=.*)?", word)}
        if words[0] in PROGRAMS and len(words) > 1 and "|" not in span:
            command, _ = click_command(words)
            known_here = {
                name for parameter in command.params for name in parameter.opts + parameter.secondary_opts
            }
            assert options <= known_here | {"--help"}, f"{page_name(page)}: `{span}`"
        elif words[0] not in ("pip", "make", "accelerate", "python"):
            assert options <= known, f"{page_name(page)}: `{span}`"


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page_name(page)}: no {target}"


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
