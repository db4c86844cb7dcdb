"""The configuration of an AirRep model, as `config.json` holds it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from airrep_infer.rows import PUBLISHED, TEMPLATES, Template
from airrep_train.model.pooling import POOLING

MODEL_TYPE = "airrep"
# Readers of the first format ignore keys that they do not know, so a configuration that needs the newer
# keys has a model type that they refuse.
MODEL_TYPE_2 = "airrep-2"
MODEL_TYPES = (MODEL_TYPE, MODEL_TYPE_2)
DEFAULT_MAX_TOKENS = 512
# The keys of the second format, with what the first format means.
_SECOND_FORMAT: dict[str, Any] = {
    "pooling": ["mean"],
    "dense": [],
    "normalize": False,
    "scale": 1.0,
    "prompt": "",
    "lower_case": False,
    "template": str(PUBLISHED),
}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)
}
# Keys that `transformers` writes into every configuration, whatever its version.
_WRITTEN_BY_TRANSFORMERS = (
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "tie_word_embeddings",
)
_POSITIONS_AFTER_PADDING = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text"}
    | {"ibert", "xmod", "longformer", "luke", "esm"}
)


class AirRepConfig(PretrainedConfig):
    """Configuration of an `AirRepModel`.

    Args:
        encoder: configuration of the encoder (object or dict with its `model_type`). Without it the
            other arguments are read as a flat BERT configuration, the published checkpoint's layout.
        embedding_dim: D, the projector's output size; default: that of its input.
        max_tokens: texts are truncated to this many tokens, in training, export and inference alike.
        pooling: how the states of a text's tokens become one vector, see `pooling.POOLING`; several are
            concatenated.
        dense: layers between pooling and projector, `{"size": int, "bias": bool, "activation": str}`
            each, with an activation of `ACTIVATIONS`.
        normalize: bring vectors to unit length after the projector.
        scale: multiply vectors by this factor, after `normalize`.
        prompt: stands before every text (see `tokenizer.prepare`).
        lower_case: texts are lower-cased, whatever the tokenizer does on its own.
        template: name and version of the rule by which examples become text and are cut.

    Attributes:
        trained: False where training did not make it better than its start (see `fit`).

    Raises:
        ValueError: a value out of range, or a key that this version does not know.
    """

    model_type = MODEL_TYPE
    trained = True  # written only where it is False, so that earlier versions read the others
    sub_configs = {"encoder": AutoConfig}  # type: ignore[dict-item]  # noqa: RUF012  # as transformers writes it

    def __init__(
        self,
        encoder: PretrainedConfig | dict[str, Any] | None = None,
        embedding_dim: int | None = None,
        max_tokens: int | None = None,
        pooling: Sequence[str] = ("mean",),
        dense: Sequence[dict[str, Any]] = (),
        normalize: bool = False,
        scale: float = 1.0,
        prompt: str = "",
        lower_case: bool = False,
        template: str = str(PUBLISHED),
        trained: bool = True,
        **kwargs: Any,
    ) -> None:
        if encoder is None:
            encoder = {**kwargs, "model_type": "bert"}
        else:
            _refuse_unknown(kwargs)
        self.encoder = _encoder_config(encoder) if isinstance(encoder, dict) else encoder
        self.pooling, self.dense = list(pooling), list(dense)
        self.normalize, self.scale = normalize, scale
        self.prompt, self.lower_case = prompt, lower_case
        self.template = template
        self.set_trained(trained)
        self._check()
        self.embedding_dim = embedding_dim or self.projector_input
        self.max_tokens = max_tokens or min(DEFAULT_MAX_TOKENS, positions(self.encoder))
        super().__init__(**{key: value for key, value in kwargs.items() if key in _WRITTEN_BY_TRANSFORMERS})

    def set_trained(self, trained: bool) -> None:
        """Say whether training made it better than its start."""
        vars(self).pop("trained", None)
        if not trained:
            self.trained = False

    def _check(self) -> None:
        unknown = [mode for mode in self.pooling if mode not in POOLING]
        if unknown or not self.pooling:
            raise ValueError(f"pooling must be some of {', '.join(POOLING)}, got {self.pooling!r}")
        for layer in self.dense:
            if not isinstance(layer, dict) or layer.keys() != {"size", "bias", "activation"}:
                raise ValueError(f"a dense layer has size, bias and activation, got {layer!r}")
            if layer["activation"] not in ACTIVATIONS:
                expected = ", ".join(ACTIVATIONS)
                raise ValueError(f"activation must be one of {expected}, got {layer['activation']!r}")
        for name in ("normalize", "lower_case"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not isinstance(self.prompt, str):
            raise ValueError(f"prompt must be a string, got {self.prompt!r}")
        if self.template not in TEMPLATES:
            raise ValueError(f"template {self.template!r} is unknown; this AirRep has {', '.join(TEMPLATES)}")
        scale = self.scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise ValueError(f"scale must be a positive number, got {scale!r}")

    @property
    def pooled_size(self) -> int:
        """Numbers in a pooled vector."""
        return int(self.encoder.hidden_size) * len(self.pooling)

    @property
    def projector_input(self) -> int:
        """Numbers in what the projector takes: a pooled vector, or the last dense layer's output."""
        return int(self.dense[-1]["size"]) if self.dense else self.pooled_size

    @property
    def text_template(self) -> Template:
        """The rule that `template` names."""
        return TEMPLATES[self.template]

    def to_diff_dict(self) -> dict[str, Any]:
        """What `config.json` holds: the first format where it says all."""
        values: dict[str, Any] = super().to_diff_dict()
        added = {key: values.pop(key, default) for key, default in _SECOND_FORMAT.items()}
        if added == _SECOND_FORMAT:
            return values
        return {**values, **added, "model_type": MODEL_TYPE_2}


def _encoder_config(settings: dict[str, Any]) -> PretrainedConfig:
    settings = dict(settings)
    kind = settings.pop("model_type", None)
    for key in ("dtype", "torch_dtype"):  # buffers computed in a half precision would stay rounded
        settings.pop(key, None)
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"encoder model_type {kind!r} is unknown to this transformers")
    config: PretrainedConfig = CONFIG_MAPPING[kind](**settings)
    return config


def _refuse_unknown(settings: dict[str, Any]) -> None:
    known = {*PretrainedConfig().to_dict(), *_WRITTEN_BY_TRANSFORMERS, "model_type"}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise ValueError(f"unknown keys {', '.join(unknown)}; it may need a newer AirRep")


def positions(encoder: PretrainedConfig) -> int:
    """The longest input, in tokens, that the encoder has positions for."""
    count = getattr(encoder, "max_position_embeddings", None)
    if not isinstance(count, int) or count <= 0:
        return DEFAULT_MAX_TOKENS
    # These number positions from the padding id + 1 (MPNet: always from 2).
    if encoder.model_type == "mpnet":
        return count - 2
    if encoder.model_type in _POSITIONS_AFTER_PADDING:
        return count - (encoder.pad_token_id or 0) - 1
    return count
