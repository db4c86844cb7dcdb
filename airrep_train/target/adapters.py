"""Folders of PEFT adapters: a target is the base that they name, with the adapters merged into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_json
from airrep_infer.sealed import damage, text

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_AGAIN = "save the adapters again"


@dataclass(frozen=True)
class Adapters:
    """A folder of adapters and the name of the model that they change."""

    folder: Path
    base: str
    kind: str

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder has a tokenizer of its own."""
        return (self.folder / "tokenizer_config.json").is_file()


def read_adapters(name: str) -> Adapters | None:
    """What a folder of adapters says of itself; None where the name is none.

    A folder that holds a whole model too is refused: either could be meant.

    Raises:
        InputError: its configuration is damaged, or names no base.
    """
    folder = Path(name)
    if not (folder / _CONFIG).is_file():
        return None
    if (folder / "config.json").is_file():
        raise InputError(
            f"{name}: holds a model (config.json) and PEFT adapters ({_CONFIG}); move one of them to its own "
            "folder, and name the one that is meant"
        )
    config = read_json(folder / _CONFIG)
    with damage(folder / _CONFIG, _AGAIN):
        return Adapters(folder, text(config["base_model_name_or_path"]), text(config["peft_type"]))


def merge_adapters(model: Any, adapters: Adapters) -> Any:
    """The model with the adapters in its weights, in float32, so that small changes are not rounded away.

    Raises:
        InputError: peft is not installed, a weight is missing, or adapters of this kind cannot be merged.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise InputError(
            f"{adapters.folder}: PEFT adapters of {adapters.base}; applying them needs the package peft: "
            "pip install peft"
        ) from error
    if not (adapters.folder / _WEIGHTS).is_file():
        raise InputError(f"{adapters.folder}: adapters without {_WEIGHTS}; {_AGAIN} as safetensors")
    adapted = PeftModel.from_pretrained(model.float(), str(adapters.folder))
    if not hasattr(adapted, "merge_and_unload") or not hasattr(adapted.base_model, "merge_and_unload"):
        raise InputError(
            f"{adapters.folder}: adapters of the kind {adapters.kind} cannot be merged into a model; give a "
            "whole model, or LoRA adapters"
        )
    merged = adapted.merge_and_unload()
    return merged.requires_grad_(True)
