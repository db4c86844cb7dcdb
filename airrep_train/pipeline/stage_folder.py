"""The folder of a stage: made once for its settings and the content of its inputs.

OUTPUT/
    label-3f2a9c01/         a stage's folder, named by its identity: other settings, another folder
        losses.jsonl        its outputs
        stage.json          written last: identity, sha256 of every output, seconds
    losses.jsonl            links to the outputs for the settings of the last run
    ...

Nothing is deleted: going back to earlier settings finds their results. A stage that was killed is run
again in its folder, and resumes there if its work can.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from airrep_infer.errors import InputError, storage_errors
from airrep_infer.files import hash_files, make_folder, open_locked, sha256_file, sync_folder
from airrep_infer.folders import sync_tree
from airrep_infer.sealed import damage, read_record, write_record

_RECORD = "stage.json"
_KEY_DIGITS = 8


@dataclass(frozen=True)
class Stage:
    """One piece of work.

    Attributes:
        name: of the stage.
        identity: settings and hashes of inputs that decide the outputs; JSON.
        outputs: names of the files and folders it makes in its folder.
        make: makes them, given the folder, and says in lines what came of it; called again after a kill.
        extent: how much of something there is to be at least; more of it adds to the same outputs.
        notes: what is to be said of its inputs, in lines.
    """

    name: str
    identity: Mapping[str, Any]
    outputs: tuple[str, ...]
    make: Callable[[Path], Sequence[str]]
    extent: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def folder(self, output: Path) -> Path:
        """Where it is made below the pipeline's output."""
        canonical = json.dumps(self.identity, sort_keys=True).encode()
        return output / f"{self.name}-{hashlib.sha256(canonical).hexdigest()[:_KEY_DIGITS]}"

    def is_done(self, output: Path) -> bool:
        """Whether the outputs are there, as the stage left them.

        Raises:
            InputError: one was changed or removed since, or the folder is another stage's.
        """
        folder = self.folder(output)
        if not (folder / _RECORD).is_file():
            return False
        again = f"delete {folder} to make it again"
        record = read_record(folder / _RECORD, again)
        if record.get("identity") != _plain(self.identity):
            raise InputError(f"{folder / _RECORD}: not the record of these settings; {again}")
        with damage(folder / _RECORD, again):
            for name, digest in record["outputs"].items():
                file = folder / name
                if not file.is_file() or sha256_file(file) != digest:
                    what = "changed" if file.is_file() else "removed"
                    raise InputError(
                        f"{file}: {what} since the stage {self.name} made it; put it back, or {again}"
                    )
            return all(record["extent"].get(name, 0) >= wanted for name, wanted in self.extent.items())

    def prepare(self, output: Path) -> Path:
        """Make the folder, or mark it as not done; returns it."""
        folder = self.folder(output)
        with storage_errors(folder):
            make_folder(folder)
            if (folder / _RECORD).exists():
                (folder / _RECORD).unlink()
                sync_folder(folder)
        return folder

    def run(self, output: Path) -> Sequence[str]:
        """Make the outputs and record them; returns what came of it, in lines."""
        folder = self.prepare(output)
        started = time.monotonic()
        lines = self.make(folder)
        files = [file for name in self.outputs for file in _files(folder / name)]
        with storage_errors(folder):
            sync_tree(folder)  # the record must not outlive what it vouches for
        write_record(
            folder / _RECORD,
            {
                "stage": self.name,
                "package": f"airrep {version('airrep')}",
                "identity": _plain(self.identity),
                "extent": _plain(self.extent),
                "outputs": hash_files(folder, files),
                "seconds": round(time.monotonic() - started, 1),
            },
        )
        return lines


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Make the pipeline's output folder and keep other runs out of it.

    Raises:
        BusyError: another run is working there.
    """
    taken = f"{output}: another run of a pipeline is working there; wait for it, or choose another output"
    with storage_errors(output):
        make_folder(output)
        lock = open_locked(output / ".lock", taken)
    with lock:
        yield


def check_link(link: Path, stage: str) -> None:
    """Refuse what is in the way of a link.

    Raises:
        InputError: something else has that name.
    """
    if (link.is_symlink() or link.exists()) and not is_link(link, stage):
        raise InputError(f"{link}: is in the way of the pipeline's link to its {stage} stage; move it away")


def set_link(link: Path, folder: Path) -> None:
    """Point `link` to the output of its name in a stage's folder beside it."""
    temporary = link.with_name(f".{link.name}.tmp")
    with storage_errors(link):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path(folder.name) / link.name)
        temporary.replace(link)
        sync_folder(link.parent)


def clear_link(link: Path, stage: str) -> Path | None:
    """Remove a link to an output of `stage`, never anything else; returns where it led."""
    if not is_link(link, stage):
        return None
    with storage_errors(link):
        led_to = link.readlink()
        link.unlink()
    return led_to


def is_link(link: Path, stage: str) -> bool:
    """Whether this is a link to an output that `stage` made, under whatever settings."""
    target = rf"{stage}-[0-9a-f]{{{_KEY_DIGITS}}}/{re.escape(link.name)}"
    return link.is_symlink() and re.fullmatch(target, str(link.readlink())) is not None


def hash_source(source: str | Path) -> str:
    """The identity of a model: sha256 of the file, or of a folder's files; of a hub id the name.

    A hub id is taken at its word; download the model to pin its content.
    """
    path = Path(source)
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        return f"hub:{source}"
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path)} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """A file itself, or all files below a folder, in a fixed order.

    Hidden files and a checkpoint's run records are not part of a model.
    """
    if not path.is_dir():
        return [path]
    inside = {file: file.relative_to(path).parts for file in path.rglob("*") if file.is_file()}
    return sorted(
        file
        for file, parts in inside.items()
        if parts[0] != "training" and not any(part.startswith(".") for part in parts)
    )


def _plain(value: Mapping[str, Any]) -> Any:
    """As JSON has it: tuples are lists there."""
    return json.loads(json.dumps(value))
