"""The label run: what fine-tuning on each subset does to the target's losses (paper, section 3.2).

For every subset of a plan the target starts from the same weights, is fine-tuned on the subset, and its
loss on each dev example is measured. A run can be killed at any moment and started again: each
measurement is one line, on the disk before the next begins, and `<output>.run.json` holds what the
run was started with, so that it cannot go on with other settings.

Shards: run the same command with `--shard 1/4` ... `4/4` and an output each, on as many machines; the
readers take the files together, or join them with `cat`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from airrep_infer.errors import InputError
from airrep_infer.files import write_json
from airrep_infer.json_reader import read_json
from airrep_infer.rows.examples import Example
from airrep_train.label.loss_files import Key, LossFile, LossRow
from airrep_train.label.subsets import Indices, Subset, SubsetPlan
from airrep_train.target import FineTuneOptions, LmRow, Target

FORMAT = 1
_SPLIT_STEP = 1_000
_REPEAT_STEP = 1_000_000

Engine = Literal["local", "ray"]


@dataclass(frozen=True, slots=True)
class Task:
    """One measurement to make: fine-tune on `subset` under `seed`, then the losses on `dev`."""

    subset: Subset
    dev: Indices
    seed: int
    repeat: int

    @property
    def key(self) -> Key:
        return self.subset.id, self.repeat


@dataclass(frozen=True)
class LabelSummary:
    """What a label run did.

    Attributes:
        tasks: measurements that this run (or shard) consists of.
        resumed: those that were there already.
        labelled: those made now.
        unknown: losses made now that are NaN: no response token within max length, or diverged.
        seconds: mean time of a measurement made now; with several workers, of all of them together.
    """

    tasks: int
    resumed: int
    labelled: int
    unknown: int
    seconds: float

    @property
    def done(self) -> bool:
        return self.resumed + self.labelled == self.tasks


def subset_seed(base: int, dev_id: int, number: int, repeat: int = 0) -> int:
    """The seed of subset `number` (from 0) of split `dev_id`; p3's labels were made so, from base 0."""
    return base + _SPLIT_STEP * dev_id + number + _REPEAT_STEP * repeat


def plan_tasks(
    plan: SubsetPlan, seed: int = 0, *, repeat: int = 0, shard: tuple[int, int] = (1, 1)
) -> list[Task]:
    """The measurements of a run, in the order of its output: every subset once, then the repeats.

    Args:
        plan: the subsets.
        seed: base seed.
        repeat: how many subsets of each split are measured again, its first ones.
        shard: (I, N), every N-th task from the I-th, counted from 1.
    """
    part, parts = shard
    if not 1 <= part <= parts:
        raise InputError(f"shard {part}/{parts}: expected I/N with 1 <= I <= N")
    if repeat < 0:
        raise InputError(f"repeat must be at least 0, got {repeat}")
    tasks: list[Task] = []
    for again in (0, 1):
        numbers = dict.fromkeys(plan.dev, 0)
        for subset in plan.subsets:
            number = numbers[subset.dev_id]
            numbers[subset.dev_id] += 1
            if not again or number < repeat:
                drawn = subset_seed(seed, subset.dev_id, number, again)
                tasks.append(Task(subset, plan.dev[subset.dev_id], drawn, again))
    return tasks[part - 1 :: parts]


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
        self._target.fine_tune(self._rows(subset.select), task.seed)
        losses = self._target.losses(self._dev[1])
        return LossRow(subset.id, subset.dev_id, losses, task.seed, task.repeat)

    def _rows(self, numbers: Indices) -> list[LmRow]:
        return self._target.rows([self._examples[number] for number in numbers])


