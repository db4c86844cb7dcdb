"""The store: round trips, resuming, and every way we know to break it."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from airrep_infer import ids
from airrep_infer.encode import EmbeddingSpace, check_same_space
from airrep_infer.errors import BusyError, InputError, StorageError
from airrep_infer.rows.examples import Example
from airrep_infer.sealed import write_sealed
from airrep_infer.store import lines as store_lines
from airrep_infer.store.store import EmbeddingStore
from airrep_infer.store.writer import StoreWriter

DIMENSION = 4
SPACE = EmbeddingSpace("ab" * 32, "fp32", DIMENSION)
PART = 5


@pytest.fixture(autouse=True)
def quick_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync matters when the power fails, which no test here can do; without it the tests take seconds."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def make(count: int, first: int = 0) -> tuple[list[Example], NDArray[np.float32]]:
    """Rows first .. first+count and their vectors; a row is the same in whatever call it is made."""
    numbers = range(first, first + count)
    examples = [
        Example(f"row-{n}", f"prompt {n}", f"réponse {n} 🦉", {"task": f"t{n % 3}", "n": n}) for n in numbers
    ]
    vectors = np.array([np.random.default_rng(n).normal(size=DIMENSION) for n in numbers], np.float32)
    return examples, vectors.reshape(count, DIMENSION)


def writer(path: Path, **options: Any) -> StoreWriter:
    return StoreWriter(path, SPACE, **{"pooling_scale": 1.5, "part_rows": PART, **options})


def write(path: Path, count: int, *, chunk: int = 4, **options: Any) -> EmbeddingStore:
    """Embed rows 0 .. count into a store the way the engine does: skip what it has, append the rest."""
    examples, vectors = make(count)
    with writer(path, **options) as out:
        for start in range(0, count, chunk):
            new = [n for n in range(start, min(start + chunk, count)) if not out.has(examples[n])]
            out.append([examples[n] for n in new], vectors[new])
    return EmbeddingStore.open(path)


def content(path: Path) -> dict[str, bytes]:
    return {child.name: child.read_bytes() for child in path.iterdir() if child.name != ".lock"}


def check_whole(path: Path) -> EmbeddingStore:
    """The store opens, its hashes fit, its rows are 0, 1, 2, ... once each, and no other file is there."""
    store = EmbeddingStore.open(path)
    store.verify()
    examples, vectors = make(len(store))
    assert [row.id for row in store.rows()] == [example.id for example in examples]
    np.testing.assert_array_equal(store.take(range(len(store))), vectors)
    listing = json.loads((path / "store.json").read_bytes())
    listed = {name for part in listing["parts"] for name in (part["file"], part["rows_file"])}
    assert set(content(path)) == listed | {"store.json"}
    return store


# --- round trip ---


def test_round_trip_over_parts(tmp_path: Path) -> None:
    examples, vectors = make(13)
    store = write(tmp_path / "s", 13)
    assert (len(store), store.space, store.dtype, store.pooling_scale) == (13, SPACE, np.float32, 1.5)
    blocks = [(first, np.array(block)) for first, block in store.blocks(3)]
    assert [(first, len(block)) for first, block in blocks] == [(0, 3), (3, 2), (5, 3), (8, 2), (10, 3)]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), vectors)
    assert not any(block.flags.owndata or block.flags.writeable for _, block in store.blocks(100))
    for row, example in zip(store.rows(), examples, strict=True):
        assert (row.id, row.sha, row.fields) == (example.id, example.sha, example.fields)
    store.verify()


def test_files_are_as_documented(tmp_path: Path) -> None:
    examples, vectors = make(7)
    write(tmp_path / "s", 7)
    listing = json.loads((tmp_path / "s/store.json").read_bytes())
    parts = listing.pop("parts")
    assert len(listing.pop("manifest_sha256")) == 64
    assert listing == {
        "format_version": 4,
        "kind": "airrep-store",
        "bundle": {"fingerprint": "ab" * 32, "precision": "fp32"},
        "dimension": DIMENSION,
        "dtype": "float32",
        "pooling_scale": 1.5,
        "count": 7,
    }
    assert [(part["file"], part["rows_file"], part["count"]) for part in parts] == [
        ("part-00000.npy", "part-00000.rows.jsonl", 5),
        ("part-00001.npy", "part-00001.rows.jsonl", 2),
    ]
    saved = io.BytesIO()
    np.save(saved, vectors[:5])
    assert (tmp_path / "s/part-00000.npy").read_bytes() == saved.getvalue()
    first = (tmp_path / "s/part-00000.rows.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(first) == {"id": "row-0", "sha": examples[0].sha, "task": "t0", "n": 0}


@pytest.mark.parametrize("chunk", [1, 3, 5, 6, 23])
def test_bytes_do_not_depend_on_the_calls(tmp_path: Path, chunk: int) -> None:
    write(tmp_path / "a", 23, chunk=4)
    write(tmp_path / "b", 23, chunk=chunk)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_append_copies_the_vectors(tmp_path: Path) -> None:
    examples, vectors = make(3)
    reused = vectors.copy()
    with writer(tmp_path / "s") as out:
        out.append(examples, reused)
        reused[:] = 99
    np.testing.assert_array_equal(EmbeddingStore.open(tmp_path / "s").take([0, 1, 2]), vectors)


def test_memory_layout_of_the_input_does_not_matter(tmp_path: Path) -> None:
    examples, vectors = make(12)
    with writer(tmp_path / "f") as out:
        out.append(examples, np.asfortranarray(vectors.astype(np.float64)))
    write(tmp_path / "c", 12)
    assert content(tmp_path / "f") == content(tmp_path / "c")


def test_empty_store_is_valid(tmp_path: Path) -> None:
    store = write(tmp_path / "deep/er/s", 0)
    assert len(store) == 0
    assert (list(store.blocks(5)), list(store.rows()), store.ids([])) == ([], [], [])
    assert store.take([]).shape == (0, DIMENSION)
    assert store.groups("task")[0] == []
    store.verify()
    assert len(write(tmp_path / "deep/er/s", 6)) == 6


def test_float16(tmp_path: Path) -> None:
    _, vectors = make(7)
    store = write(tmp_path / "s", 7, dtype="float16")
    assert store.dtype == np.float16
    assert next(store.blocks(5))[1].dtype == np.float16
    taken = store.take(range(7))
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, vectors.astype(np.float16).astype(np.float32))
    store.verify()


def test_real_text_survives(tmp_path: Path) -> None:
    names = ["café", "cafe\u0301", "🦉👩‍👩‍👧", "line\u2028separator", "new\nline\r\n", '"quoted"\\', " "]
    examples = [Example(name, None, f"text of {name}", {"tâche": name, "half": "\ud800"}) for name in names]
    with writer(tmp_path / "s") as out:
        out.append(examples, np.ones((len(names), DIMENSION)))
    store = EmbeddingStore.open(tmp_path / "s")
    assert store.ids(range(len(names))) == names
    assert [row.fields for row in store.rows()] == [example.fields for example in examples]
    with writer(tmp_path / "s") as out:
        assert all(out.has(example) for example in examples)
        assert not out.has(Example("cafe", None, "text of café"))


def test_keep_limits_the_fields(tmp_path: Path) -> None:
    with writer(tmp_path / "s", keep=["task", "sha", "absent"]) as out:
        out.append([Example("a", None, "x", {"task": 1, "n": 2, "sha": "mine"})], np.ones((1, DIMENSION)))
    (row,) = EmbeddingStore.open(tmp_path / "s").rows()
    assert (row.fields, row.sha) == ({"task": 1}, Example("a", None, "x").sha)


# --- ids, take, groups ---


def test_ids_and_take_in_any_order_with_duplicates(tmp_path: Path) -> None:
    _, vectors = make(23)
    store = write(tmp_path / "s", 23)
    for numbers in ([22, 0, 7, 7, 5, 4, 22], [3], list(range(22, -1, -1)), np.array([9, 10], np.uint32)):
        assert store.ids(numbers) == [f"row-{n}" for n in numbers]
        np.testing.assert_array_equal(store.take(numbers), vectors[np.asarray(numbers)])
    for wrong in ([23], [-1], [0, 99]):
        with pytest.raises(IndexError, match="store of 23 rows"):
            store.ids(wrong)
        with pytest.raises(IndexError):
            store.take(wrong)
    with pytest.raises(TypeError, match="integers"):
        store.ids([0.5])


def test_ids_reads_only_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write(tmp_path / "s", 23)
    (tmp_path / "s/part-00000.rows.jsonl").unlink()
    parsed: list[bytes] = []
    real = store_lines.parse_object
    monkeypatch.setattr(
        store_lines, "parse_object", lambda line, **how: parsed.append(line) or real(line, **how)
    )
    assert store.ids([13, 11, 13]) == ["row-13", "row-11", "row-13"]
    assert len(parsed) == 2


def test_groups(tmp_path: Path) -> None:
    store = write(tmp_path / "s", 11)
    names, codes = store.groups("task")
    assert (names, codes.dtype) == (["t0", "t1", "t2"], np.int32)
    assert codes.tolist() == [n % 3 for n in range(11)]
    names, codes = store.groups("n")  # sorted as strings, not in order of appearance
    assert names == sorted(map(str, range(11)))
    assert [names[code] for code in codes] == [str(n) for n in range(11)]


def test_groups_of_mixed_missing_and_nested_values(tmp_path: Path) -> None:
    values = [1, "1", 1.0, 1.5, True, "true", None, "", "(none)", {"b": 1, "a": "é"}, [1], "1.0", 1e300]
    examples = [
        Example(str(n), None, "x", {"v": value, "meta": {"v": value}} if value is not None else {"w": 1})
        for n, value in enumerate(values)
    ]
    with writer(tmp_path / "s") as out:
        out.append(examples, np.ones((len(values), DIMENSION)))
    store = EmbeddingStore.open(tmp_path / "s")
    expected = ["1", "1", "1", "1.5", "true", "true", "(none)", "(none)", "(none)", '{"a": "é", "b": 1}']
    expected += ["[1]", "1.0", str(int(1e300))]
    for field in ("v", "meta.v"):
        names, codes = store.groups(field)
        assert [names[code] for code in codes] == expected
    with pytest.raises(InputError, match=r"s: no row has the field 'task'; fields: v, meta, w; group by one"):
        store.groups("task")
    with pytest.raises(InputError, match=r"no row has the field 'meta\.x'"):
        store.groups("meta.x")


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 12), write(tmp_path / "b", 12, chunk=1)
    assert a.fingerprint == b.fingerprint
    assert write(tmp_path / "c", 13).fingerprint != a.fingerprint
    with StoreWriter(tmp_path / "d", EmbeddingSpace("cd", "fp32", DIMENSION), pooling_scale=1.5) as out:
        out.append(*make(12))
    assert EmbeddingStore.open(tmp_path / "d").fingerprint != a.fingerprint


# --- resuming ---


def test_resume_skips_what_is_stored_and_appends_after_it(tmp_path: Path) -> None:
    write(tmp_path / "s", 7)
    before = content(tmp_path / "s")
    with writer(tmp_path / "s") as out:
        examples, vectors = make(12)
        assert [out.has(example) for example in examples] == [True] * 7 + [False] * 5
        out.append(examples[7:], vectors[7:])
        assert all(out.has(example) for example in examples)  # in memory or just stored
        assert out.added == 5
    after = content(tmp_path / "s")
    assert all(after[name] == before[name] for name in before if name != "store.json")
    assert len(check_whole(tmp_path / "s")) == 12
    assert len(write(tmp_path / "s", 12)) == 12


def test_has_many_rows_over_merged_runs(tmp_path: Path) -> None:
    examples, vectors = make(300)
    with writer(tmp_path / "s", part_rows=7) as out:
        out.append(examples[:200], vectors[:200])
        assert all(out.has(example) for example in examples[:200])
        assert not any(out.has(example) for example in examples[200:])
        assert sum(run.shape[1] for run in out._known._runs._runs) == 196
        assert len(out._known._runs._runs) <= 8


def test_changed_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s", 7)
    changed = Example("row-2", None, "another text")
    with writer(tmp_path / "s") as out:
        with pytest.raises(InputError, match=r"text of id 'row-2' changed.*new id"):
            out.has(changed)
        out.append([Example("fresh", None, "x")], np.ones((1, DIMENSION)))
        with pytest.raises(InputError, match="text of id 'fresh' changed"):
            out.has(Example("fresh", None, "y"))


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    examples, vectors = make(3)
    with writer(tmp_path / "s") as out:
        with pytest.raises(InputError, match="'row-0' is stored already"):
            out.append([examples[0], examples[1], examples[0]], vectors)
        assert not out.has(examples[1])  # all or nothing
        out.append(examples, vectors)
        with pytest.raises(InputError, match="'row-1' is stored already"):
            out.append(examples[1:], vectors[1:])
    assert len(check_whole(tmp_path / "s")) == 3


def test_a_hash_collision_is_not_a_duplicate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ids._row_key
    monkeypatch.setattr(ids, "_row_key", lambda name: (7, key(name)[1]))
    write(tmp_path / "s", 12)
    with writer(tmp_path / "s") as out:
        assert all(out.has(example) for example in make(12)[0])
        assert not any(out.has(example) for example in make(5, first=12)[0])
        # The same text under another id is another row, even when the hashes of both ids are equal.
        twin = make(1)[0][0]
        assert not out.has(Example("twin", twin.prompt, twin.response))
        with pytest.raises(InputError, match="changed"):
            out.has(Example("row-3", None, "another text"))


def test_ctrl_c_and_other_errors_keep_what_is_complete(tmp_path: Path) -> None:
    examples, vectors = make(12)
    for number, error in enumerate((KeyboardInterrupt(), ValueError("bad row"))):
        path = tmp_path / str(number)
        with pytest.raises(type(error)), writer(path) as out:
            out.append(examples[:8], vectors[:8])
            raise error
        assert len(check_whole(path)) == 8
        write(path, 12)
        assert len(check_whole(path)) == 12


def test_closed_writer_refuses(tmp_path: Path) -> None:
    with writer(tmp_path / "s") as out:
        pass
    with pytest.raises(ValueError, match="closed"):
        out.append(*make(1))


# --- crashes ---

_STEPS = 200  # more steps than a run of the tests below has


@contextlib.contextmanager
def at_step(step: int, happen: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let `happen` happen once, before or after the n-th fsync or rename (two steps each)."""
    seen = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == step:
                happen()
            result = real(*args)
            seen += 1
            if seen == step:
                happen()
            return result

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(Path, "replace", counted(Path.replace))
        yield


