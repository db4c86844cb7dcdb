"""LDS, its intervals and its ceiling against slow twins and known answers; the command from file to file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from scipy.stats import spearmanr
from tiny_fit import make_examples, make_splits

from airrep_infer import EmbeddingStore, Encoder, embed_files
from airrep_infer.errors import InputError
from airrep_infer.files import write_json
from airrep_infer.rows import Example
from airrep_train.cli import main
from airrep_train.evaluate import (
    Truth,
    embed_lines,
    evaluate,
    parse_spec,
    query_lds,
    truth_from_labels,
    truth_from_lds,
)
from airrep_train.evaluate.baselines import LexicalScorer
from airrep_train.evaluate.chosen_on import SeenSplits, seen_splits
from airrep_train.evaluate.influence import pool_scores, split_influence
from airrep_train.evaluate.reliability import measure_reliability
from airrep_train.evaluate.response_tfidf import response_words
from airrep_train.evaluate.scorers import VectorScorer
from airrep_train.label import LabelledSplit, LossRow, SubsetPlan, write_subsets
from airrep_train.model import load_checkpoint, save_checkpoint

SAME_LDS = 2e-3
"""ONNX and torch round differently, which can swap two subsets of nearly equal influence."""
Folder = Callable[[str], Path]


@dataclass(frozen=True)
class GivenScores:
    """Scores s from a table [query line, example line]."""

    table: NDArray[np.float64]
    beta: float = 1.0

    def scores(self, queries: NDArray[np.int64], pool: NDArray[np.int64]) -> Iterator[NDArray[np.floating]]:
        half = len(queries) // 2
        yield self.table[np.ix_(queries[:half], pool)]
        yield self.table[np.ix_(queries[half:], pool)]


def topic_scores() -> GivenScores:
    """The truth of `tiny_fit`: 1 where both are about one topic; its mean over a subset is the share."""
    topic = np.arange(120) % 6
    return GivenScores((topic[:, None] == topic).astype(float))


def noiseless(split: LabelledSplit) -> LabelledSplit:
    losses = [[(s.select % 6 == q % 6).mean() for q in split.dev] for s in split.subsets]
    return replace(split, losses=3 - np.array(losses, np.float32))


@pytest.fixture
def truth() -> Truth:
    return Truth(make_examples(), make_splits(2))


@dataclass(frozen=True)
class Files:
    """The same ground truth in both formats."""

    folder: Path
    labels: list[str]
    lds: list[str]

    def run(self, *arguments: object) -> Result:
        return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Split 2 of `tiny_fit` as a label run and as LDS ground truth."""
    examples, splits = make_examples(), make_splits(3)
    texts = [json.dumps({"id": e.id, "text": e.text}) + "\n" for e in examples]
    (tmp_path / "data.jsonl").write_text("".join(texts))
    plan = SubsetPlan(tuple(s for split in splits for s in split.subsets), {s.dev_id: s.dev for s in splits})
    write_subsets(tmp_path / "subsets.jsonl", plan)
    rows = [
        LossRow(s.id, s.dev_id, loss)
        for split in splits
        for s, loss in zip(split.subsets, split.losses, strict=True)
    ]
    (tmp_path / "losses.jsonl").write_bytes(b"".join(row.to_json() for row in rows))
    last = splits[2]
    (tmp_path / "queries.jsonl").write_text("".join(texts[line] for line in last.dev))
    lds = [
        json.dumps({"train_subset": s.select.tolist(), "test_loss": loss.tolist()}) + "\n"
        for s, loss in zip(last.subsets, last.losses, strict=True)
    ]
    (tmp_path / "lds.jsonl").write_text("".join(lds))
    at = {name: str(tmp_path / f"{name}.jsonl") for name in ("data", "subsets", "losses", "queries", "lds")}
    return Files(
        tmp_path,
        [at["data"], "--subsets", at["subsets"], "--losses", at["losses"]],
        ["--train", at["data"], "--query", at["queries"], "--lds", at["lds"]],
    )


