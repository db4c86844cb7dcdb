"""What a run says of bad rows and of input that changes meanwhile, with an encoder that costs nothing."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from airrep_infer.command import Command
from airrep_infer.encode import EmbeddingSpace
from airrep_infer.encode import encoder as encoder_module
from airrep_infer.encode.encoder import EmbeddedWindow
from airrep_infer.errors import InputError
from airrep_infer.files import InputFiles
from airrep_infer.rows.template import SHARED
from airrep_infer.store.embed import EmbedSummary, embed_files
from airrep_infer.store.store import EmbeddingStore


class Encoder:
    """Gives every text its length as a vector; `before` is called before each window."""

    space = EmbeddingSpace("ab" * 32, "fp32", 2)
    bundle = SimpleNamespace(pooling_scale=1.0, template=SHARED, calibration=None)

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.before = before

    def embed_windows(self, windows: Iterable[list[Any]]) -> Iterator[EmbeddedWindow[Any]]:
        for window in windows:
            self.before()
            vectors = np.array([[len(example.text), 1] for example in window], np.float32)
            yield EmbeddedWindow(window, vectors, np.zeros(len(window), np.uint8))


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def embed(output: Path, *inputs: Path, encoder: Encoder | None = None, **options: Any) -> EmbedSummary:
    return embed_files(inputs, encoder or Encoder(), output, **options)


def rejected(output: Path) -> list[tuple[str, int]]:
    lines = output.with_name(f"{output.name}.rejects.jsonl").read_text().splitlines()
    return [(Path(row["file"]).name, row["line"]) for row in map(json.loads, lines)]


def test_a_run_replaces_what_it_rejected_before(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"text": "a"}, {"id": 1}, 7)
    two = write(tmp_path / "two.jsonl", {"text": "b"}, {"id": 1})
    output = tmp_path / "s"
    assert embed(output, one, on_error="skip").rejected == 2
    assert rejected(output) == [("one.jsonl", 2), ("one.jsonl", 3)]
    embed(output, two, on_error="skip")  # several inputs of one store share its rejects
    assert rejected(output) == [("one.jsonl", 2), ("one.jsonl", 3), ("two.jsonl", 2)]
    write(one, {"text": "a"}, {"text": "fixed"}, 7)
    embed(output, one, on_error="skip")
    assert rejected(output) == [("two.jsonl", 2), ("one.jsonl", 3)]
    write(one, {"text": "a"}, {"text": "fixed"}, {"text": "fixed too"})
    write(two, {"text": "b"}, {"text": "fixed as well"})
    summary = embed(output, one, two)
    assert (summary.rejected, summary.rejects_file) == (0, None)
    assert rejected(output) == []  # an empty file says that there are none


def test_a_folder_is_rejected_anew_by_every_run(tmp_path: Path) -> None:
    """Its rejects have the names of the files in it, one of which may be a link, as in the hub's cache."""
    folder, output = tmp_path / "d", tmp_path / "s"
    folder.mkdir()
    table = pa.table({"text": ["a", "", "b"]})
    parquet.write_table(table, folder / "one.parquet")
    parquet.write_table(table, tmp_path / "blob")
    (folder / "two.parquet").symlink_to(tmp_path / "blob")
    beside = write(tmp_path / "beside.jsonl", {"text": "c"}, 7)
    embed(output, folder, beside, on_error="skip")
    for _ in range(2):
        embed(output, folder, on_error="skip")
        assert rejected(output) == [("beside.jsonl", 2), ("one.parquet", 2), ("two.parquet", 2)]
    (folder / "two.parquet").unlink()
    embed(output, folder, on_error="skip")
    assert rejected(output) == [("beside.jsonl", 2), ("one.parquet", 2)]


def test_what_a_folder_holds_besides_its_tables_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, output = tmp_path / "d", tmp_path / "s"
    (folder / ".hidden").mkdir(parents=True)
    extra = write(folder / "extra.jsonl", {"text": "a"}, 7)
    table = pa.table({"text": ["b", ""]})
    parquet.write_table(table, folder / "b.parquet")
    parquet.write_table(table, folder / ".hidden" / "c.parquet")
    embed(output, extra, folder / ".hidden" / "c.parquet", on_error="skip")
    others = [("extra.jsonl", 2), ("c.parquet", 2)]
    monkeypatch.chdir(folder)
    for inputs in ([folder], [folder], [Path()]):
        embed(output, *inputs, on_error="skip")
        assert rejected(output) == [*others, ("b.parquet", 2)]


def test_a_saved_dataset_is_only_its_files(tmp_path: Path) -> None:
    folder, output = tmp_path / "d", tmp_path / "s"
    folder.mkdir()
    table = pa.table({"text": ["b", ""]})
    for name in ("data.arrow", "cache.arrow"):
        with pa.ipc.new_stream(str(folder / name), table.schema) as stream:
            stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    embed(output, folder / "cache.arrow", on_error="skip")
    for _ in range(2):
        embed(output, folder, on_error="skip")
        assert rejected(output) == [("cache.arrow", 2), ("data.arrow", 2)]
    parquet.write_table(table, folder / "later.parquet")
    (folder / "state.json").unlink()
    (folder / "data.arrow").unlink()
    (folder / "cache.arrow").unlink()
    embed(output, folder, on_error="skip")
    assert rejected(output) == [("later.parquet", 2)]


