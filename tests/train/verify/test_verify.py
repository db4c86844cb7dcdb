"""Whole verify runs on a tiny target that learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_lm import save_gpt2, save_llama
from tiny_verify import ASKED, BAD, GOOD, NAMED, QUERIES, RECIPE, ROWS, UNCONTROLLED

from airrep_infer.errors import InputError
from airrep_infer.rows.examples import Example
from airrep_train.label import LabelOptions
from airrep_train.label.labeller import Labeller
from airrep_train.label.subsets import Subset
from airrep_train.label.tasks import Task
from airrep_train.target import FineTuneOptions, Target, fine_tune
from airrep_train.verify import VerifyOptions, VerifyRows, verify

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_llama(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def source(target: str) -> LabelOptions:
    return LabelOptions(target, device="cpu")


def test_the_guilty_rows_are_proven(source: LabelOptions, tmp_path: Path) -> None:
    run = verify(ASKED, source, tmp_path / "v", VerifyOptions(seeds=2), RECIPE)
    assert run.verdict is not None
    moved, control = run.verdict.against["random"], run.verdict.control_differences["random"]
    assert moved.is_beyond_zero and moved.mean > 0.5 > abs(control.mean)
    assert run.verdict.sentence.startswith("removing these 6 rows raises the loss of these 3 answers by ")
    assert json.loads((tmp_path / "v" / "verdict.json").read_text())["sentence"] == run.verdict.sentence


def test_other_rows_are_not(source: LabelOptions, tmp_path: Path) -> None:
    """Of rows that teach something else, no harm to the queries is claimed."""
    others = [row.id for row in GOOD[:3]]
    run = verify(replace(UNCONTROLLED, named=others), source, tmp_path / "v", VerifyOptions(seeds=3), RECIPE)
    assert run.verdict is not None and "raises" not in run.verdict.sentence


def test_adding_them(source: LabelOptions, tmp_path: Path) -> None:
    options = VerifyOptions(
        add=True, seeds=2, against=("random", rival(tmp_path, *(row.id for row in GOOD[8:14])))
    )
    base = [row.id for row in GOOD[:6]]
    run = verify(replace(UNCONTROLLED, base=base), source, tmp_path / "v", options, RECIPE)
    assert run.verdict is not None and run.verdict.against["random"].mean < -0.5
    assert run.verdict.against["other"].mean < -0.5
    assert [arm.rows for arm in run.verdict.arms] == [6, 12, 12, 12]


def test_stopped_and_resumed_it_measures_the_same(source: LabelOptions, tmp_path: Path) -> None:
    options = VerifyOptions(seeds=2)
    whole = verify(ASKED, source, tmp_path / "whole", options, RECIPE)
    for limit in (1, 3, None):
        folder = tmp_path / "parts"
        parts = verify(ASKED, source, folder, options, RECIPE, limit=limit)
        assert (parts.verdict is None) == (limit is not None)
    assert parts.verdict == whole.verdict
    assert (tmp_path / "parts/losses.jsonl").read_bytes() == (tmp_path / "whole/losses.jsonl").read_bytes()


def test_shards_share_the_folder(source: LabelOptions, tmp_path: Path) -> None:
    options = VerifyOptions(seeds=1)
    whole = verify(ASKED, source, tmp_path / "whole", options, RECIPE)
    first = verify(ASKED, source, tmp_path / "v", options, RECIPE, shard=(1, 2))
    second = verify(ASKED, source, tmp_path / "v", options, RECIPE, shard=(2, 2))
    assert first.verdict is None and second.verdict == whole.verdict
    # The whole run has nothing left to measure, and can write the answers that no shard writes.
    answering = replace(options, generate=True, answer_tokens=2)
    again = verify(ASKED, source, tmp_path / "v", answering, RECIPE)
    assert (again.labelling.labelled, again.labelling.resumed, again.labelling.tasks) == (0, 3, 3)
    assert again.verdict == whole.verdict and (tmp_path / "v/answers.jsonl").is_file()


def test_measurements_of_shards_with_other_settings_are_no_part_of_a_whole_run(
    source: LabelOptions, tmp_path: Path
) -> None:
    options, slower = VerifyOptions(seeds=1), replace(RECIPE, learning_rate=1e-3)
    verify(UNCONTROLLED, source, tmp_path / "v", options, RECIPE, shard=(1, 2))
    with pytest.raises(InputError, match=r"-1-of-2\.jsonl: was measured with other settings: learning_rate"):
        verify(UNCONTROLLED, source, tmp_path / "v", options, slower)
    assert not (tmp_path / "v/losses.jsonl").exists()
    rest = verify(UNCONTROLLED, source, tmp_path / "v", options, RECIPE)
    assert 0 < rest.labelling.labelled < rest.labelling.tasks == 3 and rest.verdict is not None


def test_a_run_says_its_template_and_one_of_an_earlier_version_is_resumed(
    source: LabelOptions, tmp_path: Path
) -> None:
    options, record = VerifyOptions(seeds=1), tmp_path / "v/losses.jsonl.run.json"

    def run(template: str | None = None) -> None:
        recipe = replace(RECIPE, template=template)  # type: ignore[arg-type]
        verify(UNCONTROLLED, source, tmp_path / "v", options, recipe)

    run()
    assert json.loads(record.read_text())["template"] == "shared-1"
    run("shared-1")
    earlier = {key: value for key, value in json.loads(record.read_text()).items() if key != "template"}
    record.write_text(json.dumps({**earlier, "template": None}))
    run()


def test_the_order_of_the_rows_that_remain(tmp_path: Path) -> None:
    """Rows come in the same order whichever others exist; seeds and epochs have orders of their own."""
    model = Target(save_gpt2(tmp_path), replace(RECIPE, epochs=2, batch_size=1), "cpu")
    orders: list[list[int]] = []

    def seen(lines: list[int], seed: int) -> list[int]:
        rows = model.rows([ROWS[line] for line in lines])
        order: list[int] = []
        known = {row.ids.tobytes(): line for row, line in zip(rows, lines, strict=True)}

        def losses(batch: object) -> object:
            ids = batch.input_ids[0].numpy()  # type: ignore[attr-defined]
            order.append(known[ids.tobytes()])
            return model.token_losses(batch)  # type: ignore[arg-type]

        fine_tune(model.model, losses, rows, model.options, seed, lines)  # type: ignore[arg-type]
        orders.append(order)
        return order

    every = seen(list(range(10)), 0)
    some = seen([1, 2, 5, 7, 9], 0)
    assert [line for line in every if line in some] == some
    assert every[:10] != every[10:] and every != seen(list(range(10)), 1)


def test_an_arm_without_rows_is_the_target_itself(target: str) -> None:
    labeller = Labeller(target, RECIPE, ROWS, "cpu")
    untouched = Target(target, RECIPE, "cpu")
    row = labeller.measure(
        Task(Subset("none", 0, np.array([], np.int64)), np.arange(3), 0, 0, keep_order=True)
    )
    np.testing.assert_array_equal(row.losses, untouched.losses(untouched.rows(ROWS[:3])))


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ({"named": ["nobody"]}, {}, "no training row has the id 'nobody' \\(1 of 1 are missing\\)"),
        ({"named": []}, {}, "the named rows: none are given"),
        ({}, {"options": VerifyOptions(match="tipoc")}, "no row has the field 'tipoc'; fields: "),
        ({}, {"options": VerifyOptions(match="topic")}, "too few others with topic 'b'"),
        (
            {},
            {"options": VerifyOptions(against=("bm26",))},
            "none of random, tfidf, response-tfidf, bm25, and no such file",
        ),
        ({"base": ["good-1"]}, {}, "base belongs to add"),
        ({"pool": [row.id for row in GOOD]}, {}, "the named rows: row 'bad-0' is not in the pool"),
        (
            {"base": NAMED},
            {"options": VerifyOptions(add=True)},
            "the named rows: row 'bad-0' is in the base",
        ),
        ({}, {"options": VerifyOptions(match="")}, "no row has the field ''"),
        ({"queries": []}, {}, "no queries; give the answers"),
        ({"pool": NAMED}, {"options": VerifyOptions(add=True, against=())}, "pool is, with add,"),
        ({}, {"source": LabelOptions("t", repeat=1)}, "repeat is for labels: leave it out"),
        ({}, {"source": LabelOptions("t", on_truncate="skip")}, "on_truncate is for labels: leave it out"),
    ],
)
def test_bad_input(
    source: LabelOptions, tmp_path: Path, rows: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        verify(
            **{"rows": replace(ASKED, **rows), "source": source, "output": tmp_path / "v", "recipe": RECIPE}
            | changes
        )
    assert not (tmp_path / "v").exists()


def rival(folder: Path, *rows: str) -> str:
    path = folder / "other.txt"
    path.write_text("\n".join(rows) + "\n")
    return str(path)


@pytest.mark.parametrize("outside", [2, 1])
def test_rivals_whose_change_changes_nothing_are_refused(
    outside: int, source: LabelOptions, tmp_path: Path
) -> None:
    """They would be measured as if so many rows had been removed, or added."""
    rows = ["good-14", "good-15"][:outside] + ["good-1", "good-2"][outside:]
    options = VerifyOptions(against=(rival(tmp_path, *rows),))
    pool = [row.id for row in ROWS if row.id not in ("good-14", "good-15")]

    asked = replace(UNCONTROLLED, named=NAMED[:2])

    with pytest.raises(InputError, match=rf"other\.txt: row 'good-14' is not in the pool.*\({outside} of 2"):
        verify(replace(asked, pool=pool), source, tmp_path / "v", options, RECIPE)
    with pytest.raises(InputError, match=rf"other\.txt: row 'good-14' is in the base.*\({outside} of 2"):
        adding = replace(asked, base=["good-14", "good-15"])
        verify(adding, source, tmp_path / "v", replace(options, add=True), RECIPE)
    assert not (tmp_path / "v").exists()


def test_two_arms_of_the_same_rows_are_refused(source: LabelOptions, tmp_path: Path) -> None:
    """In any order. They would be fine-tuned under every seed, to say +0.00."""
    asked = replace(UNCONTROLLED, named=NAMED[:2])
    own, same = rival(tmp_path, "bad-1", "bad-0"), tmp_path / "same.txt"
    for add in (False, True):
        with pytest.raises(
            InputError,
            match=r"the named rows and against .*other\.txt are the same 2 rows.*leave out against",
        ):
            verify(asked, source, tmp_path / "v", VerifyOptions(add=add, against=("random", own)), RECIPE)
    with pytest.raises(InputError, match="the named rows and against bm25 are the same 6 rows"):
        verify(UNCONTROLLED, source, tmp_path / "v", VerifyOptions(against=("bm25",)), RECIPE)
    same.write_text("good-1\ngood-2\n")
    options = VerifyOptions(against=(rival(tmp_path, "good-2", "good-1"), str(same)))
    with pytest.raises(InputError, match=r"against .*other\.txt and against .*same\.txt are the same 2 rows"):
        verify(asked, source, tmp_path / "v", options, RECIPE)
    assert not (tmp_path / "v").exists()


def test_a_file_of_rows_is_an_arm_of_its_name(source: LabelOptions, tmp_path: Path) -> None:
    """The names of earlier versions, so that a folder of theirs is resumed."""
    options = VerifyOptions(seeds=1, against=("random", rival(tmp_path, "good-4", "good-1")))
    for made in (4, 0):
        run = verify(replace(UNCONTROLLED, named=NAMED[:2]), source, tmp_path / "v", options, RECIPE)
        assert run.labelling.labelled == made
    arms = json.loads((tmp_path / "v/arms.json").read_text())["arms"]
    assert [arm["name"] for arm in arms] == ["reference", "named", "random", "other"]
    assert arms[1]["changed"] == [["bad-0", "bad-1"]] and arms[3]["changed"] == [["good-1", "good-4"]]


def test_shards_of_two_recipes_give_no_verdict(source: LabelOptions, tmp_path: Path) -> None:
    options, slower = VerifyOptions(seeds=1), replace(RECIPE, learning_rate=1e-3)

    def shard(part: int, recipe: FineTuneOptions) -> None:
        verify(UNCONTROLLED, source, tmp_path / "v", options, recipe, shard=(part, 2))

    shard(1, RECIPE)
    with pytest.raises(InputError, match=r"-2-of-2\.jsonl: .*learning_rate was 0\.003 there, here 0\.001"):
        shard(2, slower)
    assert not (tmp_path / "v/verdict.json").exists()


def test_a_folder_of_other_rows_is_left_alone(source: LabelOptions, tmp_path: Path) -> None:
    options = VerifyOptions(seeds=1)
    verify(UNCONTROLLED, source, tmp_path / "v", options, RECIPE, limit=1)
    with pytest.raises(InputError, match="verify run of other rows, queries or arms"):
        verify(replace(UNCONTROLLED, named=NAMED[:2]), source, tmp_path / "v", options, RECIPE)
    slower = replace(RECIPE, learning_rate=1e-3)
    with pytest.raises(InputError, match=r"learning_rate was 0\.003, now 0\.001"):
        verify(UNCONTROLLED, source, tmp_path / "v", options, slower)


def test_a_query_that_is_all_prompt(source: LabelOptions, tmp_path: Path) -> None:
    long = [Example("long", "x" * 200, "zzzz")]
    published = replace(RECIPE, template="published-1")  # whose prompts can leave no room
    with pytest.raises(InputError, match="the loss of 'long' is unknown"):
        verify(replace(UNCONTROLLED, queries=long), source, tmp_path / "v", VerifyOptions(seeds=1), published)


def test_ids_that_are_numbers_stay_numbers(source: LabelOptions, tmp_path: Path) -> None:
    rows = [replace(row, id=number) for number, row in enumerate(ROWS)]
    named = [str(number) for number, row in enumerate(ROWS) if row in BAD]  # as a text file has them
    options = VerifyOptions(seeds=1, generate=True, answer_tokens=2)
    output = tmp_path / "v"
    run = verify(VerifyRows(rows, [replace(QUERIES[0], id=7)], named), source, output, options, RECIPE)
    assert run.verdict is not None and list(run.verdict.rows) == [int(name) for name in named]
    written = json.loads((output / "verdict.json").read_text())
    assert written["rows"] == list(run.verdict.rows) and written["queries"][0]["id"] == 7
    assert json.loads((output / "answers.jsonl").read_text())["query_id"] == 7