def test_lds_is_the_mean_of_scipys_spearman(truth: Truth) -> None:
    scorer = GivenScores(np.random.default_rng(3).standard_normal((120, 120)), beta=0.7)
    expected = []
    for split in truth.splits:
        for j, query in enumerate(split.dev):
            f = []
            for subset in split.subsets:
                s = scorer.table[query, subset.select]
                weights = np.exp(0.7 * np.abs(s))
                f.append((weights * s).sum() / weights.sum())
            expected.append(spearmanr(f, -split.losses[:, j]).statistic)
    result = evaluate(scorer, truth)
    assert result.mean == pytest.approx(np.mean(expected), abs=1e-9)
    assert (result.queries, result.subsets) == (24, 48)
    assert result.ci95[0] < result.mean < result.ci95[1]


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_a_perfect_predictor_gets_1(truth: Truth, pooling: Any) -> None:
    exact = Truth(truth.examples, [noiseless(split) for split in truth.splits])
    result = evaluate(topic_scores(), exact, pooling=pooling)
    assert result.mean == pytest.approx(1) and result.ci95 == pytest.approx((1, 1))
    assert evaluate(GivenScores(-topic_scores().table), exact, pooling=pooling).mean == pytest.approx(-1)


def test_unknown_losses_are_left_out_per_query_and_what_has_no_ranking_counts_as_0(truth: Truth) -> None:
    split = truth.splits[0]
    losses = split.losses.copy()
    losses[:5, 0] = np.nan  # query 0: five unknown
    losses[:, 1] = 2.5  # query 1: all equal
    losses[:, 2] = np.nan  # query 2: nothing known
    scorer = GivenScores(np.random.default_rng(3).standard_normal((120, 120)))
    scorer.table[split.dev[3]] = 0  # query 3: a prediction without a ranking
    f = split_influence(scorer, split, "attention")
    expected = [0.0] * len(split.dev)
    for j in (0, *range(4, len(split.dev))):
        known = np.isfinite(losses[:, j])
        expected[j] = spearmanr(f[j, known], -losses[known, j]).statistic
    result = evaluate(scorer, Truth(truth.examples, [replace(split, losses=losses)]))
    assert result.mean == pytest.approx(np.mean(expected), abs=1e-9)
    assert (result.queries, result.tied_losses, result.unknown_losses) == (12, 1, 1)
    assert result.tied_predictions == 1
    for note in ("1 queries with equal losses", "1 queries with equal predictions", "fewer than two known"):
        assert note in result.table()


def test_the_split_that_chose_the_epoch_is_named(truth: Truth, tmp_path: Path) -> None:
    digest = hashlib.sha256("".join(example.sha for example in truth.examples).encode()).hexdigest()
    run = tmp_path / "checkpoint" / "training"
    run.mkdir(parents=True)
    record = {"validation": [1], "inputs": {"examples": digest}}
    write_json(run / "config.json", record)
    dev_ids = [split.dev_id for split in truth.splits]
    assert 1 in dev_ids and len(dev_ids) > 1
    # A run that does not say what it kept for a test says nothing of the others.
    assert seen_splits(run.parent, truth.examples, dev_ids) == SeenSplits((1,))
    assert not seen_splits(run.parent, truth.examples, [0])
    assert not seen_splits(run.parent, truth.examples[:-1], dev_ids)  # another file's split 1
    assert not seen_splits(tmp_path, truth.examples, dev_ids)
    write_json(run / "config.json", {**record, "test": [2]})
    assert seen_splits(run.parent, truth.examples, [0, 1, 2]) == SeenSplits((1,), (0,))
    assert not seen_splits(run.parent, truth.examples[:-1], [0])
    result = replace(evaluate(topic_scores(), truth), seen=SeenSplits((1,), (0,)))
    assert "split 1 chose the epoch of this model, which flatters it" in result.table()
    assert "split 0 was not held out when this model was trained" in result.table()
    assert (result.to_json()["chosen_on"], result.to_json()["not_held_out"]) == ([1], [0])


