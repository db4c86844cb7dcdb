"""The way back: a checkpoint written as a folder that sentence-transformers loads.

The modules are Transformer, Pooling, Dense (the checkpoint's own layers, then the projector), Normalize,
and a last Dense for the factor of unit vectors, each where it does something. What the layout has no place
for stands in the folder's README.md: how a row becomes a text, and the scale of attention pooling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from airrep_infer.files import write_json
from airrep_infer.rows import TEXT
from airrep_train.model.checkpoint import Checkpoint
from airrep_train.model.network import AirRepModel
from airrep_train.model.sentence_layout import MODULES, PACKAGE, POOLING_KEYS, SETTINGS, TRANSFORMER_SETTINGS
from airrep_train.model.tokenizer import without_prompt
from airrep_train.pretrained import quiet_transformers

_README = """\
# An AirRep encoder for sentence-transformers

Exported by AirRep from `{source}`. Vectors have {dimension} numbers.
The influence of a training example on a query is the dot product of their vectors.
A row with prompt and response is the text `{template}`.
The influence of a group of rows uses attention pooling with the scale {beta:.6g}.
"""


@dataclass(frozen=True)
class _Part:
    """A module after the transformer: its kind, the content of its config.json, and its weights."""

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)


def write_sentence_folder(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint into the empty `folder`; the same texts get the same vectors from it."""
    config: Any = checkpoint.model.config
    with quiet_transformers():
        checkpoint.model.encoder.save_pretrained(folder)
        without_prompt(checkpoint.tokenizer, config.prompt).save_pretrained(folder)
    limits = {"max_seq_length": config.max_tokens, "do_lower_case": config.lower_case}
    write_json(folder / TRANSFORMER_SETTINGS[0], limits)
    prompt = {"prompts": {"all": config.prompt}, "default_prompt_name": "all"} if config.prompt else {}
    write_json(folder / SETTINGS, {"similarity_fn_name": "dot", **prompt})
    entries = [{"idx": 0, "name": "0", "path": "", "type": f"{PACKAGE}models.Transformer"}]
    for number, part in enumerate(_parts(checkpoint.model), start=1):
        place = f"{number}_{part.kind}"
        entries.append(
            {"idx": number, "name": str(number), "path": place, "type": f"{PACKAGE}models.{part.kind}"}
        )
        (folder / place).mkdir()
        if part.settings:
            write_json(folder / place / "config.json", part.settings)
        if part.weights:
            save_file(dict(part.weights), folder / place / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / MODULES, entries)
    readme = _README.format(
        source=checkpoint.source,
        dimension=config.embedding_dim,
        template=TEXT.replace("\n", "\\n"),
        beta=checkpoint.model.beta.item(),
    )
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _parts(model: AirRepModel) -> Iterator[_Part]:
    """What comes after the transformer, in its order."""
    config: Any = model.config
    size = config.encoder.hidden_size
    flags = {key: mode in config.pooling for key, mode in POOLING_KEYS.items()}
    yield _Part("Pooling", {"word_embedding_dimension": size, **flags, "include_prompt": True})
    for layer in model.dense.children():
        linear: Any = layer.get_submodule("0")
        yield _dense(linear.weight, linear.bias, layer.get_submodule("1"))
    # Without unit length the factor is a part of the projector.
    factor = 1.0 if config.normalize else config.scale
    weight, bias = factor * model.projector.weight, factor * model.projector.bias
    if not torch.equal(weight, torch.eye(*weight.shape)) or bias.any():
        yield _dense(weight, bias, nn.Identity())
    if config.normalize:
        yield _Part("Normalize")
    if config.normalize and config.scale != 1:
        yield _dense(config.scale * torch.eye(config.embedding_dim), None, nn.Identity())


def _dense(weight: torch.Tensor, bias: torch.Tensor | None, activation: nn.Module) -> _Part:
    kind = type(activation)
    settings = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": bias is not None,
        "activation_function": f"{kind.__module__}.{kind.__qualname__}",
    }
    weights = {"linear.weight": weight.detach().contiguous()}
    if bias is not None:
        weights["linear.bias"] = bias.detach().contiguous()
    return _Part("Dense", settings, weights)
