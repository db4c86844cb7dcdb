"""The Markdown pages of the project, cut into their code blocks and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name / "README.md" for name in ("", "demo", "benchmarks")),
    *sorted((ROOT / "docs").glob("*.md")),
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ("" is shell), its text, and the page's line where the text starts."""

    language: str
    text: str
    line: int

    @property
    def commands(self) -> Iterator[list[str]]:
        """The words of each shell line, without comments and prompts; lines that end in \\ are joined."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield words


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        yield Block(match[1], match[2], text[: match.start(2)].count("\n") + 1)


def spans(page: Path) -> list[str]:
    """The inline code of a page."""
    return _SPAN.findall(_BLOCK.sub("", page.read_text(encoding="utf-8")))


def click_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The click command that shell words name, and the words after its name.

    Raises:
        KeyError: no such command.
    """
    import airrep_export.cli

    import airrep_infer.cli
    import airrep_train.cli

    program = {
        "airrep-infer": airrep_infer.cli.main,
        "airrep-train": airrep_train.cli.main,
        "airrep-export": airrep_export.cli.main,
    }[words[0]]
    if not isinstance(program, click.Group):
        return program, words[1:]
    command = program.get_command(click.Context(program), words[1])
    if command is None:
        raise KeyError(words[1])
    return command, words[2:]