def test_a_split_that_trained_the_model_or_a_baseline_is_named(
    files: Files, encoder_folder: Folder, tmp_path: Path
) -> None:
    trained, output = tmp_path / "trained", tmp_path / "lds.json"
    shutil.copytree(encoder_folder("bert"), trained)
    (trained / "training").mkdir()
    digest = hashlib.sha256("".join(example.sha for example in make_examples()).encode()).hexdigest()
    record = {"validation": [2], "test": [1], "inputs": {"examples": digest}}
    write_json(trained / "training" / "config.json", record)
    for split, said in ((0, "not held out when {} was trained"), (1, ""), (2, "chose the epoch of {}")):
        asked = ["--split", split, "--baseline", f"{trained}:cosine", "--json", output]
        both = files.run(*files.labels, "--model", trained, *asked)
        assert both.exit_code == 0, both.output
        for name in ("this model", f"{trained}:cosine"):
            assert ("held out when" in both.output or "chose the epoch" in both.output) == bool(said)
            assert said.format(name) in both.output
        written = json.loads(output.read_text())
        seen = written["baselines_seen"].get(f"{trained}:cosine", {"chosen_on": [], "not_held_out": []})
        assert seen == {key: written[key] for key in ("chosen_on", "not_held_out")}


def test_rows_that_a_baseline_cuts_are_counted_or_refused(
    files: Files, encoder_folder: Folder, tmp_path: Path
) -> None:
    """The model has room for all rows, the baseline has not."""
    short, output = tmp_path / "short", tmp_path / "lds.json"
    checkpoint = load_checkpoint(encoder_folder("bert"), max_tokens=5)
    save_checkpoint(checkpoint, short)
    asked = [*files.labels, "--model", encoder_folder("bert"), "--baseline", f"{short}:cosine"]
    done = files.run(*asked, "--json", output)
    assert done.exit_code == 0, done.output
    cuts = json.loads(output.read_text())["baseline_cuts"]
    assert list(cuts) == [f"{short}:cosine"] and cuts[f"{short}:cosine"]["rows"] > 0
    assert (
        f"{short}:cosine: {cuts[f'{short}:cosine']['rows']} rows were cut to the token limit" in done.output
    )
    refused = files.run(*asked, "--on-truncate", "error")
    assert refused.exit_code == 2 and f"{short}:cosine: row " in refused.output
    assert "exceeds the token limit" in refused.output
    rows, queries = files.labels[0], files.folder / "queries.jsonl"
    marked = tmp_path / "marked"
    marked.write_text("3\n")
    known = [rows, "--query", queries, "--marked", marked, *asked[5:]]
    done = files.run(*known, "--json", output)
    assert done.exit_code == 0, done.output
    assert list(json.loads(output.read_text())["baseline_cuts"]) == [f"{short}:cosine"]
    assert f"{short}:cosine: " in done.output and "rows were cut to the token limit" in done.output
    assert files.run(*known, "--on-truncate", "error").exit_code == 2


def test_a_precision_is_refused_where_there_is_no_bundle(
    files: Files, encoder_folder: Folder, tiny_bundle: Path, tmp_path: Path
) -> None:
    embed_files([files.labels[0]], Encoder(tiny_bundle), tmp_path / "store")
    truth = Truth(make_examples(), make_splits(2))
    for model in (encoder_folder("bert"), tmp_path / "store"):
        for precision in ("int8", "fp32"):  # a store may be of int8
            done = files.run(*files.labels, "--model", model, "--precision", precision)
            assert done.exit_code == 2 and "--precision is for a bundle" in done.output, done.output
        marked = ["--query", files.folder / "queries.jsonl", "--marked", "any", "--model", model]
        done = files.run(files.labels[0], *marked, "--precision", "int8")
        assert done.exit_code == 2 and "--precision is for a bundle" in done.output, done.output
        with pytest.raises(InputError, match="precision int8 is a variant of a bundle"):
            embed_lines(model, truth.examples, np.arange(4), precision="int8")
    with pytest.raises(InputError, match="precision int8 is a variant of a bundle"):
        evaluate(topic_scores(), truth, precision="int8")


