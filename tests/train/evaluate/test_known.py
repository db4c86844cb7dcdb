"""Known rows: recall@k, AUC and average precision against slow twins, what is known from files and fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from airrep_infer.errors import InputError
from airrep_infer.rows import Example
from airrep_train.cli import main
from airrep_train.evaluate import KnownOptions, KnownTruth, evaluate_known, truth_from_known
from airrep_train.evaluate.bootstrap import resample_means
from airrep_train.evaluate.ranking import rank_measures

EXACT = 1e-9


@dataclass(frozen=True)
class GivenScores:
    """Scores s from a table [query line, example line]."""

    table: NDArray[np.float64]
    beta: float = 1.0

    def scores(self, queries: NDArray[np.int64], pool: NDArray[np.int64]) -> Iterator[NDArray[np.floating]]:
        yield self.table[np.ix_(queries[:1], pool)]
        yield self.table[np.ix_(queries[1:], pool)]


def slow_recall(scores: NDArray[np.float64], relevant: NDArray[np.bool_], k: int) -> float:
    """The mean over many random orders of equal scores."""
    rng = np.random.default_rng(0)
    orders = [np.lexsort((rng.random(len(scores)), -scores)) for _ in range(4000)]
    return float(np.mean([relevant[order[:k]].sum() / relevant.sum() for order in orders]))


def slow_auc(scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> float:
    pairs = list(product(scores[relevant], scores[~relevant]))
    return float(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]))


def slow_precision(scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> float:
    """The precision at every distinct score, times the share of the sought rows that it adds."""
    total, before = 0.0, 0.0
    for score in sorted(set(scores), reverse=True):
        taken = scores >= score
        recall = relevant[taken].sum() / relevant.sum()
        total += (recall - before) * relevant[taken].mean()
        before = recall
    return total


def test_measures_are_those_of_the_slow_twins() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 6, (5, 30)).astype(float)  # many equal ones
    scores[0] = rng.standard_normal(30)
    relevant = rng.random((5, 30)) < 0.3
    relevant[:, 0], relevant[:, 1] = True, False
    for k in (1, 7, 30, 99):
        found = rank_measures(scores, relevant, k)
        for row, score, right in zip(found, scores, relevant, strict=True):
            assert row[0] == pytest.approx(slow_recall(score, right, k), abs=0.02)
            assert row[1] == pytest.approx(slow_auc(score, right), abs=EXACT)
            assert row[2] == pytest.approx(slow_precision(score, right), abs=EXACT)


def test_resampled_means_are_of_the_same_queries_in_every_method() -> None:
    values = np.random.default_rng(2).random((2, 50))
    values[1] = values[0] - 0.25
    again = resample_means(values, n=3000)
    np.testing.assert_allclose(again[0] - again[1], 0.25, atol=EXACT)
    assert again[0].mean() == pytest.approx(values[0].mean(), abs=0.005)
    assert again[0].std() == pytest.approx(values[0].std() / 50**0.5, rel=0.1)


def test_evaluation_counts_queries_with_rows_to_find_and_others() -> None:
    examples = [Example(str(n), None, f"text {n}") for n in range(8)]  # 4 rows, 4 queries
    found = [np.array([0]), np.array([], np.int64), np.array([1, 2]), np.arange(4)]
    table = np.zeros((8, 8))
    table[4, :4] = [4, 3, 2, 1]  # finds its row first
    table[6, :4] = [4, 3, 1, 2]  # finds one second, the other last
    result = evaluate_known(GivenScores(table), KnownTruth(examples, found), k=2, baselines=["random"])
    recall, auc, precision = result.measures
    assert (result.queries, result.left_out, result.rows, result.found) == (2, 2, 4, 1.5)
    assert (recall.name, auc.name, precision.name) == ("recall@2", "AUC", "average precision")
    assert recall.mean == pytest.approx((1 + 1 / 2) / 2)
    assert auc.mean == pytest.approx((1 + 1 / 4) / 2)
    assert precision.mean == pytest.approx((1 + (1 / 2 + 2 / 4) / 2) / 2)
    assert auc.baselines["random"].difference == pytest.approx(auc.mean - auc.baselines["random"].mean)
    assert "2 queries, 1.5 of 4 rows to find on average; 2 queries without a row to find" in result.table()
    with pytest.raises(InputError, match="nothing is pooled"):
        evaluate_known(GivenScores(table), KnownTruth(examples, found), baselines=["random+mean"])
    with pytest.raises(InputError, match="no query has a row to find beside"):
        evaluate_known(GivenScores(table), KnownTruth(examples, [np.arange(4)] * 4))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Six rows and two queries, with sources; two rows are marked."""
    rows = [
        {"id": f"r{n}", "text": f"café {n}", "source": n % 3, "meta": {"bad": n in (1, 4)}} for n in range(6)
    ]
    queries = [
        {"id": "q0", "text": "the café", "source": ["1", "no such one"]},
        {"id": "q1", "text": "a café"},
    ]
    return write_rows(tmp_path / "rows.jsonl", rows), write_rows(tmp_path / "queries.jsonl", queries)


