"""The page of figures is what the records say."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import page  # noqa: E402


def stored(name, made, value=1.0, **more):
    measures = {"a query": {"value": value, "unit": "ms", "higher_is_better": False}}
    hardware = {"cpu": "a CPU", "cores": 2}
    return {"benchmark": name, "made": made, "hardware": hardware, "measures": measures, **more}


def test_the_page_is_current():
    text = page.PAGE.read_text(encoding="utf-8")
    table = page.table(page.newest_records(BENCHMARKS / "results"))
    assert page.written(text, table) == text, "run: python benchmarks/page.py"


def test_the_newest_record_of_each_benchmark_counts_whatever_its_hardware(tmp_path):
    for number, record in enumerate(
        [stored("x", "2026-01-02", 7.0), stored("x", "2026-01-01"), stored("y", None), {"lds": 1}]
    ):
        (tmp_path / f"{number}.json").write_text(json.dumps(record))
    records = page.newest_records(tmp_path)
    assert [record["benchmark"] for record in records] == ["x", "y"]
    assert records[0]["made"] == "2026-01-02"
    row = page.table(records).splitlines()[2]
    assert row == "| `x.py` | a query | 7 ms | a CPU, cores: 2 | 2026-01-02 |"


def test_records_of_other_splits_stand_beside_each_other(tmp_path):
    for number, split in enumerate((17, 4, 4)):
        record = {**stored("x", f"2026-01-0{number + 1}"), "figures": {"split": split}}
        (tmp_path / f"{number}.json").write_text(json.dumps(record))
    assert [record["made"] for record in page.newest_records(tmp_path)] == ["2026-01-01", "2026-01-03"]


def test_only_what_stands_between_the_marks_changes():
    text = f"before\n{page.BEGIN}old\n{page.END}after\n"
    assert page.written(text, "new\n") == f"before\n{page.BEGIN}\nnew\n\n{page.END}after\n"
    with pytest.raises(ValueError, match="once each"):
        page.written("no marks", "new")