def test_options_of_the_other_measure_are_refused(files: Files, encoder_folder: Folder) -> None:
    model = ["--model", encoder_folder("bert")]
    done = files.run(*files.labels, *model, "-k", 10)
    assert done.exit_code == 2 and "-k is for --known and --marked" in done.output
    marked = [files.labels[0], "--query", files.folder / "queries.jsonl", "--marked", "any"]
    done = files.run(*marked, *model, "--pooling", "attention")
    assert done.exit_code == 2 and "--pooling is for subsets" in done.output


def test_tied_losses_share_ranks(truth: Truth) -> None:
    split = replace(truth.splits[0], losses=truth.splits[0].losses.round(1))
    scorer = GivenScores(np.random.default_rng(3).standard_normal((120, 120)).round(1))
    f = split_influence(scorer, split, "mean").round(12)
    expected = [spearmanr(row, -losses).statistic for row, losses in zip(f, split.losses.T, strict=True)]
    found = evaluate(scorer, Truth(truth.examples, [split]), pooling="mean").mean
    assert found == pytest.approx(np.mean(expected), abs=5e-3)


def test_comparisons_use_the_same_resamples(truth: Truth, encoder_folder: Folder) -> None:
    folder = str(encoder_folder("bert"))
    result = evaluate(folder, truth, baselines=["random", folder, f"{folder}:cosine+mean"])
    same = result.baselines[folder]
    assert same.mean == result.mean and same.ci95 == result.ci95
    assert same.difference == 0 and same.difference_ci95 == (0, 0)
    chance = result.baselines["random"]
    assert chance.difference == pytest.approx(result.mean - chance.mean) and abs(chance.mean) < 0.25
    assert result.baselines[f"{folder}:cosine+mean"].mean != result.mean


def test_published_eval_pooling_forgets_the_absolute_value() -> None:
    s = np.array([[2.0, 1.0, -3.0], [1.0, 1.0, 1.0]])
    signed = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
    assert pool_scores(s, "published-eval", 1.0) == pytest.approx((signed * s).sum(axis=1))
    attended = pool_scores(s, "attention", 1.0)
    assert (
        attended[0] < 0 < pool_scores(s, "published-eval", 1.0)[0]
    )  # the opponent dominates only the former
    assert attended[1] == pytest.approx(1)
    positive = np.abs(s)
    assert pool_scores(positive, "published-eval", 0.7) == pytest.approx(
        pool_scores(positive, "attention", 0.7)
    )
    assert pool_scores(s * 1e4, "published-eval", 1.0)[0] == pytest.approx(2e4)
    assert pool_scores(s, "sum", 1.0)[0] == 0 and pool_scores(s, "mean", 1.0)[1] == 1


def repeated(count: int, noise: float, *, subsets: int = 40, seed: int = 0) -> LabelledSplit:
    """A split of 40 queries; `count` of its subsets are measured twice under the same noise.

    Queries share part of the expected loss, and part of the noise: a fine-tuning run hits them all.
    """
    rng = np.random.default_rng(seed)

    def draw() -> NDArray[np.float64]:
        shared = rng.standard_normal((subsets, 6)) @ rng.standard_normal((6, 40)) / np.sqrt(6)
        return np.asarray((shared + rng.standard_normal((subsets, 40))) / np.sqrt(2))

    expected, first, second = draw(), draw(), draw()
    split = make_splits(1, subsets=subsets)[0]
    return replace(
        split,
        dev=np.arange(40),
        losses=(expected + noise * first).astype(np.float32),
        repeated=np.arange(count)[::-1],
        repeat_losses=(expected + noise * second)[:count][::-1].astype(np.float32),
    )


