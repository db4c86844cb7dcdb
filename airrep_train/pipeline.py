"""`airrep-train run`: sample, label, fit, export, evaluate, each only if it is not done already.

A stage is done when its folder says so for the same settings and the same content of its inputs
(`stages`). Settings that do not decide the result (engine, workers, device, token budget, trackers)
and `repeat`, which only adds measurements, are not part of that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from airrep_infer.errors import InputError, storage_errors
from airrep_infer.examples import Example, read_examples
from airrep_infer.files import atomic_write, sha256_file, write_json
from airrep_train.labels import LabelSummary, label
from airrep_train.losses import LabelledSplit, read_losses
from airrep_train.pipeline_file import Pipeline
from airrep_train.stages import Stage, hash_source
from airrep_train.steps import choose_splits, hash_labels
from airrep_train.subsets import SampleOptions, SubsetPlan, read_subsets, sample_subsets, write_subsets

State = Literal["given", "done", "made", "to do", "waits"]
SUBSETS, LOSSES, CHECKPOINT, BUNDLE = "subsets.jsonl", "losses.jsonl", "checkpoint", "bundle"
EVALUATION, TABLE = "evaluation.json", "evaluation.txt"


class Watcher(Protocol):
    """Is told what happens."""

    def stage(self, name: str, state: State, place: Path | None) -> None:
        """A stage was found done, was made, or (dry run) is to do; `place` is its folder or file."""

    def progress(self, name: str, done: int, total: int | None) -> None:
        """Work of a stage that takes long: subsets labelled, steps trained, rows embedded."""


@dataclass(frozen=True)
class Estimate:
    """What a dry run says about the label run.

    Attributes:
        measured, total: labels there, and all of them.
        seconds: of one label, measured just now; None when the run is complete.
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

    Raises:
        InputError: it was started under `accelerate launch`.
    """

    def __init__(self, pipeline: Pipeline, watcher: Watcher) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError(
                "a pipeline runs in one process; for several GPUs run its stages: airrep-train label "
                "--shard, then accelerate launch ... airrep-train fit"
            )
        self.pipeline = pipeline
        self.watcher = watcher

    def run(self) -> None:
        """Make everything that is not done."""
        for name in self._names:
            stage = self._stage(name)
            state: State = "done" if stage.is_done(self.pipeline.output) else "made"
            if state == "made":
                stage.run(self.pipeline.output)
            stage.link(self.pipeline.output)
            self.watcher.stage(name, state, stage.folder(self.pipeline.output))

    def plan(self) -> Estimate | None:
        """Say what `run` would do; to know the time of a label, draw the subsets and measure one.

        What it makes is kept: `run` goes on from there.

        Returns:
            the estimate; None for labels that are given or done.
        """
        output = self.pipeline.output
        estimate, waiting = None, False
        for name in self._names:
            if waiting:
                self.watcher.stage(name, "waits", None)
                continue
            stage = self._stage(name)
            done = stage.is_done(output)
            if name == "sample" and not done:
                stage.run(output)
                stage.link(output)
                self.watcher.stage(name, "made", stage.folder(output))
                continue
            self.watcher.stage(name, "done" if done else "to do", stage.folder(output))
            if name == "label" and not done:
                with storage_errors(stage.folder(output)):
                    stage.folder(output).mkdir(parents=True, exist_ok=True)
                summary = self._label(stage.folder(output), limit=1)
                seconds = summary.seconds if summary.labelled else None
                estimate = Estimate(summary.resumed + summary.labelled, summary.tasks, seconds)
            waiting = not done
        return estimate

    @property
    def table(self) -> str | None:
        """The evaluation as text, once it is made."""
        file = self.pipeline.output / TABLE
        return file.read_text(encoding="utf-8") if self.pipeline.evaluate and file.is_file() else None

    @property
    def _names(self) -> list[str]:
        names = ("sample", "label", "fit", "export", "evaluate")
        return [name for name in names if getattr(self.pipeline, name) is not None]

    def _stage(self, name: str) -> Stage:
        """A stage whose inputs are there; what comes before it is done."""
        make = {
            "sample": self._sample_stage,
            "label": self._label_stage,
            "fit": self._fit_stage,
            "export": self._export_stage,
            "evaluate": self._evaluate_stage,
        }
        return make[name]()

    @cached_property
    def _examples(self) -> Sequence[Example]:
        return read_examples(self.pipeline.examples)

    @cached_property
    def _examples_hash(self) -> str:
        return sha256_file(self.pipeline.examples)

    @property
    def _subsets_file(self) -> Path:
        return self.pipeline.subsets or self.pipeline.output / SUBSETS

    @cached_property
    def _subsets(self) -> SubsetPlan:
        return read_subsets(self._subsets_file, len(self._examples))

    @property
    def _losses_files(self) -> tuple[Path, ...]:
        return self.pipeline.losses or (self.pipeline.output / LOSSES,)

    @cached_property
    def _splits(self) -> list[LabelledSplit]:
        return read_losses(self._subsets, *self._losses_files)

    def _sample_stage(self) -> Stage:
        options = self.pipeline.sample or SampleOptions()
        count = len(self._examples)

        def make(folder: Path) -> None:
            write_subsets(folder / SUBSETS, sample_subsets(count, options))

        # Line numbers are all that it draws.
        return Stage("sample", {**asdict(options), "examples": count}, (SUBSETS,), make)

    def _label_stage(self) -> Stage:
        run, options = self.pipeline.label, self.pipeline.label_options
        assert run is not None and options is not None
        identity = {
            **asdict(options),
            "target": hash_source(run.target),
            "examples": self._examples_hash,
            "subsets": self._subsets.sha256(),
        }
        return Stage("label", identity, (LOSSES,), self._label, {"repeat": run.repeat})

    def _label(self, folder: Path, limit: int | None = None) -> LabelSummary:
        run = self.pipeline.label
        assert run is not None
        return label(
            self._examples,
            self._subsets,
            run.target,
            folder / LOSSES,
            self.pipeline.label_options,
            repeat=run.repeat,
            limit=limit,
            engine=run.engine,
            workers=run.workers,
            device=run.device,
            on_progress=lambda done, total: self.watcher.progress("label", done, total),
        )

    def _fit_stage(self) -> Stage:
        run, options = self.pipeline.fit, self.pipeline.fit_options
        identity = {
            **options.identity(),
            "max_tokens": run.max_tokens,
            "base": hash_source(run.base),
            "examples": self._examples_hash,
            "labels": hash_labels(self._splits),
        }

        def make(folder: Path) -> None:
            from airrep_train.model import load_checkpoint
            from airrep_train.trainer import fit

            base = load_checkpoint(run.base, max_tokens=run.max_tokens)
            fit(
                self._examples,
                self._splits,
                base,
                folder / CHECKPOINT,
                options,
                on_progress=lambda done, total: self.watcher.progress("fit", done, total),
            )

        return Stage("fit", identity, (CHECKPOINT,), make)

    def _export_stage(self) -> Stage:
        # Resolved: the link will point elsewhere after another fit.
        checkpoint = (self.pipeline.output / CHECKPOINT).resolve()

        def make(folder: Path) -> None:
            try:
                # The one place where training needs the exporter, which depends on airrep_train.model.
                from airrep_export.bundle import export_bundle
            except ImportError as error:
                raise InputError(
                    f"[export] needs {error.name}: pip install 'airrep[cpu,export]', or leave the section out"
                ) from error

            export_bundle(checkpoint, folder / BUNDLE, overwrite=True)

        return Stage("export", {"checkpoint": hash_source(checkpoint)}, (BUNDLE,), make)

    def _evaluate_stage(self) -> Stage:
        section = self.pipeline.evaluate
        assert section is not None
        model = (self.pipeline.output / (BUNDLE if self.pipeline.export else CHECKPOINT)).resolve()
        options = self.pipeline.fit_options
        validation = choose_splits(self._splits, options.validation, options.test)[1]
        splits = section.splits or options.test or tuple(split.dev_id for split in validation)
        baselines = section.baselines or ("tfidf", "bm25", self.pipeline.fit.base)
        identity = {
            **asdict(section),
            "splits": splits,
            "baselines": {name: hash_source(name) for name in baselines},
            "model": hash_source(model),
            "examples": self._examples_hash,
            "subsets": self._subsets.sha256(),
            "losses": [hash_source(file) for file in self._losses_files],
        }

        def make(folder: Path) -> None:
            from airrep_train.evaluate import evaluate
            from airrep_train.truth import truth_from_labels

            truth = truth_from_labels(self.pipeline.examples, self._subsets_file, self._losses_files, splits)
            seen = 0

            def count(rows: int) -> None:
                nonlocal seen
                seen += rows
                self.watcher.progress("evaluate", seen, None)

            found = evaluate(
                model,
                truth,
                pooling=section.pooling,
                baselines=baselines,
                seed=section.seed,
                progress=count,
            )
            write_json(folder / EVALUATION, found.to_json())
            with atomic_write(folder / TABLE) as stream:
                stream.write(f"{found.table()}\n".encode())

        return Stage("evaluate", identity, (EVALUATION, TABLE), make)


def describe(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 3.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
