"""The label run: what fine-tuning on each subset does to the target's losses (paper, section 3.2).

For every subset of a plan the target starts from the same weights, is fine-tuned on the subset, and its
loss on each dev example is measured. A run can be killed at any moment and started again: each
measurement is one line, on the disk before the next begins, and `<output>.run.json` holds what the
run was started with, so that it cannot resume with other settings (`resume`).

The losses before any fine-tuning are measured first, one evaluation a split (`base_losses`).

Shards: run the same command with `--shard 1/4` ... `4/4` and an output each, on as many machines; the
readers take the files together, or join them with `cat`. The first shard measures the base losses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from airrep_infer.command import finishing_first
from airrep_infer.errors import InputError
from airrep_infer.progress import Progress, begin
from airrep_infer.rows import SHARED, CutCounts, Example
from airrep_train.label.base_losses import BaseRow, base_path, read_base, write_base
from airrep_train.label.labeller import Labeller
from airrep_train.label.loss_files import LossRow
from airrep_train.label.options import LabelOptions
from airrep_train.label.resume import LossFile, check_resumable
from airrep_train.label.run_record import RunRecord, describe_run
from airrep_train.label.subsets import Subset, SubsetPlan
from airrep_train.label.tasks import Task, plan_tasks
from airrep_train.label.truncation import check_lengths
from airrep_train.target import FineTuneOptions

FINISH_SECONDS = 8.0
"""How long a measurement in flight may take after SIGTERM; container engines kill after 10 or 30 seconds."""


@dataclass(frozen=True)
class LabelSummary:
    """What a label run did.

    Attributes:
        tasks: measurements that this run (or shard) consists of.
        resumed: those that were there already.
        labelled: those made now.
        unknown: losses made now that are NaN: no response token within max length, or diverged.
        seconds: mean time of a measurement made now; with several workers, of all of them together.
        cut: rows of the plan that the max length cuts.
    """

    tasks: int
    resumed: int
    labelled: int
    unknown: int
    seconds: float
    cut: CutCounts

    @property
    def done(self) -> bool:
        return self.resumed + self.labelled == self.tasks

    def described(self) -> str:
        """The result in one line."""
        line = f"{self.resumed + self.labelled} of {self.tasks} labelled, {self.labelled} now"
        if self.labelled:
            line += f", {self.seconds:.1f} s each"
        if self.unknown:
            line += f"; {self.unknown} losses unknown (no response token left, or diverged)"
        if self.cut.rows:
            line += f"; {self.cut}"
        return line


def label(
    examples: Sequence[Example],
    plan: SubsetPlan,
    output: Path,
    options: LabelOptions,
    recipe: FineTuneOptions | None = None,
    *,
    shard: tuple[int, int] = (1, 1),
    limit: int | None = None,
    progress: Progress | None = None,
) -> LabelSummary:
    """Measure what every subset of a plan does to the target, or resume a run that was stopped.

    Args:
        examples: what the plan's line numbers refer to.
        plan: the subsets and dev sets.
        output: the `losses.jsonl` to append to; `<output>.run.json` beside it holds the settings, and
            `base_<output>` the losses before any fine-tuning.
        options: the target, where the work runs, and what happens to rows that are too long. `repeat` is not
            part of the settings: a finished run can be continued with more repeats.
        recipe: how the target is fine-tuned.
        shard: (I, N): make only every N-th measurement, from the I-th.
        limit: stop after so many new measurements.
        progress: told of the measurements that are done, at the start and after each.

    In a command of ours SIGTERM leaves the measurement in flight `FINISH_SECONDS` to end.

    Raises:
        InputError: the settings differ from those the output was started with, another run is
            writing to it, a split has fewer subsets than `repeat`, or the target cannot be loaded.
        StorageError: the output cannot be written.
    """
    recipe = with_template(recipe or FineTuneOptions(), output)
    tasks = plan_tasks(plan, recipe.seed, repeat=options.repeat, shard=shard)
    return run_tasks(
        examples,
        plan,
        tasks,
        output,
        options,
        recipe,
        shard=shard,
        limit=limit,
        progress=progress,
        base=base_path(output) if shard[0] == 1 else None,
    )


def run_tasks(
    examples: Sequence[Example],
    plan: SubsetPlan,
    tasks: Sequence[Task],
    output: Path,
    options: LabelOptions,
    recipe: FineTuneOptions,
    *,
    shard: tuple[int, int] = (1, 1),
    limit: int | None = None,
    progress: Progress | None = None,
    stage: str = "label",
    base: Path | None = None,
) -> LabelSummary:
    """Make the measurements of a plan that `output` does not have yet; see `label`.

    Args:
        tasks: of this run or shard, repeats included, in the order of the finished file.
        stage: what progress calls it.
        base: where the losses before any fine-tuning belong, which are then measured first.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    check_resumable(output, describe_run(examples, plan, recipe, shard))  # before a target is loaded
    cut = check_lengths(examples, plan, options.target, recipe, options.on_truncate)
    fingerprint, measure = _start_engine(options, recipe, examples)
    record = describe_run(examples, plan, recipe, shard, fingerprint)
    check_resumable(output, record)
    file = LossFile(output, plan)
    try:
        if not file.rows:
            record.with_cut(cut).write(output)
        if base is not None:
            _measure_base(plan, base, record.sha256(), measure, progress)
        todo = [task for task in tasks if task.key not in file.rows]
        resumed, made, unknown = len(tasks) - len(todo), 0, 0
        started = time.perf_counter()
        add = begin(progress, stage, len(tasks), resumed)
        with finishing_first(within=FINISH_SECONDS) as stopped:
            for row in measure(todo[:limit]):
                file.append(row)
                made += 1
                unknown += int(np.isnan(row.losses).sum())
                add(1)
                if stopped():
                    break
        seconds = time.perf_counter() - started
        if made == len(todo):
            file.sort([task.key for task in tasks])
    finally:
        file.close()
    return LabelSummary(len(tasks), resumed, made, unknown, seconds / max(made, 1), cut)


