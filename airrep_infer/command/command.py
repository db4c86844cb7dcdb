"""A line and an exit status for every failure of a command."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

from airrep_infer.errors import AirRepError
from airrep_infer.resources import limit_memory

INTERRUPTED = 128 + signal.SIGINT
"""Exit status after Ctrl-C, as shells report it."""
TERMINATED = 128 + signal.SIGTERM
"""Exit status after SIGTERM, which batch systems and container engines send."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. Whatever keeps its work at a Ctrl-C keeps it now."""


class _Waiting(threading.local):
    """What SIGTERM finds: whether it may interrupt, and whether it came while it might not."""

    blocks = 0
    came = False
    within = 0.0


_WAITING = _Waiting()


@contextmanager
def finishing_first(*, within: float = 0.0) -> Iterator[Callable[[], bool]]:
    """A block that a first SIGTERM does not interrupt: the work in flight is finished and kept.

    The block asks the function that it is given whether SIGTERM came, and then comes to its end; there
    `Terminated` is raised. A second SIGTERM ends the process at once. Outside of a `Command` SIGTERM does
    what it did.

    Args:
        within: seconds after SIGTERM at which the block is interrupted all the same; 0: never.
    """
    _WAITING.blocks += 1
    _WAITING.within = within
    try:
        yield lambda: _WAITING.came
    finally:
        _WAITING.blocks -= 1
        if within and _WAITING.came:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if _WAITING.came:
        raise Terminated


class Command(click.Command):
    """A command that may raise `AirRepError`.

    Exit status: the error's own (2 for unusable input, 1 for the rest), 130 after Ctrl-C, 143 after SIGTERM.
    A closed pipe on standard output (`... | head`) ends with 1 and no message, which click does itself. An
    option that takes one value cannot be given twice. Help is `--help` and `-h`.
    """

    def __init__(self, *args: Any, **extra: Any) -> None:
        super().__init__(*args, **extra)
        # A command's own and not its group's: click keeps the first help option that it makes of a command,
        # so one that was once called without its group would lose `-h` for good.
        self.context_settings = {"help_option_names": ["-h", "--help"], **self.context_settings}

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run as a program: with usable standard streams, and with SIGTERM raised as `Terminated`."""
        _open_standard_streams()
        with _sigterm_raised():
            return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the arguments; messages about them are safe to print."""
        with _printable_errors():
            return super().make_context(*args, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; an option that takes one value is refused the second time."""
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(list(args))
            for option in {param for param in given if isinstance(param, click.Option)}:
                if given.count(option) > 1 and not option.multiple and not option.count:
                    times = "twice" if given.count(option) == 2 else f"{given.count(option)} times"
                    raise click.UsageError(f"{'/'.join(option.opts)} is given {times}; give it once", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; failures become a line on stderr and an exit status, never a traceback."""
        try:
            with _printable_errors():
                result = super().invoke(ctx)
                if sys.stdout is not None:
                    sys.stdout.flush()
                return result
        except AirRepError as error:
            _fail(ctx, str(error), error.exit_status)
        except Terminated:
            click.echo("terminated; run the same command again to resume", err=True)
            ctx.exit(TERMINATED)
        except KeyboardInterrupt:
            click.echo("interrupted; run the same command again to resume", err=True)
            ctx.exit(INTERRUPTED)
        except MemoryError:
            _fail(ctx, "out of memory; set --memory, give lower --threads or --batch-tokens, or free some", 1)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            # The name is None for a standard stream that cannot be written.
            where = "standard output" if error.filename is None else error.filename
            _drop_standard_output()
            wrong = error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
            _fail(ctx, f"{where}: {error.strerror or error}", 2 if wrong else 1)


class Commands(Command, click.Group):
    """A group of such commands."""

    command_class = Command


def printable(text: str) -> str:
    """A text for one line of a terminal: what would move the cursor or hide text is escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def say(*lines: str, err: bool = True) -> None:
    """Print lines for people, on standard error or as a result on standard output, each made `printable`.

    Whatever a command prints goes through here, but for JSON and the tables of `rich`.
    """
    for line in lines:
        click.echo(printable(line), err=err)


def _set_budget(_ctx: click.Context, _param: click.Parameter, gigabytes: float | None) -> None:
    limit_memory(gigabytes)


memory_option = click.option(
    "--memory",
    type=click.FloatRange(min=0, min_open=True),
    expose_value=False,
    callback=_set_budget,
    metavar="GB",
    help="Memory that the work may take, beside the program itself [default: four fifths of what is free].",
)
"""The one option that sets the budget of `resources`, for every command that takes much memory."""


def parse_shard(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """The callback of a `--shard I/N` option: (I, N), or None where it was not given."""
    if value is None:
        return None
    part, _, parts = value.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise click.BadParameter(f"{value!r} is not I/N with 1 <= I <= N, such as 1/4")
    return int(part), int(parts)


def _fail(ctx: click.Context, message: str, status: int) -> NoReturn:
    click.echo(f"error: {printable(' '.join(message.splitlines()))}", err=True)
    ctx.exit(status)


@contextmanager
def _printable_errors() -> Iterator[None]:
    """click prints what it refuses as it was given."""
    try:
        yield
    except click.UsageError as error:
        message = error.format_message()
        escaped = "\n".join(map(printable, message.split("\n")))
        if escaped == message:
            raise
        raise click.UsageError(escaped, error.ctx) from None


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """SIGTERM raises `Terminated` once, at the end of `finishing_first`; a second one ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _WAITING.came = True
        if not _WAITING.blocks:
            raise Terminated
        if _WAITING.within:
            signal.signal(signal.SIGALRM, run_out)
            signal.setitimer(signal.ITIMER_REAL, _WAITING.within)

    def run_out(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    _WAITING.came = False
    before, alarm = signal.signal(signal.SIGTERM, terminate), signal.getsignal(signal.SIGALRM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGALRM, alarm)
        _WAITING.came = False


def _open_standard_streams() -> None:
    """Take the places of closed standard streams, so that no file of ours gets the number of one.

    Text that the terminal's encoding does not have is escaped; JSONL is written as UTF-8 bytes.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_standard_output() -> None:
    """What could not be written is not tried again when the process ends."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
