"""The error tree: every failure a user can fix, with the exit status its command ends with; and how messages
call a path.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class AirRepError(Exception):
    """A failure with a message for the user, in one line: what happened, where, and what to do."""

    exit_status = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # a name in it may hold line ends


class InputError(AirRepError):
    """The input, the options or a file on disk is not usable; the message names it and the fix."""

    exit_status = 2


class BusyError(AirRepError):
    """Another process is writing there; the same command succeeds later."""


class StorageError(AirRepError):
    """The result could not be written (full disk, no permission); nothing half-written stays."""


_SHOWN = 60  # characters of a value in a message

STDIN = "<stdin>"
"""What messages call standard input, which is given as `-`."""


def name_of(path: str | Path) -> str:
    """How messages call a path."""
    return STDIN if str(path) == "-" else str(path)


def refuse_single(values: object, what: str) -> None:
    """Refuse a string or a path where several are expected: Python would take a string for its letters.

    Args:
        what: how the message calls the values.

    Raises:
        InputError: it is one.
    """
    if isinstance(values, str | os.PathLike):
        shown = os.fspath(values)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        raise InputError(f"{what}: expected a list, got {shown!r} alone; put it into a list")


@contextmanager
def about(what: object) -> Iterator[None]:
    """Input errors of this block begin with what they are about; None adds nothing."""
    try:
        yield
    except InputError as error:
        if what is None:
            raise
        raise InputError(f"{what}: {error}") from error


# What the same command meets again unless someone changes the path: a bad option rather than bad luck.
_WRONG_PATH = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EINVAL,
    }
)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` met while writing `path` into a `StorageError` that says what and where.

    Its exit status is 2 where the path itself is wrong, 1 where a rerun can succeed (a full disk).
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free space or choose another output" if full else "choose an output that can be written"
        failure = StorageError(f"{path}: cannot write: {reason}; {fix}")
        failure.exit_status = 2 if error.errno in _WRONG_PATH else 1
        raise failure from error
