"""The evaluation of a pipeline: which splits and baselines by default, and its two files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from airrep_infer.files import atomic_write, write_json
from airrep_infer.progress import Progress
from airrep_train.evaluate import (
    BY_GRADIENTS,
    LEXICAL,
    OF_TEXTS,
    EvaluateOptions,
    Truth,
    evaluate,
    parse_spec,
)
from airrep_train.fit import choose_roles
from airrep_train.gradients import open_gradients
from airrep_train.pipeline.outputs import EVALUATION, TABLE
from airrep_train.pipeline.stage_folder import hash_source
from airrep_train.pipeline.toml_file import Pipeline


def baselines_of(section: EvaluateOptions, base: str) -> tuple[str, ...]:
    """Those that a section names, else the lexical ones and the base."""
    return (*OF_TEXTS, base) if section.baselines is None else section.baselines


def evaluated_splits(pipeline: Pipeline, subsets: Mapping[int, int]) -> tuple[int, ...]:
    """Those that a file names, else those for testing, else those that validate.

    Args:
        subsets: dev_id -> how many of its subsets are labelled, or will be.
    """
    assert pipeline.evaluate is not None
    training = pipeline.fit
    roles = choose_roles(subsets, training.validation, training.test)
    return tuple(pipeline.evaluate.splits or training.test or roles.validation)


def baseline_identity(text: str, gradients: Path | None) -> list[str]:
    """Which baseline it is: the content of its encoder or gradients, similarity and pooling."""
    spec = parse_spec(text)
    if spec.name in BY_GRADIENTS:
        assert gradients is not None  # the file was checked
        source = f"{spec.name} {open_gradients(gradients).fingerprint}"
    else:
        source = spec.name if spec.name in LEXICAL else hash_source(spec.name)
    return [source, spec.similarity, spec.pooling]


def make_evaluation(
    folder: Path,
    model: Path,
    truth: Truth,
    section: EvaluateOptions,
    baselines: Sequence[str],
    gradients: Path | None,
    progress: Progress,
) -> list[str]:
    """Evaluate a model, and write `evaluation.json` and `evaluation.txt` into a folder.

    Returns:
        What token limits cut, in lines; the rest is in the table.
    """
    by_gradients = any(parse_spec(text).name in BY_GRADIENTS for text in baselines)
    evaluation = evaluate(
        model,
        truth,
        pooling=section.pooling,
        on_truncate=section.on_truncate,
        baselines=baselines,
        gradients=[gradients] if by_gradients and gradients else [],
        seed=section.seed,
        progress=progress,
    )
    # A stage that is made again gives the same files, so no time is among its results.
    evaluation = replace(evaluation, ms_a_row={})
    write_json(folder / EVALUATION, evaluation.to_json())
    with atomic_write(folder / TABLE) as stream:
        stream.write(f"{evaluation.table()}\n".encode())
    return evaluation.cut_lines()
