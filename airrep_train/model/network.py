"""The AirRep model: a Hugging Face encoder, mean pooling, a linear projector, and the pooling scale.

`z = W mean_t(h_t) + b` (paper, section 3.1): `h_t` are the encoder's last hidden states over the
tokens that the attention mask keeps. The projector starts as the identity, so an untrained model is
its encoder with mean pooling. A sentence-transformers model may pool in other ways and have dense layers
before the projector. Where the configuration says so, `z` is then brought to unit length and multiplied
by a factor. `beta` is the learned scale of attention pooling (docs/method.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from airrep_infer.errors import InputError
from airrep_train.model.config import ACTIVATIONS, AirRepConfig
from airrep_train.model.pooling import pool

# A vector shorter than the root of this is not brought to unit length: a text without tokens stays zero.
_SMALLEST_SQUARE = 1e-24


class AirRepModel(PreTrainedModel):
    """Encoder, pooling over the attention mask, projector; `beta` scales attention pooling."""

    config_class = AirRepConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    encoder: Any

    def __init__(self, config: AirRepConfig, encoder: nn.Module | None = None) -> None:
        super().__init__(config)
        self.encoder = encoder if encoder is not None else _build_encoder(config.encoder)
        self.dense = nn.Sequential()
        width = config.pooled_size
        for layer in config.dense:
            linear = nn.Linear(width, layer["size"], bias=layer["bias"])
            self.dense.append(nn.Sequential(linear, ACTIVATIONS[layer["activation"]]()))
            width = layer["size"]
        self.projector = nn.Linear(width, config.embedding_dim)
        with torch.no_grad():
            nn.init.eye_(self.projector.weight)
            nn.init.zeros_(self.projector.bias)
        self.beta = nn.Parameter(torch.ones(()))
        self._keeps_length = False

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the encoder initialises itself, and the projector starts as the identity."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed a padded batch.

        Args:
            input_ids: (batch, sequence) int64.
            attention_mask: (batch, sequence), 1 for a token and 0 for padding; from the tokenizer,
                never from an id, since pad ids differ between architectures.

        Returns:
            (batch, D) embeddings in the model's dtype.
        """
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = pool(states, attention_mask, self.config.pooling)
        vectors: torch.Tensor = self.projector(self.dense(pooled))
        return vectors if self._keeps_length else self.bring_to_length(vectors)

    def bring_to_length(self, vectors: torch.Tensor) -> torch.Tensor:
        """What the projector gives, (batch, D), as embeddings: unit length and factor, where configured."""
        if self.config.normalize:
            vectors = _unit_length(vectors)
        return vectors if self.config.scale == 1 else vectors * self.config.scale

    @contextmanager
    def projector_output(self) -> Iterator[None]:
        """Inside the block the model returns what the projector gives, before unit length and factor."""
        self._keeps_length = True
        try:
            yield
        finally:
            self._keeps_length = False


def _unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """`torch.nn.functional.normalize`, in operators that ONNX Runtime's optimizer sees through."""
    vectors = vectors.float()  # autocast gives bfloat16
    return vectors / vectors.square().sum(dim=1, keepdim=True).clamp(min=_SMALLEST_SQUARE).sqrt()


def _build_encoder(config: PretrainedConfig) -> nn.Module:
    """The bare encoder, without the pooler head that BERT-like classes add and nothing here uses."""
    encoder: nn.Module = AutoModel.from_config(config, **without_pooler(config))
    return encoder.float()


def without_pooler(config: PretrainedConfig) -> dict[str, bool]:
    """The argument that leaves the unused pooler head out, for the architectures that take it."""
    model_class: Any = MODEL_MAPPING.get(type(config), None)
    if model_class is None:
        raise InputError(f"transformers has no bare encoder for model_type {config.model_type!r}")
    takes = "add_pooling_layer" in inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if takes else {}
