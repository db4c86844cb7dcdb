"""The error tree: every failure a user can mend, with the exit status its command ends with."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class AirRepError(Exception):
    """A failure with a message for the user: what happened, where, and what to do."""

    exit_status = 1


class InputError(AirRepError):
    """The input, the options or a file on disk is not usable; the message names it and the mend."""

    exit_status = 2


class StorageError(AirRepError):
    """The result could not be written (full disk, no permission); nothing half-written stays."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` met while writing `path` into a `StorageError` that says what and where."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        mend = {
            errno.ENOSPC: "free space or choose another output",
            errno.EDQUOT: "free space or choose another output",
        }.get(error.errno or 0, "choose an output that can be written")
        raise StorageError(f"{path}: cannot write: {reason}; {mend}") from error
