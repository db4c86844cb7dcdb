"""What `make bench` compares with what, when it fails, and what it stores."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import compare  # noqa: E402
import record  # noqa: E402
import run  # noqa: E402

HERE = record.hardware()
ELSEWHERE = {**HERE, "cpu": "another"}


def made(value=1.0, *, hardware=HERE, at="2026-01-01", benchmark="score", **measures):
    measures = {"a": {"value": value, "unit": "s", "higher_is_better": False}, **measures}
    return {
        "benchmark": benchmark,
        "made": at,
        "hardware": hardware,
        "versions": {"commit": "abc"},
        "measures": measures,
    }


def speed(value, unit="rows/s"):
    return {"value": value, "unit": unit, "higher_is_better": True}


def write(folder, name, stored):
    (folder / name).write_text(json.dumps(stored))


def test_a_saved_record_says_where_when_and_what(tmp_path):
    record.save(tmp_path / "r.json", "score", {"x": 1}, {"a": record.Measure(2.0, "s")})
    stored = json.loads((tmp_path / "r.json").read_text())
    assert stored["hardware"] == HERE and stored["versions"]["python"] and stored["made"].endswith("+00:00")
    assert stored["measures"] == {"a": {"value": 2.0, "unit": "s", "higher_is_better": False}}
    assert compare.last_stored(tmp_path, stored) == stored


def test_the_last_record_of_the_same_hardware_and_benchmark_is_the_one_compared(tmp_path):
    write(tmp_path, "a.json", made(1, at="2026-01-02"))
    write(tmp_path, "b.json", made(2, at="2026-01-01"))
    write(tmp_path, "c.json", made(3, at="2026-01-03", hardware=ELSEWHERE))
    write(tmp_path, "d.json", made(4, at="2026-01-03", benchmark="embed"))
    write(tmp_path, "e.json", {**made(5, at="2026-01-03"), "measures": {}})
    write(tmp_path, "f.json", {"lds": 0.1})  # not a benchmark's record
    found = compare.last_stored(tmp_path, made())
    assert found["measures"]["a"]["value"] == 1
    assert compare.last_stored(tmp_path, made(hardware={**HERE, "cores": 999})) is None
    assert compare.last_stored(tmp_path, made(hardware={**HERE, "extensions": []})) is None
    assert compare.last_stored(tmp_path, made(hardware={**HERE, "memory_gib": 999}))


@pytest.mark.parametrize(("now", "regressed"), [(1.2, False), (1.21, True), (0.5, False)])
def test_more_than_a_fifth_slower_is_a_regression(now, regressed):
    (change,) = compare.changes(made(1.0), made(now))
    assert change.slowdown == pytest.approx(now) and change.regressed is regressed
    assert compare.report(made(1.0), made(now))[1] is regressed


@pytest.mark.parametrize(("now", "regressed"), [(84.0, False), (83.0, True), (200.0, False)])
def test_of_a_speed_more_is_better(now, regressed):
    before, after = made(b=speed(100.0)), made(b=speed(now))
    change = compare.changes(before, after)[1]
    assert change.slowdown == pytest.approx(100 / now) and change.regressed is regressed


def test_a_value_of_nothing_is_a_regression():
    assert compare.changes(made(b=speed(100.0)), made(b=speed(0.0)))[1].regressed


def test_measures_of_other_names_or_units_are_not_compared():
    before = made(b=speed(1, "rows/s"), c=speed(1))
    now = made(b=speed(1, "M rows/s"), d=speed(1))
    assert [change.name for change in compare.changes(before, now)] == ["a"]
    text, regressed = compare.report(before, now)
    assert "not in the stored record: b, d" in text and not regressed


def test_the_report_says_what_there_is_to_compare_with():
    text, regressed = compare.report(None, made())
    assert "no stored record of this hardware" in text and HERE["cpu"] in text and not regressed
    text, regressed = compare.report(None, {**made(), "measures": {}})
    assert text == "score: nothing in it is compared" and not regressed
    text, regressed = compare.report(made(1.0), made(1.5))
    assert (
        "against 2026-01-01 (commit abc)" in text and "REGRESSED" in text and "x  1.50" in text and regressed
    )


def test_a_record_of_other_hardware_is_not_overwritten(tmp_path):
    assert compare.storage_path(tmp_path, made()) == tmp_path / "score.json"
    write(tmp_path, "score.json", made())
    assert compare.storage_path(tmp_path, made()) == tmp_path / "score.json"
    other = made(hardware={"cpu": "AMD EPYC (model 17)", "cores": 2, "extensions": []})
    assert compare.storage_path(tmp_path, other) == tmp_path / "score.amd-epyc-model-17-2-cores.json"


def test_what_pytest_benchmark_wrote_becomes_a_record():
    stats = {"min": 1.0, "median": 2.0, "max": 3.0, "mean": 2.0, "stddev": 0.1, "rounds": 5, "q1": 1.5}
    one = {"name": "t[1]", "stats": stats, "extra_info": {"p95_ms": 7.0, "measures": {"m": speed(3.0)}}}
    figures, measures = compare.from_pytest({"benchmarks": [one]})
    assert measures == {"m": speed(3.0)}
    assert (
        figures["t[1]"]["p95_ms"] == 7.0 and figures["t[1]"]["median"] == 2.0 and "q1" not in figures["t[1]"]
    )


@pytest.fixture
def results(tmp_path, monkeypatch):
    """`run.main` on benchmarks that take no time: each gives the value that `values` has for it."""
    values = {"score": 1.0}
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(run, "RESULTS", folder)
    monkeypatch.setattr(record, "ROOT", tmp_path)

    def make_record(name, scratch):
        if values[name] is None:
            return None
        path = scratch / f"{name}.json"
        record.save(path, name, {}, {"a": record.Measure(values[name], "s")})
        return path

    monkeypatch.setattr(run, "make_record", make_record)
    return folder, values


def stored(folder):
    return json.loads((folder / "score.json").read_text())["measures"]["a"]["value"]


def start(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "score", *arguments])
    run.main()


def test_the_first_record_is_stored_and_later_ones_on_demand(results, monkeypatch, capsys):
    folder, values = results
    start(monkeypatch)
    assert stored(folder) == 1.0 and "no stored record of this hardware" in capsys.readouterr().out
    values["score"] = 1.1
    start(monkeypatch)
    assert stored(folder) == 1.0  # a tenth at a time must not pass for ever
    start(monkeypatch, "--store")
    assert stored(folder) == 1.1


def test_a_regression_and_a_failure_end_with_status_1(results, monkeypatch, capsys):
    folder, values = results
    start(monkeypatch)
    for value in (1.3, None):
        values["score"] = value
        with pytest.raises(SystemExit, match="failed or slower than stored: score"):
            start(monkeypatch)
        assert stored(folder) == 1.0


def test_a_real_benchmark_writes_a_record_that_compares(tmp_path):
    """score.py alone, as its users run it, on next to nothing."""
    small = [
        "--rows",
        "600",
        "--queries",
        "5",
        "--dimension",
        "8",
        "-k",
        "3",
        "--repeat",
        "1",
        "--groups",
        "2",
    ]
    command = [sys.executable, str(BENCHMARKS / "score.py"), *small, "--json", str(tmp_path / "score.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "attribute --by" in done.stdout
    found = json.loads((tmp_path / "score.json").read_text())
    names = [f"{what}, {dtype}, 5 x 600 x 8, top 3" for dtype in ("float32", "float16")
             for what in ("attribute", "attribute --by of 2 groups")]  # fmt: skip
    assert list(found["measures"]) == names
    assert [change.slowdown for change in compare.changes(found, found)] == [1.0] * 4
