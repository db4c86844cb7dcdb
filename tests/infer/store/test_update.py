"""A store follows its input: what changed there, and nothing else, is embedded and put in its place."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_embed import Encoder as LengthEncoder
from test_embed import write

from airrep_infer.encode import encoder as encoding
from airrep_infer.encode.encoder import EmbeddedWindow
from airrep_infer.errors import InputError
from airrep_infer.rows.examples import read_examples
from airrep_infer.rows.spellings import Reading
from airrep_infer.store import update
from airrep_infer.store.embed import EmbedSummary, embed_files
from airrep_infer.store.store import EmbeddingStore

Row = dict[str, Any]
PART = 4


class Encoder(LengthEncoder):
    """Remembers the texts that it embeds; `cut` of them are cut."""

    def __init__(self, cut: Iterable[str] = ()) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.cut = set(cut)

    def embed_windows(self, windows: Iterable[list[Any]]) -> Iterator[EmbeddedWindow[Any]]:
        for window in super().embed_windows(windows):
            self.texts += [example.text for example in window.rows]
            cuts = np.array([example.text in self.cut for example in window.rows], np.uint8)
            yield EmbeddedWindow(window.rows, window.vectors, cuts)


@pytest.fixture(autouse=True)
def quick_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(encoding, "WINDOW_ROWS", 3)


def row(number: int, text: str | None = None, **fields: Any) -> Row:
    return {"id": f"r{number}", "text": text or f"text {'x' * number}", "n": number, **fields}


def embed(folder: Path, rows: Iterable[Row], encoder: Encoder | None = None, **how: Any) -> EmbedSummary:
    path = write(folder / "rows.jsonl", *rows)
    return embed_files([path], encoder or Encoder(), folder / "s", **{"part_rows": PART, **how})


def check(folder: Path, rows: Iterable[Row]) -> EmbeddingStore:
    """The store holds these rows with the vectors of their texts, in this order, and nothing else is left."""
    store = EmbeddingStore.open(folder / "s")
    store.verify()
    rows = list(rows)
    got = [{"id": each.id, **each.fields} for each in store.rows()]
    assert got == [{key: value for key, value in each.items() if key != "text"} for each in rows]
    expected = read_examples(write(folder / "expected.jsonl", *rows))
    assert [each.sha for each in store.rows()] == [example.sha for example in expected]
    vectors = [[len(each["text"]), 1] for each in rows]
    np.testing.assert_array_equal(store.take(range(len(store))), np.array(vectors).reshape(-1, 2))
    assert {path.name for path in folder.iterdir()} <= {"s", "rows.jsonl", "expected.jsonl"}
    files = {name for part in store.parts for name in (part.file, part.rows_file)}
    assert {path.name for path in (folder / "s").iterdir()} == files | {"store.json", ".lock"}
    return store


def test_every_kind_of_change_at_once(tmp_path: Path) -> None:
    old = [row(n) for n in range(12)]
    embed(tmp_path, old)
    new = [row(99), *old[:3], row(3, "changed"), row(5, task="t"), row(44, old[4]["text"]), *old[6:][::-1]]
    encoder = Encoder()
    summary = embed(tmp_path, new, encoder)
    assert encoder.texts == [row(99)["text"], "changed"]  # and none that was stored, whatever its id is now
    changes = summary.changes
    assert (summary.added, changes.replaced, changes.updated, changes.renamed) == (2, 1, 1, 1)
    assert (changes.absent, changes.absent_ids, changes.removed) == (1, ("r4",), False)
    # What left the input stays behind the row that it followed.
    check(tmp_path, [*new[:5], old[4], *new[5:]])
    summary = embed(tmp_path, new, encoder, prune=True)
    assert (summary.count, summary.changes.absent_ids, summary.changes.removed) == (len(new), ("r4",), True)
    store = check(tmp_path, new)
    assert [part.count for part in store.parts] == [4, 4, 4, 1]
    again = embed(tmp_path, new, again_encoder := Encoder())
    assert (again.added, again.changes.absent, again_encoder.texts) == (0, 0, [])
    assert EmbeddingStore.open(tmp_path / "s").fingerprint == store.fingerprint


@pytest.mark.parametrize("prune", [False, True])
def test_random_edits_give_the_store_of_a_fresh_run(tmp_path: Path, prune: bool) -> None:
    rows = [row(n) for n in range(10)]
    chance = random.Random(7)
    for turn in range(6):
        embed(tmp_path, rows, prune=True)
        before, old = {each["text"] for each in rows}, [each["id"] for each in rows]
        rows = [each for each in rows if chance.random() > 0.2]
        if chance.random() < 0.3:
            chance.shuffle(rows)
        for _ in range(chance.randrange(4)):
            number = 100 * turn + chance.randrange(100)
            rows.insert(chance.randrange(len(rows) + 1), row(number))
        rows = list({each["id"]: each for each in rows}.values())
        for place in range(len(rows)):
            if chance.random() < 0.2:
                rows[place] = {**rows[place], "text": f"{turn} {place}", "turn": turn}
        encoder = Encoder()
        embed(tmp_path, rows, encoder, prune=prune)
        stored = EmbeddingStore.open(tmp_path / "s")
        named = {each["id"] for each in rows}
        assert [name for name in stored.ids(range(len(stored))) if name in named] == [e["id"] for e in rows]
        if prune:
            check(tmp_path, rows)
        new = {each["text"] for each in rows} - before
        again = [text for text in encoder.texts if text not in new]
        # Where it may be a run that resumes, its window is embedded whole.
        assert len(again) < encoding.WINDOW_ROWS
        grows = [each["id"] for each in rows][: len(old)] == old
        assert not again or grows


def test_default_ids_that_shift_cost_no_embedding(tmp_path: Path) -> None:
    rows = [{"text": f"text {'y' * n}"} for n in range(9)]
    embed(tmp_path, rows)
    encoder = Encoder()
    summary = embed(tmp_path, [{"text": "first"}, *rows], encoder)
    assert encoder.texts == ["first"]
    assert summary.changes.replaced == 9 and summary.count == 10
    named = [{"id": f"rows:{n}", **each} for n, each in enumerate([{"text": "first"}, *rows], 1)]
    check(tmp_path, named)


def test_growing_files_only_append(tmp_path: Path) -> None:
    """Two files in one store, each of which grows: no part that is complete is written again."""
    one, two = [row(n) for n in range(4)], [row(n) for n in range(50, 54)]
    for rows in (one, two):
        embed(tmp_path, rows)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("part-*")}
    summary = embed(tmp_path, [*one, row(4)])
    assert (summary.added, summary.changes.absent) == (1, 4)
    check(tmp_path, [*one, *two, row(4)])
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_parts_that_stay_are_links(tmp_path: Path) -> None:
    rows = [row(n) for n in range(12)]
    embed(tmp_path, rows)
    before = [(tmp_path / "s" / f"part-0000{n}.npy").stat().st_ino for n in range(3)]
    rows[5] = row(5, "changed")
    embed(tmp_path, rows)
    check(tmp_path, rows)
    after = [(tmp_path / "s" / f"part-0000{n}.npy").stat().st_ino for n in range(3)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_standard_input_is_followed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(n) for n in range(8)]
    embed(tmp_path, rows)
    rows = [row(20), *rows[1:4], row(4, "changed"), *rows[:4:-1]]
    stream = io.TextIOWrapper(io.BytesIO(b"".join(json.dumps(each).encode() + b"\n" for each in rows)))
    monkeypatch.setattr(sys, "stdin", stream)
    summary = embed_files(["-"], Encoder(), tmp_path / "s", part_rows=PART, prune=True)
    assert (summary.changes.replaced, summary.changes.absent_ids) == (1, ("r0",))
    check(tmp_path, rows)


def test_cuts_are_counted_as_long_as_they_are_known(tmp_path: Path) -> None:
    rows = [row(n) for n in range(5)]
    embed(tmp_path, rows)
    rows[2] = row(2, "very long")
    summary = embed(tmp_path, rows, Encoder(cut=["very long"]))
    assert summary.cut is not None and summary.cut.rows == 1
    summary = embed(tmp_path, [{**each, "task": "t"} for each in rows])
    assert summary.cut is not None and (summary.cut.rows, summary.changes.updated) == (1, 5)
    rows[2] = row(2, "short")  # the one that was cut, which nobody wrote down
    assert embed(tmp_path, rows).cut is None


def test_the_fields_to_keep(tmp_path: Path) -> None:
    long = "u" * 500
    rows = [row(n, meta={"url": f"u{n % 2}"}, about=long) for n in range(4)]
    how = {"reading": Reading.of(["metadata=about"])}
    embed(tmp_path, rows, **how)
    assert "about" not in next(EmbeddingStore.open(tmp_path / "s").rows()).fields
    assert EmbeddingStore.open(tmp_path / "s").groups("meta.url")[0] == ["u0", "u1"]
    encoder = Encoder()
    summary = embed(tmp_path, rows, encoder, keep=["about"], **how)
    assert (summary.changes.updated, encoder.texts) == (4, [])
    assert EmbeddingStore.open(tmp_path / "s").groups("about")[0] == [long]
    before = (tmp_path / "s" / "store.json").read_bytes()
    with pytest.raises(InputError, match=r"--keep tusk: no row has this field; the rows have: n, meta"):
        embed(tmp_path, rows, keep=["tusk"], **how)
    assert (tmp_path / "s" / "store.json").read_bytes() == before


def test_a_reader_of_the_old_store_is_told(tmp_path: Path) -> None:
    rows = [row(n) for n in range(8)]
    embed(tmp_path, rows)
    old = EmbeddingStore.open(tmp_path / "s")
    embed(tmp_path, [*rows, row(8)])
    assert old.ids([7]) == ["r7"]  # it only grew
    embed(tmp_path, rows[::-1])
    for read in (lambda: old.ids([7]), lambda: list(old.blocks(4)), lambda: list(old.rows())):
        with pytest.raises(InputError, match="a new version of the store was put in place while"):
            read()


def test_killed_before_the_last_step_a_rerun_embeds_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced rows wait in the store; kills at every call are in tests/soak."""
    rows = [row(n) for n in range(9)]
    embed(tmp_path, rows)
    before = EmbeddingStore.open(tmp_path / "s").fingerprint
    rows = [row(n, f"changed {n}") for n in range(9)]

    def kill(*_arguments: object, **_options: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(update, "rewrite_store", kill)
        embed(tmp_path, rows)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert EmbeddingStore.open(tmp_path / "s").fingerprint == before
    # The file changes once more meanwhile: what waits for a row that is another one now is not used.
    rows[4] = row(4, "changed again")
    encoder = Encoder()
    embed(tmp_path, rows, encoder)
    assert encoder.texts == ["changed again"]
    check(tmp_path, rows)
