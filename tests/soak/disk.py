"""What a power loss leaves: a record of what was fsynced, and the folders as they come up afterwards."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

Tree = dict[str, "bytes | Tree"]
_CALLS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "link", "symlink")


@dataclass
class Disk:
    """Watches a folder while something writes in it.

    After every call that changes names or makes content durable there are two images of a crash at that
    moment. In the late one only names whose folder was fsynced are there. In the early one all names are,
    as file systems may write them at any time. In both a file has the content of its last fsync, or none.
    """

    root: Path
    images: list[tuple[str, Tree]] = field(default_factory=list)
    _contents: dict[int, bytes] = field(default_factory=dict)
    _names: dict[int, dict[str, int]] = field(default_factory=dict)
    _folders: set[int] = field(default_factory=set)
    _numbers: dict[int, int] = field(default_factory=dict)  # inode -> number; inodes are used again
    _next: int = 0

    def watch(self, work: Callable[[], object]) -> None:
        """Do the work and take the images."""
        for folder, _, files in os.walk(self.root):
            self._fsynced(Path(folder))
            for name in files:
                self._fsynced(Path(folder) / name)
        with self._patched():
            work()

    @contextmanager
    def _patched(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name in _CALLS:
                stack.enter_context(mock.patch.object(os, name, self._around(name, getattr(os, name))))
            yield

    def _around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **how: Any) -> Any:
            if name == "fsync":
                self._fsynced(Path(f"/proc/self/fd/{given[0]}").readlink())
            elif name == "unlink":
                status = os.stat(given[0], dir_fd=how.get("dir_fd"), follow_symlinks=False)
                if status.st_nlink == 1:
                    self._numbers.pop(status.st_ino, None)
            elif name in ("replace", "rename") and os.path.lexists(given[1]):
                status = Path(given[1]).lstat()
                if status.st_nlink == 1 or stat.S_ISDIR(status.st_mode):
                    self._numbers.pop(status.st_ino, None)
            elif name == "rmdir":
                self._numbers.pop(os.stat(given[0], dir_fd=how.get("dir_fd")).st_ino, None)
            result = None if name == "fsync" else real(*given, **how)
            self.images.append((f"{name}, late", self._late(self._number(self.root))))
            self.images.append((f"{name}, early", self._early(self.root)))
            return result

        return call

    def _number(self, path: Path) -> int:
        inode = path.lstat().st_ino
        if inode not in self._numbers:
            self._numbers[inode] = self._next
            self._next += 1
        return self._numbers[inode]

    def _fsynced(self, path: Path) -> None:
        number = self._number(path)
        if path.is_dir():
            self._folders.add(number)
            self._names[number] = {child.name: self._number(child) for child in path.iterdir()}
            self._folders |= {self._number(child) for child in path.iterdir() if child.is_dir()}
        else:
            self._contents[number] = path.read_bytes()

    def _late(self, number: int) -> Tree:
        return {
            name: self._late(child) if child in self._folders else self._contents.get(child, b"")
            for name, child in self._names.get(number, {}).items()
        }

    def _early(self, folder: Path) -> Tree:
        return {
            child.name: self._early(child) if child.is_dir() else self._contents.get(self._number(child), b"")
            for child in folder.iterdir()
        }


def lay_out(tree: Tree, folder: Path) -> Path:
    """Write an image below a new folder; returns it."""
    folder.mkdir(parents=True)
    for name, content in tree.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            lay_out(content, folder / name)
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    """relative name -> content of all files below a folder, locks aside."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }
