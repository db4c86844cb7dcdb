"""Files are whole or absent, and every failure names the file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from airrep_infer.errors import AirRepError, InputError, StorageError, storage_errors
from airrep_infer.files import (
    atomic_write,
    open_locked,
    read_hashed,
    sha256_file,
    sync_folder,
    write_hashed,
    write_json,
)
from airrep_infer.json_reader import read_json
from airrep_infer.sealed import read_record, write_record


def test_the_target_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
        sibling = next(child for child in tmp_path.iterdir() if child != path)
        assert sibling.read_bytes() == b"new"  # same folder, so that the rename is atomic
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced, fsync = tmp_path / "out.bin", list[tuple[bool, bool]](), os.fsync

    def spy(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").resolve() == tmp_path.resolve(), path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    write_json(path, {})
    assert synced == [(False, False), (True, True)]  # (is the folder, has the name): file, rename, folder


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_no_rubbish(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(failure), atomic_write(path) as stream:
        stream.write(b"half")
        raise failure
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_run_never_looks_finished(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    code = (
        "import sys; from pathlib import Path; from airrep_infer.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as stream:\n"
        "    stream.write(b'half'); stream.flush(); print('ready', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not path.exists()


def test_permissions_are_those_of_a_plain_file(tmp_path: Path) -> None:
    plain, atomic = tmp_path / "plain", tmp_path / "atomic"
    for umask in (0o022, 0o077):
        before = os.umask(umask)
        try:
            plain.unlink(missing_ok=True)
            plain.write_bytes(b"")
            with atomic_write(atomic):
                pass
        finally:
            os.umask(before)
        assert atomic.stat().st_mode == plain.stat().st_mode


def test_threads_do_not_disturb_the_umask(tmp_path: Path) -> None:
    # os.umask is of the whole process: reading it by setting it would race.
    before = os.umask(0o022)
    try:
        threads = [
            threading.Thread(
                target=lambda n=n: [write_json(tmp_path / f"{n}-{k}.json", k) for k in range(20)]
            )
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        after = os.umask(before)
    assert after == 0o022
    assert {child.stat().st_mode & 0o777 for child in tmp_path.iterdir()} == {0o644}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "big-disk" / "out.json", tmp_path / "out.json"
    target.parent.mkdir()
    link.symlink_to(target)
    write_json(link, {"a": 1})
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"a": 1}


def test_a_missing_folder_a_folder_and_a_device_are_storage_errors(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path / "no" / "out", tmp_path, pipe):
        with pytest.raises(StorageError) as caught, atomic_write(path) as stream:
            stream.write(b"x")
        assert str(caught.value).startswith(f"{path}: cannot write: ")
        assert "\n" not in str(caught.value)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    with pytest.raises(StorageError, match=r"out\.bin: cannot write: No space left.*free space"):  # noqa: SIM117
        with atomic_write(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_a_message_is_one_line_whatever_it_names() -> None:
    for end in ("\n", "\r\n", "\u2028", "\x0b"):
        assert str(InputError(f"no field 'a{end}b'")) == "no field 'a b'"


def test_the_error_tree_and_its_exit_statuses() -> None:
    assert (AirRepError.exit_status, InputError.exit_status, StorageError.exit_status) == (1, 2, 1)
    assert issubclass(InputError, AirRepError)
    assert issubclass(StorageError, AirRepError)
    with pytest.raises(InputError, match="mine"), storage_errors(Path("out")):
        raise InputError("mine")  # only OSError is translated
    with pytest.raises(StorageError, match="out: cannot write: odd; choose"), storage_errors(Path("out")):
        raise OSError("odd")  # without an errno


def test_json_round_trips_readably(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"name": "café 🙂", "list": [1, 2.5, None, True]}
    write_json(path, value)
    assert read_json(path) == value
    assert "café 🙂" in path.read_text(encoding="utf-8")
    assert path.read_bytes().endswith(b"}\n")


def test_sha256_reads_in_chunks_to_the_same_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    content = bytes(range(256)) * 4096 * 2 + b"tail"  # more than two chunks
    path.write_bytes(content)
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()
    with pytest.raises(InputError, match="cannot read: Is a directory"):
        sha256_file(tmp_path)


def test_hashed_content_comes_back_or_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    write_hashed(file, b"weights")
    assert read_hashed(file, "train again") == b"weights"
    whole = file.read_bytes()
    for place in range(len(b"weights")):
        file.write_bytes(whole[:place] + b"?" + whole[place + 1 :])
        with pytest.raises(InputError, match=r"state\.pt: damaged: .*; train again"):
            read_hashed(file, "train again")
    file.write_bytes(b"of an earlier version")
    assert read_hashed(file, "train again") == b"of an earlier version"


def test_a_record_is_sealed(tmp_path: Path) -> None:
    file = tmp_path / "stage.json"
    write_record(file, {"extent": {"repeat": 3}})
    assert read_record(file, "delete it") == {"extent": {"repeat": 3}}
    file.write_text(file.read_text().replace("3", "7", 1))
    with pytest.raises(InputError, match=r"changed or damaged .*; delete it"):
        read_record(file, "delete it")
    write_json(file, {"extent": {}})  # of an earlier version
    assert read_record(file, "delete it") == {"extent": {}}


def test_a_disk_that_is_full_at_the_fsync_of_a_folder_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="cannot write: No space left on device"):
        sync_folder(tmp_path)


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"\.lock: cannot write: "):
        open_locked(tmp_path / "no folder" / ".lock", "taken")
