"""What every AirRep command line shares: failures are one line and the promised exit status."""

from __future__ import annotations

from typing import Any

import click

from airrep_infer.errors import AirRepError

INTERRUPTED = 130
"""Exit status after Ctrl-C (128 + SIGINT), as shells report it."""


class _ErrorsAsStatus(click.Command):
    """A command that may raise `AirRepError`.

    Exit status: the error's own (2 for unusable input, 1 for the rest), 130 after Ctrl-C. A closed
    pipe on standard output (`... | head`) ends quietly with 1, which click does itself.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; failures become a line on stderr and an exit status, never a traceback."""
        try:
            return super().invoke(ctx)
        except AirRepError as error:
            click.echo(f"error: {error}".replace("\n", " "), err=True)
            ctx.exit(error.exit_status)
        except KeyboardInterrupt:
            click.echo("interrupted; run the same command again to resume", err=True)
            ctx.exit(INTERRUPTED)


class Command(_ErrorsAsStatus):
    """A single command with these manners."""


class Commands(_ErrorsAsStatus, click.Group):
    """A group of commands with these manners."""


def parse_shard(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """The callback of a `--shard I/N` option: (I, N), or None where it was not given."""
    if value is None:
        return None
    part, _, parts = value.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise click.BadParameter(f"{value!r} is not I/N with 1 <= I <= N, such as 1/4")
    return int(part), int(parts)
