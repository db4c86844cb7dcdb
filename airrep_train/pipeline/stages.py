"""The stages of a pipeline: what each reads, what its result depends on, and how it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from airrep_infer.errors import about
from airrep_infer.files import sha256_file
from airrep_infer.progress import Progress
from airrep_infer.rows import AS_WRITTEN, Example, read_examples
from airrep_train.evaluate import Truth, calibration_of, selection_of
from airrep_train.fit import LABEL_OPTIONS, Teacher, TeachOptions, fit, hash_labels, teach
from airrep_train.gradients import open_gradients, take_gradients
from airrep_train.label import (
    LabelledSplit,
    LabelSummary,
    SubsetPlan,
    check_labels,
    describe_near_copies,
    label,
    read_losses,
    read_subsets,
    sample_subsets,
    write_subsets,
)
from airrep_train.model import load_checkpoint
from airrep_train.pipeline.checks import (
    Base,
    check_drawing,
    check_lengths,
    check_models,
    check_plan,
    load_base,
)
from airrep_train.pipeline.evaluation import (
    baseline_identity,
    baselines_of,
    evaluated_splits,
    make_evaluation,
)
from airrep_train.pipeline.outputs import BUNDLE, CHECKPOINT, GRADIENTS, LOSSES, OUTPUTS, SUBSETS, TAUGHT
from airrep_train.pipeline.stage_folder import Stage, hash_source
from airrep_train.pipeline.toml_file import Pipeline
from airrep_train.pipeline.unused import check_keys_used, check_sections_used

Exporter = Callable[[Path, Path], Sequence[str]]
"""(checkpoint, folder) -> what there is to say of the bundle that it makes in the folder; given from above,
because the exporter depends on this package."""


class PipelineStages:
    """The stages of one pipeline.

    Args:
        pipeline: what to make.
        progress: told of the work of each stage.
        export: makes bundles.

    Attributes:
        folders: where the stages that are done have their outputs; the later ones read them there.
    """

    def __init__(self, pipeline: Pipeline, progress: Progress, export: Exporter | None) -> None:
        self.pipeline = pipeline
        self.folders: dict[str, Path] = {}
        self._progress = progress
        self._export = export

    def stage(self, name: str) -> Stage:
        """A stage whose inputs are there: those before it are in `folders`, or their outputs are given.

        Raises:
            InputError: one of its inputs is bad.
        """
        make = {
            "sample": self._sample_stage,
            "label": self._label_stage,
            "gradients": self._gradients_stage,
            "teach": self._teach_stage,
            "fit": self._fit_stage,
            "export": self._export_stage,
            "evaluate": self._evaluate_stage,
        }
        return make[name]()

    def check(self) -> None:
        """Refuse, before any stage begins, what one of them would not look at, or would refuse.

        Raises:
            InputError: with the file, the section and the key.
        """
        rows = len(self._examples)
        with about(self.pipeline.file):
            check_drawing(self.pipeline, rows)
            check_sections_used(self.pipeline)
            check_keys_used(self.pipeline, rows, self._base)
            check_models(self.pipeline)
            check_lengths(self.pipeline, self._examples, self._base)
        if self.pipeline.subsets:
            self._read_given()

    def _read_given(self) -> None:
        """Read subsets and labels before the work of stages that do not need them, which come first."""
        if self.pipeline.sample or self.pipeline.subsets:
            _ = self._subsets
        if self.pipeline.losses:
            _ = self._splits

    @cached_property
    def _base(self) -> Base:
        return load_base(self.pipeline)

    @cached_property
    def _examples(self) -> Sequence[Example]:
        return read_examples(self.pipeline.examples, reading=self.pipeline.reading)

    @cached_property
    def _examples_hash(self) -> str:
        reading = self.pipeline.reading
        content = sha256_file(self.pipeline.examples)
        return content if reading == AS_WRITTEN else f"{content} {reading.identity}"

    @property
    def _subsets_file(self) -> Path:
        return self.pipeline.subsets or self.folders["sample"] / SUBSETS

    @cached_property
    def _subsets(self) -> SubsetPlan:
        plan = read_subsets(self._subsets_file, len(self._examples))
        with about(self.pipeline.file):
            check_plan(self.pipeline, plan, self._examples, self._base)
        return plan

    @property
    def near_copies(self) -> str:
        """How many rows were kept out of the pools, in a sentence; empty where there were none."""
        return describe_near_copies(self._subsets) if "sample" in self.folders else ""

    @property
    def _losses_files(self) -> tuple[Path, ...]:
        return self.pipeline.losses or (self.folders["label"] / LOSSES,)

    @cached_property
    def _label_notes(self) -> list[str]:
        return check_labels(self._examples, self._subsets, self._losses_files)

    @cached_property
    def _splits(self) -> list[LabelledSplit]:
        _ = self._label_notes  # refuses labels of something else
        return read_losses(self._subsets, *self._losses_files)

    def _sample_stage(self) -> Stage:
        options = self.pipeline.sample
        assert options is not None

        def make(folder: Path) -> list[str]:
            plan = sample_subsets(len(self._examples), options, self._examples)
            write_subsets(folder / SUBSETS, plan)
            return [f"{len(plan.subsets)} subsets in {len(plan.dev)} splits"]

        identity = {**options.identity(len(self._examples)), "examples": self._examples_hash}
        return Stage("sample", identity, OUTPUTS["sample"], make)

    def _label_stage(self) -> Stage:
        run, options = self.pipeline.label, self.pipeline.fine_tune
        assert run is not None and options is not None
        identity = {
            **asdict(options),
            "target": hash_source(run.target),
            "examples": self._examples_hash,
            "subsets": self._subsets.sha256(),
        }

        def make(folder: Path) -> list[str]:
            return [self.label(folder).described()]

        return Stage("label", identity, OUTPUTS["label"], make, {"repeat": run.repeat})

    def label(self, folder: Path, limit: int | None = None) -> LabelSummary:
        """Label all subsets, or resume that until `limit` more are made; see `label.label`."""
        options = self.pipeline.label
        assert options is not None
        return label(
            self._examples,
            self._subsets,
            folder / LOSSES,
            options,
            self.pipeline.fine_tune,
            limit=limit,
            progress=self._progress,
        )

    def _gradients_stage(self) -> Stage:
        source, options = self.pipeline.source, self.pipeline.gradients
        assert source is not None and options is not None
        self._read_given()
        identity = {
            **options.identity(),
            "target": hash_source(source.target),
            "examples": self._examples_hash,
        }

        def make(folder: Path) -> list[str]:
            summary = take_gradients(
                [self.pipeline.examples],
                source,
                folder / GRADIENTS,
                options,
                reading=self.pipeline.reading,
                progress=self._progress,
            )
            return [summary.described()]

        return Stage("gradients", identity, OUTPUTS["gradients"], make)

    @property
    def _gradients_folder(self) -> Path:
        return self.folders["gradients"] / GRADIENTS

    def _teach_stage(self) -> Stage:
        options, training, base = self.pipeline.teach, self.pipeline.fit, self.pipeline.base
        assert options is not None
        has_subsets = self.pipeline.sample or self.pipeline.subsets
        held = (*training.validation, *training.test)
        # Dev rows of splits that validate or test are not taught: their gradients would flatter both.
        left_out = self._subsets.dev_lines(held) if has_subsets else set()
        identity = {
            **asdict(options),
            **{name: value for name, value in training.identity().items() if name not in LABEL_OPTIONS},
            "max_tokens": base.max_tokens,
            "base": hash_source(base.base),
            "examples": self._examples_hash,
            "gradients": open_gradients(self._gradients_folder).fingerprint,
            "left out": sorted(left_out),
        }

        def make(folder: Path) -> list[str]:
            result = teach(
                self._examples,
                Teacher.open(self._gradients_folder, self._examples, options.word_share),
                load_checkpoint(base.base, max_tokens=base.max_tokens),
                folder / TAUGHT,
                options,
                training,
                leave_out=left_out,
                progress=self._progress,
            )
            return [result.described()]

        return Stage("teach", identity, OUTPUTS["teach"], make)

    def _fit_stage(self) -> Stage:
        base, options = self.pipeline.base, self.pipeline.fit
        word_share = (self.pipeline.teach or TeachOptions()).word_share
        start = str(self.folders["teach"] / TAUGHT) if self.pipeline.teach else base.base
        identity = {
            **options.identity(),
            "max_tokens": base.max_tokens,
            "base": hash_source(start),
            "examples": self._examples_hash,
            "labels": hash_labels(self._splits),
        }
        if options.teacher_weight:
            identity["gradients"] = open_gradients(self._gradients_folder).fingerprint
            identity["word share"] = word_share

        def make(folder: Path) -> list[str]:
            teacher = None
            if options.teacher_weight:
                teacher = Teacher.open(self._gradients_folder, self._examples, word_share)
            result = fit(
                self._examples,
                self._splits,
                load_checkpoint(start, max_tokens=base.max_tokens),
                folder / CHECKPOINT,
                options,
                teacher=teacher,
                progress=self._progress,
            )
            return [result.described()]

        return Stage("fit", identity, OUTPUTS["fit"], make, notes=self._label_notes)

    @property
    def _checkpoint(self) -> Path:
        """The encoder that is exported and evaluated."""
        return self.folders["fit"] / CHECKPOINT if self.pipeline.labelled else self.folders["teach"] / TAUGHT

    def _export_stage(self) -> Stage:
        checkpoint, export = self._checkpoint, self._export
        assert export is not None  # `PipelineRun` checked

        def make(folder: Path) -> Sequence[str]:
            return export(checkpoint, folder / BUNDLE)

        identity: dict[str, Any] = {"checkpoint": hash_source(checkpoint)}
        calibration, chosen_on = calibration_of(checkpoint), selection_of(checkpoint)
        if calibration or chosen_on:  # the manifest tells both, and the same weights may come of other splits
            identity["training"] = {
                "calibration": asdict(calibration) if calibration else None,
                "chosen on": chosen_on,
            }
        return Stage("export", identity, OUTPUTS["export"], make)

    def _evaluate_stage(self) -> Stage:
        section = self.pipeline.evaluate
        assert section is not None
        export = self.pipeline.export
        model = self.folders["export"] / BUNDLE if export else self._checkpoint
        labelled = {split.dev_id: len(split.subsets) for split in self._splits}
        splits = evaluated_splits(self.pipeline, labelled)
        baselines = baselines_of(section, self.pipeline.base.base)
        gradients = self._gradients_folder if self.pipeline.gradients else None
        identity = {
            "pooling": section.pooling,
            "seed": section.seed,
            "splits": splits,
            "baselines": [baseline_identity(text, gradients) for text in baselines],
            "model": hash_source(model),
            "examples": self._examples_hash,
            "subsets": self._subsets.sha256(),
            "losses": [hash_source(file) for file in self._losses_files],
        }

        def make(folder: Path) -> list[str]:
            chosen = [split for split in self._splits if split.dev_id in splits]
            truth = Truth(self._examples, chosen)
            return make_evaluation(folder, model, truth, section, baselines, gradients, self._progress)

        return Stage("evaluate", identity, OUTPUTS["evaluate"], make)