def test_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "undisturbed", 12)
    listed: set[int] = set()
    for step in range(1, _STEPS):
        path = tmp_path / str(step)
        child = os.fork()
        if child == 0:
            with at_step(step, lambda: os.kill(os.getpid(), signal.SIGKILL), monkeypatch):
                write(path, 12)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        if (path / "store.json").exists():  # the reader sees a prefix of the rows, whatever lies around
            store = EmbeddingStore.open(path)
            store.verify()
            assert store.ids(range(len(store))) == [f"row-{n}" for n in range(len(store))]
            listed.add(len(store))
        write(path, 12)
        assert content(path) == content(tmp_path / "undisturbed"), step
    assert listed == {0, 5, 10, 12}
    assert step > 50, "the kills did not happen"


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_write_fails_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    def fail() -> None:
        raise OSError(kind, os.strerror(kind))

    for step in range(1, _STEPS):
        path = tmp_path / str(step)
        try:
            with at_step(step, fail, monkeypatch):
                write(path, 12)
        except StorageError as error:
            assert str(path) in str(error) and os.strerror(kind) in str(error)
        else:
            break
        if (path / "store.json").exists():
            check_whole(path)  # nothing half-written stays, without any clean-up by a next writer
        write(path, 12)
        assert len(check_whole(path)) == 12
    assert step > 50, "the failures did not happen"


