"""How long a folder's gradients took: what a row costs, beside what it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from airrep_infer.files import write_json
from airrep_infer.json_reader import read_json
from airrep_infer.sealed import damage, integer, number
from airrep_train.gradients.settings import TIME


def add_time(folder: Path, rows: int, seconds: float) -> None:
    """Add rows that were taken in so many seconds to what a gradient folder says of them."""
    before_rows, before_seconds = _read(folder)
    write_json(folder / TIME, {"rows": before_rows + rows, "seconds": before_seconds + seconds})


def join_times(shards: Sequence[Path], folder: Path) -> None:
    """Give a joined folder the rows and seconds of its shards, whatever it had."""
    rows, seconds = _sum(shards)
    write_json(folder / TIME, {"rows": rows, "seconds": seconds})


def ms_a_row(folders: Sequence[Path]) -> float | None:
    """Milliseconds that a gradient took in these folders together; None where none of them says so.

    A run that was killed leaves out the rows that it took, and folders of earlier versions say nothing.
    """
    rows, seconds = _sum(folders)
    return 1000 * seconds / rows if rows else None


def _sum(folders: Sequence[Path]) -> tuple[int, float]:
    taken = [_read(folder) for folder in folders]
    return sum(rows for rows, _ in taken), sum(seconds for _, seconds in taken)


def _read(folder: Path) -> tuple[int, float]:
    if not (folder / TIME).is_file():
        return 0, 0.0
    taken = read_json(folder / TIME)
    with damage(folder / TIME, "delete it: how long gradients took is then not known"):
        return integer(taken["rows"]), number(taken["seconds"], 0)
