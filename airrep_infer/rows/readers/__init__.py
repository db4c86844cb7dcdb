"""Readers of rows, one file for each form of data; `read_rows` chooses by what a file or folder holds."""

from airrep_infer.rows.readers.base import Row, file_stem, import_pyarrow
from airrep_infer.rows.readers.choose import files_of, read_rows
from airrep_infer.rows.readers.tables import TABLE_SUFFIXES, holds_rows

__all__ = ["TABLE_SUFFIXES", "Row", "file_stem", "files_of", "holds_rows", "import_pyarrow", "read_rows"]
