"""Windows, shards and merging: every way to divide the rows gives the bytes of the plain run."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from windowed import ROWS, WINDOW, content, embed, same_rows, shards, write

from airrep_infer.cli import main
from airrep_infer.encode import encoder as encoder_module
from airrep_infer.encode.encoder import Encoder, cut_windows
from airrep_infer.errors import InputError, StorageError
from airrep_infer.rows.examples import Example, ExampleReader
from airrep_infer.store.embed import embed_files
from airrep_infer.store.listing import Shard, write_listing
from airrep_infer.store.merge import merge_stores
from airrep_infer.store.shards import ShardReader, windows_to_embed
from airrep_infer.store.store import EmbeddingStore
from airrep_infer.store.writer import StoreWriter


@given(rows=st.integers(1, 60), known=st.sets(st.integers(0, 59)), prefix=st.integers(0, 60))
def test_new_rows_keep_their_company(rows: int, known: set[int], prefix: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_module, "WINDOW_ROWS", WINDOW)
        names = [str(number) for number in range(rows)]
        plain = {name: window for window in cut_windows(names) for name in window}
        # As a killed run leaves it: a prefix is there.
        skipped: list[int] = []
        stopped = set(names[:prefix])
        windows = list(windows_to_embed(cut_windows(names), stopped.__contains__, skipped.append))  # type: ignore[type-var, arg-type]
        assert all(window == plain[window[0]] for window in windows)
        assert set(names) - stopped <= {name for window in windows for name in window}
        assert sum(map(len, windows)) + sum(skipped) == rows
        # Known rows anywhere: no new row is left out or comes twice, and windows are full.
        there = {str(number) for number in known}
        skipped.clear()
        windows = list(windows_to_embed(cut_windows(names), there.__contains__, skipped.append))  # type: ignore[type-var, arg-type]
        assert [name for window in windows for name in window if name not in there] == [
            name for name in names if name not in there
        ]
        assert sum(map(len, windows)) + sum(skipped) == rows
        assert all(len(window) == WINDOW for window in windows[1:-1])


@pytest.mark.parametrize("complete", [1, 3, 5, 14])
def test_a_killed_run_goes_on_to_the_same_bytes(
    complete: int, train: Path, whole: EmbeddingStore, encoder: Encoder, tmp_path: Path
) -> None:
    """A kill leaves complete parts of 7 rows; windows of 16 rows do not end there."""
    expected = content(whole)
    stopped = Path(shutil.copytree(whole.path, tmp_path / "stopped"))
    write_listing(stopped, replace(whole.listing, parts=whole.parts[:complete]))
    assert content(embed(train, encoder, stopped)) == expected


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_no_bit(
    threads: int, train: Path, whole: EmbeddingStore, tiny_bundle: Path, tmp_path: Path
) -> None:
    other = Encoder(tiny_bundle, device="cpu", threads=threads)
    assert content(embed(train, other, tmp_path / "other")) == content(whole)


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_merged_shards_are_the_whole_bit_by_bit(
    count: int, train: Path, whole: EmbeddingStore, encoder: Encoder, tmp_path: Path
) -> None:
    parts = shards(train, encoder, tmp_path, count)
    sizes = [len(part) for part in parts]
    assert sum(sizes) == len(ROWS) and max(sizes) - min(sizes) <= 2 * WINDOW
    merged = merge_stores([part.path for part in reversed(parts)], tmp_path / "merged")
    assert same_rows(merged, whole) and merged.shard is None
    merged.verify()
    assert sorted(child.name for child in tmp_path.iterdir() if child.name.startswith(".")) == []
    # What it is made of may go, and it is a store like any other.
    for part in parts:
        shutil.rmtree(part.path)
    merged.verify()
    assert embed_files([train], encoder, merged.path).added == 0


def test_a_shard_goes_on_and_is_not_mixed_with_another(train: Path, encoder: Encoder, tmp_path: Path) -> None:
    (store, _) = shards(train, encoder, tmp_path, 2)
    assert store.shard == Shard(1, 2, 0, 3 * WINDOW)
    expected = content(store)
    write_listing(store.path, replace(store.listing, parts=store.parts[:3]))
    assert content(embed(train, encoder, store.path, shard=(1, 2))) == expected
    for other in ((2, 2), (1, 3), None):
        with pytest.raises(
            InputError, match=r"holds shard 1/2 \(48 rows from row 0\), asked.*another folder"
        ):
            embed(train, encoder, store.path, shard=other)
    assert content(store) == expected


def test_bad_rows_go_to_the_shard_they_lie_in(encoder: Encoder, tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in ROWS[: 4 * WINDOW]]
    for at in (0, 5, 30, 31, 40, len(lines)):
        lines.insert(at, "bad" + str(at))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines) + "\n")
    reader = ExampleReader([file], on_error="skip")
    list(reader)
    expected = [reject.line for reject in reader.rejected]
    assert len(expected) == 6
    found = []
    for part in range(1, 4):
        shard = ShardReader(ExampleReader([file], on_error="skip"), (part, 3))
        rows = sum(map(len, shard))
        assert rows == shard.shard.rows
        found += [reject.line for reject in shard.rejected]
    assert found == expected
    with pytest.raises(InputError, match="read twice"):
        ShardReader(ExampleReader(["-"]), (1, 2))
    with pytest.raises(InputError, match=r"shard 3/2: expected I/N"):
        ShardReader(reader, (3, 2))
    (tmp_path / "none.jsonl").write_text("bad\n")
    with pytest.raises(InputError, match=r"no usable row.*none\.jsonl:1"):
        ShardReader(ExampleReader([tmp_path / "none.jsonl"], on_error="skip"), (1, 2))


def test_what_does_not_belong_together_is_not_merged(train: Path, encoder: Encoder, tmp_path: Path) -> None:
    one, two, three = (part.path for part in shards(train, encoder, tmp_path, 3))
    plain = embed(train, encoder, tmp_path / "plain").path
    grown = write(tmp_path / "grown.jsonl", [*ROWS, *({**row, "id": f"{row['id']}+"} for row in ROWS)])
    of_grown = embed(grown, encoder, tmp_path / "of-grown", shard=(2, 3)).path
    half = embed(train, encoder, tmp_path / "half", dtype="float16").path
    unfinished = EmbeddingStore.open(shutil.copytree(two, tmp_path / "unfinished"))
    write_listing(unfinished.path, replace(unfinished.listing, parts=unfinished.parts[:2]))
    foreign = tmp_path / "foreign"
    space = replace(encoder.space, precision="int8")
    with StoreWriter(foreign, space, pooling_scale=encoder.bundle.pooling_scale) as writer:
        writer.append([Example("f", None, "f")], np.ones((1, space.dimension), np.float32))
    for stores, reason in (
        ([], "name at least one"),
        ([one, three], r"expected the 3 shards 1/3 to 3/3, each once; got 1/3, 3/3"),
        ([one, two, two, three], "got 1/3, 2/3, 2/3, 3/3"),
        (
            [one, unfinished.path, three],
            r"unfinished: 14 rows, expected those of shard 2/3 \(32 rows.*embed command again to finish it",
        ),
        ([one, of_grown, three], r"of-grown: shard 2/3 .* does not follow .* ends at row 32"),
        ([one, two, three, plain], "plain is not a shard"),
        ([plain, plain], r"id 'r0' is in .*plain and again in .*plain"),
        ([plain, foreign], "int8.*different encoders"),
        ([plain, half], "dtype float32 and .*half float16"),
        ([plain, tmp_path / "nothing"], "no such store"),
    ):
        with pytest.raises(InputError, match=reason):
            merge_stores(stores, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()
    with pytest.raises(InputError, match="plain: exists already"):
        merge_stores([one, two, three], plain)


def test_plain_stores_are_joined_in_the_order_given(encoder: Encoder, tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{at}.jsonl", ROWS[at : at + 30]) for at in (60, 0)]
    stores = [embed(part, encoder, part.with_suffix(".store")) for part in parts]
    merged = merge_stores([store.path for store in stores], tmp_path / "new" / "merged")
    assert [row.id for row in merged.rows()] == [f"r{n}" for n in (*range(60, 90), *range(30))]
    assert merge_stores([merged.path], tmp_path / "again").fingerprint == merged.fingerprint


def test_where_links_cannot_be_made_files_are_copied(
    train: Path, whole: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (whole.path / "part-00000.npy").stat().st_nlink == 1
    merged = merge_stores([whole.path], tmp_path / "linked")
    assert (merged.path / "part-00000.npy").stat().st_nlink == 2

    def fail(code: int) -> Any:
        def link(_source: Path, target: Path) -> None:
            if target.name.startswith("part-00001"):
                raise OSError(code, os.strerror(code))
            shutil.copyfile(_source, target)

        return link

    monkeypatch.setattr(os, "link", fail(errno.EXDEV))
    merged = merge_stores([whole.path], tmp_path / "copied")
    assert (merged.path / "part-00001.npy").stat().st_nlink == 1
    merged.verify()
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "link", fail(errno.ENOSPC))
    with pytest.raises(StorageError, match=r"failed: cannot write: No space left"):
        merge_stores([whole.path], tmp_path / "failed")
    assert sorted(tmp_path.iterdir()) == before


def test_the_commands(train: Path, whole: EmbeddingStore, tiny_bundle: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    parts = [tmp_path / f"{part}.store" for part in (1, 2)]
    for number, part in enumerate(parts, 1):
        result = run("embed", train, "--model", tiny_bundle, "-o", part, "--shard", f"{number}/2")
        assert result.exit_code == 0, result.output
    assert json.loads(run("info", parts[1], "--json").stdout)["shard"]["first"] == 3 * WINDOW
    result = run("merge", parts[1], parts[0], "-o", tmp_path / "merged")
    assert result.exit_code == 0 and "100 rows of 2 stores" in result.stderr and result.stdout == ""
    assert same_rows(EmbeddingStore.open(tmp_path / "merged"), whole)
    for arguments, reason in (
        (["embed", train, "--model", tiny_bundle, "-o", tmp_path / "x", "--shard", "3/2"], "not I/N"),
        (
            ["embed", train, "--model", tiny_bundle, "-o", tmp_path / "x", "--ray-address", "a:1"],
            "--engine ray",
        ),
        (["merge", parts[0], "-o", tmp_path / "x"], "got 1/2"),
        (["attribute", "--train", train, "--query", train, "--engine", "ray"], "needs one store"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and reason in result.stderr and not (tmp_path / "x").exists()
    assert "merge part-*.store" in run("merge", "--help").stdout
