"""What a training row does to a query's loss, estimated from the measured losses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from airrep_infer.rows import read_examples
from airrep_train.label import read_losses, read_subsets
from demo.corpus import DATA


@dataclass(frozen=True)
class RowEffects:
    """By how many nats one more row of the query's skill in a subset lowers the query's loss.

    Against one of another skill in its place, mean over queries: a good row, a planted one.
    """

    good: float
    planted: float


def measure_effects(data: Path = DATA) -> RowEffects:
    """Least squares over all labels: a query's loss on the numbers of good and planted rows of its skill."""
    rows = read_examples(data / "examples.jsonl")
    skills = np.array([row.fields["skill"] for row in rows])
    lines = (data / "planted.jsonl").read_text(encoding="utf-8").splitlines()
    planted = np.isin([row.id for row in rows], [json.loads(line)["id"] for line in lines])
    counts, effects = [], []
    for split in read_losses(read_subsets(data / "subsets.jsonl", len(rows)), data / "losses.jsonl"):
        select = np.stack([subset.select for subset in split.subsets])  # (K, n)
        same = skills[select][:, None, :] == skills[split.dev][None, :, None]  # (K, Q, n)
        bad = planted[select][:, None, :]
        count = np.stack([(same & ~bad).sum(axis=2), (same & bad).sum(axis=2)], axis=2).astype(float)
        # Centred per query, so that what remains is the effect of subsets and not how hard the query is.
        counts.append((count - count.mean(axis=0)).reshape(-1, 2))
        effects.append((split.losses.mean(axis=0) - split.losses).reshape(-1))
    good, bad_row = np.linalg.lstsq(np.concatenate(counts), np.concatenate(effects), rcond=None)[0]
    return RowEffects(float(good), float(bad_row))
