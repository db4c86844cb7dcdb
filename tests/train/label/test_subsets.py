from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from airrep_infer.errors import InputError
from airrep_infer.rows import Example, Exclusion
from airrep_train.cli import main
from airrep_train.label import SampleOptions, SubsetPlan, read_subsets, sample_subsets, write_subsets
from airrep_train.label.near_copies import find_near_copies

SIZES = {"splits": 3, "dev_size": 10, "pool_size": 50, "subset_size": 8, "subsets": 20}


def draw(count: int, **options: int) -> SubsetPlan:
    return sample_subsets(count, SampleOptions(**options))


def _lists(plan: SubsetPlan) -> list[Any]:
    return [(row["id"], row["dev_id"], row["select"], row.get("dev")) for row in plan.rows()]


def _write(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_split_keeps_dev_and_pool_apart_and_subsets_distinct() -> None:
    plan = draw(100, **SIZES)
    assert len({tuple(dev) for dev in plan.dev.values()}) == SIZES["splits"]
    assert [subset.id for subset in plan.subsets][:2] == ["0-0", "0-1"]
    for dev_id, dev in plan.dev.items():
        chosen = [tuple(subset.select) for subset in plan.split(dev_id)]
        drawn = {line for subset in chosen for line in subset}
        assert len(set(chosen)) == SIZES["subsets"]
        assert all(len(set(subset)) == SIZES["subset_size"] for subset in chosen)
        assert not drawn & set(dev) and len(drawn) <= SIZES["pool_size"] and len(dev) == SIZES["dev_size"]


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    assert _lists(draw(100, **SIZES, seed=3)) == _lists(draw(100, **SIZES, seed=3))
    assert _lists(draw(100, **SIZES, seed=3)) != _lists(draw(100, **SIZES, seed=4))
    assert (np.random.get_state()[1] == state).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_every_distinct_subset_can_be_asked_for(pool: int, size: int, data: st.DataObject) -> None:
    size = min(size, pool)
    most = int(np.prod([(pool - n) / (n + 1) for n in range(size)]).round())
    subsets = data.draw(st.integers(1, most))
    sizes = {"splits": 2, "dev_size": 2, "pool_size": pool, "subset_size": size}
    plan = draw(10, **sizes, subsets=subsets)
    assert len({tuple(subset.select) for subset in plan.split(0)}) == subsets


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dev_size": 60}, r"dev size 60 \+ pool size 50 = 110, but there are 100 examples"),
        ({"subset_size": 51}, "subset_size 51 exceeds pool_size 50"),
        ({"pool_size": 9, "subsets": 10}, "has 9 distinct subsets of 8, fewer than the 10"),
        ({"subset_size": 50}, "has 1 distinct subsets of 50"),
        ({"dev_size": 1, "splits": 101}, "100 distinct dev sets of 1, fewer than the 101"),
        ({"subsets": 0}, "subsets must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"dev_size": -1}, "dev_size must be at least 1"),
    ],
)
def test_impossible_requests_are_refused(change: dict[str, int], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        draw(100, **{**SIZES, **change})


def test_the_pool_is_all_other_rows_where_there_are_few(tmp_path: Path) -> None:
    texts = _texts(48)
    rows = [{"text": text} for text in texts] + [{"text": f"{text}!"} for text in texts[:12]]
    data = _write(tmp_path / "d.jsonl", *rows)
    arguments = ["sample", str(data), "-o", str(tmp_path / "s.jsonl"), "--splits", "3", "--dev-size", "6"]
    result = CliRunner().invoke(main, [*arguments, "--subset-size", "30"])
    assert result.exit_code == 0, result.output
    plan = read_subsets(tmp_path / "s.jsonl", len(rows))
    for dev_id, dev in plan.dev.items():
        drawn = {line for subset in plan.split(dev_id) for line in subset.select.tolist()}
        assert len(drawn) == len(rows) - len(dev) - plan.near_copies[dev_id]
    for size, said in (
        ("55", r"dev size 6 \+ subset size 55 = 61, but there are 60 examples; lower one of them"),
        ("54", r"split \d: 5\d examples are neither dev rows nor near copies of them, fewer than the subset"),
    ):
        refused = CliRunner().invoke(main, [*arguments, "--subset-size", size])
        assert refused.exit_code == 2 and re.search(said, refused.stderr), refused.stderr
    with pytest.raises(
        InputError, match="split 0: a pool of 9 has 9 distinct subsets of 8, fewer than the 40"
    ):
        draw(12, dev_size=3, subset_size=8)


def test_without_a_pool_size_the_plan_of_many_rows_is_that_of_earlier_versions() -> None:
    asked, earlier = SampleOptions(splits=2, dev_size=5), SampleOptions(splits=2, dev_size=5, pool_size=3000)
    for count in (3005, 3100):
        assert sample_subsets(count, asked).sha256() == sample_subsets(count, earlier).sha256()
        assert asked.identity(count) == earlier.identity(count) == asdict(earlier)
    assert asked.identity(3004) != earlier.identity(3004)
    with pytest.raises(InputError, match=r"dev size 5 \+ pool size 3000 = 3005, but there are 3004"):
        sample_subsets(3004, earlier)


def test_a_written_plan_reads_back(tmp_path: Path) -> None:
    plan = draw(100, **SIZES)
    write_subsets(tmp_path / "s.jsonl", plan)
    again = read_subsets(tmp_path / "s.jsonl", 100)
    assert _lists(again) == _lists(plan) and again.sha256() == plan.sha256()
    assert sum('"dev": ' in line for line in (tmp_path / "s.jsonl").read_text().splitlines()) == 3


def test_the_published_layout_repeats_the_dev_set(tmp_path: Path) -> None:
    rows = [{"id": f"4-{n}", "select": [n, 5], "dev": [9, 8], "dev_id": 4} for n in range(3)]
    plan = read_subsets(_write(tmp_path / "s.jsonl", *rows), 10)
    assert plan.dev[4].tolist() == [9, 8] and len(plan.split(4)) == 3


FIRST = {"id": "0-0", "dev_id": 0, "select": [0, 1], "dev": [2, 3]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**FIRST, "id": "x", "select": [0, 10]}, "select holds 10, but there are 10 examples"),
        ({**FIRST, "id": "x", "select": [-1]}, "select holds -1"),
        ({**FIRST, "id": "x", "select": [1.5]}, "select must hold integers only, found 1.5"),
        ({**FIRST, "id": "x", "select": [True]}, "select must hold integers only, found true"),
        ({**FIRST, "id": "x", "select": [4, 4]}, "select holds 4 more than once"),
        ({**FIRST, "id": "x", "select": []}, "select must be a list of line numbers, at least one"),
        ({"id": "x", "dev_id": 0}, r"select must .* got nothing \(keys: id, dev_id\)"),
        ({**FIRST, "select": [4]}, "duplicate id '0-0', first at line 1"),
        ({**FIRST, "id": "x", "dev": [2, 4]}, "dev differs from the dev set that dev_id 0 had before"),
        ({"id": "x", "dev_id": 1, "select": [4]}, "the first row of dev_id 1 must have a dev set"),
        ({**FIRST, "id": 7}, "id must be a string that is not empty, got 7"),
        ({**FIRST, "id": "x", "dev_id": "0"}, "dev_id must be an integer"),
        ("[1]", "expected a JSON object, got an array"),
        ('{"id"', "not valid JSON"),
    ],
)
def test_a_bad_row_names_file_line_and_reason(tmp_path: Path, row: Any, reason: str) -> None:
    path = _write(tmp_path / "s.jsonl", FIRST, row)
    with pytest.raises(InputError, match=rf"s\.jsonl:2: {reason}"):
        read_subsets(path, 10)


def test_the_sample_command(tmp_path: Path) -> None:
    data = _write(tmp_path / "d.jsonl", *[{"text": f"row {n}"} for n in range(30)])
    arguments = [
        "--splits",
        "2",
        "--dev-size",
        "5",
        "--pool-size",
        "20",
        "--subset-size",
        "4",
        "--subsets",
        "6",
    ]
    output = tmp_path / "s.jsonl"
    result = CliRunner().invoke(main, ["sample", str(data), "-o", str(output), *arguments])
    assert result.exit_code == 0 and result.stdout == "" and "12 subsets in 2 splits" in result.stderr
    assert "near copies" not in result.stderr
    assert len(read_subsets(output, 30).subsets) == 12
    result = CliRunner().invoke(main, ["sample", str(data), "-o", str(output), "--dev-size", "29"])
    assert result.exit_code == 2 and result.stderr.startswith("error: dev size 29") and result.stdout == ""
    assert "Example: airrep-train sample" in CliRunner().invoke(main, ["sample", "--help"]).output


WORDS = [f"{n}{n * n}ab{n * 7919}" for n in range(400)]


def _texts(count: int) -> list[str]:
    """Texts that have nothing in common."""
    return [" ".join(WORDS[8 * n : 8 * n + 8]) for n in range(count)]


