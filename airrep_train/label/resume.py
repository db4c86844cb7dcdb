"""How a label run resumes: the file that it appends to, and the settings that it must not resume without.

Each measurement is one line, on the disk before the next begins. `<output>.run.json` (`run_record`) holds
what the run was started with.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from airrep_infer.errors import InputError, storage_errors
from airrep_infer.files import atomic_write, open_locked, sync_folder
from airrep_infer.json_reader import parse_object
from airrep_train.label.loss_files import Key, LossRow, parse_loss_row
from airrep_train.label.records import row_errors
from airrep_train.label.run_record import RunRecord
from airrep_train.label.subsets import SubsetPlan


def check_resumable(output: Path, record: RunRecord) -> None:
    """Refuse to resume a run that was started with other settings.

    Args:
        output: the `losses.jsonl`.
        record: of the run that wants to append to it.

    Raises:
        InputError: the settings differ, or are unknown.
    """
    if not output.exists() or not output.stat().st_size:
        return
    started = RunRecord.read(output)
    if started is None:
        raise InputError(
            f"{output}: exists without {RunRecord.path(output).name}, so the settings behind it are unknown; "
            "use another -o"
        )
    if different := started.differences(record):
        raise InputError(
            f"{output}: was started with other settings: {'; '.join(different)}; use those, or another -o"
        )


class LossFile:
    """A `losses.jsonl` that one label run appends to; a killed run leaves at most an unfinished last line.

    Opening takes the file's lock (one run at a time) and cuts off an unfinished last line.

    Raises:
        BusyError: another run writes to the file.
        InputError: a row in it is not a measurement of the plan.
    """

    def __init__(self, path: Path, plan: SubsetPlan) -> None:
        self.path = path
        taken = f"{path}: another label run is writing to it; wait for it, or use --shard and another -o"
        with storage_errors(path):
            self._stream = open_locked(path, taken)
            sync_folder(path.parent)
        try:
            self.rows = self._read(plan)
        except BaseException:
            self._stream.close()
            raise

    def _read(self, plan: SubsetPlan) -> dict[Key, LossRow]:
        subsets = {subset.id: subset for subset in plan.subsets}
        rows: dict[Key, LossRow] = {}
        self._stream.seek(0)
        end = 0
        for line, raw in enumerate(self._stream, 1):
            if not raw.endswith(b"\n"):
                break
            end += len(raw)
            with row_errors(self.path, line):
                row = parse_loss_row(parse_object(raw), plan, subsets)
                if rows.setdefault(row.key, row) is not row:
                    raise ValueError(f"a second measurement of {row.pair_id!r}; remove one of them")
        with storage_errors(self.path):
            self._stream.truncate(end)
        return rows

    def append(self, row: LossRow) -> None:
        """Add one measurement; when this returns it is on the disk.

        Raises:
            StorageError: the disk is full; what was written of the line goes at the next start.
        """
        with storage_errors(self.path):
            # Past the stream's buffer, which would try a line that failed once more when it is closed.
            rest = row.to_json()
            while rest:
                rest = rest[os.write(self._stream.fileno(), rest) :]
            os.fsync(self._stream.fileno())
        self.rows[row.key] = row

    def sort(self, keys: Sequence[Key]) -> None:
        """Put the rows in this order (others last), so that the file does not tell who finished first."""
        place = {key: n for n, key in enumerate(keys)}
        ordered = sorted(self.rows, key=lambda key: place.get(key, len(place)))
        if ordered != list(self.rows):
            with atomic_write(self.path) as stream:
                stream.writelines(self.rows[key].to_json() for key in ordered)

    def close(self) -> None:
        """Release the file."""
        self._stream.close()
