"""Near copies of dev rows: in a pool they would let a method look good for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from airrep_infer.rows import Example, NearCopies


def find_near_copies(
    examples: Iterable[Example], dev: Iterable[int], similarity: float
) -> Mapping[int, frozenset[int]]:
    """For each of some lines the other lines whose rows are its near copies, see `NearCopies`.

    Args:
        examples: all rows, in the order of their lines; read twice.
        dev: the lines, from 0.
        similarity: from which a row is a near copy, above 0; a copy has 1.
    """
    lines = np.unique(np.fromiter(dev, np.int64))
    chosen = set(lines.tolist())
    near_copies = NearCopies((row for line, row in enumerate(examples) if line in chosen), similarity)
    copies: dict[int, set[int]] = {line: set() for line in chosen}
    for line, row in enumerate(examples):
        for dev_line in lines[near_copies.of(row).rows].tolist():
            if dev_line != line:
                copies[dev_line].add(line)
    return {line: frozenset(others) for line, others in copies.items()}
