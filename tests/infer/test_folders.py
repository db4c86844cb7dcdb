"""Folders are whole or absent; what a kill leaves in one is no obstacle and does not stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from airrep_infer.errors import InputError, StorageError
from airrep_infer.files import atomic_write, hold, make_folder
from airrep_infer.folders import Layout, whole_folder

LAYOUT = Layout("a thing", "thing.json", files=r"part-\d+\.npy", early=r"\.lock|first")


def fill(folder: Path, content: str) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text(content)
    (folder / "b.txt").write_text(content)


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out"
    with whole_folder(path) as folder:
        fill(folder, "x")
        assert not path.exists()
    assert (path / "sub" / "a.txt").read_text() == "x"
    assert [child.name for child in path.parent.iterdir()] == ["out"]
    assert path.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_all_in_it_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced, fsync = tmp_path / "out", list[str](), os.fsync

    def spy(handle: int) -> None:
        synced.append(f"{Path(f'/proc/self/fd/{handle}').resolve().name.split('.')[0]} {path.exists()}")
        fsync(handle)

    with whole_folder(path) as folder:
        fill(folder, "x")
        monkeypatch.setattr(os, "fsync", spy)
    assert sorted(synced[:-1]) == [" False", "a False", "b False", "sub False"]
    assert synced[-1] == f"{tmp_path.name} True"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, failure: type[BaseException], overwrite: bool
) -> None:
    path = tmp_path / "out"
    path.mkdir()
    with pytest.raises(failure), whole_folder(path, overwrite=overwrite) as folder:
        fill(folder, "half")
        raise failure
    assert list(tmp_path.iterdir()) == [path] and not list(path.iterdir())


def test_overwriting_has_no_moment_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    with whole_folder(path) as folder:
        fill(folder, "old")
    with pytest.raises(StorageError, match="out: cannot write: Directory not empty"):  # noqa: SIM117
        with whole_folder(path) as folder:
            fill(folder, "new")
    seen: list[str] = []
    for name in ("replace", "rename", "rmdir", "unlink", "fsync"):
        real = getattr(os, name)

        def spy(*given: object, real: object = real, **how: object) -> object:
            seen.append((path / "b.txt").read_text() + (path / "sub" / "a.txt").read_text())
            return real(*given, **how)  # type: ignore[operator]

        monkeypatch.setattr(os, name, spy)
    with whole_folder(path, overwrite=True) as folder:
        fill(folder, "new")
    assert list(dict.fromkeys(seen)) == ["oldold", "newnew"]
    assert list(tmp_path.iterdir()) == [path]


def test_where_folders_cannot_be_exchanged_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    with whole_folder(path) as folder:
        fill(folder, "old")
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    with pytest.raises(StorageError, match="cannot replace a folder in one step: write to another folder"):  # noqa: SIM117
        with whole_folder(path, overwrite=True) as folder:
            fill(folder, "new")
    assert (path / "b.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    for name in (".out.0123456789ab.tmp", ".out.old1.tmp", ".out.json.0123456789ab.tmp", ".other.12.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("half")
    handle = os.open(tmp_path / ".out.old1.tmp", os.O_RDONLY)
    hold(handle)
    with whole_folder(tmp_path / "out"):
        pass
    names = {".out.old1.tmp", ".out.json.0123456789ab.tmp", ".other.12.tmp", "out"}
    assert {child.name for child in tmp_path.iterdir()} == names
    os.close(handle)

    (tmp_path / ".file.0123456789ab.tmp").write_text("half")
    with atomic_write(tmp_path / "file") as stream:
        stream.write(b"")
        with atomic_write(tmp_path / "file"):  # a second writer leaves the first one's file alone
            pass
    assert {child.name for child in tmp_path.iterdir()} == {*names, "file"}


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("first",),
        (".lock", ".thing.json.0123456789ab.tmp"),
        (".part-3.npy.0123456789ab.tmp", "first"),
        ("thing.json", "notes.txt", "part-1.npy"),
    ],
)
def test_a_half_born_folder_counts_as_empty(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).touch()
    LAYOUT.make(tmp_path)
    LAYOUT.make(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("name", ["notes.txt", "part-1.npy", ".mine.tmp", "thing.json.bak", ".no.txt.01.tmp"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        LAYOUT.make(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: not a thing, and not empty (it holds {name!r}); choose a new or empty folder"
    )
    with pytest.raises(InputError, match="is a file; a thing is a folder"):
        LAYOUT.make(tmp_path / name)


def test_leftovers_of_a_kind_are_its_unlisted_files(tmp_path: Path) -> None:
    kept = {"thing.json", "part-1.npy", "notes.txt", ".lock", "part-x.npy"}
    for name in (*kept, "part-2.npy", ".part-9.npy.0123.tmp", ".thing.json.9.tmp"):
        (tmp_path / name).touch()
    LAYOUT.remove_leftovers(tmp_path, {"thing.json", "part-1.npy"})
    assert {child.name for child in tmp_path.iterdir()} == kept


def test_every_new_folder_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("airrep_infer.files.sync_folder", lambda folder, **_: synced.append(folder))
    make_folder(tmp_path / "a" / "b")
    assert set(synced) == {tmp_path, tmp_path / "a"}