def test_writing_goes_on_after_a_failure_in_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    examples, vectors = make(13)
    for step in range(1, _STEPS):
        with writer(tmp_path / str(step)) as out:
            try:
                with at_step(step, fail, monkeypatch):
                    out.append(examples[:12], vectors[:12])
            except StorageError:
                assert out.has(examples[11])
            else:
                break
            out.append(examples[12:], vectors[12:])
        assert (len(check_whole(tmp_path / str(step))), out.added) == (13, 13)
    assert step > 30, "the failures did not happen"


def test_storage_error_drops_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    examples, vectors = make(12)
    with pytest.raises(StorageError, match="free space"), writer(tmp_path / "s") as out:
        out.append(examples[:5], vectors[:5])
        with at_step(1, fail, monkeypatch):
            out.append(examples[5:], vectors[5:])
    assert (out.added, len(check_whole(tmp_path / "s"))) == (5, 5)


def test_ctrl_c_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    for step in range(1, _STEPS):
        path = tmp_path / str(step)
        try:
            with at_step(step, interrupt, monkeypatch):
                write(path, 12)
        except KeyboardInterrupt:
            pass
        else:
            break
        if (path / "store.json").exists():
            check_whole(path)
        write(path, 12)
        assert len(check_whole(path)) == 12
    assert step > 50, "the interrupts did not happen"


_CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
import test_store
print("ready", flush=True)
test_store.write(Path({path!r}), 300, chunk=7)
"""


def start(script: str, **names: str) -> subprocess.Popen[bytes]:
    here = Path(__file__).parent
    names |= {"root": str(here.parents[2]), "here": str(here)}
    child = subprocess.Popen([sys.executable, "-c", script.format(**names)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def test_killed_at_random_moments(tmp_path: Path) -> None:
    write(tmp_path / "undisturbed", 300, chunk=7)
    moments = random.Random(0)
    killed_at = []
    for _ in range(6):
        child = start(_CHILD, path=str(tmp_path / "s"))
        time.sleep(moments.uniform(0, 0.15))
        child.kill()
        child.communicate()
        if (tmp_path / "s/store.json").exists():
            killed_at.append(len(EmbeddingStore.open(tmp_path / "s")))
    print("rows at the kills:", killed_at)
    assert killed_at == sorted(killed_at), "a run lost rows of the run before"
    write(tmp_path / "s", 300, chunk=7)
    # Rows of a killed part are embedded again; the cut into parts stays the same.
    assert content(tmp_path / "s") == content(tmp_path / "undisturbed")


def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a tmpfs here (needs root): {error}")
    try:
        path = disk / "s"
        with pytest.raises(StorageError, match=r"disk/s/.*No space left on device; free space"):
            write(path, 2000, chunk=64, part_rows=64)
        stored = len(check_whole(path))
        assert 0 < stored < 2000 and stored % 64 == 0
        grow = ["mount", "-o", "remount,size=8m", str(disk)]
        subprocess.run(grow, check=True, capture_output=True)
        write(path, 2000, chunk=64, part_rows=64)
        write(tmp_path / "undisturbed", 2000, chunk=64, part_rows=64)
        assert content(path) == content(tmp_path / "undisturbed")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_leftovers_are_ignored_and_removed_and_foreign_files_stay(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write(path, 7)
    before = content(path)
    leftovers = ["part-00002.npy", "part-00003.rows.jsonl", ".part-00002.npy.x1.tmp", ".store.json.x2.tmp"]
    foreign = ["notes.txt", "part-final.npy", "mine.tmp"]
    for name in leftovers + foreign:
        (path / name).write_bytes(b"half")
    store = EmbeddingStore.open(path)
    store.verify()
    assert len(store) == 7
    write(path, 7)
    assert content(path) == before | dict.fromkeys(foreign, b"half")


# --- two writers ---

_HOLDER = """
import os, sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
import test_store
with test_store.writer(Path({path!r})) as out:
    out.append(*test_store.make(6))
    if {fork!r} == "yes" and os.fork() == 0:
        os.close(1)
        time.sleep(5)
        os._exit(0)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("fork", ["no", "yes"])
