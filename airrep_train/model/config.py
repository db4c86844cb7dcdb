"""The configuration of an AirRep model, as `config.json` holds it."""

from __future__ import annotations

import math
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

MODEL_TYPE = "airrep"
# Readers of the first format ignore keys that they do not know, so a configuration that needs the newer
# keys has a model type that they refuse.
MODEL_TYPE_2 = "airrep-2"
MODEL_TYPES = (MODEL_TYPE, MODEL_TYPE_2)
DEFAULT_MAX_TOKENS = 512
# The keys of the second format, with what the first format means.
_SECOND_FORMAT: dict[str, Any] = {"normalize": False, "scale": 1.0}
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
        embedding_dim: D, the projector's output size; default: the encoder's hidden size.
        max_tokens: texts are truncated to this many tokens, in training, export and inference alike.
        normalize: bring vectors to unit length after the projector.
        scale: multiply vectors by this factor, after `normalize`.

    Raises:
        ValueError: a value out of range, or a key that this version does not know.
    """

    model_type = MODEL_TYPE
    sub_configs = {"encoder": AutoConfig}  # type: ignore[dict-item]  # noqa: RUF012  # as transformers writes it

    def __init__(
        self,
        encoder: PretrainedConfig | dict[str, Any] | None = None,
        embedding_dim: int | None = None,
        max_tokens: int | None = None,
        normalize: bool = False,
        scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if encoder is None:
            encoder = {**kwargs, "model_type": "bert"}
        else:
            _refuse_unknown(kwargs)
        self.encoder = _encoder_config(encoder) if isinstance(encoder, dict) else encoder
        self.embedding_dim = embedding_dim or self.encoder.hidden_size
        self.max_tokens = max_tokens or min(DEFAULT_MAX_TOKENS, positions(self.encoder))
        if not isinstance(normalize, bool):
            raise ValueError(f"normalize must be true or false, got {normalize!r}")
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise ValueError(f"scale must be a positive number, got {scale!r}")
        self.normalize, self.scale = normalize, float(scale)
        super().__init__(**{key: value for key, value in kwargs.items() if key in _WRITTEN_BY_TRANSFORMERS})

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
