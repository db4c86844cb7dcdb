"""Folders of sentence-transformers: which modules they name, read into what an `AirRepModel` carries out.

A module or a setting that changes vectors and that we do not carry out is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from airrep_infer.errors import InputError
from airrep_infer.json_reader import parse_json, read_json
from airrep_train.model.config import ACTIVATIONS
from airrep_train.model.pooling import POOLING
from airrep_train.pretrained import read_weights

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
# Where sentence-transformers looks for the settings of a Transformer module, in its order.
TRANSFORMER_SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
PACKAGE = "sentence_transformers."
_ORDER = "expected Transformer, Pooling, then any Dense, then at most one Normalize"
# The older settings of a Pooling module -> our name for the mode. Mean is on unless it is turned off.
POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class SentenceLayout:
    """What a folder's modules do around its transformer; without `modules.json`, mean pooling alone.

    Attributes:
        transformer: the folder of encoder and tokenizer.
        max_tokens: the token limit it asks for; None if it names none.
        has_modules: whether there is a `modules.json`.
        settings: arguments of `AirRepConfig`.
        weights: of the dense layers, under their names in an `AirRepModel`.
    """

    transformer: Path
    max_tokens: int | None = None
    has_modules: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Module:
    kind: str
    folder: Path


def read_layout(folder: Path) -> SentenceLayout:
    """Read the modules of a folder; a folder without `modules.json` is a transformer alone.

    Raises:
        InputError: modules, an order of them, or settings that are not supported.
    """
    if not (folder / MODULES).is_file():
        max_tokens, lower_case = _transformer_settings(folder)
        return SentenceLayout(folder, max_tokens, settings={"lower_case": lower_case})
    modules = _read_modules(folder)
    kinds = [module.kind for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise InputError(f"{folder / MODULES}: its modules are {', '.join(kinds) or 'none'}; {_ORDER}")
    transformer = modules[0].folder
    max_tokens, lower_case = _transformer_settings(transformer)
    pooling, includes_prompt = _pooling(modules[1].folder)
    settings: dict[str, Any] = {"pooling": pooling, "lower_case": lower_case, "dense": []}
    weights: dict[str, torch.Tensor] = {}
    for module in modules[2:]:
        if module.kind == "Normalize" and not settings.get("normalize"):
            settings["normalize"] = True
        elif module.kind == "Dense" and not settings.get("normalize"):
            layer, tensors = _dense(module.folder)
            prefix = f"dense.{len(settings['dense'])}.0"
            weights.update({f"{prefix}.{name}": tensor for name, tensor in tensors.items()})
            settings["dense"].append(layer)
        elif module.kind == "Dense" and "scale" not in settings:
            settings["scale"] = _scale(module.folder)
        else:
            raise InputError(f"{folder / MODULES}: its modules are {', '.join(kinds)}; {_ORDER}")
    prompt = _default_prompt(folder / SETTINGS)
    if prompt and not includes_prompt:
        raise InputError(
            f"{modules[1].folder / 'config.json'}: include_prompt is false, and leaving the default prompt "
            f"{prompt!r} out of the pooling is not supported; use another encoder"
        )
    return SentenceLayout(transformer, max_tokens, True, {**settings, "prompt": prompt}, weights)


def _read_modules(folder: Path) -> list[_Module]:
    file = folder / MODULES
    try:
        entries = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot read: {error}; download this model again") from error
    if not isinstance(entries, list):
        raise InputError(f"{file}: not a list of modules; download this model again")
    modules = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
            raise InputError(f"{file}: a module without a type: {entry!r}; download this model again")
        path = PurePosixPath(str(entry.get("path", "")))
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{file}: the module path {str(path)!r} leaves the folder")
        kind = entry["type"]
        name = kind.rsplit(".", 1)[-1]
        if not kind.startswith(PACKAGE) or name not in ("Transformer", "Pooling", "Dense", "Normalize"):
            raise InputError(
                f"{file}: module {kind} is not supported, only Transformer, Pooling, Dense and Normalize of "
                "sentence-transformers; use an encoder of these"
            )
        if entry.get("kwargs"):
            raise InputError(f"{file}: arguments of {name} ({', '.join(entry['kwargs'])}) are not supported")
        modules.append(_Module(name, folder / path))
    return modules


def _transformer_settings(folder: Path) -> tuple[int | None, bool]:
    """The token limit and whether texts are lower-cased."""
    file = next((folder / name for name in TRANSFORMER_SETTINGS if (folder / name).is_file()), None)
    if file is None:
        return None, False
    settings = read_json(file)
    length, lower_case = settings.pop("max_seq_length", None), settings.pop("do_lower_case", False)
    _refuse(file, settings)
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise InputError(f"{file}: max_seq_length must be a positive number, got {length!r}")
    return length, bool(lower_case)


def _pooling(folder: Path) -> tuple[list[str], bool]:
    """The pooling modes in the order of their vectors, and whether a prompt's tokens are pooled too."""
    file = folder / "config.json"
    settings = read_json(file)
    for size in ("word_embedding_dimension", "embedding_dimension"):
        settings.pop(size, None)  # it follows from the encoder
    includes_prompt = bool(settings.pop("include_prompt", True))
    named = settings.pop("pooling_mode", None)
    flags = {key: settings.pop(key, key == "pooling_mode_mean_tokens") for key in POOLING_KEYS}
    _refuse(file, settings)
    if named is None:
        modes = [mode for key, mode in POOLING_KEYS.items() if flags[key]]
    else:
        modes = [named] if isinstance(named, str) else list(named)
    if not modes or any(mode not in POOLING for mode in modes):
        raise InputError(f"{file}: pooling {named!r} is not supported; expected some of {', '.join(POOLING)}")
    return modes, includes_prompt


