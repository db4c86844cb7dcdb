"""Rows that are copies or near copies of dev rows: in a pool they would let a method look good for nothing.

Two rows are near copies by the rule that `select --exclude` has too: the Jaccard similarity of their sets of
runs of 5 characters, in lower case and with white space as one space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import numpy as np

from airrep_infer.rows import NEAR_COPY_RUN, Example

_BLOCK = 256
_CHARACTERS = 100_000
"""What is compared of a row: of a longer one its beginning."""


def find_near_copies(
    examples: Iterable[Example], dev: Iterable[int], similarity: float
) -> Mapping[int, frozenset[int]]:
    """For each of some lines the other lines whose rows are its near copies.

    Args:
        examples: all rows, in the order of their lines; read twice.
        dev: the lines, from 0.
        similarity: from which a row is a near copy, above 0; a copy has 1.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        analyzer="char",
        ngram_range=(NEAR_COPY_RUN, NEAR_COPY_RUN),
        binary=True,
        norm=None,
        alternate_sign=False,
        n_features=1 << 22,
    )
    lines = np.unique(np.fromiter(dev, np.int64))
    chosen = set(lines.tolist())
    dev_runs = vectorizer.transform(_content(row) for line, row in enumerate(examples) if line in chosen)
    dev_sizes = dev_runs.getnnz(axis=1)
    copies: dict[int, set[int]] = {line: set() for line in chosen}
    rows, first = iter(examples), 0
    while block := list(islice(rows, _BLOCK)):
        runs = vectorizer.transform(map(_content, block))
        shared = (runs @ dev_runs.T).tocoo()
        together = runs.getnnz(axis=1)[shared.row] + dev_sizes[shared.col] - shared.data
        near = shared.data >= similarity * together
        for row, column in zip(shared.row[near].tolist(), shared.col[near].tolist(), strict=True):
            if first + row != lines[column]:
                copies[int(lines[column])].add(first + row)
        first += len(block)
    return {line: frozenset(others) for line, others in copies.items()}


def _content(example: Example) -> str:
    """A row's prompt and response; spaces make a run of a text that is shorter than one."""
    parts = (example.prompt, example.response) if example.prompt is not None else (example.response,)
    return " ".join(" ".join(part[:_CHARACTERS] for part in parts).split()).ljust(NEAR_COPY_RUN, "\0")
