"""Readers of rows, one file for each form of data; `read_rows` chooses by what a file or folder holds."""

from airrep_infer.errors import name_of
from airrep_infer.rows.readers.base import Row, file_stem, import_pyarrow
from airrep_infer.rows.readers.choose import read_rows
from airrep_infer.rows.readers.tables import holds_rows

__all__ = ["Row", "file_stem", "holds_rows", "import_pyarrow", "name_of", "read_rows"]
