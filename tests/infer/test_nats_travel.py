"""A calibration travels: bundle, store, merged and compacted stores, output rows as JSONL and Parquet."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_bundle import rewrite

from airrep_infer.bundle import Bundle, Calibration
from airrep_infer.cli import main
from airrep_infer.encode import EmbeddingSpace
from airrep_infer.errors import InputError
from airrep_infer.rows import Example, read_attributions
from airrep_infer.store import EmbeddingStore, StoreWriter, compact_store, merge_stores
from airrep_infer.store.listing import Shard, write_listing

CALIBRATION = Calibration(0.5, 0.4, 0.7, one_deviation=0.6, subset_rows=16, typical=1.5)
SPACE = EmbeddingSpace("ab" * 32, "fp32", 4)


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def make_store(
    path: Path, first: int = 0, count: int = 6, calibration: Calibration | None = CALIBRATION
) -> EmbeddingStore:
    rows = [Example(f"r{first + n}", None, f"row {first + n}", {"task": f"t{n % 2}"}) for n in range(count)]
    with StoreWriter(path, SPACE, pooling_scale=0.5, part_rows=2, calibration=calibration) as writer:
        writer.append(rows, np.random.default_rng(first).normal(size=(count, 4)).astype(np.float32))
    return EmbeddingStore.open(path)


def test_a_bundle_has_it_and_embeds_with_it(copy: Path, tmp_path: Path) -> None:
    assert Bundle.open(copy).calibration is None and "calibration" not in Bundle.open(copy).describe()
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(4)))
    embed = ["embed", str(rows), "--model", str(copy), "-o", str(tmp_path / "store")]
    assert CliRunner().invoke(main, embed).exit_code == 0
    assert EmbeddingStore.open(tmp_path / "store").calibration is None
    rewrite(copy, calibration=asdict(CALIBRATION))
    assert Bundle.open(copy).calibration == CALIBRATION
    assert CliRunner().invoke(main, embed).exit_code == 0  # nothing to embed, but this is known now
    store = EmbeddingStore.open(tmp_path / "store")
    assert store.calibration == CALIBRATION and len(store) == 4
    for path in (copy, store.path):
        told = CliRunner().invoke(main, ["info", str(path), "--json"])
        assert json.loads(told.stdout)["calibration"] == asdict(CALIBRATION)


def test_influence_that_may_mean_nothing_predicts_no_nats(tmp_path: Path) -> None:
    store = make_store(
        tmp_path / "train", calibration=Calibration(-0.16, -0.63, 0.4, one_deviation=-0.1, subset_rows=16)
    )
    words = ["attribute", "--train", str(store.path), "--query-id", "r0", "-k", "2"]
    for more in ([], ["--pool-queries"]):
        result = CliRunner().invoke(main, [*words, *more])
        assert result.exit_code == 0 and "predicted_nats" not in result.stdout
        assert "no nats are predicted; influence is not shown to mean any (-0.16 nats a unit" in result.stderr


@pytest.mark.parametrize(
    "change", [{"nats": None}, {"nats_low": "x"}, {"subset_rows": 0}, {"one_deviation": float("inf")}]
)
def test_a_calibration_is_checked_number_by_number(copy: Path, change: dict[str, object]) -> None:
    rewrite(copy, calibration={**asdict(CALIBRATION), **change})
    with pytest.raises(InputError, match="damaged"):
        Bundle.open(copy)


def test_stores_that_are_made_of_stores_keep_it(tmp_path: Path) -> None:
    first, second = make_store(tmp_path / "a"), make_store(tmp_path / "b", 6, calibration=None)
    assert second.calibration is None
    merged = merge_stores([first.path, second.path], tmp_path / "both")
    assert merged.calibration == CALIBRATION
    compact_store(merged.path, part_rows=50)
    assert EmbeddingStore.open(merged.path).calibration == CALIBRATION
    with StoreWriter(merged.path, SPACE, pooling_scale=0.5) as writer:  # of a bundle that does not say it
        writer.append([Example("new", None, "new")], np.ones((1, 4), np.float32))
    assert EmbeddingStore.open(merged.path).calibration == CALIBRATION
    other = make_store(tmp_path / "c", 20, calibration=replace(CALIBRATION, nats=0.6))
    with pytest.raises(InputError, match="different things about nats"):
        merge_stores([first.path, other.path], tmp_path / "none")


def test_merging_again_brings_what_the_stores_know_by_now(tmp_path: Path) -> None:
    paths, output = [tmp_path / "a", tmp_path / "b"], tmp_path / "both"
    for place, path in enumerate(paths):
        make_store(path, 6 * place, calibration=None)
    before = merge_stores(paths, output)
    assert before.calibration is None
    for known in (CALIBRATION, replace(CALIBRATION, nats=0.6)):
        for path in paths:
            with StoreWriter(path, SPACE, pooling_scale=0.5, calibration=known):
                pass
        merged = merge_stores(paths, output)
        assert merged.calibration == EmbeddingStore.open(output).calibration == known
        assert merged.parts == before.parts
    with StoreWriter(paths[1], SPACE, pooling_scale=0.5, calibration=CALIBRATION):
        pass
    with pytest.raises(InputError, match="different things about nats"):
        merge_stores(paths, output)
    for path in paths:  # stores that say nothing take nothing away
        write_listing(path, replace(EmbeddingStore.open(path).listing, calibration=None))
    assert merge_stores(paths, output).calibration == replace(CALIBRATION, nats=0.6)


def test_a_store_of_another_pooling_scale_is_not_the_result(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a")
    output = merge_stores([store.path], tmp_path / "merged")
    for change in ({"pooling_scale": 0.7}, {"query_map": "cd" * 32}, {"shard": Shard(1, 1, 0, 6)}):
        write_listing(output.path, replace(output.listing, **change))
        with pytest.raises(InputError, match="merged: exists already, with other content"):
            merge_stores([store.path], output.path)


def test_attributions_of_a_store_alone_say_nats_and_are_read_again(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    store = make_store(tmp_path / "train")
    words = ["attribute", "--train", str(store.path), "--query-id", "r0", "--by", "task", "-k", "2"]
    output = tmp_path / "out.jsonl"
    assert CliRunner().invoke(main, [*words, "-o", str(output)]).exit_code == 0
    (value,) = map(json.loads, output.read_text().splitlines())
    ((_, row),) = read_attributions(output)
    assert row.to_json() == value
    hit = value["proponents"][0]
    assert set(hit["predicted_nats"]) == {"nats", "low", "high"} and set(value["group_nats"]) == {"t0", "t1"}
    assert CliRunner().invoke(main, [*words, "-o", str(tmp_path / "out.parquet")]).exit_code == 0
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [table[0][name] for name in ("predicted_nats", "nats_low", "nats_high")] == [
        hit["predicted_nats"][name] for name in ("nats", "low", "high")
    ]
    groups = parquet.read_table(tmp_path / "out.groups.parquet").to_pylist()
    assert groups[0]["predicted_nats"] is None and groups[1]["predicted_nats"] is not None
    shown = CliRunner().invoke(main, [*words, "--show"])
    assert f"{hit['predicted_nats']['nats']:+.2f} nats [" in shown.stdout
    hits, groups_shown = shown.stdout.split("opponents")[0], shown.stdout.split("t0  ")[-1]
    assert "against random rows" in hits and "against random rows" in groups_shown


@pytest.mark.parametrize("nats", [3, {"nats": 1}, {"nats": 1, "low": 0, "high": "x"}])
def test_bad_nats_of_a_row_are_named(tmp_path: Path, nats: object) -> None:
    hit = {"id": "a", "score": 1.0, "predicted_nats": nats}
    line = {"query_id": "q", "group_influence": 0.1, "proponents": [hit], "opponents": []}
    (tmp_path / "out.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match=r"out.jsonl:1: .*predicted_nats of 'a'"):
        list(read_attributions(tmp_path / "out.jsonl"))
