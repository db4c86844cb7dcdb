"""The options of a command that say how rows are read where their own keys do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from airrep_infer.command import argument_option
from airrep_infer.rows.conversation import LastTurn
from airrep_infer.rows.spellings import Preference, Reading

Command = Callable[..., Any]

READING_OPTIONS = ("fields", "response", "last_turn")
"""The parameters of `reading_options`, for commands that do not always read rows."""


def reading_options(command: Command) -> Command:
    """`--field`, `--response` and `--last-turn`; the command gets them as `reading`."""

    @wraps(command)
    def with_reading(
        *, fields: tuple[str, ...], response: Preference | None, last_turn: LastTurn, **rest: Any
    ) -> Any:
        return command(reading=Reading.of(fields, response, last_turn), **rest)

    for option in reversed(
        (
            click.option(
                "--field",
                "fields",
                multiple=True,
                metavar="ROLE=COLUMN",
                help="Which column of the rows is the prompt, context, system, response, text, messages, id, "
                "or only metadata; more than once for more.",
            ),
            argument_option(Reading.of, "response", "Which answer of a preference pair is the response."),
            argument_option(Reading.of, "last_turn", "What to do with turns after the last assistant turn."),
        )
    ):
        with_reading = option(with_reading)
    return with_reading