def expected_loss(split: LabelledSplit, seed: int) -> NDArray[np.float32]:
    """What `repeated` drew before it added noise."""
    return repeated(1, 0.0, subsets=len(split.subsets), seed=seed).losses


def plain_reliability(*splits: LabelledSplit) -> float:
    """One loss after the other."""
    firsts, seconds = [], []
    for split in splits:
        for k, again in zip(split.repeated, split.repeat_losses, strict=True):
            for j in range(len(split.dev)):
                others = [x for n, x in enumerate(split.losses[:, j]) if n != k and np.isfinite(x)]
                if np.isfinite([split.losses[k, j], again[j]]).all() and len(set(split.losses[:, j])) > 1:
                    for grades, loss in ((firsts, split.losses[k, j]), (seconds, again[j])):
                        share = sum((x < loss) + 0.5 * (x == loss) for x in others) / len(others)
                        grades.append(share - 0.5)
    first, second = np.array(firsts), np.array(seconds)
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


@pytest.mark.parametrize("count", [3, 8, 40])
def test_the_ceiling_is_what_the_expected_loss_itself_gets(count: int) -> None:
    """However few subsets are labelled twice; the plain Spearman of 3 would be 0.07 below it."""
    ceilings, perfect = [], []
    for seed in range(40):
        split = repeated(count, 1.0, seed=seed)
        found = measure_reliability([split])
        assert found is not None and found.subsets == count
        ceilings.append(found.ceiling)
        perfect.append(query_lds(-expected_loss(split, seed).T, split.losses).mean())
    assert -0.02 < np.mean(ceilings) - np.mean(perfect) < 0.05


def test_reliability_of_labels_without_noise_and_of_noise_alone() -> None:
    for count in (3, 40):
        found = measure_reliability([repeated(count, 0.0)])
        assert found is not None and found.correlation == pytest.approx(1) == found.ceiling
    noise = replace(repeated(40, 0.0), repeat_losses=repeated(40, 0.0, seed=1).repeat_losses)
    found = measure_reliability([noise])
    assert found is not None and abs(found.correlation) < 0.1


def test_the_ceiling_needs_repeats_and_stands_unknown_and_tied_ones() -> None:
    split = repeated(20, noise=0.5)
    assert measure_reliability(make_splits(2)) is None
    assert measure_reliability([repeated(2, 0.0)]) is None
    whole = measure_reliability([split])
    assert whole is not None and measure_reliability([*make_splits(1), split]) == whole
    other = repeated(5, noise=1.0, seed=1)
    other.losses[:] = other.losses.round(1)
    other.repeat_losses[:] = other.repeat_losses.round(1)
    split.repeat_losses[:3, 0] = np.nan
    split.losses[:4, 1] = np.nan
    split.losses[:, 2] = np.nan
    split.losses[:, 3] = 2.5
    holed = measure_reliability([split, other])
    assert holed is not None and holed.subsets == 25
    split.losses[:, 2] = 2.5  # the twin skips what is tied
    assert holed.correlation == pytest.approx(plain_reliability(split, other))
    assert holed.ceiling == pytest.approx(78 / 80 * np.sqrt(holed.correlation))  # two queries rank nothing
    opposite = replace(repeated(20, 0.0), repeat_losses=-repeated(20, 0.0).repeat_losses)
    found = measure_reliability([opposite])
    assert found is not None and found.ceiling == 0 > found.correlation
    truth = Truth(make_examples(), [opposite])
    assert evaluate(topic_scores(), truth).share is None


