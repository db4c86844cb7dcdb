"""`pipeline.toml`: what `airrep-train run` makes, from examples to an evaluation.

    examples = "data.jsonl"      # paths are relative to this file
    output = "runs/first"

    [sample]                     # SampleOptions; or instead:  subsets = "subsets.jsonl"
    [label]                      # target, repeat, ... and FineTuneOptions; or:  losses = ["losses.jsonl"]
    [fit]                        # base, max_tokens and FitOptions
    [export]                     # may be left out
    [evaluate]                   # may be left out

Keys are the fields of the dataclasses below, with their defaults.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from airrep_infer.errors import InputError
from airrep_train.fit_options import FitOptions
from airrep_train.labels import Engine
from airrep_train.scorers import Pooling
from airrep_train.subsets import SampleOptions
from airrep_train.target import FineTuneOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_T = TypeVar("_T")


@dataclass(frozen=True)
class LabelRun:
    """[label]: `target`, and how and where the run goes; see `labels.label`."""

    target: str
    repeat: int = 0
    engine: Engine = "local"
    workers: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class FitRun:
    """[fit]: the encoder to start from, cut to `max_tokens`; see `trainer.fit`."""

    base: str
    max_tokens: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """[evaluate]: see `evaluate.evaluate`.

    Attributes:
        baselines: default: tfidf, bm25 and the untrained base.
        splits: default: the test splits of [fit], else those that validate.
    """

    baselines: tuple[str, ...] = ()
    splits: tuple[int, ...] = ()
    pooling: Pooling = "attention"
    seed: int = 0


@dataclass(frozen=True)
class Export:
    """[export]: has no settings yet."""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline as its file describes it; `sample` or `subsets`, `label` or `losses` is there.

    Names of targets, bases and baselines are paths where they exist beside the file, else hub ids.
    """

    examples: Path
    output: Path
    fit: FitRun
    fit_options: FitOptions
    sample: SampleOptions | None = None
    subsets: Path | None = None
    label: LabelRun | None = None
    label_options: FineTuneOptions | None = None
    losses: tuple[Path, ...] = ()
    export: Export | None = None
    evaluate: Evaluation | None = None

    def __post_init__(self) -> None:
        if (self.sample is None) == (self.subsets is None):
            raise InputError("give either [sample] or subsets = FILE")
        if (self.label is None) == (not self.losses):
            raise InputError("give either [label] or losses = [FILE, ...]")


def read_pipeline(path: Path) -> Pipeline:
    """Read and check a pipeline file.

    Raises:
        InputError: not TOML, an unknown or missing key, a value of the wrong type or out of range;
            the message names the file, the section and the key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error
    folder = path.parent
    sections = {name: document.pop(name) for name in _SECTIONS if name in document}
    for name, table in sections.items():
        if not isinstance(table, dict):
            raise InputError(f"{path}: {name} is a section, [{name}], not a value")
    try:
        top = _take(document, "", _Top)[0]
        if "fit" not in sections:
            raise InputError("the section [fit] is missing")
        fit, fit_options = _take(sections["fit"], "fit", FitRun, FitOptions)
        label, label_options = None, None
        if "label" in sections:
            label, label_options = _take(sections["label"], "label", LabelRun, FineTuneOptions)
            label = _with_path(label, "target", folder)
        evaluate = None
        if "evaluate" in sections:
            evaluate = _take(sections["evaluate"], "evaluate", Evaluation)[0]
            names = tuple(_beside(name, folder) for name in evaluate.baselines)
            evaluate = Evaluation(names, evaluate.splits, evaluate.pooling, evaluate.seed)
        return Pipeline(
            folder / top.examples,
            folder / top.output,
            _with_path(fit, "base", folder),
            fit_options,
            _take(sections["sample"], "sample", SampleOptions)[0] if "sample" in sections else None,
            folder / top.subsets if top.subsets else None,
            label,
            label_options,
            tuple(folder / name for name in top.losses),
            _take(sections["export"], "export", Export)[0] if "export" in sections else None,
            evaluate,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


_SECTIONS = ("sample", "label", "fit", "export", "evaluate")


@dataclass(frozen=True)
class _Top:
    examples: str
    output: str
    subsets: str | None = None
    losses: tuple[str, ...] = ()


def _beside(name: str, folder: Path) -> str:
    return str(folder / name) if (folder / name).exists() else name


def _with_path(section: Any, key: str, folder: Path) -> Any:
    values = {field.name: getattr(section, field.name) for field in fields(section)}
    return type(section)(**{**values, key: _beside(values[key], folder)})


def _take(table: Mapping[str, Any], section: str, *classes: type[Any]) -> list[Any]:
    """Instances of dataclasses whose fields together are the keys of one section."""
    place = f"[{section}] " if section else ""
    known = [field.name for cls in classes for field in fields(cls)]
    for key in table:
        if key not in known:
            raise InputError(f"{place}unknown key {key!r}; known: {', '.join(known) or 'none'}")
    made = []
    for cls in classes:
        hints = get_type_hints(cls)
        values = {}
        for field in fields(cls):
            if field.name in table:
                values[field.name] = _convert(table[field.name], hints[field.name], f"{place}{field.name}")
            elif field.default is MISSING and field.default_factory is MISSING:
                raise InputError(f"{place}{field.name} is missing")
        try:
            made.append(cls(**values))
        except InputError as error:
            raise InputError(f"{place}{error}") from error
    return made


def _convert(value: Any, wanted: Any, place: str) -> Any:
    """A TOML value as a field's type: arrays are tuples, whole numbers may stand for floats."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):  # TOML has no null: optional means that the key may be left out
        return _convert(value, next(a for a in arguments if a is not type(None)), place)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{place} must be one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise InputError(f"{place} must be an array, got {value!r}")
        return tuple(_convert(item, arguments[0], f"an item of {place}") for item in value)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:  # bool is an int to isinstance
        raise InputError(f"{place} must be {_NAMES[wanted]}, got {value!r}")
    return value


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
