"""Which reader a file or folder gets: by its first bytes, and only for CSV and TSV by its name."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from airrep_infer.errors import InputError, name_of
from airrep_infer.rows.readers.base import Row, open_stream, without_compression
from airrep_infer.rows.readers.delimited import DELIMITERS, read_delimited
from airrep_infer.rows.readers.json_rows import is_array, read_json_array, read_json_lines
from airrep_infer.rows.readers.tables import (
    ARROW_FILE,
    ARROW_STREAM,
    PARQUET,
    files_of_folder,
    read_arrow,
    read_folder,
    read_parquet,
)

# Forms that are not read, by their first bytes or the suffix of their name.
_UNREAD_MAGIC = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"SQLite format 3\0": "an SQLite database",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"7z\xbc\xaf": "a 7z archive",
    b"%PDF": "a PDF document",
    b"\x80": "a pickle",
}
_UNREAD_SUFFIXES = {
    ".txt": "plain text",
    ".md": "plain text",
    ".yaml": "YAML",
    ".yml": "YAML",
    ".xml": "XML",
    ".html": "HTML",
    ".tar": "a tar archive",
}
_READ = "JSONL, a JSON array, CSV, TSV, Parquet or Arrow"


def read_rows(path: str) -> Iterator[Row]:
    """The rows of a file, a folder, or of standard input (`-`), streaming.

    Raises:
        InputError: it cannot be read, or is of a form that is not read.
    """
    if path != "-" and Path(path).is_dir():
        yield from read_folder(path)
        return
    suffix = Path(without_compression(path)).suffix.lower()
    with open_stream(path) as opened:
        head = opened.head
        if head.startswith((PARQUET, ARROW_FILE)):
            if opened.packed or path == "-" or not Path(path).is_file():
                form = "Parquet" if head.startswith(PARQUET) else "an Arrow file"
                raise InputError(
                    f"{name_of(path)}: {form} is read from its end, so not from a pipe or a compressed file; "
                    "unpack it and name the file"
                )
            yield from read_parquet(path) if head.startswith(PARQUET) else read_arrow(path)
        elif head.startswith(ARROW_STREAM):
            yield from read_arrow(path, opened.stream)
        elif suffix in DELIMITERS:
            yield from read_delimited(opened.stream, path, DELIMITERS[suffix])
        elif is_array(head):
            yield from read_json_array(opened.stream, path)
        else:
            _refuse_unread(path, head, suffix)
            yield from read_json_lines(opened.stream, path)


def files_of(path: str) -> list[str]:
    """The files that `read_rows` reads, as its rows name them: those of a folder, else the path itself.

    Raises:
        InputError: what the folder holds is not read.
    """
    return files_of_folder(path) if path != "-" and Path(path).is_dir() else [name_of(path)]


def _refuse_unread(path: str, head: bytes, suffix: str) -> None:
    form = next((form for magic, form in _UNREAD_MAGIC.items() if head.startswith(magic)), None)
    if form is None and not head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        form = _UNREAD_SUFFIXES.get(suffix)
    if form is not None:
        raise InputError(f"{name_of(path)}: {form} is not read; save the rows as {_READ}")
