"""`pipeline.toml`: what `airrep-train run` makes, from examples to an evaluation.

    examples = "data.jsonl"      # paths are relative to this file
    output = "runs/first"
    field = ["prompt=Q"]         # as --field; with response and last_turn, all may be left out

    [sample]                     # SampleOptions; or instead:  subsets = "subsets.jsonl"
    [label]                      # LabelOptions and FineTuneOptions; or instead:  losses = ["losses.jsonl"]
    [gradients]                  # TargetOptions and GradientOptions: teaches before labels, or without any
    [teach]                      # TeachOptions; may be left out
    [fit]                        # BaseOptions and FitOptions
    [export]                     # may be left out
    [evaluate]                   # EvaluateOptions; may be left out

Keys are the fields of those dataclasses, with their defaults: the options of the commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from airrep_infer.command import bare_type, choices_of
from airrep_infer.errors import InputError, about
from airrep_infer.json_reader import read_toml
from airrep_infer.rows import AS_WRITTEN, LastTurn, Preference, Reading
from airrep_train.evaluate import BY_GRADIENTS, LEXICAL, EvaluateOptions, parse_spec
from airrep_train.fit import BaseOptions, FitOptions, TeachOptions
from airrep_train.gradients import GradientOptions
from airrep_train.label import LabelOptions, SampleOptions
from airrep_train.target import FineTuneOptions, TargetOptions


@dataclass(frozen=True)
class ExportOptions:
    """[export]: has no settings yet."""


SECTIONS: dict[str, tuple[type[Any], ...]] = {
    "sample": (SampleOptions,),
    "label": (LabelOptions, FineTuneOptions),
    "gradients": (TargetOptions, GradientOptions),
    "teach": (TeachOptions,),
    "fit": (BaseOptions, FitOptions),
    "export": (ExportOptions,),
    "evaluate": (EvaluateOptions,),
}
"""The sections of the file, and the dataclasses whose fields are the keys of each."""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline as its file describes it: it learns from labels, from gradients, or from these first.

    `label` or `losses` gives labels, and then `sample` or `subsets` their subsets; `gradients` goes with
    `source` and `teach`.

    `reading` says how the examples are read where their own keys do not; `given` are the keys that stand in
    each section; `file` is where it was read.

    Targets, bases and baselines are paths where they exist beside the file, else hub ids.
    """

    examples: Path
    output: Path
    base: BaseOptions
    fit: FitOptions
    sample: SampleOptions | None = None
    subsets: Path | None = None
    label: LabelOptions | None = None
    fine_tune: FineTuneOptions | None = None
    losses: tuple[Path, ...] = ()
    source: TargetOptions | None = None
    gradients: GradientOptions | None = None
    teach: TeachOptions | None = None
    export: ExportOptions | None = None
    evaluate: EvaluateOptions | None = None
    reading: Reading = AS_WRITTEN
    given: Mapping[str, frozenset[str]] = field(default_factory=dict, compare=False)
    file: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.sample and self.subsets:
            raise InputError("give either the section [sample] or subsets = FILE")
        if self.label and self.losses:
            raise InputError("give either the section [label] or losses = [FILE, ...]")
        if self.teach and not self.gradients:
            raise InputError("[teach] needs the section [gradients]")
        if not self.labelled and not self.gradients:
            raise InputError(
                "nothing to learn from: give the section [label] or losses = [FILE, ...], or [gradients]"
            )
        if self.labelled and not (self.sample or self.subsets):
            raise InputError("labels need the section [sample] or subsets = FILE")
        if self.evaluate and not self.labelled:
            raise InputError("[evaluate] needs labels: the section [label] or losses = [FILE, ...]")
        if self.fit.teacher_weight and not (self.gradients and self.labelled):
            raise InputError("[fit] teacher_weight needs the section [gradients], and labels")
        asked = (self.evaluate.baselines or ()) if self.evaluate else ()
        for text in asked:
            if parse_spec(text).name in BY_GRADIENTS and not self.gradients:
                raise InputError(f"[evaluate] baselines: {text!r} needs the section [gradients]")

    @property
    def labelled(self) -> bool:
        """Whether it trains on labels."""
        return bool(self.label or self.losses)

    def makes(self, stage: str) -> bool:
        """Whether a stage is part of it."""
        return self.labelled if stage == "fit" else getattr(self, stage) is not None


def read_pipeline(path: Path) -> Pipeline:
    """Read and check a pipeline file.

    Raises:
        InputError: not TOML, an unknown or missing key, a value of the wrong type or out of range, a
            model that is not there; the message names the file, the section and the key.
    """
    document = read_toml(path)
    with about(path):
        # Absolute: records and results must not depend on where the command was started.
        return replace(_read(document, path.absolute().parent), file=path)


