"""The table of methods, on a tiny truth."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_lm

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import quality
import record
import word_share

from airrep_train.gradients import query_map

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_method_has_a_row_and_the_difference_is_its_own(
    encoder_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_lm.label_and_take_gradients(tmp_path)
    monkeypatch.setattr(query_map, "LEAST_ROWS", 20)
    base = str(encoder_folder("bert"))
    output = tmp_path / "quality.json"
    arguments = ["--data", str(tmp_path), "--gradients", str(tmp_path / "grads"), "--base", base]
    arguments += ["--split", "1", "--encoder", f"taught={base}", "--json", str(output)]
    arguments += ["--other", f"the same={tmp_path / 'grads'}"]
    monkeypatch.setattr(sys, "argv", ["quality.py", *arguments])
    quality.main()
    shown = capsys.readouterr().out
    found = {row["method"]: row for row in json.loads(output.read_text())["figures"]["truths"]["p3"]["rows"]}
    assert list(found) == [
        *("TF-IDF", "TF-IDF of responses", "BM25", "untrained encoder, cosine", "graddot", "gradcos"),
        *("gradients, mean", "gradients, attention", "gradients and words", "the same"),
        *("taught", "taught, queries by gradients"),
    ]
    reference = found["gradients, attention"]["lds"]
    for row in found.values():
        assert row["minus_gradients"] == pytest.approx(row["lds"] - reference, abs=1e-9)
        low, high = row["minus_gradients_ci95"]
        assert low <= row["minus_gradients"] <= high
        assert row["method"] in shown
    assert found["the same"]["lds"] == reference
    monkeypatch.setattr(word_share, "SHARES", (0.0, quality.TeachOptions.word_share))
    alone, both = word_share.measure(tmp_path, [1], tmp_path / "grads")
    assert (alone.attention, alone.mean) == pytest.approx((reference, found["gradients, mean"]["lds"]))
    assert both.attention == pytest.approx(found["gradients and words"]["lds"])


@pytest.mark.skipif(not record.P3.is_dir(), reason="p3 is not on this machine")
@pytest.mark.parametrize("name", ["p3", "unseen", "one-out"])
def test_a_truth_has_the_queries_and_the_subsets_of_its_plan(name: str) -> None:
    (split,) = quality.read_truth(name, record.P3, 4).splits
    assert split.losses.shape == (len(split.subsets), len(split.dev))
    assert (split.dev_id, len(split.dev)) == {"p3": (4, 192), "unseen": (17, 240), "one-out": (22, 96)}[name]