def _dense(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    file = folder / "config.json"
    settings = read_json(file)
    activation = str(settings.pop("activation_function", None)).rsplit(".", 1)[-1]
    if activation not in ACTIVATIONS:
        raise InputError(
            f"{file}: activation {activation} is not supported; expected one of {', '.join(ACTIVATIONS)}"
        )
    size, bias = settings.pop("out_features", None), settings.pop("bias", True)
    settings.pop("in_features", None)  # it follows from what comes before
    for name in ("module_input_name", "module_output_name"):
        if settings.get(name) in (None, "sentence_embedding"):
            settings.pop(name, None)
    _refuse(file, settings)
    if not isinstance(size, int) or size < 1:
        raise InputError(f"{file}: out_features must be a positive number, got {size!r}")
    weights = {name.removeprefix("linear."): value.float() for name, value in read_weights(folder).items()}
    return {"size": size, "bias": bool(bias), "activation": activation}, weights


def _scale(folder: Path) -> float:
    """The factor that a Dense after Normalize multiplies with, which is all that may stand there."""
    layer, weights = _dense(folder)
    matrix = weights.get("weight", torch.zeros(0, 0))
    factor = float(matrix[0, 0]) if matrix.numel() else 0.0
    alone = layer["activation"] == "Identity" and weights.keys() == {"weight"} and factor > 0
    if not alone or not torch.equal(matrix, factor * torch.eye(len(matrix))):
        raise InputError(f"{folder}: a Dense after Normalize that is not a plain factor is not supported")
    return factor


def _default_prompt(file: Path) -> str:
    if not file.is_file():
        return ""
    settings = read_json(file)
    name = settings.get("default_prompt_name")
    if name is None:
        return ""
    prompts = settings.get("prompts")
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    if not isinstance(prompt, str):
        raise InputError(f"{file}: no prompt {name!r} in prompts, though it is the default_prompt_name")
    return prompt


def _refuse(file: Path, settings: Mapping[str, Any]) -> None:
    """Settings that are left over once the known ones are taken out must be empty."""
    unknown = sorted(key for key, value in settings.items() if value not in (None, {}, [], ""))
    if unknown:
        raise InputError(f"{file}: {', '.join(unknown)} is not supported; use an encoder without it")