def label(
    examples: Sequence[Example],
    plan: SubsetPlan,
    target: str,
    output: Path,
    options: FineTuneOptions | None = None,
    *,
    repeat: int = 0,
    shard: tuple[int, int] = (1, 1),
    limit: int | None = None,
    engine: Engine = "local",
    workers: int | None = None,
    device: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> LabelSummary:
    """Measure what every subset of a plan does to the target, or go on with a run that was stopped.

    Args:
        examples: what the plan's line numbers refer to.
        plan: the subsets and dev sets.
        target: a model folder, a hub id, or a `.gguf` file.
        output: the `losses.jsonl` to append to; `<output>.run.json` beside it holds the settings.
        options: how the target is fine-tuned.
        repeat: measure the first so many subsets of each split again under another seed. Not part
            of the settings: a finished run can be continued with more repeats.
        shard: (I, N): make only every N-th measurement, from the I-th.
        limit: stop after so many new measurements.
        engine: "local" (this process) or "ray" (actors on a Ray cluster, each with the target loaded).
        workers: Ray actors; default one per GPU, or one per node without GPUs.
        device: "auto", "cpu" or "cuda".
        on_progress: called with (measurements there, all of them), at the start and after each.

    Raises:
        InputError: the settings differ from those the output was started with, another run is
            writing to it, or the target cannot be loaded.
        StorageError: the output cannot be written.
    """
    options = options or FineTuneOptions()
    tasks = plan_tasks(plan, options.seed, repeat=repeat, shard=shard)
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    settings = _settings(examples, plan, options, shard)
    _check_settings(output, settings)
    fingerprint, measure = _start_engine(engine, target, options, examples, device, workers)
    settings["target"] = fingerprint
    _check_settings(output, settings)
    file = LossFile(output, plan)
    try:
        if not file.rows:
            write_json(_sidecar(output), settings)
        todo = [task for task in tasks if task.key not in file.rows]
        made, unknown, seconds = _append(
            file, measure(todo[:limit]), len(tasks) - len(todo), tasks, on_progress
        )
        if made == len(todo):
            file.sort([task.key for task in tasks])
    finally:
        file.close()
    return LabelSummary(len(tasks), len(tasks) - len(todo), made, unknown, seconds / max(made, 1))


def _start_engine(
    engine: Engine,
    target: str,
    options: FineTuneOptions,
    examples: Sequence[Example],
    device: str,
    workers: int | None,
) -> tuple[str, Callable[[Sequence[Task]], Iterator[LossRow]]]:
    """Load the target where the work will run; its fingerprint, and what makes the measurements."""
    if engine == "ray":
        from airrep_train.label.ray import RayLabeller

        crew = RayLabeller(target, options, examples, device, workers)
        return crew.fingerprint(), crew.measure_all
    if engine != "local":
        raise InputError(f"engine must be local or ray, got {engine!r}")
    if workers is not None:
        raise InputError("workers belongs to engine ray; the local engine is this one process")
    labeller = Labeller(target, options, examples, device)
    return labeller.fingerprint(), lambda tasks: map(labeller.measure, tasks)


def _append(
    file: LossFile,
    rows: Iterator[LossRow],
    there: int,
    tasks: Sequence[Task],
    on_progress: Callable[[int, int], None] | None,
) -> tuple[int, int, float]:
    """Append rows as they come; how many, how many unknown losses in them, and the seconds it took."""
    made = unknown = 0
    start = time.perf_counter()
    report = on_progress or (lambda _there, _all: None)
    report(there, len(tasks))
    for row in rows:
        file.append(row)
        made += 1
        unknown += int(np.isnan(row.losses).sum())
        report(there + made, len(tasks))
    return made, unknown, time.perf_counter() - start


def _sidecar(output: Path) -> Path:
    return output.with_name(f"{output.name}.run.json")


def _settings(
    examples: Sequence[Example], plan: SubsetPlan, options: FineTuneOptions, shard: tuple[int, int]
) -> dict[str, Any]:
    """What decides the measurements, the target's fingerprint aside."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.prompt, example.response]).encode())
    return {
        "format": FORMAT,
        "examples": digest.hexdigest(),
        "subsets": plan.sha256(),
        "shard": f"{shard[0]}/{shard[1]}",
        **asdict(options),
    }


def _check_settings(output: Path, settings: dict[str, Any]) -> None:
    """Refuse to go on with a run that was started with other settings."""
    if not output.exists() or not output.stat().st_size:
        return
    sidecar = _sidecar(output)
    if not sidecar.exists():
        raise InputError(
            f"{output}: exists without {sidecar.name}, so the settings behind it are unknown; use another -o"
        )
    started = read_json(sidecar)
    different = [
        f"{key} was {started.get(key)!r}, now {value!r}"
        for key, value in settings.items()
        if started.get(key) != value
    ]
    if different:
        raise InputError(
            f"{output}: was started with other settings: {'; '.join(different)}; use those, or another -o"
        )