def lines(truth: KnownTruth) -> list[list[int]]:
    return [found.tolist() for found in truth.found]


def test_known_rows_come_from_a_field_or_a_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert lines(truth_from_known(*files, KnownOptions(known="source"))) == [[1, 4], []]
    assert lines(truth_from_known(*files, KnownOptions(marked="meta.bad"))) == [[1, 4], [1, 4]]
    known = write_rows(tmp_path / "known.jsonl", [{"query": "q1", "rows": ["r5", "r0", "r5"]}])
    assert lines(truth_from_known(*files, KnownOptions(known=str(known)))) == [[], [0, 5]]
    marked = tmp_path / "marked"
    marked.write_text("r4\n\n r2\r\n")
    assert lines(truth_from_known(*files, KnownOptions(marked=str(marked)))) == [[2, 4], [2, 4]]
    marked.write_bytes(b"\xef\xbb\xbfr4\r\nr2")
    assert lines(truth_from_known(*files, KnownOptions(marked=str(marked)))) == [[2, 4], [2, 4]]
    write_rows(marked, [{"id": "r3", "text": "x"}])
    assert lines(truth_from_known(*files, KnownOptions(marked=str(marked)))) == [[3], [3]]


def test_what_is_not_known_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    known, marked = tmp_path / "known.jsonl", tmp_path / "marked"
    for entries, message in (
        ([{"query": "q9", "rows": []}], "known.jsonl:1: no query has the id 'q9'"),
        ([{"query": "q0", "rows": ["r9"]}], "known.jsonl:1: no row has the id 'r9'"),
        ([{"query": "q0", "rows": "r1"}], r'expected \{"query": id, "rows": \[ids\]\}'),
        ([{"query": "q0", "rows": []}] * 2, "known.jsonl:2: query 'q0' is there twice"),
    ):
        write_rows(known, entries)
        with pytest.raises(InputError, match=message):
            truth_from_known(*files, KnownOptions(known=str(known)))
    for text, message in (("r1\nr9\n", "marked:2: no row has the id 'r9'"), ("\n", "no ids in it")):
        marked.write_text(text)
        with pytest.raises(InputError, match=message):
            truth_from_known(*files, KnownOptions(marked=str(marked)))
    with pytest.raises(InputError, match="--known sauce: no row has this field, and there is no such file"):
        truth_from_known(*files, KnownOptions(known="sauce"))
    with pytest.raises(InputError, match="--marked source: true in no row"):
        truth_from_known(*files, KnownOptions(marked="source"))
    with pytest.raises(InputError, match="exclude each other"):
        KnownOptions(known="source", marked="bad")


def test_the_command(files: tuple[Path, Path], encoder_folder: Callable[[str], Path], tmp_path: Path) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
        return done.exit_code, done.output

    rows, queries = files
    scores = tmp_path / "mine.npy"
    table = np.zeros((2, 6), np.float32)
    table[:, [1, 4]] = 1
    np.save(scores, table)
    ids = {"queries": ["q0", "q1"], "rows": [f"r{n}" for n in range(6)]}
    scores.with_suffix(".ids.json").write_text(json.dumps(ids))
    asked = [rows, "--query", queries, "--model", encoder_folder("bert")]
    output = tmp_path / "out.json"
    flags = ["--baseline", "bm25", "--scores", scores, "-k", 2, "--json", output]
    code, shown = run(*asked, "--marked", "meta.bad", *flags)
    assert code == 0, shown
    assert "2 queries, 2.0 of 6 rows to find on average" in shown
    written = json.loads(output.read_text())
    assert list(written["ms_a_row"]) == [str(asked[4])] and "milliseconds a row" in shown
    measures = written["measures"]
    assert list(measures) == ["recall@2", "AUC", "average precision"]
    for measure in measures.values():
        assert measure["baselines"][str(scores)]["mean"] == pytest.approx(1.0)
        assert measure["baselines"]["bm25"]["ci95"][0] <= measure["baselines"]["bm25"]["ci95"][1]
    for more in (
        ["-k", 3],
        ["--known", "source", "--partial"],
        ["--known", "source", "--pooling", "mean"],
    ):
        code, shown = run(*asked, *more)
        assert code == 2 and "rank single rows" in shown


def test_a_marked_row_without_an_id_is_not_called_none(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "None", "text": "a"}\n{"id": "b", "text": "b"}\n')
    (tmp_path / "marked.jsonl").write_text('{"id": "b"}\n{"id": null}\n')
    with pytest.raises(InputError, match=r"marked\.jsonl:2: no id"):
        truth_from_known(
            tmp_path / "rows.jsonl",
            tmp_path / "rows.jsonl",
            KnownOptions(marked=str(tmp_path / "marked.jsonl")),
        )