def test_what_was_rejected_of_a_file_is_known_by_its_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, output = tmp_path / "real", tmp_path / "s"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    write(real / "a.jsonl", {"text": "a"}, 7)
    (tmp_path / "b.jsonl").symlink_to(real / "a.jsonl")
    monkeypatch.chdir(tmp_path)
    for name in ("real/a.jsonl", "./real/a.jsonl", "link/a.jsonl", "real/../b.jsonl", str(real / "a.jsonl")):
        embed_files([name], Encoder(), output, on_error="skip")
        (reject,) = map(json.loads, Path("s.rejects.jsonl").read_text().splitlines())
        assert reject["file"] == name


def test_what_was_rejected_of_standard_input_is_of_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed_piped(row: bytes) -> None:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(row + b'{"text": "a"}\n')))
        embed_files(["-"], Encoder(), output, on_error="skip")

    folder, output = tmp_path / "d", tmp_path / "s"
    folder.mkdir()
    parquet.write_table(pa.table({"text": ["b", ""]}), folder / "b.parquet")
    monkeypatch.chdir(folder)
    embed_piped(b"7\n")
    embed_piped(b"7\n")
    assert rejected(output) == [("<stdin>", 1)]
    embed(output, Path(), on_error="skip")
    assert rejected(output) == [("<stdin>", 1), ("b.parquet", 2)]
    embed_piped(b"")
    assert rejected(output) == [("b.parquet", 2)]


@pytest.mark.parametrize("file", [7, None, "a\0b"])
def test_a_reject_of_no_file_is_none(tmp_path: Path, file: object) -> None:
    one = write(tmp_path / "one.jsonl", {"text": "a"})
    write(tmp_path / "s.rejects.jsonl", {"file": file, "line": 1, "reason": "", "row": ""})
    with pytest.raises(InputError, match=r"s.rejects.jsonl:1: no rejected row; move this file away"):
        embed(tmp_path / "s", one, on_error="skip")


def test_a_rejects_file_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"text": "a"})
    other = write(tmp_path / "s.rejects.jsonl", {"mine": 1})
    with pytest.raises(InputError, match=r"s.rejects.jsonl:1: no rejected row; move this file away"):
        embed(tmp_path / "s", one, on_error="skip")
    assert other.read_text() == '{"mine": 1}\n'


def test_duplicate_ids_are_rejected_with_the_other_bad_rows(tmp_path: Path) -> None:
    rows = [{"id": str(n % 4), "text": f"text {n}"} for n in range(10)]
    summary = embed(tmp_path / "s", write(tmp_path / "a.jsonl", *rows), on_error="skip")
    assert (summary.count, summary.rejected) == (4, 6)
    assert rejected(tmp_path / "s") == [("a.jsonl", n) for n in range(5, 11)]
    with pytest.raises(InputError, match="duplicate id '0', first at"):
        embed(tmp_path / "t", tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda path: path.open("a").write('{"text": "more"}\n'), "changed"),
        (lambda path: path.write_text('{"text": "less"}\n'), "changed"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "changed"),
        (lambda path: path.unlink(), "was removed"),
        (lambda path: write(path.with_name("new"), {"text": "b"}).replace(path), "changed"),
    ],
)
def test_input_that_changes_during_the_run_is_an_error(
    tmp_path: Path, change: Callable[[Path], object], what: str
) -> None:
    path = write(tmp_path / "a.jsonl", *({"text": f"text {n}"} for n in range(20)))
    with pytest.raises(InputError, match=rf"a.jsonl: {what} while it was read; run the same command again"):
        embed(tmp_path / "s", path, encoder=Encoder(lambda: change(path)))


def test_what_does_not_change_is_no_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "a"})
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "b.jsonl", {"text": "b"})
    files = InputFiles([path, "-", tmp_path / "folder", tmp_path / "absent"])
    files.check_unchanged()
    write(tmp_path / "folder" / "b.jsonl", {"text": "longer"})
    with pytest.raises(InputError, match=r"folder/b.jsonl: changed"):
        files.check_unchanged()
    assert embed(tmp_path / "s", path).count == len(EmbeddingStore.open(tmp_path / "s")) == 1


def test_sigterm_lets_the_window_in_flight_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "WINDOW_ROWS", 3)
    rows = write(tmp_path / "rows.jsonl", *({"id": str(n), "text": "x" * n} for n in range(1, 12)))
    windows = 0

    def before() -> None:
        nonlocal windows
        windows += 1
        if windows == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    @click.command(cls=Command)
    def job() -> None:
        embed(tmp_path / "s", rows, encoder=Encoder(before))

    stopped = CliRunner().invoke(job)
    assert (stopped.exit_code, stopped.stderr) == (
        143,
        "terminated; run the same command again to resume\n",
    )
    assert windows == 2 and len(EmbeddingStore.open(tmp_path / "s")) == 6
    assert CliRunner().invoke(job).exit_code == 0
    store = EmbeddingStore.open(tmp_path / "s")
    assert [row.id for row in store.rows()] == [str(n) for n in range(1, 12)]
    np.testing.assert_array_equal(store.take(range(11))[:, 0], range(1, 12))