def test_share_of_the_ceiling(truth: Truth) -> None:
    split = noiseless(truth.splits[0])
    split = replace(split, repeated=np.arange(24), repeat_losses=split.losses)
    result = evaluate(topic_scores(), Truth(truth.examples, [split]), pooling="mean")
    assert result.ceiling == pytest.approx(1) and result.share == pytest.approx(1)
    assert "ceiling 1.000 (reliability 1.000, from 24 subsets labelled twice)" in result.table()
    assert "the model reaches 100% of it" in result.table()
    assert result.to_json()["ceiling"] == result.ceiling


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tfidf", ("tfidf", "dot", "mean")),
        ("bm25+attention", ("bm25", "dot", "attention")),
        ("org/encoder:cosine", ("org/encoder", "cosine", "attention")),
        ("org/encoder:dot+published-eval", ("org/encoder", "dot", "published-eval")),
        ("/a/folder+sum", ("/a/folder", "dot", "sum")),
    ],
)
def test_baseline_specs(text: str, parts: tuple[str, str, str]) -> None:
    spec = parse_spec(text)
    assert (spec.name, spec.similarity, spec.pooling) == parts


@pytest.mark.parametrize("text", ["", "tfidf+max", "encoder:euclid", "tfidf:cosine", "bm25:dot+sum", "+sum"])
def test_bad_baseline_specs(text: str) -> None:
    with pytest.raises(InputError, match="baseline"):
        parse_spec(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("tfdif", "tfidf"),
        ("TFIDF", "tfidf"),
        ("gpt2", None),
        ("bert-base-uncased", None),
        ("gradients-queries+mean", "gradient-queries"),
        ("randon", "random"),
    ],
)
def test_a_misspelt_baseline_is_not_taken_for_an_encoder(
    text: str, meant: str | None, tmp_path: Path
) -> None:
    """Hub ids without a slash exist."""
    if meant is None:
        assert parse_spec(text).name == text
        return
    with pytest.raises(InputError, match=f"do you mean '{meant}'"):
        parse_spec(text)
    (tmp_path / text.partition("+")[0]).mkdir()
    assert parse_spec(text, tmp_path).name == text.partition("+")[0]


def test_lexical_scores(truth: Truth) -> None:
    lines, pool = truth.splits[0].dev, np.arange(120)
    for name in ("tfidf", "response-tfidf", "bm25"):
        scores = np.concatenate(list(LexicalScorer(name, truth.examples).scores(lines, pool)))
        same = lines[:, None] % 6 == pool % 6
        assert scores.shape == (12, 120) and scores[same].mean() > scores[~same].mean() + 0.1
        # Rows that share a topic, the rarest word, win over those that share only filler.
        assert (np.argmax(np.where(pool == lines[:, None], -1, scores), axis=1) % 6 == lines % 6).all()
    chance = LexicalScorer("random", truth.examples, seed=5)
    one, two = (np.concatenate(list(chance.scores(lines, pool))) for _ in range(2))
    assert np.array_equal(one, two) and len(np.unique(one)) == one.size


def test_response_tfidf_goes_by_responses_alone_and_by_how_they_are_written() -> None:
    rows = [
        Example("query", "What is the capital of Norway?", "Oslo."),
        Example("question", "What is the capital of Norway?", "no idea"),
        Example("answer", "Name a town", "Oslo."),
        Example("spelling", "Name a town", "oslo"),
    ]
    (scores,) = LexicalScorer("response-tfidf", rows).scores(np.array([0]), np.array([1, 2, 3]))
    assert scores[0] == pytest.approx([0, 1, 0])
    with pytest.raises(InputError, match="no words"):
        response_words([replace(row, response=" ") for row in rows])


def test_texts_without_words(truth: Truth) -> None:
    lines, pool = np.array([0]), np.array([1, 2, 3])
    silent = [replace(example, response="!?") for example in truth.examples]
    for name in ("tfidf", "bm25"):
        with pytest.raises(InputError, match="no words"):
            list(LexicalScorer(name, silent).scores(lines, pool))
        mixed = [silent[0], *truth.examples[1:]]  # only the query has none
        assert not np.concatenate(list(LexicalScorer(name, mixed).scores(lines, pool))).any()


