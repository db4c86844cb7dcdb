"""Questions to scores on the command line, over stores: leaving rows out, contrasts, pooled queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from airrep_infer.bundle import Calibration
from airrep_infer.cli import main
from airrep_infer.encode import EmbeddingSpace
from airrep_infer.rows.example import Example
from airrep_infer.rows.output import read_attributions
from airrep_infer.store.store import EmbeddingStore
from airrep_infer.store.writer import StoreWriter
from airrep_train.verify import read_named_rows

ROWS, QUERIES = 60, 6


def make_store(path: Path, prefix: str, vectors: np.ndarray, **fields: Any) -> Path:
    rows = [
        Example(f"{prefix}{n}", None, f"{prefix} {n}", {name: value(n) for name, value in fields.items()})
        for n in range(len(vectors))
    ]
    with StoreWriter(path, EmbeddingSpace("ab" * 32, "fp32", vectors.shape[1]), pooling_scale=2.0) as writer:
        writer.append(rows, vectors.astype(np.float32))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions")
    rng = np.random.default_rng(0)
    train = rng.normal(size=(ROWS, 5))
    make_store(path / "train", "r", train, task=lambda n: f"t{n % 3}", kind=lambda n: n % 2)
    make_store(path / "query", "q", rng.normal(size=(QUERIES, 5)), task=lambda n: f"t{n % 2}")
    make_store(path / "good", "g", rng.normal(size=(QUERIES, 5)), task=lambda n: "t0")
    make_store(path / "same", "r", train[:QUERIES], task=lambda n: "t1")
    return path


def run(folder: Path, *words: object, train: str = "train", query: str = "query", status: int = 0) -> Result:
    given = ["attribute", "--train", folder / train, "--query", folder / query, *words]
    result = CliRunner().invoke(main, list(map(str, given)))
    assert result.exit_code == status, result.output
    return result


def rows_of(folder: Path, *words: object, **sides: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(folder, *words, **sides).stdout.splitlines()]


def scores_of(folder: Path, query: str = "query", against: str | None = None) -> np.ndarray:
    def vectors(name: str) -> np.ndarray:
        store = EmbeddingStore.open(folder / name)
        return store.take(np.arange(len(store))).astype(np.float64)

    queries = vectors(query) - (vectors(against) if against else 0)
    return queries @ vectors("train").T


def pool(line: np.ndarray, beta: float = 2.0) -> float:
    weights = np.exp(beta * (np.abs(line) - np.abs(line).max()))
    return float((weights * line).sum() / weights.sum())


@pytest.mark.parametrize("how", [(), ("--pool-queries",), ("--exclude-self",)])
def test_every_row_has_its_text_by_its_sha(folder: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    stored = {row.id: row.sha for row in EmbeddingStore.open(folder / "train").rows()}
    rows = rows_of(folder, *how, "-k", 3)
    hits = [hit for row in rows for end in ("proponents", "opponents") for hit in row[end]]
    assert hits and all(hit["sha"] == stored[hit["id"]] for hit in hits)
    parquet = pytest.importorskip("pyarrow.parquet")
    run(folder, *how, "-k", 3, "-o", tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["row_id"], row["sha"]) for row in table] == [(hit["id"], hit["sha"]) for hit in hits]


def test_a_query_leaves_itself_and_its_like_out(folder: Path) -> None:
    rows = rows_of(folder, "--exclude-self", "--exclude", "task", "--by", "kind", "-k", 5, query="same")
    scores = scores_of(folder, "same")
    for number, row in enumerate(rows):
        left = [n for n in range(ROWS) if n % 3 != 1 and n != number]
        line = scores[number, left]
        best = [f"r{left[place]}" for place in np.argsort(-line)[:5]]
        assert [hit["id"] for hit in row["proponents"]] == best
        assert row["group_influence"] == pytest.approx(pool(line), abs=1e-5)
        even = scores[number, [n for n in left if n % 2 == 0]]
        assert row["groups"]["0"] == pytest.approx(pool(even), abs=1e-5)
        assert row["proponents"][0]["percentile"] == 100
        assert row["proponents"][4]["percentile"] == pytest.approx(
            100 * (len(left) - 5) / (len(left) - 1), abs=1e-4
        )
        assert row["opponents"][1]["percentile"] == pytest.approx(100 / (len(left) - 1), abs=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_another_pooling_scale_changes_groups_and_no_row(folder: Path, beta: float) -> None:
    as_stored = rows_of(folder, "--by", "task")
    rows = rows_of(folder, "--by", "task", "--pooling-scale", beta)
    scores = scores_of(folder)
    for number, (row, before) in enumerate(zip(rows, as_stored, strict=True)):
        for hits in ("proponents", "opponents"):
            assert row[hits] == before[hits]
        assert row["group_influence"] == pytest.approx(pool(scores[number], beta), abs=1e-5)
        assert row["groups"]["t1"] == pytest.approx(pool(scores[number, 1::3], beta), abs=1e-5)
    assert "finite number >= 0, got -1" in run(folder, "--pooling-scale", -1, status=2).output


def test_nats_are_those_of_the_pooling_scale_that_was_measured(folder: Path, tmp_path: Path) -> None:
    store = EmbeddingStore.open(folder / "train")
    measured = Calibration(0.3, 0.2, 0.4, one_deviation=0.1, subset_rows=20)
    with StoreWriter(tmp_path / "known", store.space, pooling_scale=2.0, calibration=measured) as writer:
        writer.append([Example(f"r{n}", None, f"r {n}") for n in range(ROWS)], store.take(np.arange(ROWS)))
    known = {"train": str(tmp_path / "known")}
    same, other = (run(folder, "--pooling-scale", beta, **known) for beta in (2.0, 0.7))
    assert "predicted_nats" in same.stdout and "no nats" not in same.stderr
    assert "predicted_nats" not in other.stdout and "no nats are predicted" in other.stderr


def test_a_contrast_is_the_difference_of_two_scores(folder: Path) -> None:
    rows = rows_of(folder, "--contrast", folder / "good", "-k", 3)
    scores = scores_of(folder, against="good")
    for number, row in enumerate(rows):
        assert row["query_id"] == f"q{number}"
        order = np.argsort(-scores[number])[:3]
        assert [hit["id"] for hit in row["proponents"]] == [f"r{place}" for place in order]
        np.testing.assert_allclose(
            [hit["score"] for hit in row["proponents"]], scores[number, order], atol=1e-5
        )
        assert row["group_influence"] == pytest.approx(pool(scores[number]), abs=1e-5)


def test_counterparts_are_found_by_id_or_by_place(folder: Path, tmp_path: Path) -> None:
    good = EmbeddingStore.open(folder / "good")
    backwards = good.take(np.arange(QUERIES)[::-1])
    space = EmbeddingSpace("ab" * 32, "fp32", 5)
    for name, ids in (("by_id", range(QUERIES - 1, -1, -1)), ("some", (0, 1, 2, 3, 4, 9))):
        with StoreWriter(tmp_path / name, space, pooling_scale=2.0) as writer:
            writer.append([Example(f"q{n}", None, str(n)) for n in ids], backwards)
    by_place = run(folder, "--contrast", folder / "good").stdout
    assert run(folder, "--contrast", tmp_path / "by_id").stdout == by_place
    assert (
        "has no row with id 'q5', but has 'q0'"
        in run(folder, "--contrast", tmp_path / "some", status=2).output
    )
    assert "has 6 rows and" in run(folder, "--contrast", folder / "train", status=2).output


def strengths_of(scores: np.ndarray, k: int) -> np.ndarray:
    """How far each row stands above the lowest of a query's k highest scores, mean over the queries."""
    strengths = np.zeros(scores.shape[1])
    for line in scores:
        listed = np.argsort(-line)[:k]
        highest, lowest = line[listed[0]], max(0.0, line[listed[-1]])
        for row in listed:
            if line[row] > 0:
                strengths[row] += (line[row] - lowest) / (highest - lowest) / len(scores)
    return strengths


