"""More labels of p3: which subsets, and that what is stored comes back and can be carried on."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_lm import save_llama

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import more_labels
from p3_plans import PLANS, Plan, draw
from p3_target import save_pruned

from airrep_train.label import (
    SampleOptions,
    Subset,
    SubsetPlan,
    read_subsets,
    sample_subsets,
    write_subsets,
)
from airrep_train.target import FineTuneOptions, load_causal_lm

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_plan_leaves_the_dev_sets_of_p3_out_and_goes_round_by_round():
    p3 = SubsetPlan((), {0: np.arange(0, 800, 4), 1: np.arange(1, 801, 4)})
    tasks = ["samsum"] * 8532
    plan = draw(PLANS["more"], p3, tasks)
    taken = set(np.concatenate(list(p3.dev.values())))
    assert [subset.id for subset in plan.subsets[:13]] == [*(f"{n}-0" for n in range(5, 17)), "5-1"]
    assert len(plan.subsets) == 720 and {len(dev) for dev in plan.dev.values()} == {384}
    for dev_id, dev in plan.dev.items():
        used = np.concatenate([subset.select for subset in plan.split(dev_id)])
        assert not taken & set(dev) and not taken & set(used) and not set(dev) & set(used)
        assert used.max() < 8532
    assert draw(PLANS["more"], p3, tasks).sha256() == plan.sha256()


def test_the_truth_of_unseen_tasks_has_their_rows_alone():
    tasks = ["sciq" if line % 3 == 0 else "samsum" if line % 3 == 1 else "quartz" for line in range(2400)]
    plan = draw(PLANS["unseen"], SubsetPlan((), {0: np.arange(0, 60)}), tasks)
    used = np.concatenate([plan.dev[17], *(subset.select for subset in plan.subsets)])
    assert {tasks[line] for line in used} == {"sciq", "quartz"} and used.min() >= 60
    assert len(plan.subsets) == 60 and len(plan.dev[17]) == 240


def test_truths_that_differ_in_one_thing_have_queries_of_the_last_split():
    p3 = SubsetPlan((Subset("4-0", 4, np.arange(500, 564)),), {0: np.arange(192), 4: np.arange(192, 384)})
    tasks = ["samsum"] * 8532
    sizes = {}
    for name in ("small", "large", "twice", "adapters", "one-out", "pruned", "size-32", "size-128"):
        plan = draw(PLANS[name], p3, tasks)
        (dev,) = plan.dev.values()
        np.testing.assert_array_equal(dev, p3.dev[4][::2])
        used = np.concatenate([subset.select for subset in plan.subsets])
        assert used.min() >= 384
        sizes[name] = {len(subset.select) for subset in plan.subsets}
    recipes = {"twice": {64}, "adapters": {64}, "pruned": {64}}
    drawn = {"small": {16}, "large": {256}, "size-32": {32}, "size-128": {128}}
    assert sizes == {**drawn, "one-out": {23}, **recipes}
    assert len({dev_id for name in PLANS for dev_id in draw(PLANS[name], p3, tasks_of(name)).dev}) == 27


def tasks_of(name):
    return [*PLANS[name].tasks, "samsum"][:1] * 8532


def test_every_row_is_left_out_as_often_as_the_others():
    p3 = SubsetPlan((), {4: np.arange(192)})
    subsets = draw(PLANS["one-out"], p3, ["samsum"] * 4000).subsets
    pool = np.unique(np.concatenate([subset.select for subset in subsets]))
    left_out = [np.setdiff1d(pool, subset.select).item() for subset in subsets]
    assert len(pool) == 24 and left_out == [*pool] * 4
    assert len({subset.id for subset in subsets}) == 96


def test_a_pruned_target_is_the_target_without_the_blocks(tmp_path):
    target = save_llama(tmp_path / "target")
    pruned = save_pruned(str(target), tmp_path / "pruned", without=(0,))
    whole, less = (dict(load_causal_lm(str(name)).model.named_parameters()) for name in (target, pruned))
    assert set(less) == {name for name in whole if ".layers.1." not in name}
    for name, weight in less.items():
        of_whole = whole[name.replace(".layers.0.", ".layers.1.")]
        np.testing.assert_array_equal(weight.detach(), of_whole.detach())


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A tiny p3 and target, and small sizes; the arguments that every run here has."""
    rows = [
        {"input": f"what is {n}", "output": f"the number {n % 7}", "task": "kept" if n % 3 else "unseen"}
        for n in range(60)
    ]
    (tmp_path / "p3").mkdir()
    (tmp_path / "p3" / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = sample_subsets(60, SampleOptions(splits=1, dev_size=4, pool_size=20, subset_size=4, subsets=2))
    write_subsets(tmp_path / "p3" / "subsets.jsonl", plan)
    losses = [{"pair_id": f"0-{n}", "dev_id": 0, "losses": [1, 2, 3, 4]} for n in range(2)]
    (tmp_path / "p3" / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in losses))
    (tmp_path / "p3" / "base_losses.jsonl").write_text('{"dev_id": 0, "losses": [5, 5, 5, 5]}\n')
    sizes = SampleOptions(splits=2, dev_size=4, pool_size=20, subset_size=4, subsets=2)
    how = {"own_queries": True, "recipe": FineTuneOptions(max_length=64, batch_size=2), "repeat": 1}
    monkeypatch.setitem(PLANS, "more", Plan("more", 5, sizes, **how))
    monkeypatch.setitem(PLANS, "unseen", Plan("unseen", 5, sizes, ("unseen",), **how))
    monkeypatch.setattr(more_labels, "DATA", tmp_path / "data")
    target = save_llama(tmp_path / "target")

    def run(*arguments, output="run"):
        fixed = ["--data", tmp_path / "p3", "--output", tmp_path / output, "--target", target]
        return CliRunner().invoke(
            more_labels.main, [*map(str, fixed), "--device", "cpu", "--dtype", "float32", *arguments]
        )

    return run


