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

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_toml
from airrep_train.evaluate.scorers import LEXICAL, Pooling, parse_spec
from airrep_train.fit.options import FitOptions
from airrep_train.label.run import Engine
from airrep_train.label.subsets import SampleOptions
from airrep_train.target import FineTuneOptions


@dataclass(frozen=True)
class LabelRun:
    """[label]: `target`, and how and where the run goes; see `labels.label`."""

    target: str
    repeat: int = 0
    engine: Engine = "local"
    workers: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        _check_least(self, repeat=0, workers=1)


@dataclass(frozen=True)
class FitRun:
    """[fit]: the encoder to start from, cut to `max_tokens`; see `trainer.fit`."""

    base: str
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        _check_least(self, max_tokens=1)


@dataclass(frozen=True)
class EvaluationRun:
    """[evaluate]: see `evaluate.evaluate`.

    Attributes:
        baselines: default: tfidf, bm25 and the untrained base.
        splits: default: the test splits of [fit], else those that validate.
    """

    baselines: tuple[str, ...] | None = None
    splits: tuple[int, ...] = ()
    pooling: Pooling = "attention"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_least(self, seed=0)
        for name in self.baselines or ():
            if (self.baselines or ()).count(name) > 1:
                raise InputError(f"baselines: {name!r} is given twice")


@dataclass(frozen=True)
class ExportRun:
    """[export]: has no settings yet."""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline as its file describes it; `sample` or `subsets`, `label` or `losses` is there.

    Targets, bases and baselines are paths where they exist beside the file, else hub ids.
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
    export: ExportRun | None = None
    evaluate: EvaluationRun | None = None

    def __post_init__(self) -> None:
        if (self.sample is None) == (self.subsets is None):
            raise InputError("give either the section [sample] or subsets = FILE")
        if (self.label is None) == (not self.losses):
            raise InputError("give either the section [label] or losses = [FILE, ...]")


def read_pipeline(path: Path) -> Pipeline:
    """Read and check a pipeline file.

    Raises:
        InputError: not TOML, an unknown or missing key, a value of the wrong type or out of range, a
            model that is not there; the message names the file, the section and the key.
    """
    document = read_toml(path)
    try:
        # Absolute: records and results must not depend on where the command was started.
        return _read(document, path.absolute().parent)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


_SECTIONS: dict[str, tuple[type[Any], ...]] = {
    "sample": (SampleOptions,),
    "label": (LabelRun, FineTuneOptions),
    "fit": (FitRun, FitOptions),
    "export": (ExportRun,),
    "evaluate": (EvaluationRun,),
}


@dataclass(frozen=True)
class _Top:
    examples: str
    output: str
    subsets: str | None = None
    losses: tuple[str, ...] = ()


def _read(document: dict[str, Any], folder: Path) -> Pipeline:
    for key, value in document.items():
        if isinstance(value, dict) and key not in _SECTIONS:
            raise InputError(f"unknown section [{key}]; known: {', '.join(_SECTIONS)}")
        if key in _SECTIONS and not isinstance(value, dict):
            raise InputError(f"{key} is a section, [{key}], not a value")
    (top,) = _take({key: value for key, value in document.items() if key not in _SECTIONS}, "", (_Top,))
    found = {name: _take(document[name], name, _SECTIONS[name]) for name in _SECTIONS if name in document}
    if "fit" not in found:
        raise InputError("the section [fit] is missing")
    fit, fit_options = found["fit"]
    label, label_options = found.get("label", (None, None))
    (evaluate,) = found.get("evaluate", (None,))
    if label:
        label = replace(label, target=_source(label.target, folder, "[label] target"))
    if evaluate and evaluate.baselines is not None:
        evaluate = replace(evaluate, baselines=tuple(_baseline(name, folder) for name in evaluate.baselines))
    return Pipeline(
        examples=folder / top.examples,
        output=folder / top.output,
        fit=replace(fit, base=_source(fit.base, folder, "[fit] base")),
        fit_options=fit_options,
        sample=found.get("sample", (None,))[0],
        subsets=folder / top.subsets if top.subsets else None,
        label=label,
        label_options=label_options,
        losses=tuple(folder / name for name in top.losses),
        export=found.get("export", (None,))[0],
        evaluate=evaluate,
    )


def _source(name: str, folder: Path, place: str) -> str:
    """A model's path where it exists beside the file, else the name as a hub id."""
    path = folder / name
    if path.exists():
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(".gguf"):
        raise InputError(f"{place}: {path} does not exist")
    return name


def _baseline(text: str, folder: Path) -> str:
    """A baseline's spec with its encoder looked up as `_source` does."""
    place = "[evaluate] baselines"
    if (folder / text).exists() and text not in LEXICAL:
        return str(folder / text)
    try:
        name = parse_spec(text).name
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return text if name in LEXICAL else _source(name, folder, place) + text[len(name) :]


def _take(table: Mapping[str, Any], section: str, classes: tuple[type[Any], ...]) -> list[Any]:
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


def _check_least(section: Any, **least: int) -> None:
    for name, bound in least.items():
        value = getattr(section, name)
        if value is not None and value < bound:
            raise InputError(f"{name} must be at least {bound}, got {value}")
