"""Where a training run stands: what is recorded of a step, and saved to resume from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from airrep_train.fit.run_folder import RunFolder
from airrep_train.model import AirRepModel

_Standing = TypeVar("_Standing", bound="Standing")


@dataclass
class Standing:
    """What every run counts; a kind of training adds fields of its own.

    Attributes:
        step: optimizer steps taken.
        rows: of the metrics.
        seconds: time spent, over all starts of the run.
    """

    step: int = 0
    rows: int = 0
    seconds: float = 0.0

    @classmethod
    def resume(
        cls: type[_Standing], run: RunFolder, model: AirRepModel, optimizer: torch.optim.Optimizer
    ) -> _Standing:
        """Where the run was when it was saved last, with the model and the optimizer as they were then."""
        state = run.load_state()
        if state is None:
            return cls()
        model.load_state_dict(state.pop("model"))
        optimizer.load_state_dict(state.pop("optimizer"))
        return cls(**state)

    def save(self, run: RunFolder, model: AirRepModel, optimizer: torch.optim.Optimizer) -> None:
        """Save all that `resume` needs. No generator: dropout is off, and the seed decides the order."""
        run.save_state({**asdict(self), "model": model.state_dict(), "optimizer": optimizer.state_dict()})

    def record(self, run: RunFolder, metrics: Mapping[str, Any]) -> None:
        """Add a row to the metrics of the run."""
        run.append({"step": self.step, **metrics, "seconds": round(self.seconds, 2)})
        self.rows += 1
