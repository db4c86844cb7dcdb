"""bergson's methods beside the gradients, without bergson: what it is given, its scores, the table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_lm
from bergson_folder import write_bergson

from airrep_train.evaluate import truth_from_labels
from airrep_train.gradients import open_gradients

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gradients

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_python_without_bergson_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"missing: .*nowhere .*pip install bergson==2.5.1"):
        gradients.check_bergson(str(tmp_path / "nowhere"))
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'bergson'\" >&2; exit 1\n")
    bare.chmod(0o755)
    with pytest.raises(SystemExit, match=r"missing: bergson in .*No module named 'bergson'"):
        gradients.check_bergson(str(bare))


def test_the_table_has_what_bergson_gave_and_what_it_lacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, rows, plan = tiny_lm.label_and_take_gradients(tmp_path)
    truth = truth_from_labels(rows, plan, [tmp_path / "losses.jsonl"], [1])
    work = tmp_path / "work"
    gradients.prepare(work, str(target), truth)
    pool = [json.loads(line) for line in (work / "pool.jsonl").read_text().splitlines()]
    ids = json.loads((work / "trackstar" / "scores.ids.json").read_text())
    assert len(ids["rows"]) == len(pool) and ids["queries"] == [
        truth.examples[n].id for n in truth.splits[0].dev
    ]
    for row in pool:
        kept = [token for token in row["labels"] if token != -100]
        assert len(row["input_ids"]) == len(row["labels"]) == row["length"]
        assert kept and row["input_ids"][-len(kept) :] == kept

    # bergson would score so: with our own vectors, and with no room for EK-FAC.
    lines = {example.id: line for line, example in enumerate(truth.examples)}
    vectors = open_gradients(tmp_path / "grads").take(np.arange(len(truth.examples)))
    named = {key: vectors[[lines[name] for name in names]] for key, names in ids.items()}
    settings = "steps: [{score: {score_cfg: {higher_is_better: true}}}]"
    write_bergson(work / "trackstar" / "scores", named["rows"] @ named["queries"].T, settings)
    (work / "trackstar.spent.json").write_text('{"processor_seconds": 3.0, "seconds": 4.0}')
    monkeypatch.setattr(gradients, "check_bergson", lambda python: None)
    monkeypatch.setattr(gradients.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1}))
    output = tmp_path / "out.json"
    arguments = ["--data", tmp_path, "--gradients", tmp_path / "grads", "--target", target, "--work", work]
    arguments += ["--split", 1, "--json", output]
    monkeypatch.setattr(sys, "argv", ["gradients.py", *map(str, arguments)])
    gradients.main()
    found = {row["method"]: row for row in json.loads(output.read_text())["figures"]["rows"]}
    trackstar, refused = found["bergson trackstar"], found["bergson ekfac"]
    assert trackstar["lds"] == pytest.approx(found["gradients, mean"]["lds"], abs=1e-6)
    assert trackstar["ms_a_row"] == pytest.approx(3000 / (len(pool) + len(ids["queries"])))
    assert refused["lds"] is None and "GB of disk" in refused["note"]
    shown = capsys.readouterr().out
    assert "not run" in shown and refused["note"] in shown


def test_a_method_that_fails_or_takes_too_long_says_so(tmp_path: Path) -> None:
    python = tmp_path / "python"
    for script, minutes, reason in (
        ("exit 3", 1.0, "bergson stopped with exit status 3"),
        ("exec sleep 9", 0.002, "stopped after 0.002 minutes; the same command resumes"),
    ):
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        assert reason in gradients.run_bergson(str(python), tmp_path, "trackstar", minutes)
    assert gradients.spent_so_far(tmp_path, "trackstar")["seconds"] > 0.1
    step = json.loads((tmp_path / "trackstar.yaml").read_text())["steps"][0]["trackstar"]
    assert step["index_cfg"]["data"] == {"dataset": "pool.jsonl"}