def test_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path, fork: str) -> None:
    path = tmp_path / "s"
    child = start(_HOLDER, path=str(path), fork=fork)
    try:
        with pytest.raises(BusyError, match="another process is writing"):
            writer(path)
        assert len(EmbeddingStore.open(path)) == 5  # readers are welcome
    finally:
        child.kill()
        child.communicate()
    # With fork, a worker of the killed writer still lives: it must not hold the lock.
    assert len(write(path, 12)) == 12


def test_second_writer_in_this_process_is_refused(tmp_path: Path) -> None:
    with writer(tmp_path / "s") as out:
        with pytest.raises(BusyError, match="another process is writing"):
            writer(tmp_path / "s")
        out.append(*make(7))
    assert len(check_whole(tmp_path / "s")) == 7


def test_a_reader_keeps_its_view(tmp_path: Path) -> None:
    store = write(tmp_path / "s", 5)
    write(tmp_path / "s", 12)
    assert (len(store), len(store.ids(range(5))), sum(len(block) for _, block in store.blocks(9))) == (
        5,
        5,
        5,
    )
    store.verify()


# --- refusals ---


def test_other_space_or_dtype_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s", 7)
    before = content(tmp_path / "s")
    for space in (
        EmbeddingSpace("cd" * 32, "fp32", 4),
        EmbeddingSpace("ab" * 32, "int8", 4),
        EmbeddingSpace("ab" * 32, "fp32", 8),
    ):
        with pytest.raises(InputError) as caught:
            StoreWriter(tmp_path / "s", space, pooling_scale=1.5)
        assert str(SPACE) in str(caught.value) and str(space) in str(caught.value)
    with pytest.raises(InputError, match=r"float32.*float16"):
        writer(tmp_path / "s", dtype="float16")
    with pytest.raises(InputError, match=r"pooling scale 1\.5.*2\.0"):
        writer(tmp_path / "s", pooling_scale=2.0)
    with pytest.raises(InputError, match="int8"):
        writer(tmp_path / "new", dtype="int8")
    assert content(tmp_path / "s") == before and not (tmp_path / "new").exists()


