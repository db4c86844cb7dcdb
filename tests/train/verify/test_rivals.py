"""Which rows other methods would name, from what they write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from airrep_infer.errors import InputError
from airrep_infer.rows import Example
from airrep_train.verify.rivals import choose_rivals

ROWS = [
    Example(f"r{n}", "Say it", text) for n, text in enumerate(["Oslo.", "oslo", "no", "No!", "Rome", "x"])
]
QUERIES = [Example("q0", "Norway?", "Oslo."), Example("q1", "Really?", "No!")]
BEST = np.array([1, 4])  # by the scores below


def scores() -> np.ndarray:
    table = np.zeros((2, 6), np.float32)
    table[0, BEST[0]] = table[1, BEST[1]] = 1
    return table


def named(against: str, candidates: np.ndarray | None = None) -> list[int]:
    everything = np.arange(6) if candidates is None else candidates
    (chosen,) = choose_rivals([against], ROWS, QUERIES, everything, 2).values()
    return chosen.tolist()


def test_words_name_the_rows_that_share_them() -> None:
    assert named("response-tfidf") == [0, 3]
    assert named("tfidf", np.array([1, 2, 4, 5])) == [1, 2]


def test_any_methods_scores_name_rows_by_id_or_by_order(tmp_path: Path) -> None:
    by_order, by_id, less = (tmp_path / name for name in ("order.npy", "ids.npy", "less.pt"))
    np.save(by_order, scores())
    np.save(by_id, scores()[::-1, ::-1])
    ids = {"queries": ["q1", "q0"], "rows": [f"r{n}" for n in reversed(range(6))]}
    by_id.with_suffix(".ids.json").write_text(json.dumps(ids))
    torch.save(torch.from_numpy(scores().T.copy()), less)
    for path in (by_order, by_id, less):
        assert named(str(path)) == BEST.tolist()
    np.save(by_order, scores() * np.nan)
    with pytest.raises(InputError, match="NaN or infinite"):
        named(str(by_order))


def test_a_list_names_rows_by_id(tmp_path: Path) -> None:
    path = tmp_path / "other.txt"
    path.write_text("r5\nr0\nr3\n")
    assert named(str(path)) == [0, 5]
    path.write_text("r5\nx\n")
    with pytest.raises(InputError, match=r"other\.txt: no training row has the id 'x' \(1 of 2"):
        named(str(path))


def test_a_pool_that_is_too_small_to_choose_from_is_refused(tmp_path: Path) -> None:
    """As many rows are compared as are named, never fewer."""
    np.save(tmp_path / "order.npy", scores())
    for against in ("bm25", str(tmp_path / "order.npy")):
        with pytest.raises(InputError, match="2 rows are named, and the pool has 1 to choose from"):
            named(against, np.array([3]))


def test_a_folder_that_no_method_wrote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; scores are FILE"):
        named(str(tmp_path))
