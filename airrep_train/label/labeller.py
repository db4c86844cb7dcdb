"""Making measurements: fine-tune the target on a subset, then its losses on the split's dev set."""

from __future__ import annotations

from collections.abc import Sequence

from airrep_infer.rows import Example
from airrep_train.label.loss_files import LossRow
from airrep_train.label.subsets import Indices
from airrep_train.label.tasks import Task
from airrep_train.target import FineTuneOptions, LmRow, Target


class Labeller:
    """Makes measurements: the target in memory, and the dev set tokenized once per split.

    Args:
        target: what `Target` loads.
        options: how it is fine-tuned.
        examples: what the plan's line numbers refer to.
        device: "auto", "cpu" or "cuda".
    """

    def __init__(
        self, target: str, options: FineTuneOptions, examples: Sequence[Example], device: str = "auto"
    ) -> None:
        self._target = Target(target, options, device)
        self._examples = examples
        self._dev: tuple[int, list[LmRow]] | None = None

    def fingerprint(self) -> str:
        """The identity of the target's content."""
        return self._target.fingerprint

    def measure(self, task: Task) -> LossRow:
        """Fine-tune on the task's subset and measure its dev losses."""
        subset = task.subset
        if self._dev is None or self._dev[0] != subset.dev_id:
            self._dev = subset.dev_id, self._rows(task.dev)
        order_keys = subset.select.tolist() if task.keep_order else None
        self._target.fine_tune(self._rows(subset.select), task.seed, order_keys)
        losses = self._target.losses(self._dev[1])
        return LossRow(subset.id, subset.dev_id, losses, task.seed, task.repeat)

    def _rows(self, numbers: Indices) -> list[LmRow]:
        return self._target.rows([self._examples[number] for number in numbers])
