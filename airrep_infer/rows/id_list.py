"""Lists of ids in text files, one a line: as editors, shells and spreadsheets write them."""

from __future__ import annotations

import codecs
from pathlib import Path

from airrep_infer.errors import InputError


def id_lines(path: str | Path, expected: str = "an id a line") -> list[tuple[int, bytes]]:
    """The lines that are not blank, stripped and without a byte order mark, with their numbers from 1.

    They are ids, or JSON where the first one begins with `{`. The file is read once: it may be a pipe.

    Args:
        expected: what the file should hold, for the message.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    try:
        raw = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
        raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; expected {expected}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    return [(number, line.strip()) for number, line in enumerate(raw.splitlines(), 1) if line.strip()]
