"""The five stages of a pipeline: what each reads, what its result depends on, and how it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write, sha256_file, write_json
from airrep_infer.rows.examples import Example, read_examples
from airrep_train.evaluate.evaluation import evaluate
from airrep_train.evaluate.scorers import LEXICAL, parse_spec
from airrep_train.evaluate.truth import Truth
from airrep_train.fit.batches import choose_splits, hash_labels
from airrep_train.fit.trainer import fit
from airrep_train.label.loss_files import LabelledSplit, read_losses
from airrep_train.label.run import LabelSummary
from airrep_train.label.run import label as run_label
from airrep_train.label.subsets import SampleOptions, SubsetPlan, read_subsets, sample_subsets, write_subsets
from airrep_train.model import load_checkpoint
from airrep_train.pipeline.file import Pipeline
from airrep_train.pipeline.stage import Stage, hash_source

SUBSETS, LOSSES, CHECKPOINT, BUNDLE = "subsets.jsonl", "losses.jsonl", "checkpoint", "bundle"
EVALUATION, TABLE = "evaluation.json", "evaluation.txt"
OUTPUTS = {
    "sample": (SUBSETS,),
    "label": (LOSSES,),
    "fit": (CHECKPOINT,),
    "export": (BUNDLE,),
    "evaluate": (EVALUATION, TABLE),
}
"""The stages in their order, and the names of what each makes."""

Progress = Callable[[str, int, int | None], None]


class PipelineStages:
    """The stages of one pipeline.

    Args:
        pipeline: what to make.
        progress: called with the stage's name, what is done of its work, and all of it (None: unknown).

    Attributes:
        folders: where the stages that are done have their outputs; the later ones read them there.
    """

    def __init__(self, pipeline: Pipeline, progress: Progress) -> None:
        self.pipeline = pipeline
        self.folders: dict[str, Path] = {}
        self._progress = progress

    def stage(self, name: str) -> Stage:
        """A stage whose inputs are there: those before it are in `folders`, or their outputs are given.

        Raises:
            InputError: one of its inputs is bad.
        """
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
        return self.pipeline.subsets or self.folders["sample"] / SUBSETS

    @cached_property
    def _subsets(self) -> SubsetPlan:
        plan = read_subsets(self._subsets_file, len(self._examples))
        self._check_splits(plan)
        return plan

    def _check_splits(self, plan: SubsetPlan) -> None:
        """Refuse before the label run what `fit` and `evaluate` would refuse after it."""
        options, section = self.pipeline.fit_options, self.pipeline.evaluate
        no_losses = np.zeros((0, 0), np.float32)
        splits = [
            LabelledSplit(dev_id, dev, plan.split(dev_id), no_losses, np.zeros(0, np.int64), no_losses)
            for dev_id, dev in plan.dev.items()
        ]
        choose_splits(splits, options.validation, options.test)
        for dev_id in section.splits if section else ():
            if dev_id not in plan.dev:
                raise InputError(f"[evaluate] splits: no split {dev_id}; there are {list(plan.dev)}")

    @property
    def _losses_files(self) -> tuple[Path, ...]:
        return self.pipeline.losses or (self.folders["label"] / LOSSES,)

    @cached_property
    def _splits(self) -> list[LabelledSplit]:
        return read_losses(self._subsets, *self._losses_files)

    def _sample_stage(self) -> Stage:
        options = self.pipeline.sample or SampleOptions()
        count = len(self._examples)

        def make(folder: Path) -> None:
            write_subsets(folder / SUBSETS, sample_subsets(count, options))

        # Line numbers are all that it draws.
        return Stage("sample", {**asdict(options), "examples": count}, OUTPUTS["sample"], make)

    def _label_stage(self) -> Stage:
        run, options = self.pipeline.label, self.pipeline.label_options
        assert run is not None and options is not None
        identity = {
            **asdict(options),
            "target": hash_source(run.target),
            "examples": self._examples_hash,
            "subsets": self._subsets.sha256(),
        }
        return Stage("label", identity, OUTPUTS["label"], self.label, {"repeat": run.repeat})

    def label(self, folder: Path, limit: int | None = None) -> LabelSummary:
        """Label all subsets, or go on with that until `limit` more are made; see `labels.label`."""
        run = self.pipeline.label
        assert run is not None
        return run_label(
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
            on_progress=lambda done, total: self._progress("label", done, total),
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
            base = load_checkpoint(run.base, max_tokens=run.max_tokens)
            fit(
                self._examples,
                self._splits,
                base,
                folder / CHECKPOINT,
                options,
                on_progress=lambda done, total: self._progress("fit", done, total),
            )

        return Stage("fit", identity, OUTPUTS["fit"], make)

    def _export_stage(self) -> Stage:
        checkpoint = self.folders["fit"] / CHECKPOINT

        def make(folder: Path) -> None:
            load_exporter()(checkpoint, folder / BUNDLE, overwrite=True)

        return Stage("export", {"checkpoint": hash_source(checkpoint)}, OUTPUTS["export"], make)

    def _evaluate_stage(self) -> Stage:
        section = self.pipeline.evaluate
        assert section is not None
        export = self.pipeline.export
        model = self.folders["export"] / BUNDLE if export else self.folders["fit"] / CHECKPOINT
        options = self.pipeline.fit_options
        validation = choose_splits(self._splits, options.validation, options.test)[1]
        splits = section.splits or options.test or tuple(split.dev_id for split in validation)
        baselines = section.baselines
        if baselines is None:
            baselines = ("tfidf", "bm25", self.pipeline.fit.base)
        identity = {
            "pooling": section.pooling,
            "seed": section.seed,
            "splits": splits,
            "baselines": [_baseline_identity(text) for text in baselines],
            "model": hash_source(model),
            "examples": self._examples_hash,
            "subsets": self._subsets.sha256(),
            "losses": [hash_source(file) for file in self._losses_files],
        }

        def make(folder: Path) -> None:
            chosen = [split for split in self._splits if split.dev_id in splits]
            embedded = 0

            def count(rows: int) -> None:
                nonlocal embedded
                embedded += rows
                self._progress("evaluate", embedded, None)

            found = evaluate(
                model,
                Truth(self._examples, chosen),
                pooling=section.pooling,
                baselines=baselines,
                seed=section.seed,
                progress=count,
            )
            write_json(folder / EVALUATION, found.to_json())
            with atomic_write(folder / TABLE) as stream:
                stream.write(f"{found.table()}\n".encode())

        return Stage("evaluate", identity, OUTPUTS["evaluate"], make)


def load_exporter() -> Callable[..., Any]:
    """`export_bundle`, whose package needs more than training does.

    Raises:
        InputError: it is not installed in full.
    """
    try:
        # The one place where training needs the exporter, which itself depends on airrep_train.model.
        from airrep_export.bundle import export_bundle
    except ImportError as error:
        raise InputError(
            f"[export] needs {error.name or error}: pip install 'airrep[cpu,export]', or drop the section"
        ) from error
    return export_bundle  # type: ignore[no-any-return]


def _baseline_identity(text: str) -> list[str]:
    """Which baseline it is: the content of its encoder, similarity and pooling."""
    spec = parse_spec(text)
    source = spec.name if spec.name in LEXICAL else hash_source(spec.name)
    return [source, spec.similarity, spec.pooling]