@dataclass(frozen=True)
class _Top:
    examples: str
    output: str
    subsets: str | None = None
    losses: tuple[str, ...] = ()
    field: tuple[str, ...] = ()
    response: Preference | None = None
    last_turn: LastTurn = "error"


def _read(document: dict[str, Any], folder: Path) -> Pipeline:
    for key, value in document.items():
        if isinstance(value, dict) and key not in SECTIONS:
            raise InputError(f"unknown section [{key}]; known: {', '.join(SECTIONS)}")
        if key in SECTIONS and not isinstance(value, dict):
            raise InputError(f"{key} is a section, [{key}], not a value")
    (top,) = take_table({key: value for key, value in document.items() if key not in SECTIONS}, "", (_Top,))
    sections = {
        name: take_table(document[name], name, SECTIONS[name]) for name in SECTIONS if name in document
    }
    if "fit" not in sections:
        raise InputError("the section [fit] is missing")
    base, fit = sections["fit"]
    label, fine_tune = sections.get("label", (None, None))
    source, gradients = sections.get("gradients", (None, None))
    (evaluate,) = sections.get("evaluate", (None,))
    if label:
        label = replace(label, target=_source(label.target, folder, "[label] target"))
    if source:
        source = replace(source, target=_source(source.target, folder, "[gradients] target"))
    if evaluate and evaluate.baselines is not None:
        evaluate = replace(evaluate, baselines=tuple(_baseline(name, folder) for name in evaluate.baselines))
    return Pipeline(
        examples=folder / top.examples,
        reading=Reading.of(top.field, top.response, top.last_turn),
        output=folder / top.output,
        base=replace(base, base=_source(base.base, folder, "[fit] base")),
        fit=fit,
        sample=sections.get("sample", (None,))[0],
        subsets=folder / top.subsets if top.subsets else None,
        label=label,
        fine_tune=fine_tune,
        losses=tuple(folder / name for name in top.losses),
        source=source,
        gradients=gradients,
        teach=sections.get("teach", (TeachOptions() if gradients else None,))[0],
        export=sections.get("export", (None,))[0],
        evaluate=evaluate,
        given={name: frozenset(document[name]) for name in sections},
    )


def take_table(table: Mapping[str, Any], section: str, classes: tuple[type[Any], ...]) -> list[Any]:
    """Instances of dataclasses whose fields together are the keys of one section.

    Raises:
        InputError: an unknown or missing key, or a value of the wrong type or out of range.
    """
    place = f"[{section}] " if section else ""
    known = [entry.name for cls in classes for entry in fields(cls)]
    for key in table:
        if key not in known:
            where = _belongs(key)
            told = f"it belongs {where}" if where else f"known: {', '.join(known) or 'none'}"
            raise InputError(f"{place}unknown key {key!r}; {told}")
    made = []
    for cls in classes:
        hints = get_type_hints(cls)
        values = {}
        for entry in fields(cls):
            if entry.name in table:
                values[entry.name] = _convert(table[entry.name], hints[entry.name], f"{place}{entry.name}")
            elif entry.default is MISSING:
                raise InputError(f"{place}{entry.name} is missing")
        try:
            made.append(cls(**values))
        except InputError as error:
            raise InputError(f"{place}{error}") from error
    return made


def _belongs(key: str) -> str:
    """Where in the file a key belongs, empty where nowhere does."""
    known = {
        name: [entry.name for cls in classes for entry in fields(cls)] for name, classes in SECTIONS.items()
    }
    sections = " or ".join(f"[{name}]" for name, keys in known.items() if key in keys)
    above = "above the sections" if key in [entry.name for entry in fields(_Top)] else ""
    return " or ".join(filter(None, [sections and f"in {sections}", above]))


def _convert(value: Any, hint: Any, place: str) -> Any:
    """A TOML value as a field's type: arrays are tuples, whole numbers may stand for floats."""
    kind = bare_type(hint)  # TOML has no null: optional means that the key may be left out
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise InputError(f"{place} must be {_describe(kind)}, got {value!r}") from None


def _describe(kind: Any) -> str:
    if choices := choices_of(kind):
        return f"one of {', '.join(choices)}"
    if get_origin(kind) is tuple:
        return f"an array of {_NAMES[get_args(kind)[0]][1]}"
    return _NAMES[kind][0]


_NAMES = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("a string", "strings"),
}


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
    named = (*LEXICAL, *BY_GRADIENTS)
    if (folder / text).exists() and text not in named:
        return str(folder / text)
    with about(place):
        name = parse_spec(text, folder).name
    return text if name in named else _source(name, folder, place) + text[len(name) :]
