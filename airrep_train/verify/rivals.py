"""What the named rows are compared with besides random ones: the rows that other methods would name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.rows import Example
from airrep_train.evaluate import LexicalScorer, open_scores
from airrep_train.label import Indices
from airrep_train.verify.named_rows import read_named_rows


def choose_rivals(
    against: Sequence[str],
    examples: Sequence[Example],
    queries: Sequence[Example],
    candidates: Indices,
    count: int,
) -> dict[str, Indices]:
    """name -> the (count,) line numbers that a method would name; "random" is left to the caller.

    Args:
        against: "random", "bm25", a `.npy` of scores (queries, rows), or a file for `read_named_rows`.
        candidates: line numbers that BM25 and scores choose from.

    Raises:
        InputError: none of these, unreadable, or too few rows.
    """
    rivals: dict[str, Indices] = {}
    for name in against:
        if name == "random":
            continue
        if name == "bm25":
            rivals[name] = _top(_bm25(examples, queries, candidates), candidates, count)
        elif not Path(name).is_file():
            raise InputError(f"against {name!r}: neither random nor bm25, and no such file")
        elif name.endswith(".npy"):
            order = "as the files given here have queries and rows"
            scores = np.asarray(open_scores(Path(name), len(queries), len(examples), order), np.float64)
            if not np.isfinite(scores).all():
                raise InputError(f"{name}: holds a score that is NaN or infinite")
            rivals[Path(name).stem] = _top(scores[:, candidates], candidates, count)
        else:
            lines = {str(row.id): line for line, row in enumerate(examples)}
            ids = read_named_rows(Path(name), len(candidates), k=count)
            missing = [row for row in ids if row not in lines]
            if missing:
                raise InputError(f"against {name}: no row has the id {missing[0]!r} ({len(missing)} missing)")
            rivals[Path(name).stem] = np.unique([lines[row] for row in ids])
    return rivals


def _bm25(
    examples: Sequence[Example], queries: Sequence[Example], candidates: Indices
) -> NDArray[np.float64]:
    scorer = LexicalScorer("bm25", [*examples, *queries])
    positions = np.arange(len(examples), len(examples) + len(queries))
    return np.concatenate([np.asarray(part, np.float64) for part in scorer.scores(positions, candidates)])


def _top(scores: NDArray[np.floating], candidates: Indices, count: int) -> Indices:
    """The candidates with the highest mean over the queries, each query scaled to its own highest."""
    highest = np.abs(scores).max(axis=1, keepdims=True)
    mean = (scores / np.where(highest > 0, highest, 1)).mean(axis=0)
    return np.sort(candidates[np.argsort(-mean, kind="stable")[:count]])
