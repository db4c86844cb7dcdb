"""What the named rows are compared with besides random ones: the rows that other methods would name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.rows import Example
from airrep_train.evaluate import LEXICAL, FileScorer, LexicalScorer, Scorer, open_scores
from airrep_train.label import Indices
from airrep_train.verify.lines import Lines
from airrep_train.verify.named_rows import read_named_rows
from airrep_train.verify.names import RANDOM, name_rivals


def choose_rivals(
    against: Sequence[str],
    examples: Sequence[Example],
    queries: Sequence[Example],
    candidates: Indices,
    count: int,
) -> dict[str, Indices]:
    """Name of an arm -> the (count,) line numbers that a method would name; "random" is left to the caller.

    Args:
        against: "random", another of `LEXICAL`, scores of any method (see `FileScorer`; a `.npy` or `.pt`
            without a list of ids has queries and rows in the order of the files), or a file for
            `read_named_rows`.
        candidates: line numbers that these methods choose from.

    Raises:
        InputError: none of these, two of one name, unreadable, or too few rows.
    """
    given = {name: source for name, source in name_rivals(against).items() if source != RANDOM}
    for source in given.values():
        if source not in LEXICAL and not Path(source).exists():
            raise InputError(f"against {source!r}: none of {', '.join(LEXICAL)}, and no such file")
        if chooses(source) and len(candidates) < count:
            raise InputError(
                f"against {source}: {count} rows are named, and the pool has {len(candidates)} to choose "
                "from; name fewer, or give a larger pool"
            )
    rivals: dict[str, Indices] = {}
    for name, source in given.items():
        if not chooses(source):
            ids = read_named_rows(Path(source), len(candidates), k=count, examples=examples)
            rivals[name] = Lines(examples).of(ids, f"against {source}")
            continue
        if source in LEXICAL:
            scorer = LexicalScorer(source, [*examples, *queries])
            scores = _all_scores(scorer, len(examples), len(queries), candidates)
        else:
            scores = _given(Path(source), examples, queries, candidates)
        rivals[name] = _top(scores, candidates, count)
    return rivals


def chooses(source: str) -> bool:
    """Whether what is given for `against` chooses among the rows of the pool; a list of rows does not."""
    return source in LEXICAL or Path(source).is_dir() or Path(source).suffix in (".npy", ".pt")


def refuse_equal_arms(named: Indices, rivals: Mapping[str, Indices], against: Mapping[str, str]) -> None:
    """Refuse two arms that change the same rows: fine-tuned twice, they would differ by nothing.

    Args:
        named: the sorted (m,) line numbers of the rows in question.
        rivals: those of the others, sorted, by the name of their arm.
        against: what was given for each, by the name of its arm.

    Raises:
        InputError: there are two.
    """
    arms = {"the named rows": named} | {f"against {against[name]}": rows for name, rows in rivals.items()}
    for (one, rows), (other, others) in combinations(arms.items(), 2):
        if np.array_equal(rows, others):
            raise InputError(
                f"{one} and {other} are the same {len(rows)} rows, so their arms cannot differ; leave out "
                f"{other}, or give other rows"
            )


def _all_scores(scorer: Scorer, rows: int, queries: int, candidates: Indices) -> NDArray[np.float64]:
    """(queries, candidates), of a scorer whose examples are the rows and then the queries."""
    positions = np.arange(rows, rows + queries)
    return np.concatenate([np.asarray(part, np.float64) for part in scorer.scores(positions, candidates)])


def _given(
    path: Path, examples: Sequence[Example], queries: Sequence[Example], candidates: Indices
) -> NDArray[np.float64]:
    """(queries, candidates) scores from a file: by the ids listed beside it, else by their order."""
    if path.is_dir() or FileScorer.ids_file(path).is_file():
        scorer = FileScorer.open(path, [*examples, *queries])
        return _all_scores(scorer, len(examples), len(queries), candidates)
    order = "as the files given here have queries and rows"
    scores = np.asarray(open_scores(path, len(queries), len(examples), order), np.float64)
    if not np.isfinite(scores).all():
        raise InputError(f"{path}: holds a score that is NaN or infinite")
    return scores[:, candidates]


def _top(scores: NDArray[np.floating], candidates: Indices, count: int) -> Indices:
    """The candidates with the highest mean over the queries, each query scaled to its own highest."""
    highest = np.abs(scores).max(axis=1, keepdims=True)
    mean = (scores / np.where(highest > 0, highest, 1)).mean(axis=0)
    return np.sort(candidates[np.argsort(-mean, kind="stable")[:count]])
