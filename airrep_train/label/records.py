"""JSONL rows of label data, with errors that name file, line and reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_objects

_SHA = "sha"
Losses = NDArray[np.float32]
_UNFINISHED = "if a label run was killed here, start it again: it repairs its file"


@contextmanager
def row_errors(path: Path, line: int) -> Iterator[None]:
    """Turn a `ValueError` about one row into an `InputError` that says where the row stands."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{path}:{line}: {error}") from error


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file with their line numbers, from 1; blank lines are passed over.

    Raises:
        InputError: the file cannot be read, has no rows, or a line is not a JSON object. A bad last line
            without its end is called unfinished: a label run was killed there or is still writing.
    """
    rows = 0
    for rows, (line, row) in enumerate(read_objects(path, cut=_UNFINISHED), 1):  # noqa: B007
        yield line, row
    if not rows:
        raise InputError(f"{path}: the file has no rows")


def get_string(row: dict[str, Any], key: str) -> str:
    """A field that must be a string and not empty."""
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a string that is not empty, got {_shown(row, key)}")
    return value


def get_count(row: dict[str, Any], key: str) -> int:
    """A field that must be an integer of at least 0."""
    value = row.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key} must be an integer of at least 0, got {_shown(row, key)}")
    return value


def get_indices(row: dict[str, Any], key: str, limit: int) -> NDArray[np.int64]:
    """A field that must be a list of line numbers in [0, limit), at least one, (n,) int64."""
    values = row.get(key)
    if not isinstance(values, list) or not values:
        raise ValueError(f"{key} must be a list of line numbers, at least one, got {_shown(row, key)}")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{key} must hold integers only, found {json.dumps(value)[:40]}")
        if not 0 <= value < limit:
            raise ValueError(
                f"{key} holds {value}, but there are {limit} examples (line numbers count from 0)"
            )
    return np.array(values, np.int64)


def get_losses(row: dict[str, Any], key: str) -> Losses:
    """A field that must be a list of losses, (n,) float32; null and non-finite numbers become NaN."""
    values = row.get(key)
    if not isinstance(values, list) or not values:
        raise ValueError(f"{key} must be a list of numbers, at least one, got {_shown(row, key)}")
    for value in values:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{key} must hold numbers or null, found {json.dumps(value)[:40]}")
    losses = np.array([np.nan if value is None else value for value in values], np.float32)
    losses[~np.isfinite(losses)] = np.nan
    return losses


def json_losses(losses: Losses) -> list[float | None]:
    """Losses as JSON has them: the shortest digits that give the same float32 back, null where unknown."""
    return [float(str(loss)) if np.isfinite(loss) else None for loss in losses]


def loss_line(row: Mapping[str, Any]) -> bytes:
    """A row as one line, with the sha of the rest of it."""
    return json.dumps({**row, _SHA: _sha_of(row)}, allow_nan=False).encode() + b"\n"


def check_sha(row: Mapping[str, Any]) -> None:
    """Raises ValueError for a row whose sha is not that of the rest; one without a sha is taken as it is."""
    if _SHA in row and row[_SHA] != _sha_of({key: value for key, value in row.items() if key != _SHA}):
        raise ValueError("damaged: the sha of the row is not the recorded one; delete this line, label again")


def _sha_of(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row).encode()).hexdigest()[:16]


def _shown(row: dict[str, Any], key: str) -> str:
    return json.dumps(row[key])[:40] if key in row else f"nothing (keys: {', '.join(row) or 'none'})"