def test_check_same_space() -> None:
    check_same_space(SPACE, EmbeddingSpace("ab" * 32, "fp32", DIMENSION), "a", "b")
    with pytest.raises(InputError) as caught:
        check_same_space(SPACE, EmbeddingSpace("cd", "int8", 9), "query.store", "train.store")
    for word in ("query.store", "train.store", "ab" * 32, "cd", "fp32", "int8", "4 dim", "9 dim"):
        assert word in str(caught.value)


def test_foreign_folder_and_file_are_refused_untouched(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "part-00000.npy").write_bytes(b"mine")  # looks like ours, but there is no store.json
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"not a store.*part-00000\.npy"):
        writer(folder)
    with pytest.raises(InputError, match="is a file"):
        writer(tmp_path / "file")
    assert [child.name for child in folder.iterdir()] == ["part-00000.npy"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    examples, vectors = make(4)
    vectors[2, 1] = value
    with writer(tmp_path / "s") as out:
        with pytest.raises(InputError, match=r"'row-2' holds NaN or infinity"):
            out.append(examples, vectors)
        assert (out.added, out.has(examples[0])) == (0, False)


def test_overflow_is_refused(tmp_path: Path) -> None:
    examples, vectors = make(2)
    vectors[1, 0] = 1e5
    message = "'row-1' reaches 100000, too large for float16"
    with writer(tmp_path / "half", dtype="float16") as out, pytest.raises(InputError, match=message):
        out.append(examples, vectors)
    with writer(tmp_path / "single") as out:
        with pytest.raises(InputError, match="too large for float32"):
            out.append(examples, vectors.astype(np.float64) * 1e300)
        out.append(examples, vectors)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4), (3,), (3, 4, 1)])