def test_cosine_does_not_see_lengths(truth: Truth, encoder_folder: Folder) -> None:
    embedded = embed_lines(encoder_folder("bert"), truth.examples, np.arange(0, 120, 2))
    scaled = replace(embedded, vectors=embedded.vectors * np.arange(60, dtype=np.float32)[:, None])
    lines = np.array([4, 2])
    (one,) = VectorScorer(embedded, "cosine").scores(lines, lines)
    (two,) = VectorScorer(scaled, "cosine").scores(lines, lines)
    assert np.diag(one) == pytest.approx(1, abs=1e-5) and two == pytest.approx(one, abs=1e-5)
    (zero,) = VectorScorer(scaled, "cosine").scores(np.array([0]), lines)
    assert not zero.any()


def test_checkpoint_bundle_and_stores_give_the_same_lds(
    files: Files, encoder_folder: Folder, tiny_bundle: Path
) -> None:
    encoder, data = Encoder(tiny_bundle), files.labels[0]
    for name, source in (("all", data), ("queries", files.lds[3])):
        embed_files([source], encoder, files.folder / name)
    pool = files.folder / "pool.jsonl"
    queries = set((files.folder / "queries.jsonl").read_text().splitlines())
    rows = [row for row in Path(data).read_text().splitlines() if row not in queries]
    pool.write_text("\n".join(rows) + "\n")
    embed_files([pool], encoder, files.folder / "pool")
    assert len(EmbeddingStore.open(files.folder / "pool")) == 108
    truth = truth_from_labels(data, Path(files.labels[2]), [Path(files.labels[4])], [2])
    found = {}
    for name, model in {
        "checkpoint": encoder_folder("bert"),
        "bundle": tiny_bundle,
        "store": files.folder / "all",
        "stores": [files.folder / "pool", files.folder / "queries"],
    }.items():
        found[name] = evaluate(model, truth).mean
    assert found["bundle"] == pytest.approx(found["checkpoint"], abs=SAME_LDS)
    # One encoder's vectors, though batched with other rows.
    assert found["store"] == pytest.approx(found["bundle"], abs=SAME_LDS)
    assert found["stores"] == pytest.approx(found["store"], abs=SAME_LDS)
    same = truth_from_lds(data, files.lds[3], Path(files.lds[5]))
    assert evaluate(files.folder / "all", same).mean == pytest.approx(found["store"], abs=1e-9)


def test_the_command_writes_the_table_and_the_json(files: Files, encoder_folder: Folder) -> None:
    model, output = encoder_folder("bert"), files.folder / "lds.json"
    asked = ["random", "tfidf", "bm25+sum", f"{model}:cosine"]
    flags = [word for name in asked for word in ("--baseline", name)]
    done = files.run(*files.labels, "--model", model, *flags, "--json", output)
    assert done.exit_code == 0, done.output
    row = json.loads(output.read_text())
    of_baselines = {"baselines", "baselines_seen", "baseline_cuts"}
    assert set(row) == {"lds", "ceiling", "cut", "chosen_on", "not_held_out", "ms_a_row"} | of_baselines
    assert row["ceiling"] is None and set(row["ms_a_row"]) == {str(model), f"{model}:cosine"}
    assert set(row["lds"]) == {"mean", "ci95", "queries", "subsets"}
    assert (row["lds"]["queries"], row["lds"]["subsets"]) == (12, 24)
    assert list(row["baselines"]) == asked
    for found in row["baselines"].values():
        assert set(found) == {"mean", "ci95", "difference", "difference_ci95"}
        assert found["difference"] == pytest.approx(row["lds"]["mean"] - found["mean"])
        assert found["ci95"][0] <= found["mean"] <= found["ci95"][1]
    assert row["baselines"]["tfidf"]["mean"] > 0.5  # the truth is a matter of words
    table = done.stdout.splitlines()
    assert "95% CI" in table[0] and f"{row['lds']['mean']:.3f}" in table[1] and len(table) == 8
    again = files.run(*files.lds, "--model", model, "--baseline", "tfidf", "--json", output)
    assert again.exit_code == 0, again.output
    found = json.loads(output.read_text())["lds"]
    assert found["mean"] == pytest.approx(row["lds"]["mean"], abs=SAME_LDS)


