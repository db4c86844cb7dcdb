"""A part of a store: its two files, hashed as they are written, linked from elsewhere, or mapped to read."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write, sample_sha256
from airrep_infer.store.checksums import BlockChecksums
from airrep_infer.store.listing import AGAIN, Part, part_names

# What a file system says that cannot link: another device, no links at all, no more of them.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES}

# A header is parsed as Python, at which CPython 3.11 sometimes fails in several threads at once (gh-106905).
_one_header_at_a_time = threading.Lock()

PART_ROWS = 50_000
"""Rows of a part, unless asked otherwise."""


def write_part(
    folder: Path,
    place: int,
    dimension: int,
    dtype: np.dtype[Any],
    count: int,
    vectors: Iterable[memoryview],
    lines: Iterable[bytes],
) -> Part:
    """Write the two files of a part, the first of a number of rows that come one by one.

    Args:
        place: the number of the part.
        count: rows of the part.
        vectors: exactly so many, each (D,) in `dtype`.
        lines: at least so many; the rest is left in an iterator.
    """
    file, rows_file = part_names(place)
    header = {"descr": dtype.str, "fortran_order": False, "shape": (count, dimension)}
    checksums, rows_checksums = BlockChecksums(), BlockChecksums()
    with atomic_write(folder / file) as stream:
        array = _HashingStream(stream)
        np.lib.format.write_array_header_1_0(array, header)
        for vector in vectors:
            array.write(vector)
            checksums.update(vector)
        sample = array.sample()
    with atomic_write(folder / rows_file) as stream:
        rows = _HashingStream(stream)
        for line in islice(lines, count):
            rows.write(line)
            rows_checksums.update(line)
        rows_sample = rows.sample()
    return Part(
        file,
        rows_file,
        count,
        array.sha256,
        rows.sha256,
        array.size,
        rows.size,
        sample,
        rows_sample,
        checksums.hexdigests(),
        rows_checksums.hexdigests(),
    )


def link_part(part: Part, source: Path, folder: Path, place: int) -> Part:
    """Give a part of the store at `source` to another store: hard links where possible, else copies.

    Args:
        folder: of the other store.
        place: the number that the part has there.
    """
    file, rows_file = part_names(place)
    _link(source / part.file, folder / file)
    _link(source / part.rows_file, folder / rows_file)
    return replace(part, file=file, rows_file=rows_file)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)


class _HashingStream:
    """Counts and hashes what it writes, so that a part needs no second reading."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._digest, self.size = stream, hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.size += memoryview(data).nbytes

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def sample(self) -> str:
        """`sample_sha256` of what was written."""
        self._stream.flush()
        return sample_sha256(Path(self._stream.name))


def map_vectors(file: Path) -> NDArray[Any]:
    """The vectors of a part, mapped and not read.

    Raises:
        InputError: its header is damaged.
    """
    try:
        with _one_header_at_a_time:
            vectors: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # what parses a damaged header as Python raises nearly anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{file}: not a readable .npy file ({reason}); {AGAIN}") from error
    return vectors