def test_wrong_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with writer(tmp_path / "s") as out, pytest.raises(InputError, match=r"expected floats \(3, 4\)"):
        out.append(make(3)[0], np.ones(shape))


def make_older(path: Path, version: int) -> None:
    """Change a store into what version 1, 2 or 3 wrote."""
    listing = path / "store.json"
    if version == 3:
        reseal(listing, format_version=3)
        return
    value = json.loads(listing.read_text())
    for part in value["parts"]:
        for key in ("checksums", "rows_checksums", *(("sample", "rows_sample") if version == 1 else ())):
            del part[key]
    if version == 2:
        reseal(listing, parts=value["parts"], format_version=2)
    else:
        del value["manifest_sha256"]
        listing.write_text(json.dumps(value | {"format_version": 1}))


def reseal(listing: Path, **change: Any) -> None:
    """Change a listing as someone would who knows the seal."""
    value = {**json.loads(listing.read_text()), **change}
    value.pop("manifest_sha256", None)
    write_sealed(listing, value.pop("kind"), value.pop("format_version"), value)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_store_of_an_earlier_version_is_read_and_grows_into_this_one(tmp_path: Path, version: int) -> None:
    store = write(tmp_path / "s", 12)
    vectors, rows = store.take(range(12)), list(store.rows())
    make_older(tmp_path / "s", version)
    opened = EmbeddingStore.open(tmp_path / "s")
    unchecked = 0 if version == 3 else 12
    old = {"format_version": version, **({"rows_without_checksums": unchecked} if unchecked else {})}
    assert opened.describe() == store.describe() | old
    np.testing.assert_array_equal(opened.take(range(12)), vectors)
    assert list(opened.rows()) == rows
    grown = write(tmp_path / "s", 17)
    assert (len(grown), grown.format_version, grown.unchecked) == (17, 4, unchecked)
    grown.verify()
    assert [bool(part.sample) for part in grown.parts] == [version > 1] * 3 + [True]


@pytest.mark.parametrize("name", ["part-00000.npy", "part-00000.rows.jsonl"])
def test_a_zeroed_tail_is_found_at_opening(tmp_path: Path, name: str) -> None:
    write(tmp_path / "s", 3000, part_rows=3000)
    file = tmp_path / "s" / name
    whole = file.read_bytes()
    for kept in (len(whole) // 2, len(whole) // 4096 * 4096, len(whole) - 1):
        file.write_bytes(whole[:kept] + b"\0" * (len(whole) - kept))
        with pytest.raises(InputError, match=f"{name}: damaged: its content is not what was written"):
            EmbeddingStore.open(tmp_path / "s")
    file.write_bytes(whole)
    EmbeddingStore.open(tmp_path / "s")


def test_every_flip_in_the_listing_and_in_a_header_is_one_line(tmp_path: Path) -> None:
    store = write(tmp_path / "s", 7)
    for file, size in ((tmp_path / "s/store.json", None), (tmp_path / "s/part-00000.npy", 128)):
        whole = file.read_bytes()
        for place in range(0, size or len(whole), 1 if size else 7):
            for bit in (1, 2, 4, 8, 16, 32, 64, 128)[place % 3 :: 3]:
                file.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
                try:
                    opened = EmbeddingStore.open(tmp_path / "s")
                except InputError as error:
                    assert "\n" not in str(error) and str(tmp_path / "s") in str(error)
                else:  # white space of JSON, or of the header
                    assert opened == store
        file.write_bytes(whole)


def test_missing_and_foreign_stores(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such store"):
        EmbeddingStore.open(tmp_path / "absent")
    with pytest.raises(InputError, match="not an embedding store"):
        EmbeddingStore.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "kind is 'other'"),
        ({"format_version": 5}, "format version 5, this program reads 4"),
        ({"format_version": True}, "format version True, this program reads 4"),
        ({"format_version": 1}, "manifest was changed"),
        ({"pooling_scale": 1.5000001}, "manifest was changed"),
    ],
)
def test_a_changed_listing_is_not_believed(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path / "s", 7)
    listing = tmp_path / "s/store.json"
    listing.write_text(json.dumps(json.loads(listing.read_text()) | change))
    with pytest.raises(InputError, match=message):
        EmbeddingStore.open(tmp_path / "s")
    with pytest.raises(InputError, match=message):
        writer(tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 8}, "count is 8, the parts hold 7"),
        ({"dtype": "float64"}, "dtype 'float64'"),
        ({"dtype": "float16"}, r"part-00000.npy: holds float32 \(5, 4\), expected float16 \(5, 4\)"),
        ({"dimension": 8}, r"part-00000.npy: holds float32 \(5, 4\), expected float32 \(5, 8\)"),
        ({"dimension": True}, "damaged: True where an integer"),
        ({"parts": [{}]}, "damaged"),
        ({"bundle": {}}, "damaged: no 'fingerprint'"),
        ({"pooling_scale": None}, "damaged: None where a finite number"),
        ({"pooling_scale": math.inf}, "damaged: inf where a finite number"),
        ({"pooling_scale": "1"}, "damaged: '1' where a finite number"),
        ({"dimension": 1 << 60}, "where an integer from 1"),
        ({"parts": None}, "damaged"),
        ({"shard": {"part": 3, "of": 2, "first": 0, "rows": 7}}, "damaged: 2 where an integer from 3"),
    ],
)
def test_a_resealed_listing_is_checked_value_by_value(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write(tmp_path / "s", 7)
    reseal(tmp_path / "s/store.json", **change)
    with pytest.raises(InputError, match=message):
        EmbeddingStore.open(tmp_path / "s")
    with pytest.raises(InputError, match=message):
        writer(tmp_path / "s")


def test_a_listing_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "s", 7)
    listing = tmp_path / "s/store.json"
    parts = json.loads(listing.read_text())["parts"]
    reseal(listing, parts=[parts[0], parts[1] | {"file": "../part-00001.npy"}])
    with pytest.raises(InputError, match="part 1 is"):
        EmbeddingStore.open(tmp_path / "s")