def _slow_similarity(a: str, b: str) -> float:
    one, other = (
        {" ".join(text.lower().split())[n : n + 5] for n in range(len(" ".join(text.split())) - 4)}
        for text in (a, b)
    )
    return len(one & other) / len(one | other)


def test_near_copies_are_those_of_the_plain_formula() -> None:
    texts = [*_texts(20), *(f"{text[: n + 10]} {text[12:]}" for n, text in enumerate(_texts(20)))]
    texts += [texts[3].upper().replace(" ", "\n "), "ab", "ab", "abc"]
    examples = [Example(str(n), None, text) for n, text in enumerate(texts[:40])]
    examples += [Example(str(n), text[:7], text[8:]) for n, text in enumerate(texts[40:], 40)]
    for similarity in (0.5, 0.8, 1.0):
        near = find_near_copies(examples, [3, 5, 22, 41], similarity)
        for line, others in near.items():
            expected = {
                n
                for n, text in enumerate(texts[:40])
                if n != line and len(text) > 5 and len(texts[line]) > 5
                if _slow_similarity(text, texts[line]) >= similarity
            }
            assert {n for n in others if n < 40} == expected, (line, similarity)
        assert near[41] == {42}  # shorter than a run
    assert find_near_copies(examples, [3], 1.0)[3] == set()  # that copy is a prompt and a response


def test_the_end_of_a_long_row_counts_as_for_select(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = (100_000, 150_000, 150_000)
    start, *ends = ("".join(map(chr, rng.integers(0x4E00, 0x9FFF, count))) for count in counts)
    examples = [Example("a", None, start + ends[0]), Example("b", None, start + ends[1])]
    assert find_near_copies(examples, [0], 0.8) == {0: frozenset()}
    data = _write(tmp_path / "a.jsonl", {"id": "a", "text": examples[0].response})
    assert Exclusion(str(data)).check("b", examples[1]) is None


def test_near_copies_of_dev_rows_are_in_no_pool(tmp_path: Path) -> None:
    texts = _texts(45)
    rows = [{"text": text} for text in texts] + [{"text": f"{text}!"} for text in texts[:15]]
    data = _write(tmp_path / "d.jsonl", *rows)
    sizes = {**SIZES, "dev_size": 6, "pool_size": 40, "subset_size": 40 - 1}
    arguments = [word for name, size in sizes.items() for word in (f"--{name.replace('_', '-')}", str(size))]
    result = CliRunner().invoke(main, ["sample", str(data), "-o", str(tmp_path / "s.jsonl"), *arguments])
    assert result.exit_code == 0, result.output
    plan = read_subsets(tmp_path / "s.jsonl", len(rows))
    twin = {n: n + 45 for n in range(15)} | {n + 45: n for n in range(15)}
    for dev_id, dev in plan.dev.items():
        twins = {twin[line] for line in dev.tolist() if line in twin} - set(dev.tolist())
        drawn = {line for subset in plan.split(dev_id) for line in subset.select.tolist()}
        assert twins and not drawn & twins and plan.near_copies[dev_id] == len(twins)
    total = sum(plan.near_copies.values())
    assert f"near copies of dev rows are kept out of the pools: {total} in 3 splits" in result.stderr
    refused = CliRunner().invoke(
        main,
        [
            "sample",
            str(data),
            "-o",
            str(tmp_path / "t.jsonl"),
            *arguments[:4],
            "--pool-size",
            "54",
            "--subset-size",
            "9",
        ],
    )
    assert refused.exit_code == 2 and "neither dev rows nor near copies of them, fewer than" in refused.stderr
