"""Which format a file's name says, so that no file of ours holds another one."""

from __future__ import annotations

from pathlib import Path

from airrep_infer.errors import InputError

_FORMATS = {
    ".jsonl": "JSONL",
    ".ndjson": "JSONL",
    ".json": "JSON",
    ".csv": "CSV",
    ".tsv": "TSV",
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Arrow",
    ".npy": "a NumPy array",
    ".npz": "NumPy arrays",
    ".pkl": "a pickle",
    ".html": "HTML",
    ".htm": "HTML",
    ".md": "Markdown",
    ".pdf": "PDF",
    ".xml": "XML",
    ".yaml": "YAML",
    ".yml": "YAML",
    ".xlsx": "Excel",
    ".db": "a database",
    ".sqlite": "a database",
    ".gz": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "Zstandard",
    ".zip": "a ZIP archive",
    ".tar": "a tar archive",
}
"""The formats that suffixes name. Any other suffix, and a name without one, says nothing."""


def check_suffix(output: str | Path, written: str, *good: str) -> None:
    """Refuse an output whose name says another format than it will have.

    Args:
        written: the format, one of `_FORMATS`.
        good: the suffixes that the message offers.

    Raises:
        InputError: the suffix is of another format.
    """
    named = _FORMATS.get(Path(output).suffix.lower(), written)
    if named != written:
        raise InputError(
            f"{output}: would hold {written}, but its name says {named}; name a file that ends in "
            f"{' or '.join(good)}"
        )
