"""Checkpoints of tiny encoders, and what is asked of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import edit_json
from transformers import AutoModel

from airrep_infer.errors import InputError
from airrep_train.model import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)

# One embedding computed in two ways in float32: summation order only.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
Folder = Callable[[str], Path]


def embed(checkpoint: Checkpoint, texts: list[str]) -> torch.Tensor:
    batch = checkpoint.tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=checkpoint.model.config.max_tokens,
        return_tensors="pt",
    )
    with torch.no_grad():
        result: torch.Tensor = checkpoint.model(batch["input_ids"], batch["attention_mask"])
    return result


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def error_of(source: str | Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_checkpoint(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message
    return message


def trained(source: Path, folder: Path) -> Path:
    """An AirRep checkpoint whose projector, beta and token limit differ from the start."""
    checkpoint = load_checkpoint(source, max_tokens=20)
    torch.manual_seed(1)
    with torch.no_grad():
        checkpoint.model.projector.weight.normal_()
        checkpoint.model.projector.bias.normal_()
        checkpoint.model.beta.fill_(0.37)
    save_checkpoint(checkpoint, folder)
    return folder


def finished(source: Path, folder: Path, **settings: Any) -> Path:
    """`trained`, with vectors of the given `normalize` and `scale`."""
    checkpoint = load_checkpoint(trained(source, folder.with_name("before")))
    for name, value in settings.items():
        setattr(checkpoint.model.config, name, value)
    save_checkpoint(checkpoint, folder)
    return folder


def published(
    encoder_folder: Folder, folder: Path, dtype: torch.dtype = torch.bfloat16
) -> dict[str, torch.Tensor]:
    """The layout of sunweiwei/AirRep-Flan-Small; returns its weights in float32."""
    source = encoder_folder("bert")
    raw = AutoModel.from_pretrained(source, add_pooling_layer=False).state_dict()
    weights = {f"bert.{key}": tensor.to(dtype) for key, tensor in raw.items() if "position_ids" not in key}
    weights["projector.weight"] = torch.randn(32, 32, generator=torch.Generator().manual_seed(2)).to(dtype)
    weights["projector.bias"] = torch.linspace(-1, 1, 32).to(dtype)
    shutil.copytree(source, folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(
        folder / "config.json",
        model_type="airrep",
        architectures=["AirRepModel"],
        dtype=None,
        torch_dtype=str(dtype).removeprefix("torch."),
    )
    return {key: tensor.float() for key, tensor in weights.items()}
