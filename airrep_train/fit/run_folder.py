"""The folder of one training run: settings, metrics, resumable state, and at the end the checkpoint.

CHECKPOINT/                 appears complete or not at all: what `load_checkpoint` and airrep-export read
    config.json  model.safetensors  tokenizer.json  ...
    training/
        config.json         settings, package version, sha256 of the inputs
        metrics.jsonl       one row a step and one an epoch
        state.pt            optimizer, position, best so far; removed at the end
        best.safetensors    weights of the best epoch; removed at the end
        result.json         written last: the run is finished
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from airrep_infer.errors import InputError, storage_errors
from airrep_infer.files import atomic_write, write_json
from airrep_infer.json_reader import read_json
from airrep_train.model import Checkpoint, save_checkpoint


class RunFolder:
    """Files of a run in `output`; only the main process (`writes`) changes anything.

    Args:
        output: the checkpoint to make.
        settings: everything that the result depends on; JSON.
        writes: whether this process is the one that writes.

    Raises:
        InputError: the folder holds a run with other settings, or files that are not a run's.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], *, writes: bool) -> None:
        self.output = output
        self.folder = output / "training"
        self.writes = writes
        self._settings = dict(settings)
        self._check()

    def _check(self) -> None:
        config = self.folder / "config.json"
        if config.is_file():
            before = read_json(config)
            # Compare as JSON has it: tuples are lists there.
            now = json.loads(json.dumps(self._settings))
            keys = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
            if keys:
                what = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in keys)
                raise InputError(
                    f"{self.output}: holds a run with other settings ({what}); choose another output, "
                    "or delete this one"
                )
        elif self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
            raise InputError(
                f"{self.output}: exists and is not a training run; choose an output that does not exist"
            )

    def create(self) -> None:
        """Make the folder and write the settings (once all processes have passed the check)."""
        if self.writes:
            with storage_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "config.json").is_file():
                write_json(self.folder / "config.json", self._settings)

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run."""
        path = self.folder / "result.json"
        return read_json(path) if path.is_file() else None

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row to the metrics."""
        if self.writes:
            path = self.folder / "metrics.jsonl"
            with storage_errors(path), path.open("a") as stream:
                stream.write(json.dumps(row) + "\n")

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state to resume from."""
        if self.writes:
            with atomic_write(self.folder / "state.pt") as stream:
                torch.save(dict(state), stream)

    def load_state(self) -> dict[str, Any] | None:
        """The last saved state (on the CPU), None in a fresh folder; metrics of later steps are dropped."""
        path = self.folder / "state.pt"
        state: dict[str, Any] | None = None
        if path.is_file():
            state = torch.load(path, map_location="cpu", weights_only=True)
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
            with atomic_write(self.folder / "best.safetensors") as stream:
                stream.write(save({name: w.detach().cpu().contiguous() for name, w in weights.items()}))

    def publish(self, checkpoint: Checkpoint, result: Mapping[str, Any]) -> None:
        """Write the best weights as the checkpoint, then the result; drop what was for resuming."""
        if not self.writes:
            return
        best = self.folder / "best.safetensors"
        checkpoint.model.load_state_dict(load_file(best))
        with storage_errors(self.output), tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            save_checkpoint(checkpoint, Path(temporary))
            # The model's config.json goes last: without it the folder does not read as a checkpoint.
            for file in sorted(Path(temporary).iterdir(), key=lambda file: file.name == "config.json"):
                file.replace(self.output / file.name)
        write_json(self.folder / "result.json", dict(result))
        for file in (best, self.folder / "state.pt"):
            file.unlink(missing_ok=True)
