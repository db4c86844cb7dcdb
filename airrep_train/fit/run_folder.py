"""The folder of one training run: settings, metrics, resumable state, and at the end the checkpoint.

CHECKPOINT/                 appears complete or not at all: what `load_checkpoint` and airrep-export read
    config.json  model.safetensors  tokenizer.json  ...
    training/
        config.json         settings, package version, sha256 of the inputs
        metrics.jsonl       one row a step and one an epoch
        state.pt            optimizer, position, best so far; removed at the end
        best.safetensors    weights of the best epoch; removed at the end
        result.json         written last: the run is finished; sha256 of the checkpoint's files
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from accelerate import Accelerator
from safetensors.torch import load, save

from airrep_infer.errors import InputError, storage_errors
from airrep_infer.files import (
    atomic_write,
    hash_files,
    make_folder,
    open_locked,
    read_hashed,
    sha256_file,
    sync_folder,
    write_hashed,
    write_json,
)
from airrep_infer.folders import Layout, sync_tree
from airrep_infer.json_reader import read_json
from airrep_infer.rows import PUBLISHED, SHARED, Template
from airrep_infer.sealed import damage, read_record, write_record
from airrep_train.fit.inputs import BASE_SETTINGS
from airrep_train.fit.options import FitOptions
from airrep_train.model import AirRepModel, Checkpoint, save_checkpoint
from airrep_train.pretrained import refusing

_Result = TypeVar("_Result")

_FILES = "files"
_PUBLISHED = "checkpoint.tmp"
_RUN_FILES = ("config.json", "metrics.jsonl", "state.pt", "best.safetensors", "result.json")
_OUTPUT = Layout("a training run", "training/config.json", files=r"(?!)", early="training")
_TRAINING = Layout(
    "a training run",
    "config.json",
    files=r"metrics\.jsonl|state\.pt|best\.safetensors|result\.json|checkpoint\.tmp|tmp\w{8}",
)
_LOCKS: dict[Path, IO[bytes]] = {}
"""Of the runs of this process; one that failed leaves its lock to the next one here."""


class RunFolder:
    """Files of a run in `output`; of the accelerator's processes only the main one changes anything.

    Args:
        output: the checkpoint to make.
        settings: everything that the result depends on; JSON.
        accelerator: of the run; no process reads what another one has not finished writing.

    Raises:
        InputError: the folder holds a run with other settings, or files that are not a run's.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], accelerator: Accelerator) -> None:
        self.output = output
        self.folder = output / "training"
        self.writes = accelerator.is_main_process
        self._accelerator = accelerator
        self._settings = dict(settings)
        self._check()

    def _check(self) -> None:
        config = self.folder / "config.json"
        if config.is_file():
            before = read_json(config)
            # Compare as JSON has it: tuples are lists there.
            now = json.loads(json.dumps(self._settings))
            if BASE_SETTINGS not in before.get("inputs", {}):
                now.get("inputs", {}).pop(BASE_SETTINGS, None)
            keys = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
            if keys:
                what = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in keys)
                raise InputError(
                    f"{self.output}: holds a run with other settings ({what}); choose another output, "
                    "or delete this one"
                )
            return
        _OUTPUT.check(self.output)
        if self.folder.exists():
            _TRAINING.check(self.folder)

    def create(self) -> None:
        """Make the folder, lock it and write the settings, once all processes have passed the check.

        Raises:
            BusyError: another process is training there.
        """
        self._accelerator.wait_for_everyone()
        if self.writes:
            with storage_errors(self.folder):
                make_folder(self.folder)
                taken = f"{self.output}: another process is training there; wait, or choose another output"
                if (before := _LOCKS.pop(self.folder, None)) is not None:
                    before.close()
                _LOCKS[self.folder] = open_locked(self.folder / ".lock", taken)
            _TRAINING.remove_leftovers(self.folder, _RUN_FILES)
            if not (self.folder / "config.json").is_file():
                write_json(self.folder / "config.json", self._settings)
        self._accelerator.wait_for_everyone()

    def result(self, kind: Callable[..., _Result]) -> _Result | None:
        """The result of a finished run, whose checkpoint is as the run left it.

        Args:
            kind: makes it of what was given to `publish`, by keyword.

        Raises:
            InputError: the result or a file of the checkpoint was changed or removed since.
        """
        path = self.folder / "result.json"
        if not path.is_file():
            return None
        result = read_record(path, self._again)
        with damage(path, self._again):
            for name, recorded in result.pop(_FILES, {}).items():  # runs before this record have none
                file = self.output / name
                if not file.is_file() or sha256_file(file) != recorded:
                    what = "changed" if file.is_file() else "removed"
                    raise InputError(
                        f"{file}: {what} since the run finished; put it back, or delete {self.output}"
                    )
        if self.writes:  # a run that was killed after its result left what it could resume from
            _TRAINING.remove_leftovers(self.folder, ("config.json", "metrics.jsonl", "result.json"))
        with damage(path, self._again):
            return kind(**result)

    def amend(self, result: Mapping[str, Any]) -> None:
        """Write a result of a finished run anew, whose checkpoint stays as it is."""
        if self.writes:
            path = self.folder / "result.json"
            write_record(path, {**read_record(path, self._again), **result})

    @property
    def _again(self) -> str:
        return f"delete {self.output} to train again"

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row to the metrics."""
        if self.writes:
            path = self.folder / "metrics.jsonl"
            with storage_errors(path), path.open("a") as stream:
                stream.write(json.dumps(row) + "\n")

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state to resume from."""
        if self.writes:
            # Through memory: torch's writer aborts the process when a signal or a full disk meets it.
            if (metrics := self.folder / "metrics.jsonl").is_file():
                sync_folder(metrics)  # the state counts its rows
            content = io.BytesIO()
            torch.save(dict(state), content)
            write_hashed(self.folder / "state.pt", content.getbuffer())

    def load_state(self) -> dict[str, Any] | None:
        """The last saved state (on the CPU), None in a fresh folder; metrics of later steps are dropped."""
        path = self.folder / "state.pt"
        state: dict[str, Any] | None = None
        if path.is_file():
            content = io.BytesIO(read_hashed(path, self._again))
            try:
                state = torch.load(content, map_location="cpu", weights_only=True)
            except Exception as error:  # torch raises nearly anything for a damaged file
                raise InputError(f"{path}: damaged ({type(error).__name__}); {self._again}") from error
        metrics = self.folder / "metrics.jsonl"
        if self.writes and metrics.is_file():
            # The state was saved after `rows` of them; what follows will be done again. A killed run's
            # last line may be cut.
            kept = metrics.read_bytes().splitlines(keepends=True)[: state["rows"] if state else 0]
            with atomic_write(metrics) as stream:
                stream.writelines(kept)
        return state

    def save_best(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Keep these weights as the best so far."""
        if self.writes:
            content = save({name: w.detach().cpu().contiguous() for name, w in weights.items()})
            write_hashed(self.folder / "best.safetensors", content)

    def load_best(self) -> dict[str, torch.Tensor]:
        """The weights that `save_best` kept.

        Raises:
            InputError: they are damaged.
        """
        best = self.folder / "best.safetensors"
        with refusing(f"{best}: damaged; {self._again}"):
            return load(read_hashed(best, self._again))

    def restore_best(self, model: AirRepModel) -> None:
        """Give a model of every process the weights that `save_best` kept.

        Raises:
            InputError: they are damaged.
        """
        self._accelerator.wait_for_everyone()
        weights = self.load_best()
        with refusing(f"{self.folder / 'best.safetensors'}: damaged; {self._again}"):
            model.load_state_dict(weights)

    def publish(self, checkpoint: Checkpoint, result: Mapping[str, Any]) -> None:
        """Write the best weights as the checkpoint, then the result; drop what was for resuming."""
        self._accelerator.wait_for_everyone()
        if self.writes:
            self._publish(checkpoint, result)
        self._accelerator.wait_for_everyone()

    def _publish(self, checkpoint: Checkpoint, result: Mapping[str, Any]) -> None:
        best = self.folder / "best.safetensors"
        weights = self.load_best()
        with refusing(f"{best}: damaged; {self._again}"):
            checkpoint.model.load_state_dict(weights)
        temporary = self.folder / _PUBLISHED
        with storage_errors(self.output):
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed run
            temporary.mkdir()
            save_checkpoint(checkpoint, temporary)
            # The model's config.json goes last: without it the folder does not read as a checkpoint.
            files = sorted(temporary.iterdir(), key=lambda file: file.name == "config.json")
            hashes = hash_files(temporary, files)
            sync_tree(temporary)
            for file in files:
                if file.name == "config.json":
                    sync_folder(self.output)
                file.replace(self.output / file.name)
            sync_folder(self.output)
            temporary.rmdir()
        write_record(self.folder / "result.json", {**result, _FILES: hashes})
        with storage_errors(self.folder):
            for file in (best, self.folder / "state.pt"):
                file.unlink(missing_ok=True)
        _LOCKS.pop(self.folder).close()


def options_of_run(output: Path, options: FitOptions, *, trained: bool) -> tuple[FitOptions, dict[str, Any]]:
    """The options of a run, complete, and their record.

    Earlier versions did not pull the projector to a trained start, and before that did not train it first.
    """
    config = output / "training" / "config.json"
    begun = read_json(config) if config.is_file() else None
    options = options.from_start(trained and (begun is None or "projector_pull" in begun))
    if begun is None or "projector_steps" in begun:
        return options, options.identity()
    options = replace(options, projector_steps=0)
    later = ("projector_steps", "projector_lr")
    return options, {name: value for name, value in options.identity().items() if name not in later}


def template_of_run(output: Path) -> Template:
    """The template of what is trained in a folder: ours, or that of the run that an earlier version began."""
    config = output / "training" / "config.json"
    return PUBLISHED if config.is_file() and "template" not in read_json(config) else SHARED