@pytest.mark.parametrize("name", ["part-00001.npy", "part-00001.rows.jsonl"])
def test_missing_truncated_and_flipped_parts(tmp_path: Path, name: str) -> None:
    store = write(tmp_path / "s", 12)
    file = tmp_path / "s" / name
    whole = file.read_bytes()

    flipped = bytearray(whole)
    flipped[-3] ^= 1
    file.write_bytes(bytes(flipped))
    with pytest.raises(InputError, match=rf"{name}: damaged: sha256 is .* recorded"):
        store.verify()

    file.write_bytes(whole[:-4])
    expected = rf"{name}: {len(whole) - 4} bytes, expected {len(whole)}"
    with pytest.raises(InputError, match=expected):
        EmbeddingStore.open(tmp_path / "s")
    with pytest.raises(InputError, match=name):  # also through a store that was opened before
        _ = list(store.blocks(5)), list(store.rows())
    with pytest.raises(InputError, match=expected):
        writer(tmp_path / "s")

    file.unlink()
    with pytest.raises(InputError, match=rf"{name}: cannot read: No such file"):
        EmbeddingStore.open(tmp_path / "s")


def test_damaged_rows_name_file_and_line(tmp_path: Path) -> None:
    write(tmp_path / "s", 7)
    make_older(tmp_path / "s", 2)  # with checksums they are not even parsed
    store = EmbeddingStore.open(tmp_path / "s")
    file = tmp_path / "s/part-00000.rows.jsonl"
    text = file.read_bytes()
    for damaged, message in (
        (text.replace(b'"row-2"', b'"row-2 '), r"part-00000\.rows\.jsonl:3: damaged row"),
        (text.replace(b"}\n", b"} ", 1), r"rows\.jsonl:1: damaged row"),
        (text.replace(b'"id": "row-1"', b'"ID": "row-1"'), r"rows\.jsonl:2: damaged row"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=message):
            list(store.rows())
    file.write_bytes(text + b"{}\n")
    with pytest.raises(InputError, match="more rows, expected 5"):
        list(store.rows())
