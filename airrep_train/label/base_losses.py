"""The dev losses of every split before any fine-tuning, beside the losses of a label run.

`base_<losses>`, a row a split: `{"dev_id": 0, "losses": [...], "run": "...", "sha": "..."}`. `run` is of the
settings that they were measured under and `sha` of the rest of the row; rows of other programs have neither.
What a subset did to a query's loss, in nats, is its base loss minus its loss after the fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write
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
from airrep_train.label.subsets import SubsetPlan


@dataclass(frozen=True)
class BaseRow:
    """The (n,) base losses of one split; `run` is None where other programs wrote them."""

    losses: Losses
    run: str | None = None


def base_path(losses: Path) -> Path:
    """Where the base losses of a `losses.jsonl` are."""
    return losses.with_name(f"base_{losses.name}")


def read_base(plan: SubsetPlan, path: Path) -> dict[int, BaseRow]:
    """dev_id -> base losses, as far as they are measured; empty where there is no such file.

    Raises:
        InputError: `file:line: reason` for a row that is not of a split of the plan, has another number of
            losses, is damaged, or occurs twice.
    """
    rows: dict[int, BaseRow] = {}
    if not path.exists():
        return rows
    for line, row in read_rows(path):
        with row_errors(path, line):
            dev_id, measured = _parse(row, plan)
            if dev_id in rows:
                raise ValueError(f"the base losses of split {dev_id} a second time; remove one of them")
            rows[dev_id] = measured
    return rows


def read_bases(plan: SubsetPlan, losses: Iterable[Path]) -> dict[int, Losses]:
    """dev_id -> base losses, of all that lie beside some files of losses.

    Raises:
        InputError: see `read_base`; or two files have other losses for a split.
    """
    known: dict[int, Losses] = {}
    for path in losses:
        if path.is_dir():  # losses of the published code, which has no such file
            continue
        for dev_id, row in read_base(plan, base_path(path)).items():
            if not np.array_equal(known.setdefault(dev_id, row.losses), row.losses, equal_nan=True):
                raise InputError(
                    f"{base_path(path)}: other base losses of split {dev_id} than those beside another file "
                    "of losses; keep one of the two"
                )
    return known


def write_base(path: Path, rows: Mapping[int, BaseRow]) -> None:
    """Write base losses, a row a split, atomically."""
    with atomic_write(path) as stream:
        for dev_id, row in rows.items():
            value: dict[str, Any] = {"dev_id": dev_id, "losses": json_losses(row.losses)}
            if row.run is not None:
                value["run"] = row.run
            stream.write(loss_line(value))


def _parse(row: dict[str, Any], plan: SubsetPlan) -> tuple[int, BaseRow]:
    check_sha(row)
    dev_id, losses = get_count(row, "dev_id"), get_losses(row, "losses")
    if dev_id not in plan.dev:
        raise ValueError(f"dev_id {dev_id} is not among the splits {list(plan.dev)}")
    if len(losses) != len(plan.dev[dev_id]):
        raise ValueError(
            f"{len(losses)} losses, but the dev set {dev_id} has {len(plan.dev[dev_id])} examples"
        )
    return dev_id, BaseRow(losses, get_string(row, "run") if "run" in row else None)