def test_a_run_carries_on_from_what_is_stored(small, tmp_path):
    first = small("--limit", "2")
    assert first.exit_code == 0, first.output
    with (tmp_path / "run" / "losses.jsonl").open("a") as stream:
        stream.write('{"pair_id": "5-1", "los')  # a run that is writing a line
    assert "2 measurements" in small("--pack").output
    rest = small(output="other")
    assert rest.exit_code == 0, rest.output
    assert "4 labelled now" in rest.output and "subsets        4" in rest.output
    assert "base_loss      6." in rest.output
    rows = [json.loads(line) for line in (tmp_path / "other" / "losses.jsonl").read_text().splitlines()]
    assert [row["pair_id"] for row in rows] == ["5-0", "6-0", "5-1", "6-1", "5-0", "6-0"]
    assert [row["seed"] for row in rows[:4]] == [5000, 6000, 5001, 6001]
    made = [json.loads(line) for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()[:2]]
    for row, before in zip(rows, made, strict=False):
        np.testing.assert_allclose(row["losses"], before["losses"], atol=0.5e-5)


def test_base_losses_are_measured_once_and_stored_with_the_labels(small, tmp_path):
    assert small("--limit", "1").exit_code == 0
    base = [json.loads(line) for line in (tmp_path / "run" / "base_losses.jsonl").read_text().splitlines()]
    assert [row["dev_id"] for row in base] == [5, 6] and all(len(row["losses"]) == 4 for row in base)
    assert small("--pack").exit_code == 0 and small("--unpack", output="other").exit_code == 0
    assert (tmp_path / "other" / "base_losses.jsonl").exists()


def test_stored_labels_do_not_overwrite_a_run(small):
    assert small("--limit", "1").exit_code == 0 and small("--pack").exit_code == 0
    refused = small("--unpack")
    assert refused.exit_code == 2 and "exists already" in refused.output


def test_others_are_p3_without_the_tasks_of_the_plan(small, tmp_path):
    assert small("--plan", "unseen", "--others").exit_code == 0
    others, p3 = tmp_path / "run" / "others", tmp_path / "p3"
    rows = [json.loads(line) for line in (others / "examples.jsonl").read_text().splitlines()]
    assert len(rows) == 40 and {row["task"] for row in rows} == {"kept"}
    before, after = read_subsets(p3 / "subsets.jsonl", 60), read_subsets(others / "subsets.jsonl", 40)
    for one, other in zip(before.subsets, after.subsets, strict=True):
        assert [f"what is {line}" for line in one.select if line % 3] == [
            rows[line]["input"] for line in other.select
        ]
    kept = [column for column, line in enumerate(before.dev[0]) if line % 3]
    given = [json.loads(line)["losses"] for line in (p3 / "losses.jsonl").read_text().splitlines()]
    left = [json.loads(line)["losses"] for line in (others / "losses.jsonl").read_text().splitlines()]
    assert left == [[losses[column] for column in kept] for losses in given] and 0 < len(kept) < 4