def test_repeated_labels_in_the_file_give_the_ceiling(files: Files, encoder_folder: Folder) -> None:
    split, losses = make_splits(3)[2], Path(files.labels[4])
    noise = 0.05 * np.random.default_rng(0).standard_normal((8, 12)).astype(np.float32)
    rows = [
        LossRow(split.subsets[k].id, 2, split.losses[k] + noise[n], repeat=1)
        for n, k in enumerate(range(0, 24, 3))
    ]
    losses.write_bytes(losses.read_bytes() + b"".join(row.to_json() for row in rows))
    output = files.folder / "lds.json"
    done = files.run(*files.labels, "--model", encoder_folder("bert"), "--json", output)
    assert done.exit_code == 0, done.output
    again = replace(split, repeated=np.arange(0, 24, 3), repeat_losses=split.losses[::3] + noise)
    ceiling = np.sqrt(plain_reliability(again))
    assert json.loads(output.read_text())["ceiling"] == pytest.approx(ceiling, abs=1e-6)
    assert "from 8 subsets labelled twice" in done.stdout


def test_several_splits_pool_their_queries(files: Files) -> None:
    paths = files.labels[0], Path(files.labels[2]), [Path(files.labels[4])]
    result = evaluate(topic_scores(), truth_from_labels(*paths, [0, 2, 0]), pooling="mean")
    parts = [evaluate(topic_scores(), truth_from_labels(*paths, [n]), pooling="mean").mean for n in (0, 2)]
    assert (result.queries, result.subsets) == (24, 48) and result.mean == pytest.approx(np.mean(parts))


def test_bad_input_ends_with_2_and_says_what(
    files: Files, encoder_folder: Folder, tiny_bundle: Path, tmp_path: Path
) -> None:
    model = ["--model", encoder_folder("bert")]
    embed_files([files.lds[3]], Encoder(tiny_bundle), tmp_path / "few")
    for arguments, reason in (
        ([*model], "either EXAMPLES"),
        ([*files.lds, "--partial", *model], "nothing of both"),
        ([*files.labels[:3], *model], "either EXAMPLES"),
        ([*files.labels, "--split", 9, *model], "no split 9; it has 0, 1, 2"),
        ([*files.labels, *model, "--baseline", "tfidf+max"], "tfidf+max"),
        ([*files.labels, *model, "--baseline", "tfidf", "--baseline", "tfidf"], "given twice"),
        ([*files.labels, *model, *model], "only stores can be several"),
        ([*files.labels, "--model", "./nowhere"], "no such checkpoint"),
        ([*files.labels, "--model", tmp_path / "few"], "give --model once for each store"),
        ([*files.labels, "--model", tiny_bundle, "--precision", "int4"], "no precision 'int4'"),
    ):
        done = files.run(*arguments)
        assert done.exit_code == 2 and reason in done.output, done.output


def test_an_unfinished_label_run(files: Files) -> None:
    losses = Path(files.labels[4])
    lines = losses.read_bytes().splitlines(keepends=True)
    losses.write_bytes(b"".join(lines[:-10]))
    read: Any = (files.labels[0], Path(files.labels[2]), [losses])
    with pytest.raises(
        InputError, match="14 of 24 subsets have losses; finish the label run, or use --partial"
    ):
        truth_from_labels(*read)
    assert len(truth_from_labels(*read, partial=True).splits[0].subsets) == 14
    assert len(truth_from_labels(*read, [0]).splits[0].subsets) == 24  # a whole split needs no leave
    losses.write_bytes(b"".join(lines[:24]))
    with pytest.raises(InputError, match="split 2: 0 of 24"):
        truth_from_labels(*read, partial=True)
