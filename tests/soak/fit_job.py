"""What a training run writes, with a model of a few bytes; a file of its own because torch loads slowly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from soak.jobs import Job

from airrep_train.fit.run_folder import RunFolder


def fit(folder: Path) -> None:
    """What a training run writes, with a model of a few bytes."""
    run = RunFolder(folder / "run", {"seed": 1}, Accelerator(cpu=True))
    if run.result(result_of) is not None:
        return
    run.create()
    train(run)
    checkpoint: Any = SimpleNamespace(model=SimpleNamespace(load_state_dict=lambda _: None))
    run.publish(checkpoint, {"lds": 0.5})


def train(run: RunFolder) -> None:
    """Its steps, from where it stopped."""
    state = run.load_state() or {"rows": 0, "step": 0}
    while state["step"] < 2:
        run.append({"step": state["step"]})
        state = {"rows": state["rows"] + 1, "step": state["step"] + 1}
        run.save_best({"w": torch.ones(3)})
        run.save_state(state)


def save_checkpoint(_checkpoint: Any, folder: Path) -> None:
    """In the place of the real one: files of a few bytes, none of them fsynced."""
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(f"content of {name}")


def _check_fit(folder: Path) -> None:
    result = folder / "run" / "training" / "result.json"
    if result.exists():
        run = RunFolder(folder / "run", {"seed": 1}, Accelerator(cpu=True))
        assert run.result(result_of) == 0.5
    if (folder / "run" / "config.json").exists():
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            assert (folder / "run" / name).read_text() == f"content of {name}"


def result_of(*, lds: float) -> float:
    """A result in which no other key has a place."""
    return lds


FIT = Job("fit", lambda f: None, fit, _check_fit)
