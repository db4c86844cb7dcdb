"""Rows as CSV or TSV: the first line names the columns, all values are strings."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import IO

from airrep_infer.errors import InputError, name_of
from airrep_infer.rows.readers.base import MAX_ROW_BYTES, Row, reading

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_delimited(stream: IO[bytes], path: str, delimiter: str) -> Iterator[Row]:
    """The rows of a file with a header.

    Raises:
        InputError: it is not UTF-8, a quote is not closed, or a column has no name or the name of another.
    """
    name = name_of(path)
    csv.field_size_limit(MAX_ROW_BYTES)
    records = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", newline=""), delimiter=delimiter, strict=True)
    number = 0
    header: list[str] | None = None
    while True:
        try:
            with reading(path, number):
                record = next(records, None)
        except UnicodeDecodeError as error:
            raise InputError(f"{name}:{number}: not UTF-8; save the file as UTF-8") from error
        except csv.Error as error:
            raise InputError(f"{name}:{number}: not valid CSV: {error}") from error
        if record is None:
            return
        if header is None:
            header = record
            _check_header(header, name)
        elif record:  # csv gives an empty line as a record without values
            number += 1
            if len(record) == len(header):
                yield Row(name, number, dict(zip(header, record, strict=True)))
            else:
                shown = delimiter.join(record)[: 1 << 20].encode(errors="surrogatepass")
                reason = f"the row has {len(record)} values, expected {len(header)}, one a column"
                yield Row(name, number, None, reason, shown)


def _check_header(header: list[str], name: str) -> None:
    for column in header:
        if not column:
            raise InputError(f"{name}: a column has no name; name all columns in the first line")
        if header.count(column) > 1:
            raise InputError(f"{name}: two columns are named {column[:40]!r}; name every column differently")
