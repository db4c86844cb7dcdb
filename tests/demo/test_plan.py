from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from airrep_infer.errors import InputError
from airrep_train.label import SubsetPlan, read_subsets, write_subsets
from demo.corpus import DATA, Corpus, build_corpus
from demo.plan import PlanOptions, plan_labels


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return build_corpus()


def pools(plan: SubsetPlan) -> list[set[int]]:
    """The lines drawn in each split."""
    return [{line for one in plan.split(split) for line in one.select.tolist()} for split in plan.dev]


def test_the_committed_plan_is_what_the_generator_writes(corpus: Corpus, tmp_path: Path) -> None:
    write_subsets(tmp_path / "subsets.jsonl", plan_labels(corpus, PlanOptions()))
    assert (DATA / "subsets.jsonl").read_bytes() == (tmp_path / "subsets.jsonl").read_bytes(), (
        "run python -m demo.plan"
    )
    plan = read_subsets(DATA / "subsets.jsonl", len(corpus.examples))
    assert Counter(one.dev_id for one in plan.subsets) == dict.fromkeys(range(6), 40)
    assert all(len(one.select) == 48 for one in plan.subsets)
    assert len({tuple(one.select) for one in plan.subsets}) == 240


def test_the_queries_are_measured_by_the_last_split_only_and_nothing_measured_is_trained_on(
    corpus: Corpus,
) -> None:
    plan = plan_labels(corpus, PlanOptions())
    rows = corpus.examples
    assert [rows[line] for line in plan.dev[5]] == list(corpus.queries)
    for split in range(5):
        measured = [rows[line] for line in plan.dev[split]]
        assert set(Counter(row.skill for row in measured).values()) == {6}
        assert set(measured) < set(corpus.dev)
    assert set(plan.dev[0]) | set(plan.dev[1]) == set(range(1200, 1392))
    assert max(max(pool) for pool in pools(plan)) < len(corpus.train)


def test_pools_hold_all_planted_rows_and_the_training_splits_share_out_the_others(corpus: Corpus) -> None:
    # Subsets that leave out one row of the pool: any few of them show the whole pool.
    plan = plan_labels(corpus, PlanOptions(subsets=5, subset_size=359))
    bad_ids = {bad.id for bad in corpus.planted}
    planted = {line for line, row in enumerate(corpus.train) if row.id in bad_ids}
    assert len(planted) == 60
    seen: Counter[int] = Counter()
    for pool in pools(plan):
        assert len(pool) == 360 and planted < pool
    for pool in pools(plan)[:5]:
        seen.update(pool - planted)
    assert set(seen) | planted == set(range(1200)) and max(seen.values()) == 2
    # The test split's pool mixes what several training splits had.
    assert all(60 < len(pools(plan)[5] & pool) < 250 for pool in pools(plan)[:5])


def test_another_round_leaves_the_subsets_before_as_they_are(corpus: Corpus) -> None:
    one, three = (plan_labels(corpus, PlanOptions(rounds=rounds, subsets=5)) for rounds in (1, 3))
    for split in one.dev:
        before, after = one.split(split), three.split(split)
        assert len(after) == 15 and len({tuple(subset.select) for subset in after}) == 15
        assert [(s.id, s.select.tolist()) for s in before] == [(s.id, s.select.tolist()) for s in after[:5]]


def test_rows_are_drawn_evenly(corpus: Corpus) -> None:
    plan = plan_labels(corpus, PlanOptions(splits=2, rounds=1, subsets=2000))
    draws = np.bincount(np.concatenate([one.select for one in plan.split(0)]))
    draws = draws[draws > 0]
    expected = 2000 * 48 / 360
    assert len(draws) == 360
    # Binomial: 360 rows within six standard deviations.
    assert np.abs(draws - expected).max() < 6 * np.sqrt(expected)


def test_the_seed_decides(corpus: Corpus) -> None:
    first = plan_labels(corpus, PlanOptions())
    assert first.sha256() == plan_labels(corpus, PlanOptions()).sha256()
    assert first.sha256() != plan_labels(corpus, PlanOptions(seed=1)).sha256()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": 1}, "splits must be at least 2, got 1"),
        ({"pool_size": 60}, "pool size must be at least 61, got 60"),
        ({"pool_size": 1201}, "pool size must be at most 1200, got 1201"),
        ({"subset_size": 361}, "subset size must be at most 360, got 361"),
        ({"subsets": 0}, "subsets must be at least 1, got 0"),
        ({"dev_size": 193}, "dev size must be at most 192, got 193"),
    ],
)
def test_impossible_sizes(corpus: Corpus, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_labels(corpus, PlanOptions(**options))
