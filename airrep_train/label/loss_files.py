"""Measured losses: the label run's `losses.jsonl`, the published code's `loss-<id>.json`, LDS ground truth.

A row is `{"pair_id": "0-17", "dev_id": 0, "losses": [...]}`, one loss (mean cross-entropy in nats) per
example of the split's dev set, in its order. A loss that is unknown (no response token left, or not a
finite number) is `null` in the file and NaN in memory. Rows with `"repeat": n`, n > 0, are a second
measurement under another seed: they serve the reliability estimate, never the labels themselves. The `sha`
of a row is of the rest of it, and found wrong where a digit was damaged; rows of other programs have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_json
from airrep_train.label.base_losses import read_bases
from airrep_train.label.records import (
    Losses,
    check_sha,
    get_count,
    get_losses,
    get_string,
    json_losses,
    loss_line,
    read_rows,
    row_errors,
)
from airrep_train.label.subsets import Indices, Subset, SubsetPlan

Key = tuple[str, int]
"""(subset id, repeat): what a row is the measurement of."""


@dataclass(frozen=True, slots=True)
class LossRow:
    """One measurement: the (n,) dev losses after fine-tuning on one subset."""

    pair_id: str
    dev_id: int
    losses: Losses
    seed: int | None = None
    repeat: int = 0

    @property
    def key(self) -> Key:
        return self.pair_id, self.repeat

    def to_json(self) -> bytes:
        """The row as one line."""
        row: dict[str, Any] = {"pair_id": self.pair_id, "dev_id": self.dev_id}
        if self.seed is not None:
            row["seed"] = self.seed
        if self.repeat:
            row["repeat"] = self.repeat
        row["losses"] = json_losses(self.losses)
        return loss_line(row)


@dataclass(frozen=True)
class LabelledSplit:
    """The labels of one split, aligned.

    Attributes:
        dev_id: which split.
        dev: (n,) line numbers of the dev examples.
        subsets: the K labelled subsets, in plan order.
        losses: (K, n) loss of dev example j after fine-tuning on subset k; NaN where unknown.
        repeated: (R,) which of the K subsets were measured again.
        repeat_losses: (R, n) those second measurements.
        base: (n,) loss of dev example j before any fine-tuning, NaN where unknown; None where it was not
            measured.
    """

    dev_id: int
    dev: Indices
    subsets: tuple[Subset, ...]
    losses: Losses
    repeated: Indices
    repeat_losses: Losses
    base: Losses | None = None


def read_losses(
    plan: SubsetPlan, *paths: Path, partial: bool = False, otherwise: str = ""
) -> list[LabelledSplit]:
    """Read the labels of a plan, one `LabelledSplit` for each of its splits that has any.

    Args:
        plan: the subsets that were labelled.
        paths: any number of `losses.jsonl` files (the shards of a run) and folders of `loss-<id>.json`. The
            base losses beside a file are read too (see `base_losses`).
        partial: leave subsets without a label out, instead of refusing.
        otherwise: what else can be done about missing labels where there are some, for the message.

    Raises:
        InputError: `file:line: reason` for a row that is not a measurement of this plan (unknown
            pair id, wrong dev_id, wrong number of losses), occurs twice, or is unfinished (the last
            line of a killed run; starting that run again fixes it); or labels are missing.
    """
    subsets = {subset.id: subset for subset in plan.subsets}
    measurements: dict[Key, tuple[LossRow, str]] = {}
    for path in paths:
        for place, row in (
            _read_folder(path, plan, subsets) if path.is_dir() else _read_file(path, plan, subsets)
        ):
            if row.key in measurements:
                what = f"a second measurement of {row.pair_id!r}"
                if row.repeat:
                    what += f" (repeat {row.repeat})"
                raise InputError(f"{place}: {what}, first at {measurements[row.key][1]}; remove one of them")
            measurements[row.key] = row, place
    missing = [name for name in subsets if (name, 0) not in measurements]
    if missing and (not partial or len(missing) == len(subsets)):
        advice = f", or {otherwise}" if otherwise and len(missing) < len(subsets) else ""
        raise InputError(
            f"{', '.join(map(str, paths))}: {len(missing)} of {len(subsets)} subsets have no losses "
            f"(first: {missing[0]!r}); finish the label run{advice}"
        )
    rows = {key: row for key, (row, _) in measurements.items()}
    bases = read_bases(plan, paths)
    splits = [_align(plan, dev_id, rows, bases.get(dev_id)) for dev_id in plan.dev]
    return [split for split in splits if split.subsets]


def _align(plan: SubsetPlan, dev_id: int, rows: Mapping[Key, LossRow], base: Losses | None) -> LabelledSplit:
    subsets = tuple(subset for subset in plan.split(dev_id) if (subset.id, 0) in rows)
    number = {subset.id: k for k, subset in enumerate(subsets)}
    again = [row for row in rows.values() if row.repeat and row.pair_id in number]
    size = len(plan.dev[dev_id])
    return LabelledSplit(
        dev_id,
        plan.dev[dev_id],
        subsets,
        np.array([rows[subset.id, 0].losses for subset in subsets], np.float32).reshape(-1, size),
        np.array([number[row.pair_id] for row in again], np.int64),
        np.array([row.losses for row in again], np.float32).reshape(-1, size),
        base,
    )


def _read_file(path: Path, plan: SubsetPlan, subsets: Mapping[str, Subset]) -> list[tuple[str, LossRow]]:
    rows = []
    for line, raw in read_rows(path):
        with row_errors(path, line):
            rows.append((f"{path}:{line}", parse_loss_row(raw, plan, subsets)))
    return rows


def _read_folder(path: Path, plan: SubsetPlan, subsets: Mapping[str, Subset]) -> list[tuple[str, LossRow]]:
    files = sorted(path.glob("loss-*.json"))
    if not files:
        raise InputError(f"{path}: the folder has no loss-<id>.json files")
    rows = []
    for file in files:
        try:
            row = parse_loss_row(read_json(file), plan, subsets)
        except ValueError as error:
            raise InputError(f"{file}: {error}") from error
        rows.append((str(file), row))
    return rows


def parse_loss_row(row: dict[str, Any], plan: SubsetPlan, subsets: Mapping[str, Subset]) -> LossRow:
    """Check one decoded row against the plan; a `ValueError` says what is wrong."""
    check_sha(row)
    measured = LossRow(
        get_string(row, "pair_id"),
        get_count(row, "dev_id"),
        get_losses(row, "losses"),
        get_count(row, "seed") if row.get("seed") is not None else None,
        get_count(row, "repeat") if row.get("repeat") is not None else 0,
    )
    subset = subsets.get(measured.pair_id)
    if subset is None:
        raise ValueError(f"pair_id {measured.pair_id!r} is not among the {len(subsets)} subsets")
    if measured.dev_id != subset.dev_id:
        raise ValueError(f"dev_id is {measured.dev_id}, but subset {subset.id!r} has dev_id {subset.dev_id}")
    size = len(plan.dev[subset.dev_id])
    if len(measured.losses) != size:
        raise ValueError(
            f"{len(measured.losses)} losses, but the dev set {subset.dev_id} has {size} examples"
        )
    return measured
