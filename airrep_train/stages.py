"""Stages of a pipeline: each is made once for its settings and the content of its inputs.

OUTPUT/
    label-3f2a9c01/         a stage's folder, named by its identity: other settings, another folder
        losses.jsonl        its outputs
        stage.json          written last: identity, sha256 of every output, seconds
    losses.jsonl            links to the outputs of the last run
    ...

Nothing is deleted: going back to earlier settings finds their results. A stage that was killed is run
again in its folder, and goes on from there if its work can.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from airrep_infer.errors import InputError, storage_errors
from airrep_infer.files import read_json, sha256_file, write_json

_RECORD = "stage.json"
_KEY_DIGITS = 8


@dataclass(frozen=True)
class Stage:
    """One piece of work.

    Attributes:
        name: of the stage.
        identity: settings and hashes of inputs that decide the outputs; JSON.
        outputs: names of the files and folders it makes in its folder.
        make: makes them, given the folder; called again after a kill.
        extent: settings that may change for the same outputs to be added to, such as repeats; JSON.
    """

    name: str
    identity: Mapping[str, Any]
    outputs: tuple[str, ...]
    make: Callable[[Path], object]
    extent: Mapping[str, Any] = field(default_factory=dict)

    def folder(self, output: Path) -> Path:
        """Where it is made below the pipeline's output."""
        canonical = json.dumps(self.identity, sort_keys=True).encode()
        return output / f"{self.name}-{hashlib.sha256(canonical).hexdigest()[:_KEY_DIGITS]}"

    def is_done(self, output: Path) -> bool:
        """Whether the outputs are there, as the stage left them.

        Raises:
            InputError: one was changed since.
        """
        folder = self.folder(output)
        if not (folder / _RECORD).is_file():
            return False
        record = read_json(folder / _RECORD)
        if record.get("extent") != _plain(self.extent):
            return False
        for name, digest in record["outputs"].items():
            file = folder / name
            if not file.is_file():
                return False
            if sha256_file(file) != digest:
                raise InputError(
                    f"{file}: changed since the stage {self.name} made it; put it back, or delete {folder} "
                    "to make it again"
                )
        return True

    def run(self, output: Path) -> None:
        """Make the outputs and record them."""
        folder = self.folder(output)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _RECORD).unlink(missing_ok=True)
        started = time.monotonic()
        self.make(folder)
        files = [file for name in self.outputs for file in _files(folder / name)]
        write_json(
            folder / _RECORD,
            {
                "stage": self.name,
                "package": f"airrep {version('airrep')}",
                "identity": _plain(self.identity),
                "extent": _plain(self.extent),
                "outputs": {str(file.relative_to(folder)): sha256_file(file) for file in files},
                "seconds": round(time.monotonic() - started, 1),
            },
        )

    def link(self, output: Path) -> None:
        """Point `output/NAME` to each of the outputs.

        Raises:
            InputError: something else has that name.
        """
        for name in self.outputs:
            link = output / name
            if link.exists() and not link.is_symlink():
                raise InputError(f"{link}: exists and is not the pipeline's link; move it away")
            temporary = output / f".{name}.{os.getpid()}.tmp"
            with storage_errors(link):
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(Path(self.folder(output).name) / name)
                temporary.replace(link)


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
    """A file itself, or all files below a folder, in a fixed order; a checkpoint's run records are not it."""
    if not path.is_dir():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and file.relative_to(path).parts[0] not in ("training", ".git", ".cache")
    )


def _plain(value: Mapping[str, Any]) -> Any:
    """As JSON has it: tuples are lists there."""
    return json.loads(json.dumps(value))
