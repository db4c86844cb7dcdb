"""The command that measures a GPU runs whole on the CPU, and a part that fails stops no other."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import edit_json, tiny_encoder_folder
from tiny_lm import save_llama

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gpu
import gpu_parts

from airrep_train.label import SampleOptions, sample_subsets, write_subsets

pytestmark = pytest.mark.usefixtures("one_thread")


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, tiny_bundle):
    """A tiny p3, encoder, bundle and target."""
    folder = tmp_path_factory.mktemp("gpu")
    data = folder / "p3"
    data.mkdir()
    rows = [{"input": f"what is {n} and {n * 7 % 11}", "output": f"the number {n % 7}"} for n in range(60)]
    write_rows(data / "examples.jsonl", rows)
    plan = sample_subsets(60, SampleOptions(splits=1, dev_size=4, pool_size=30, subset_size=4, subsets=3))
    write_subsets(data / "subsets.jsonl", plan)
    losses = [[1, 2, 3, 4], [2, 3, 1, 5], [3, 1, 2, 6]]
    write_rows(
        data / "losses.jsonl",
        [{"pair_id": f"0-{n}", "dev_id": 0, "losses": row} for n, row in enumerate(losses)],
    )
    target = save_llama(folder / "target")
    edit_json(folder / "target" / "config.json", max_position_embeddings=256)  # rotary: any number will do
    settings = {
        "--bundle": tiny_bundle,
        "--data": data,
        "--encoder": tiny_encoder_folder("bert", folder / "encoder"),
        "--target": target,
        "--device": "cpu",
        "--json": folder / "gpu.json",
    }
    return [str(word) for pair in settings.items() for word in pair] + ["--quick"], folder / "gpu.json"


def test_every_part_runs_on_the_cpu_and_is_recorded(arguments):
    words, path = arguments
    result = CliRunner().invoke(gpu.main, words)
    assert result.exit_code == 0, result.output
    stored = json.loads(path.read_text())
    parts = stored["figures"]["parts"]
    assert list(parts) == list(gpu_parts.PARTS)
    assert {name: part for name, part in parts.items() if part["status"] != "done"} == {}
    assert parts["parity"]["precisions"]["fp32"]["min_cosine"] > 0.99999
    assert parts["parity"]["precisions"]["fp32"]["top10_agreement"] == 1
    assert parts["scan"]["identical_ids"] and parts["scan"]["large_rows_float16"] == 6000
    assert 0 < parts["embed"]["rows_per_second"]["p3"]["device_share"]["fp32"] <= 1
    assert parts["label"]["labels"] == 3 and parts["gradients"]["rows"] == 8
    assert stored["measures"]["gpu, fit"]["value"] > 0 and stored["figures"]["device"] == "cpu"


def test_a_part_that_fails_or_lacks_something_is_recorded_and_the_others_run(arguments, monkeypatch):
    words, path = arguments
    seen = []

    def breaks(_setup):
        seen.append(json.loads(path.read_text())["figures"]["parts"] if path.exists() else {})
        raise ValueError("this part broke")

    def lacks(_setup):
        seen.append(json.loads(path.read_text())["figures"]["parts"])
        raise gpu_parts.NotHereError("no such package")

    path.unlink(missing_ok=True)
    parts = {"embed": breaks, "fit": lacks, "latency": gpu_parts.latency}
    monkeypatch.setattr(gpu_parts, "PARTS", parts)
    only = [word for name in parts for word in ("--only", name)]
    result = CliRunner().invoke(gpu.main, [*words, *only])
    assert result.exit_code == 1 and "failed: embed" in result.stderr
    stored = json.loads(path.read_text())
    found = {name: part["status"] for name, part in stored["figures"]["parts"].items()}
    assert found == {"embed": "failed", "fit": "skipped", "latency": "done"}
    assert seen[0] == {} and seen[1]["embed"]["reason"] == "ValueError: this part broke"
    assert list(stored["measures"]) == ["gpu, latency"]
