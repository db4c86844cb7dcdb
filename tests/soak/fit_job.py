"""What a training run writes, with a model of a few bytes; a file of its own because torch loads slowly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from soak.jobs import Job

from airrep_train.fit.run_folder import RunFolder


def _fit(folder: Path) -> None:
    """What a training run writes, with a model of a few bytes."""
    output = folder / "run"
    run = RunFolder(output, {"seed": 1}, Accelerator(cpu=True))
    if run.result() is not None:
        return
    run.create()
    state = run.load_state() or {"rows": 0, "step": 0}
    while state["step"] < 2:
        run.append({"step": state["step"]})
        state = {"rows": state["rows"] + 1, "step": state["step"] + 1}
        run.save_best({"w": torch.ones(3)})
        run.save_state(state)
    checkpoint: Any = SimpleNamespace(model=SimpleNamespace(load_state_dict=lambda _: None))
    run.publish(checkpoint, {"lds": 0.5})


def save_checkpoint(_checkpoint: Any, folder: Path) -> None:
    """In the place of the real one: files of a few bytes, none of them fsynced."""
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(f"content of {name}")


def _check_fit(folder: Path) -> None:
    result = folder / "run" / "training" / "result.json"
    if result.exists():
        assert RunFolder(folder / "run", {"seed": 1}, Accelerator(cpu=True)).result() == {"lds": 0.5}
    if (folder / "run" / "config.json").exists():
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            assert (folder / "run" / name).read_text() == f"content of {name}"


FIT = Job("fit", lambda f: None, _fit, _check_fit)
