"""Files that are whole or absent: atomic writes, content hashes, locks."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from airrep_infer.errors import InputError, storage_errors

_CHUNK = 1 << 20


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary sibling of `path` for writing; on success fsync it and rename it into place.

    On any error, Ctrl-C included, the temporary file is removed and `path` is untouched.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    with storage_errors(path):
        target = path.resolve()  # a link stays a link: its target is replaced
        if target.exists() and not target.is_file():  # renaming onto /dev/null would destroy it
            raise FileExistsError(errno.EEXIST, "it exists and is not a regular file")
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
        with temporary.open("xb") as stream:
            try:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        sync_folder(target.parent)


# flock belongs to the open file, which fork() shares: without this a forked worker that outlives a
# killed process would hold its locks for it.
_LOCKED: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()
os.register_at_fork(after_in_child=lambda: [stream.close() for stream in list(_LOCKED)])


def open_locked(path: Path, taken: str) -> IO[bytes]:
    """Open a file to read and append; until it is closed, no other process can open it so.

    Args:
        taken: the message where another process has it.

    Raises:
        InputError: another process has it.
        OSError: it cannot be opened; see `storage_errors`.
    """
    stream = path.open("a+b")
    _LOCKED.add(stream)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise InputError(taken) from None
    except BaseException:
        stream.close()
        raise
    return stream


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically."""
    with atomic_write(path) as stream:
        stream.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    return digest.hexdigest()
