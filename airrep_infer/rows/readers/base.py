"""What all readers share: the row they give, and the decompressed stream they read."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from airrep_infer.errors import InputError, name_of

MAX_ROW_BYTES = 64 << 20
"""Bytes that one row may have as JSON or CSV; memory is bounded by it."""

COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")


# gzip and its like report a truncated or damaged file as any of these.
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it is decoded, or why it cannot be.

    Attributes:
        file, line: where it stands: its line in JSONL, elsewhere its number in the file, from 1.
        value: the decoded row; None where there is a reason.
        reason: why it is no row.
        raw: the row as it stands in the file, for the list of rejected rows; empty in binary forms.
    """

    file: str
    line: int
    value: Any
    reason: str = ""
    raw: bytes = b""


def file_stem(path: str) -> str:
    """What the default ids of a file's rows begin with."""
    if path == "-":
        return "stdin"
    if Path(path).is_dir():
        return Path(path).resolve().name
    return Path(without_compression(path)).stem


def without_compression(path: str) -> str:
    """A path without the suffix that names its compression."""
    for suffix in COMPRESSED_SUFFIXES:
        path = path.removesuffix(suffix)
    return path


@dataclass(frozen=True)
class Opened:
    """A file that is open for reading, decompressed.

    Attributes:
        head: its first bytes, some hundred if it has them; they are still to be read.
        packed: whether it is compressed.
    """

    stream: IO[bytes]
    head: bytes
    packed: bool


@contextlib.contextmanager
def open_stream(path: str) -> Iterator[Opened]:
    """Open a file or, for `-`, standard input; its first bytes say whether and how it is compressed.

    Raises:
        InputError: it cannot be opened, is damaged, or needs a package that is not installed.
    """
    with contextlib.ExitStack() as stack:
        with reading(path, 1):
            # Standard input is left open for who reads it next.
            plain: Any = sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
            if not hasattr(plain, "peek"):  # whoever put another stream in the place of standard input
                plain = io.BufferedReader(plain)
            stream = _decompressed(plain, path, stack)
            head = stream.peek(512)
        yield Opened(stream, head, stream is not plain)


@contextlib.contextmanager
def reading(path: str, line: int) -> Iterator[None]:
    """Turn what goes wrong below a stream into an `InputError`."""
    try:
        yield
    except DAMAGE as error:
        raise cannot_read(path, line, error) from error


def cannot_read(path: str, line: int, error: Exception) -> InputError:
    """The error of a stream that fails at a line."""
    return InputError(f"{name_of(path)}:{line}: cannot read: {getattr(error, 'strerror', None) or error}")


def _decompressed(stream: Any, path: str, stack: contextlib.ExitStack) -> Any:
    magic = stream.peek(6)
    if magic.startswith(b"\x1f\x8b"):
        return stack.enter_context(gzip.open(stream, "rb"))
    if magic.startswith(b"BZh"):
        return stack.enter_context(bz2.open(stream, "rb"))
    if magic.startswith(b"\xfd7zXZ\x00"):
        return stack.enter_context(lzma.open(stream, "rb"))
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        pa = import_pyarrow(path, "reading Zstandard")
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd"))
    return stream


def import_pyarrow(path: str | Path, use: str) -> Any:
    """The package pyarrow, which some forms need.

    Args:
        path: the file that is read or written.
        use: what it is needed for ("reading Parquet").

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise InputError(f"{name_of(path)}: {use} needs pyarrow: pip install 'airrep[data]'") from error
    return pyarrow
