"""Folders that are whole or absent, and the one rule for what a kill may leave in a folder of ours.

A folder is one of a kind (a store, an index, a training run, ...) once it holds the file that says so. Until
then it may hold what a kill leaves before that file is written, and nothing else: then it counts as empty.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from airrep_infer.errors import InputError, storage_errors
from airrep_infer.files import (
    hold,
    make_folder,
    remove_leftovers,
    sync_folder,
    temporary_pattern,
    temporary_sibling,
)

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>


@dataclass(frozen=True)
class Layout:
    """The names in a folder of one kind.

    Attributes:
        kind: with its article, for messages: "a store".
        listing: the file that makes a folder one of this kind.
        files: a regular expression of the other files that we write there.
        early: a regular expression of what may be there before the listing, besides temporary names.
    """

    kind: str
    listing: str
    files: str
    early: str = r"\.lock"

    @cached_property
    def _temporary(self) -> str:
        return temporary_pattern(rf"{re.escape(self.listing)}|{self.files}")

    def is_at(self, path: Path) -> bool:
        """Whether a folder of this kind is (or was meant to be) at `path`."""
        return (path / self.listing).is_file()

    def check(self, path: Path) -> None:
        """Refuse a place where no folder of this kind is and none can be made.

        Raises:
            InputError: a file of that name, or a folder with something else in it.
        """
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file; {self.kind} is a folder: choose another name")
        if not path.exists() or self.is_at(path):
            return
        allowed = re.compile(rf"{self.early}|{self._temporary}")
        foreign = sorted(child.name for child in path.iterdir() if not allowed.fullmatch(child.name))
        if foreign:
            raise InputError(
                f"{path}: not {self.kind}, and not empty (it holds {foreign[0]!r}); "
                "choose a new or empty folder"
            )

    def make(self, path: Path) -> None:
        """Check the place and make the folder, durably.

        Raises:
            InputError: see `check`.
            StorageError: it cannot be made.
        """
        self.check(path)
        with storage_errors(path):
            make_folder(path)

    def remove_leftovers(self, path: Path, listed: Collection[str]) -> None:
        """Remove our files that the listing does not name; the caller holds the folder's lock."""
        ours = re.compile(rf"{self.files}|{self._temporary}")
        with storage_errors(path):
            for child in path.iterdir():
                if child.name not in listed and ours.fullmatch(child.name):
                    if child.is_dir():
                        shutil.rmtree(child)
                    else:
                        child.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling folder that becomes `path` on success and disappears on any error.

    Whoever writes into it need not fsync: every file and folder is, before the rename.

    Args:
        path: does not exist, or is an empty folder.
        overwrite: `path` may be a folder with content. The new one takes its place in one step, so that at no
            moment there is none; then the old one is removed.

    Raises:
        StorageError: the folder cannot be written.
    """
    with storage_errors(path):
        target = path.resolve()
        make_folder(target.parent)
        remove_leftovers(target)
        temporary = temporary_sibling(target)
        temporary.mkdir()
        handle = os.open(temporary, os.O_RDONLY)
        try:
            hold(handle)
            yield temporary
            sync_tree(temporary)
            if overwrite and target.exists():
                _exchange(temporary, target)
            else:
                temporary.replace(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # what failed, or what was exchanged
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Make all files and folders below `folder`, and itself, durable, whoever wrote them."""
    for where, _, files in os.walk(folder):
        for name in files:
            if not (file := Path(where) / name).is_symlink():
                sync_folder(file)
        sync_folder(Path(where))


def _exchange(a: Path, b: Path) -> None:
    """Swap the names of two folders in one step."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    refused = "this system cannot replace a folder in one step: write to another folder, then remove this one"
    if rename is None:
        raise OSError(errno.ENOTSUP, refused)
    if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(number, refused)
        raise OSError(number, os.strerror(number))