def test_suspects_of_all_queries(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pooled.jsonl"
    run(folder, "--pool-queries", "--by", "task", "-k", 4, "-o", out)
    ((_, row),) = read_attributions(out)
    scores = scores_of(folder)
    mean = scores.mean(axis=0)
    attention = np.exp(2 * np.abs(scores))
    attention /= attention.sum(axis=1, keepdims=True)
    lists = np.argsort(-scores, axis=1)[:, :4]
    strength = strengths_of(scores, 4)
    assert row.query_id == "all queries"
    order = np.lexsort((-mean, -strength))
    assert [hit.id for hit in row.proponents] == [f"r{place}" for place in order[:4]]
    for hit in row.proponents:
        assert hit.strength == pytest.approx(strength[int(hit.id[1:])], abs=1e-5)
        number = int(hit.id[1:])
        assert hit.score == pytest.approx(mean[number], abs=1e-5)
        assert hit.share == pytest.approx((lists == number).any(axis=1).mean())
        assert hit.attention == pytest.approx(attention[:, number].mean(), abs=1e-6)
    assert row.group_influence == pytest.approx(np.mean([pool(line) for line in scores]), abs=1e-5)
    of_task = [pool(line[1::3]) for line in scores]
    assert row.groups["t1"] == pytest.approx(np.mean(of_task), abs=1e-5)
    assert read_named_rows(out, ROWS, k=3) == [hit.id for hit in row.proponents[:3]]
    # The same as what verify makes of the queries' own attributions.
    run(folder, "-k", 4, "-o", tmp_path / "each.jsonl")
    assert read_named_rows(tmp_path / "each.jsonl", ROWS, k=3) == read_named_rows(out, ROWS, k=3)
    pytest.importorskip("pyarrow", reason="pyarrow is optional")
    run(folder, "--pool-queries", "-k", 4, "-o", tmp_path / "pooled.parquet")
    assert read_named_rows(tmp_path / "pooled.parquet", ROWS, k=3) == read_named_rows(out, ROWS, k=3)


def test_suspects_of_each_group_of_queries(folder: Path) -> None:
    rows = rows_of(folder, "--pool-queries", "task", "-k", 2)
    assert [row["query_id"] for row in rows] == ["task=t0", "task=t1"]
    for first, row in enumerate(rows):
        scores = scores_of(folder)[first::2]
        order = np.lexsort((scores.mean(axis=0), -strengths_of(-scores, 2)))
        assert [hit["id"] for hit in row["opponents"]] == [f"r{place}" for place in order[:2]]


def test_scores_of_rows_that_are_left_out_are_unknown(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional")
    words = ("--exclude-self", "--exclude", "task")
    run(folder, *words, "--scores", tmp_path / "s.npy", query="same")
    run(folder, *words, "--scores", tmp_path / "s.parquet", query="same")
    scores = scores_of(folder, "same")
    gone = np.zeros(scores.shape, bool)
    gone[:, 1::3] = True  # the rows of the queries' own task, t1
    gone[np.arange(QUERIES), np.arange(QUERIES)] = True
    found = np.load(tmp_path / "s.npy")
    assert np.array_equal(np.isnan(found), gone)
    np.testing.assert_allclose(found[~gone], scores[~gone], rtol=2e-3, atol=1e-3)
    table = parquet.read_table(tmp_path / "s.parquet")
    for query in range(QUERIES):
        column = table[f"r{query}"].to_pylist()
        assert [value is None for value in column] == gone[query].tolist()


def test_answers_go_to_parquet(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional")
    out = tmp_path / "out.parquet"
    for words in (
        ("--pool-queries",),
        ("--exclude-self", "--exclude", "task"),
        ("--contrast", folder / "good"),
    ):
        rows = rows_of(folder, *words, "-k", 2)
        run(folder, *words, "-k", 2, "-o", out)
        table = parquet.read_table(out).to_pylist()
        hits = [
            (row["query_id"], hit) for row in rows for end in ("proponents", "opponents") for hit in row[end]
        ]
        assert len(table) == len(hits)
        for line, (query, hit) in zip(table, hits, strict=True):
            assert line["query_id"] == query and line["row_id"] == hit.pop("id")
            assert {name: line[name] for name in hit} == hit


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--exclude", "colour"), "no row has the field 'colour'"),
        (("--exclude-self", "--index", "."), "so --exclude-self needs the scan"),
        (("--pool-queries", "--index", "."), "--pool-queries needs the scan of all rows"),
        (("--pool-queries", "--exclude", "task"), "it excludes --exclude"),
        (("--pool-queries", "--show"), "it excludes --show"),
        (("--pool-queries", "colour"), "no row has the field 'colour'"),
    ],
)
def test_what_cannot_be_asked_together_is_named(
    folder: Path, words: tuple[object, ...], message: str
) -> None:
    assert message in run(folder, *words, status=2).output
