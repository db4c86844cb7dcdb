"""What an evaluation is measured against: labelled splits, or LDS ground truth over a pool and queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from airrep_infer.errors import InputError, refuse_single
from airrep_infer.rows import AS_WRITTEN, Example, Reading, read_examples
from airrep_train.label import (
    Indices,
    LabelledSplit,
    Subset,
    check_labels,
    read_lds,
    read_losses,
    read_subsets,
)


@dataclass(frozen=True)
class Truth:
    """Measured losses to evaluate on: splits whose line numbers refer to `examples`; notes for the user."""

    examples: Sequence[Example]
    splits: Sequence[LabelledSplit]
    notes: Sequence[str] = ()

    def lines(self) -> Indices:
        """The sorted distinct lines that any split uses."""
        parts = [part for s in self.splits for part in (s.dev, *(subset.select for subset in s.subsets))]
        return np.unique(np.concatenate(parts))

    def queries(self) -> Indices:
        """The sorted distinct lines that are queries of any split."""
        return np.unique(np.concatenate([split.dev for split in self.splits]))


def truth_from_labels(
    examples: str | Path,
    subsets: Path,
    losses: Sequence[Path],
    splits: Sequence[int] = (),
    *,
    partial: bool = False,
    reading: Reading = AS_WRITTEN,
) -> Truth:
    """Labelled subsets of one examples file.

    Args:
        splits: which dev_ids, each once; default: the last, as `fit` validates on.
        partial: take the subsets labelled so far.
        reading: which columns of the examples are what.

    Raises:
        InputError: a split that does not exist or is not labelled (in full), labels of other examples,
            subsets, or of two targets, or a bad file.
    """
    refuse_single(losses, "losses")
    rows = read_examples(examples, reading=reading)
    plan = read_subsets(subsets, len(rows))
    notes = check_labels(rows, plan, losses)
    labelled = {split.dev_id: split for split in read_losses(plan, *losses, partial=True)}
    chosen = list(dict.fromkeys(splits)) or list(plan.dev)[-1:]
    for dev_id in chosen:
        have = len(labelled[dev_id].subsets) if dev_id in labelled else 0
        total = len(plan.split(dev_id))
        if not total:
            raise InputError(f"{subsets}: no split {dev_id}; it has {', '.join(map(str, plan.dev))}")
        if have < 2 or (have < total and not partial):
            advice = "finish the label run, or use --partial" if have >= 2 else "finish the label run"
            raise InputError(f"split {dev_id}: {have} of {total} subsets have losses; {advice}")
    return Truth(rows, [labelled[dev_id] for dev_id in chosen], notes)


def truth_from_lds(
    train: str | Path, query: str | Path, lds: Path, *, reading: Reading = AS_WRITTEN
) -> Truth:
    """LDS ground truth `{"train_subset", "test_loss"}` over a pool and queries in two files.

    Raises:
        InputError: a bad file, or losses that do not fit the queries.
    """
    pool, queries = read_examples(train, reading=reading), read_examples(query, reading=reading)
    measured = read_lds(lds, len(pool), len(queries))
    subsets = tuple(Subset(str(k), 0, select) for k, select in enumerate(measured.subsets))
    dev = np.arange(len(pool), len(pool) + len(queries))
    none = np.zeros(0, np.int64), np.zeros((0, len(queries)), np.float32)
    return Truth([*pool, *queries], [LabelledSplit(0, dev, subsets, measured.losses, *none)])
