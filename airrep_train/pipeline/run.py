"""`airrep-train run`: sample, label, gradients, teach, fit, export, evaluate, each only if it is to do.

A stage is done when its folder says so for the same settings and the same content of its inputs
(`stages`). Settings that do not decide the result (engine, workers, device, token budget, trackers)
are not part of that; a larger `repeat` adds measurements to the label run that is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from airrep_infer.errors import InputError, about
from airrep_train.pipeline.outputs import OUTPUTS, TABLE
from airrep_train.pipeline.places import check_places
from airrep_train.pipeline.stage_folder import Stage, check_link, clear_link, locked, set_link
from airrep_train.pipeline.stages import Exporter, PipelineStages
from airrep_train.pipeline.toml_file import Pipeline

State = Literal["done", "making", "made", "to do", "waits"]


class Watcher(Protocol):
    """Is told what happens."""

    def stage(self, name: str, state: State, folder: Path | None) -> None:
        """A stage was found done, begins, was made, or (dry run) is to do or waits for those before it."""

    def note(self, stage: str, line: str) -> None:
        """What there is to say of a stage, a line each: after its state, whatever its command says."""

    def progress(self, stage: str, done: int, total: int | None, /) -> None:
        """Work of a stage that takes long: subsets labelled, steps trained, rows embedded."""


@dataclass(frozen=True)
class Estimate:
    """What a dry run says about the label run.

    Attributes:
        measured, total: labels there, and all of them.
        seconds: of one label, measured just now; None when all are there.
    """

    measured: int
    total: int
    seconds: float | None

    @property
    def remaining(self) -> float:
        """Seconds that the rest will take at this pace, one after the other."""
        return (self.total - self.measured) * (self.seconds or 0.0)


class PipelineRun:
    """A pipeline on this machine.

    Args:
        pipeline: what to make.
        watcher: is told about stages and progress.
        export: makes bundles, for a pipeline with [export].

    Raises:
        InputError: it was started under `accelerate launch`, or an exporter is missing.
    """

    def __init__(self, pipeline: Pipeline, watcher: Watcher, export: Exporter | None = None) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError(
                "a pipeline runs in one process; for several GPUs run its stages: airrep-train label "
                "--shard, then accelerate launch ... airrep-train fit"
            )
        if pipeline.export and export is None:  # found out now, not after days of labelling
            raise InputError("[export] needs an exporter; give one, or drop the section")
        self.pipeline = pipeline
        self.watcher = watcher
        self._stages = PipelineStages(pipeline, watcher.progress, export)
        self._names = [name for name in OUTPUTS if pipeline.makes(name)]

    def run(self) -> None:
        """Make everything that is not done.

        Raises:
            InputError: bad input, an output that was changed, or another run in the same folder.
        """
        output = self.pipeline.output
        with self._checked():
            self._check_links()
            cleared = self._clear_links([name for name in OUTPUTS if name not in self._names])
            for place, name in enumerate(self._names):
                stage = self._stages.stage(name)
                folder = stage.folder(output)
                done, lines = stage.is_done(output), list(stage.notes)
                if not done:
                    cleared += self._clear_links(self._names[place:])
                    self.watcher.stage(name, "making", folder)
                    self._note_cleared(name, cleared)
                    lines += stage.run(output)
                for file in stage.outputs:
                    if (folder / file).exists():  # earlier versions measured no base losses
                        set_link(output / file, folder)
                self._stages.folders[name] = folder
                self.watcher.stage(name, "done" if done else "made", folder)
                self._note_cleared(name, cleared)
                self._note(name, lines)

    def plan(self) -> Estimate | None:
        """Say what `run` would do; to know the time of a label, draw the subsets and measure one.

        What it makes is kept: `run` resumes from there.

        Returns:
            the estimate; None for labels that are given or done.
        """
        output = self.pipeline.output
        estimate, waiting = None, False
        with self._checked():
            for name in self._names:
                if waiting:
                    self.watcher.stage(name, "waits", None)
                    continue
                stage = self._stages.stage(name)
                state: State = "done" if stage.is_done(output) else "to do"
                lines = list(stage.notes)
                if state == "to do" and name == "sample":
                    lines += stage.run(output)
                    state = "made"
                self._stages.folders[name] = stage.folder(output)
                self.watcher.stage(name, state, stage.folder(output))
                self._note(name, lines)
                if state == "to do" and name == "label":
                    estimate = self._measure(stage)
                waiting = state == "to do"
        return estimate

    @property
    def near_copies(self) -> str:
        """How many rows were kept out of the pools, in a sentence; empty where there were none."""
        return self._stages.near_copies

    @property
    def table(self) -> str | None:
        """The evaluation as text, where it is made."""
        folder = self._stages.folders.get("evaluate")
        if folder is None or not (folder / TABLE).is_file():
            return None
        return (folder / TABLE).read_text(encoding="utf-8").rstrip()

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Hold the output folder, after all was checked that can be before any stage begins."""
        with about(self.pipeline.file):
            check_places(self.pipeline)  # the lock makes a folder, which must not be in an input
        with locked(self.pipeline.output):
            self._stages.check()
            yield

    def _note(self, stage: str, lines: Iterable[str]) -> None:
        for line in lines:
            self.watcher.note(stage, line)

    def _note_cleared(self, stage: str, cleared: list[Path]) -> None:
        """Say once where results are whose links are gone; the list is empty then."""
        if cleared:
            folders = ", ".join(map(str, cleared))
            self.watcher.note(stage, f"links to earlier results are removed; the results are kept: {folders}")
            cleared.clear()

    def _check_links(self) -> None:
        for stage in self._names:
            for file in OUTPUTS[stage]:
                check_link(self.pipeline.output / file, stage)

    def _clear_links(self, stages: Sequence[str]) -> list[Path]:
        """Remove the links to outputs of earlier settings, which would stand beside those of the present.

        Returns:
            where they led, in the pipeline's output.
        """
        output = self.pipeline.output
        found = [clear_link(output / file, stage) for stage in stages for file in OUTPUTS[stage]]
        return [led_to for led_to in found if led_to is not None]

    def _measure(self, stage: Stage) -> Estimate:
        """Make one more label, to know how long it takes."""
        summary = self._stages.label(stage.prepare(self.pipeline.output), limit=1)
        if summary.cut.rows:
            self.watcher.note("label", str(summary.cut))
        seconds = summary.seconds if summary.labelled else None
        return Estimate(summary.resumed + summary.labelled, summary.tasks, seconds)
