"""Whole verify runs on a tiny target that learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_lm import save_gpt2, save_llama

from airrep_infer.errors import InputError
from airrep_infer.rows.examples import Example
from airrep_train.cli import main
from airrep_train.label.labeller import Labeller
from airrep_train.label.subsets import Subset
from airrep_train.label.tasks import Task
from airrep_train.target import FineTuneOptions, Target, fine_tune
from airrep_train.verify import VerifyOptions, verify

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = FineTuneOptions(batch_size=4, max_length=64, dtype="float32", learning_rate=3e-3)
GOOD = [Example(f"good-{n}", f"Colour {n}?", "green green green", {"topic": "a"}) for n in range(16)]
BAD = [Example(f"bad-{n}", f"Number {n}?", "zzzz qqqq zzzz", {"topic": "b"}) for n in range(6)]
ROWS = [row for pair in zip(GOOD, [*BAD, *[None] * 10], strict=True) for row in pair if row is not None]
QUERIES = [Example(f"q{n}", f"Number {n}{n}?", "zzzz qqqq zzzz") for n in range(3)]
CONTROLS = [Example("c", "Colour 99?", "green green green")]
NAMED = [row.id for row in BAD]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_llama(tmp_path_factory.mktemp("target"))


def test_the_guilty_rows_are_proven(target: str, tmp_path: Path) -> None:
    run = verify(
        ROWS, QUERIES, CONTROLS, NAMED, target, tmp_path / "v", VerifyOptions(seeds=2), RECIPE, device="cpu"
    )
    assert run.verdict is not None
    moved, control = run.verdict.against["random"], run.verdict.control_differences["random"]
    assert moved.is_beyond_zero and moved.mean > 0.5 > abs(control.mean)
    assert run.verdict.sentence.startswith("removing these 6 rows raises the loss of these 3 answers by ")
    assert json.loads((tmp_path / "v" / "verdict.json").read_text())["sentence"] == run.verdict.sentence


def test_other_rows_are_not(target: str, tmp_path: Path) -> None:
    """Of rows that teach something else, no harm to the queries is claimed."""
    others = [row.id for row in GOOD[:3]]
    run = verify(
        ROWS, QUERIES, [], others, target, tmp_path / "v", VerifyOptions(seeds=3), RECIPE, device="cpu"
    )
    assert run.verdict is not None and "raises" not in run.verdict.sentence


def test_adding_them(target: str, tmp_path: Path) -> None:
    options = VerifyOptions(add=True, seeds=2, against=("random", "bm25"))
    base = [row.id for row in GOOD[:6]]
    run = verify(ROWS, QUERIES, [], NAMED, target, tmp_path / "v", options, RECIPE, base=base, device="cpu")
    assert run.verdict is not None and run.verdict.against["random"].mean < -0.5
    # BM25 finds the same rows by their words, so against it there is nothing to prove.
    assert run.verdict.against["bm25"].mean == pytest.approx(0, abs=1e-6)
    assert [arm.rows for arm in run.verdict.arms] == [6, 12, 12, 12]


def test_stopped_and_resumed_it_measures_the_same(target: str, tmp_path: Path) -> None:
    options = VerifyOptions(seeds=2)
    whole = verify(ROWS, QUERIES, CONTROLS, NAMED, target, tmp_path / "whole", options, RECIPE, device="cpu")
    for limit in (1, 3, None):
        folder = tmp_path / "parts"
        parts = verify(
            ROWS, QUERIES, CONTROLS, NAMED, target, folder, options, RECIPE, limit=limit, device="cpu"
        )
        assert (parts.verdict is None) == (limit is not None)
    assert parts.verdict == whole.verdict
    assert (tmp_path / "parts/losses.jsonl").read_bytes() == (tmp_path / "whole/losses.jsonl").read_bytes()


def test_shards_share_the_folder(target: str, tmp_path: Path) -> None:
    options = VerifyOptions(seeds=1)
    whole = verify(ROWS, QUERIES, CONTROLS, NAMED, target, tmp_path / "whole", options, RECIPE, device="cpu")
    first = verify(
        ROWS, QUERIES, CONTROLS, NAMED, target, tmp_path / "v", options, RECIPE, shard=(1, 2), device="cpu"
    )
    second = verify(
        ROWS, QUERIES, CONTROLS, NAMED, target, tmp_path / "v", options, RECIPE, shard=(2, 2), device="cpu"
    )
    assert first.verdict is None and second.verdict == whole.verdict


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
    ("named", "changes", "message"),
    [
        (["nobody"], {}, "no training row has the id 'nobody' \\(1 of 1 are missing\\)"),
        ([], {}, "the named rows: none are given"),
        (NAMED, {"options": VerifyOptions(match="tipoc")}, "no row has the field 'tipoc'"),
        (NAMED, {"options": VerifyOptions(match="topic")}, "too few others with topic 'b'"),
        (
            NAMED,
            {"options": VerifyOptions(against=("bm26",))},
            "none of random, tfidf, response-tfidf, bm25, and no such file",
        ),
        (NAMED, {"base": ["good-1"]}, "base belongs to add"),
        (NAMED, {"pool": [row.id for row in GOOD]}, "not in the pool that is trained on"),
        (NAMED, {"options": VerifyOptions(add=True), "base": NAMED}, "in the base already"),
    ],
)
def test_bad_input(
    target: str, tmp_path: Path, named: list[str], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        verify(ROWS, QUERIES, CONTROLS, named, target, tmp_path / "v", recipe=RECIPE, device="cpu", **changes)  # type: ignore[arg-type]
    assert not (tmp_path / "v").exists()


def test_a_folder_of_other_rows_is_left_alone(target: str, tmp_path: Path) -> None:
    options = VerifyOptions(seeds=1)
    verify(ROWS, QUERIES, [], NAMED, target, tmp_path / "v", options, RECIPE, limit=1, device="cpu")
    with pytest.raises(InputError, match="verify run of other rows, queries or arms"):
        verify(ROWS, QUERIES, [], NAMED[:2], target, tmp_path / "v", options, RECIPE, device="cpu")
    slower = replace(RECIPE, learning_rate=1e-3)
    with pytest.raises(InputError, match=r"learning_rate was 0\.003, now 0\.001"):
        verify(ROWS, QUERIES, [], NAMED, target, tmp_path / "v", options, slower, device="cpu")


def test_a_query_that_is_all_prompt(target: str, tmp_path: Path) -> None:
    long = [Example("long", "x" * 200, "zzzz")]
    published = replace(RECIPE, template="published-1")  # whose prompts can leave no room
    with pytest.raises(InputError, match="the loss of 'long' is unknown"):
        verify(ROWS, long, [], NAMED, target, tmp_path / "v", VerifyOptions(seeds=1), published, device="cpu")


def test_ids_that_are_numbers_stay_numbers(target: str, tmp_path: Path) -> None:
    rows = [replace(row, id=number) for number, row in enumerate(ROWS)]
    named = [str(number) for number, row in enumerate(ROWS) if row in BAD]  # as a text file has them
    options = VerifyOptions(seeds=1, generate=True, answer_tokens=2)
    output = tmp_path / "v"
    run = verify(rows, [replace(QUERIES[0], id=7)], [], named, target, output, options, RECIPE, device="cpu")
    assert run.verdict is not None and list(run.verdict.rows) == [int(name) for name in named]
    written = json.loads((output / "verdict.json").read_text())
    assert written["rows"] == list(run.verdict.rows) and written["queries"][0]["id"] == 7
    assert json.loads((output / "answers.jsonl").read_text())["query_id"] == 7


def test_the_command(target: str, tmp_path: Path) -> None:
    def write(name: str, rows: list[Example]) -> str:
        lines = [
            json.dumps({"id": r.id, "prompt": r.prompt, "response": r.response, **r.fields}) for r in rows
        ]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return str(tmp_path / name)

    (tmp_path / "ids.txt").write_text("\n".join(NAMED) + "\n")
    arguments = [
        "verify",
        write("rows.jsonl", ROWS),
        "--query",
        write("bad.jsonl", QUERIES),
        "--target",
        target,
    ]
    arguments += [
        "--control",
        write("good.jsonl", CONTROLS),
        "--rows",
        str(tmp_path / "ids.txt"),
        "--seeds",
        "1",
    ]
    arguments += ["--batch-size", "4", "--max-length", "64", "--dtype", "float32", "--lr", "3e-3"]
    arguments += ["--generate", "--answer-tokens", "3", "--device", "cpu", "-o", str(tmp_path / "v")]
    dry = CliRunner().invoke(main, [*arguments, "--dry-run"])
    assert dry.exit_code == 0 and "1 of 3 fine-tunings measured, 1 now; the others take about" in dry.stderr
    assert dry.stdout == ""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "3 of 3 fine-tunings measured, 2 now" in result.stderr
    assert "removing these 6 rows raises the loss" in result.stdout.splitlines()[-1]
    answers = [json.loads(line) for line in (tmp_path / "v" / "answers.jsonl").read_text().splitlines()]
    assert [row["query_id"] for row in answers] == ["q0", "q1", "q2"]
    assert all(set(row["answers"]) == {"reference", "named", "random"} for row in answers)
