"""Files that are whole or absent: atomic writes, content hashes, locks.

A file is written under a temporary name beside its own (`.NAME.<12 hex digits>.tmp`), fsynced and renamed,
then its folder is fsynced. All that a kill or a power loss leaves is such a temporary name, and the next
writer of NAME removes it. Whole folders: see `folders`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from airrep_infer.errors import BusyError, InputError, storage_errors

_CHUNK = 1 << 20
_SAMPLES, _SAMPLE_BYTES = 8, 4096
_HASH_MARK, _HASH_DIGITS = b"\nsha256 ", 64
_HASHED = len(_HASH_MARK) + _HASH_DIGITS


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
        remove_leftovers(target)
        temporary = temporary_sibling(target)
        with temporary.open("xb") as stream:
            try:
                hold(stream.fileno())
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        sync_folder(target.parent)


def temporary_sibling(path: Path) -> Path:
    """A new temporary name beside `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def temporary_pattern(names: str) -> str:
    """The regular expression of the temporary names of files whose names match `names`."""
    return rf"\.(?:{names})\.\w+\.tmp"


def remove_leftovers(path: Path) -> None:
    """Remove the temporary siblings of `path`, files and folders, that no living process holds."""
    pattern = re.compile(temporary_pattern(re.escape(path.name)))
    with os.scandir(path.parent) as siblings:
        leftovers = [Path(entry.path) for entry in siblings if pattern.fullmatch(entry.name)]
    for leftover in leftovers:
        with contextlib.suppress(OSError):  # held, or gone meanwhile
            handle = os.open(leftover, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if leftover.is_dir():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()
            finally:
                os.close(handle)


def hold(handle: int) -> None:
    """Tell `remove_leftovers` of other processes that this temporary file or folder is in use."""
    with contextlib.suppress(OSError):  # where a file system cannot lock, nobody else removes it either
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


# flock belongs to the open file, which fork() shares: without this a forked worker that outlives a
# killed process would hold its locks for it.
_LOCKED: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()
os.register_at_fork(after_in_child=lambda: [stream.close() for stream in list(_LOCKED)])


def open_locked(path: Path, taken: str) -> IO[bytes]:
    """Open a file to read and append; until it is closed, no other process can open it so.

    Args:
        taken: the message where another process has it.

    Raises:
        BusyError: another process has it.
        StorageError: it cannot be opened.
    """
    with storage_errors(path):
        stream = path.open("a+b")
    _LOCKED.add(stream)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(stream.fileno()), path.stat()):
            raise BlockingIOError  # another process has just put a new folder in the place of this one
    except BlockingIOError:
        stream.close()
        raise BusyError(taken) from None
    except BaseException:
        stream.close()
        raise
    return stream


def sync_folder(folder: Path, *, of: Path | None = None) -> None:
    """Make renames inside `folder` durable.

    Args:
        of: what an error names instead of the folder.

    Raises:
        StorageError: the disk is full, or fails.
    """
    with storage_errors(of or folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, durably; nothing where it exists."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent, of=path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically."""
    with atomic_write(path) as stream:
        stream.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def write_hashed(path: Path, content: bytes | memoryview) -> None:
    """Write bytes atomically, followed by their sha256: for formats that do not check themselves."""
    with atomic_write(path) as stream:
        stream.write(content)
        stream.write(_HASH_MARK + hashlib.sha256(content).hexdigest().encode())


def read_hashed(path: Path, fix: str) -> bytes:
    """The bytes that `write_hashed` wrote; a file of earlier versions, which has no sha256, as it is.

    Raises:
        InputError: it cannot be read, or was changed since; `fix` says what to do.
    """
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    content, mark, recorded = whole[:-_HASHED], whole[-_HASHED:-_HASH_DIGITS], whole[-_HASH_DIGITS:]
    if mark != _HASH_MARK:
        return whole
    if hashlib.sha256(content).hexdigest().encode() != recorded:
        raise InputError(f"{path}: damaged: its sha256 is not the recorded one; {fix}")
    return content


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


def sample_sha256(path: Path) -> str:
    """The first 16 hex digits of the sha256 of eight pages of a file: the first, the last, and some between.

    Cheap enough for every opening. It finds another file of the same size, and the zeros that a power loss
    leaves at the end of one; a changed byte somewhere needs `sha256_file`.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        last = max(0, os.fstat(stream.fileno()).st_size - _SAMPLE_BYTES)
        for number in range(_SAMPLES):
            digest.update(os.pread(stream.fileno(), _SAMPLE_BYTES, last * number // (_SAMPLES - 1)))
    return digest.hexdigest()[:16]


class InputFiles:
    """Files as they are when a run begins to read them.

    Args:
        paths: files, and folders with all in them; `-`, pipes and what does not exist are passed over.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._paths = [Path(path) for path in paths if str(path) != "-"]
        self._before = self._states()

    def check_unchanged(self) -> None:
        """Refuse to call a run complete that read a file while it changed.

        Raises:
            InputError: a file has another size, date or identity than before, or is gone.
        """
        now = self._states()
        for path, state in self._before.items():
            if now.get(path) != state:
                what = "changed" if path in now else "was removed"
                raise InputError(f"{path}: {what} while it was read; run the same command again")

    def _states(self) -> dict[Path, tuple[int, int, int]]:
        states = {}
        for path in self._paths:
            for file in path.rglob("*") if path.is_dir() else [path]:
                if file.is_file():
                    status = file.stat()
                    states[file] = (status.st_ino, status.st_size, status.st_mtime_ns)
        return states


def hash_files(folder: Path, files: Sequence[Path]) -> dict[str, str]:
    """name relative to `folder` -> sha256: what a record vouches for."""
    return {file.relative_to(folder).as_posix(): sha256_file(file) for file in files}