def with_template(recipe: FineTuneOptions, output: Path) -> FineTuneOptions:
    """The recipe with a template: what was asked for, else that of the run that is resumed, else ours."""
    if recipe.template is not None:
        return recipe
    started = RunRecord.read(output)
    template: Any = started.values["template"] if started else str(SHARED)
    return replace(recipe, template=template)


def _start_engine(
    options: LabelOptions, recipe: FineTuneOptions, examples: Sequence[Example]
) -> tuple[str, Callable[[Sequence[Task]], Iterator[LossRow]]]:
    """Load the target where the work will run; its fingerprint, and what makes the measurements."""
    if options.engine == "ray":
        from airrep_train.label.ray_labeller import RayLabeller

        crew = RayLabeller(options.target, recipe, examples, options.device, options.workers)
        return crew.fingerprint(), crew.measure_all
    labeller = Labeller(options.target, recipe, examples, options.device)
    return labeller.fingerprint(), lambda tasks: map(labeller.measure, tasks)


def _measure_base(
    plan: SubsetPlan,
    path: Path,
    run: str,
    measure: Callable[[Sequence[Task]], Iterator[LossRow]],
    progress: Progress | None = None,
) -> None:
    """Measure the base losses that `path` does not have yet; after each split the file is whole again.

    Args:
        run: the settings, hashed.
        measure: makes measurements; a subset of no rows leaves the target as it is.
        progress: told of the stage "base", in splits.

    Raises:
        InputError: the file has losses that were measured under other settings.
        StorageError: the file cannot be written.
    """
    rows = read_base(plan, path)
    for row in rows.values():
        if row.run not in (None, run):
            raise InputError(
                f"{path}: base losses that were measured with other settings; move the file away, or use "
                "another -o"
            )
    nothing = np.empty(0, np.int64)
    todo = [
        Task(Subset(f"base-{dev_id}", dev_id, nothing), dev, seed=0, repeat=0)
        for dev_id, dev in plan.dev.items()
        if dev_id not in rows
    ]
    add = begin(progress, "base", len(plan.dev), len(rows))
    for measured in measure(todo):
        rows[measured.dev_id] = BaseRow(measured.losses, run)
        write_base(path, {dev_id: rows[dev_id] for dev_id in plan.dev if dev_id in rows})
        add(1)
