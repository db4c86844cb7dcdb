"""Rows of Parquet and Arrow files, of folders of them, and of what `datasets.save_to_disk` writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from airrep_infer.errors import InputError, name_of
from airrep_infer.json_reader import read_json
from airrep_infer.rows.readers.base import Row, import_pyarrow

PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"

TABLE_SUFFIXES = (".parquet", ".arrow")
"""Of the files that are read of a folder."""
_ROWS_AT_ONCE = 256
# How the hub names the files of a split: train-00000-of-00002.parquet.
_SPLIT = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?")


def read_parquet(path: str) -> Iterator[Row]:
    """The rows of a Parquet file, some hundred at a time."""
    import_pyarrow(path, "reading Parquet")
    from pyarrow import parquet

    with _table_errors(path):
        file = parquet.ParquetFile(path, memory_map=True)
    yield from _rows(path, file.iter_batches(_ROWS_AT_ONCE, use_threads=False))


def read_arrow(path: str, stream: IO[bytes] | None = None) -> Iterator[Row]:
    """The rows of an Arrow file, or of an Arrow stream in a file or on standard input.

    Args:
        stream: what to read instead of the file, an Arrow stream.
    """
    pa = import_pyarrow(path, "reading Arrow")
    with _table_errors(path):
        source = pa.PythonFile(stream, mode="r") if stream else pa.memory_map(path)
        if stream is None and source.read(len(ARROW_FILE)) == ARROW_FILE:
            file = pa.ipc.open_file(source)
            batches: Iterator[Any] = map(file.get_batch, range(file.num_record_batches))
        else:
            if stream is None:
                source.seek(0)
            batches = iter(pa.ipc.open_stream(source))
    yield from _rows(path, batches)


def read_folder(path: str) -> Iterator[Row]:
    """The rows of a folder: a saved dataset, or Parquet or Arrow files in the order of their names."""
    columns = _saved(Path(path))[1] if _is_saved(Path(path)) else None
    for file in files_of_folder(path):
        for row in read_parquet(file) if file.endswith(".parquet") else read_arrow(file):
            if columns is not None:
                row = Row(row.file, row.line, {key: row.value[key] for key in columns if key in row.value})
            yield row


def files_of_folder(path: str) -> list[str]:
    """The files that `read_folder` reads, in order.

    Raises:
        InputError: there are none, or not all can be read as one.
    """
    folder = Path(path)
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json").get("splits")
        shown = ", ".join(f"{path}/{split}" for split in splits) if isinstance(splits, list) else "none"
        raise InputError(f"{path}: a saved dataset of several splits; name one of them: {shown}")
    if _is_saved(folder):
        return _saved(folder)[0]
    files = _table_files(folder)
    if not files:
        raise InputError(f"{path}: the folder holds no Parquet or Arrow files, and is no saved dataset")
    if len({file.suffix for file in files}) > 1:
        raise InputError(f"{path}: the folder holds Parquet and Arrow files; name the files to read")
    splits = sorted({match["split"] for file in files if (match := _SPLIT.fullmatch(file.stem))})
    if len(splits) > 1:
        raise InputError(f"{path}: the folder holds the splits {', '.join(splits)}; name the files of one")
    return list(map(str, files))


def holds_rows(path: str | Path) -> bool:
    """Whether a folder has rows to read: whether it is a saved dataset, or holds Parquet or Arrow files."""
    saved = _is_saved(Path(path)) or (Path(path) / "dataset_dict.json").is_file()
    return saved or bool(_table_files(Path(path)))


def _is_saved(folder: Path) -> bool:
    return (folder / "state.json").is_file()


def _table_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix in TABLE_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _saved(folder: Path) -> tuple[list[str], list[str] | None]:
    """The files of a dataset that `datasets.save_to_disk` wrote, and the columns of its format; None: all."""
    state = read_json(folder / "state.json")
    try:
        files = [str(folder / str(file["filename"])) for file in state["_data_files"]]
        columns = state.get("_format_columns")
        selected = state.get("_indices_data_files") or state.get("_indices_files")
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / 'state.json'}: not of a saved dataset; save it again") from error
    if selected:
        raise InputError(
            f"{folder}: the dataset is a selection of its files; flatten_indices() it and save it again"
        )
    return files, columns


def _rows(path: str, batches: Iterator[Any]) -> Iterator[Row]:
    number = 0
    with _table_errors(path):
        for batch in batches:
            batch.validate(
                full=True
            )  # pyarrow believes offsets, and would read memory that is not the file's
            names = batch.schema.names
            if len(set(names)) < len(names):
                raise InputError(f"{path}: two columns have one name; name every column differently")
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                for value in batch.slice(start, _ROWS_AT_ONCE).to_pylist():
                    number += 1
                    yield Row(name_of(path), number, value)


@contextmanager
def _table_errors(path: str) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name_of(path)}: cannot read: {reason}; write the file again") from error
