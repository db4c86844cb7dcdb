"""Checksums of the blocks of a part's files: who reads a block finds damage in it before using it.

XXH3 and no hash of the standard library: on one core of a Xeon it reads 4.8 GB/s, CRC-32 1.1 and SHA-256 0.5,
which a scan would feel. It finds damage; what was changed on purpose, `EmbeddingStore.verify` finds.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_hexdigest

from airrep_infer.errors import InputError

# As large as the cache of a core, so that what was checked is scored from there.
BLOCK_BYTES = 1 << 20
_DIGITS = 16
_DAMAGED = (
    "damaged: its content is not what was written; restore it from a copy, or embed again into a new folder"
)


class BlockChecksums:
    """The checksums of what is written, block by block."""

    def __init__(self) -> None:
        self._digests: list[str] = []
        self._hash, self._room = xxh3_64(), BLOCK_BYTES

    def update(self, data: bytes | memoryview) -> None:
        """Add what was written next."""
        rest = memoryview(data).cast("B")
        while len(rest):
            piece = rest[: self._room]
            self._hash.update(piece)
            self._room -= len(piece)
            rest = rest[len(piece) :]
            if not self._room:
                self._digests.append(self._hash.hexdigest())
                self._hash, self._room = xxh3_64(), BLOCK_BYTES

    def hexdigests(self) -> str:
        """16 hex digits for each block; the last may be a short one."""
        last = [self._hash.hexdigest()] if self._room < BLOCK_BYTES else []
        return "".join(self._digests + last)


def expected_digits(size: int) -> int:
    """How many hex digits the checksums of so many bytes have."""
    return -(-size // BLOCK_BYTES) * _DIGITS


@dataclass(frozen=True, eq=False)
class MappedPart:
    """The vectors of a part, (n, D) in the store's dtype, mapped into memory.

    Attributes:
        file: where they are.
        first: the number of the first row in the store.
        checksums: see `BlockChecksums`, of the vectors without the file's header; "": there are none.
        checked: (file, block) of what this process has compared already.
    """

    vectors: NDArray[Any]
    file: Path
    first: int
    checksums: str
    checked: set[tuple[str, int]]

    def rows(self, begin: int, end: int) -> NDArray[Any]:
        """Consecutive rows, by their place in the part, not copied.

        Raises:
            InputError: they are damaged.
        """
        size = self._row_bytes
        for block in range(begin * size // BLOCK_BYTES, -(-end * size // BLOCK_BYTES)):
            self._check(block)
        return self.vectors[begin:end]

    def take(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Any rows, by their places in the part.

        Raises:
            InputError: a block that holds one of them is damaged.
        """
        begins = places * self._row_bytes
        ends = begins + (self._row_bytes - 1)
        for begin, end in set(
            zip((begins // BLOCK_BYTES).tolist(), (ends // BLOCK_BYTES).tolist(), strict=True)
        ):
            for block in range(begin, end + 1):
                self._check(block)
        return self.vectors[places]

    @property
    def _row_bytes(self) -> int:
        return int(self.vectors[:1].nbytes)

    def _check(self, block: int) -> None:
        """Compare a block the first time that this process reads it.

        Where threads share a pass, one of them may use a block while another still compares it: that one's
        error ends the pass.
        """
        if not self.checksums or (str(self.file), block) in self.checked:
            return
        self.checked.add((str(self.file), block))
        begin = block * BLOCK_BYTES
        content = self.vectors.reshape(-1).view(np.uint8)[begin : begin + BLOCK_BYTES].data
        if xxh3_64_hexdigest(content) == self.checksums[block * _DIGITS : (block + 1) * _DIGITS]:
            return
        self.checked.discard((str(self.file), block))
        rows = begin // self._row_bytes, (begin + len(content) - 1) // self._row_bytes
        raise InputError(
            f"{self.file}: rows {self.first + rows[0]} to {self.first + rows[1]} of the store are {_DAMAGED}"
        )


def open_checked(file: Path, checksums: str) -> io.BufferedReader:
    """Open a file to read it from the start; what it gives has been compared with the checksums.

    Args:
        checksums: see `BlockChecksums`; "": there are none.

    Raises:
        OSError: it cannot be opened. Reading it raises an `InputError` where it is damaged.
    """
    return io.BufferedReader(_CheckedFile(file, checksums)) if checksums else file.open("rb")


class _CheckedFile(io.RawIOBase):
    def __init__(self, file: Path, checksums: str) -> None:
        self._file, self._stream = file, file.open("rb", buffering=0)
        starts = range(0, len(checksums), _DIGITS)
        self._checksums: Iterator[str] = iter([checksums[start : start + _DIGITS] for start in starts])
        self._block, self._number = memoryview(b""), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._block:
            self._block = memoryview(self._next_block())
        count = min(len(buffer), len(self._block))
        buffer[:count] = self._block[:count]
        self._block = self._block[count:]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _next_block(self) -> bytes:
        content = b""
        while len(content) < BLOCK_BYTES and (more := self._stream.read(BLOCK_BYTES - len(content))):
            content += more
        if content and xxh3_64_hexdigest(content) != next(self._checksums, None):
            raise InputError(f"{self._file}: block {self._number} (of 1 MiB) is {_DAMAGED}")
        self._number += 1
        return content
