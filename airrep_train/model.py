"""The AirRep model: a Hugging Face encoder, mean pooling, a linear projector, and the pooling scale.

`z = W mean_t(h_t) + b` (paper, section 3.1): `h_t` are the encoder's last hidden states over the
tokens that the attention mask keeps. The projector starts as the identity, so an untrained model is
its encoder with mean pooling. `beta` is the learned scale of attention pooling (docs/method.md).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES, MODEL_MAPPING

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_json
from airrep_train.pretrained import check_weights, is_spare, quiet, read_weights, refusing, weight_files

MODEL_TYPE = "airrep"
DEFAULT_MAX_TOKENS = 512
_CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*/config.json"]
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
    """

    model_type = MODEL_TYPE
    sub_configs = {"encoder": AutoConfig}  # type: ignore[dict-item]  # noqa: RUF012  # as transformers writes it

    def __init__(
        self,
        encoder: PretrainedConfig | dict[str, Any] | None = None,
        embedding_dim: int | None = None,
        max_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        if encoder is None:
            encoder = {**kwargs, "model_type": "bert"}
        if isinstance(encoder, dict):
            settings = dict(encoder)
            kind = settings.pop("model_type", None)
            for key in ("dtype", "torch_dtype"):  # buffers computed in a half precision would stay rounded
                settings.pop(key, None)
            if kind not in CONFIG_MAPPING:
                raise ValueError(f"encoder model_type {kind!r} is unknown to this transformers")
            encoder = CONFIG_MAPPING[kind](**settings)
        self.encoder = encoder
        self.embedding_dim = embedding_dim or encoder.hidden_size
        self.max_tokens = max_tokens or min(DEFAULT_MAX_TOKENS, _positions(encoder))
        own = ("architectures", "dtype", "torch_dtype", "transformers_version", "tie_word_embeddings")
        super().__init__(**{key: value for key, value in kwargs.items() if key in own})


class AirRepModel(PreTrainedModel):
    """Encoder, mean pooling over the attention mask, projector; `beta` scales attention pooling."""

    config_class = AirRepConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    encoder: Any

    def __init__(self, config: AirRepConfig, encoder: nn.Module | None = None) -> None:
        super().__init__(config)
        self.encoder = encoder if encoder is not None else _build_encoder(config.encoder)
        self.projector = nn.Linear(config.encoder.hidden_size, config.embedding_dim)
        with torch.no_grad():
            nn.init.eye_(self.projector.weight)
            nn.init.zeros_(self.projector.bias)
        self.beta = nn.Parameter(torch.ones(()))

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
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        projected: torch.Tensor = self.projector(pooled)
        return projected


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with its tokenizer (a `transformers` fast tokenizer) and where it came from."""

    model: AirRepModel
    tokenizer: Any
    source: str
    trained: bool


def load_checkpoint(source: str | Path, *, max_tokens: int | None = None) -> Checkpoint:
    """Load our checkpoint, the published AirRep layout, or a plain encoder as an untrained start.

    Weights are float32 whatever they were saved in. A sentence-transformers folder is a plain
    encoder whose `max_seq_length` becomes the token limit.

    Args:
        source: a folder, or a hub id.
        max_tokens: overrides the checkpoint's token limit (at most the encoder's positions).

    Raises:
        InputError: no such checkpoint, no safetensors weights, weights that do not fit the
            configuration, or no fast tokenizer.
    """
    folder = _resolve(source)
    settings = read_json(folder / "config.json")
    trained = settings.get("model_type") == MODEL_TYPE
    with quiet():
        model = _load_airrep(folder, settings) if trained else _load_plain(folder, settings)
        tokenizer = _load_tokenizer(folder, model)
    limit = model.config.max_tokens if max_tokens is None else max_tokens
    least, most = tokenizer.num_special_tokens_to_add() + 1, _positions(model.config.encoder)
    if not isinstance(limit, int) or not least <= limit <= most:
        raise InputError(f"{source}: max tokens must lie in {least}..{most} for this encoder, got {limit!r}")
    model.config.max_tokens = limit
    return Checkpoint(model.eval(), tokenizer, str(source), trained)


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Save model and tokenizer in the layout that `load_checkpoint` and `airrep-export` read."""
    with quiet():
        checkpoint.model.save_pretrained(folder)
        checkpoint.tokenizer.save_pretrained(folder)


def _resolve(source: str | Path) -> Path:
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder}: no config.json; expected a checkpoint or an encoder folder")
        return folder
    name = str(source)
    if folder.exists() or name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise InputError(f"{source}: no such checkpoint folder")
    from huggingface_hub import snapshot_download

    with refusing(f"{source}: no such folder, and the hub does not give it"):
        return Path(snapshot_download(name, allow_patterns=_CHECKPOINT_FILES))


def _build_encoder(config: PretrainedConfig) -> nn.Module:
    """The bare encoder, without the pooler head that BERT-like classes add and nothing here uses."""
    encoder: nn.Module = AutoModel.from_config(config, **_without_pooler(config))
    return encoder.float()


def _without_pooler(config: PretrainedConfig) -> dict[str, bool]:
    model_class: Any = MODEL_MAPPING.get(type(config), None)
    if model_class is None:
        raise InputError(f"transformers has no bare encoder for model_type {config.model_type!r}")
    takes = "add_pooling_layer" in inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if takes else {}


def _check_encoder(file: Path, config: PretrainedConfig) -> None:
    """Refuse what does not read its input in both directions: decoder LMs, T5, image models, ..."""
    decodes = getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False)
    if decodes or config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise InputError(
            f"{file}: {config.model_type} is not a text encoder; "
            "expected BERT, RoBERTa, DistilBERT, MPNet, ModernBERT, ..."
        )


def _load_airrep(folder: Path, settings: dict[str, Any]) -> AirRepModel:
    with refusing(f"{folder / 'config.json'}: not a usable configuration"):
        config = AirRepConfig(**{key: value for key, value in settings.items() if key != "model_type"})
        _check_encoder(folder / "config.json", config.encoder)
        model = AirRepModel(config)
    weights = {
        # The published layout calls the encoder `bert`.
        f"encoder.{key.removeprefix('bert.')}" if key.startswith("bert.") else key: tensor.float()
        for key, tensor in read_weights(folder).items()
    }
    if "encoder" not in settings:  # the published layout, which has no beta either
        weights.setdefault("beta", torch.ones(()))
    expected = model.state_dict()
    weights = {key: tensor for key, tensor in weights.items() if key in expected or not is_spare(key)}
    wrong = [key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape]
    check_weights(folder, expected.keys() - weights.keys(), weights.keys() - expected.keys(), wrong)
    model.load_state_dict(weights)
    return model


def _load_plain(folder: Path, settings: dict[str, Any]) -> AirRepModel:
    if not isinstance(settings.get("model_type"), str):  # transformers would guess from the folder's name
        raise InputError(f"{folder / 'config.json'}: no model_type; expected the name of an architecture")
    with refusing(f"{folder / 'config.json'}: not a usable configuration"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    _check_encoder(folder / "config.json", config)
    weight_files(folder)
    with refusing(f"{folder}: configuration and weights cannot be read"):
        encoder, found = AutoModel.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported in `found`, and refused below
            **_without_pooler(config),
        )
    # A head for another task may stay unused, but not a part of the encoder itself.
    parts = {name for name, _ in encoder.named_children()}
    unknown = [
        key
        for key in found["unexpected_keys"]
        if key.removeprefix(f"{encoder.base_model_prefix}.").split(".")[0] in parts and not is_spare(key)
    ]
    missing = [key for key in found["missing_keys"] if not is_spare(key)]
    # Keys, or in other versions of transformers (key, shape, shape).
    wrong = [key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]]
    check_weights(folder, missing, unknown, wrong)
    limit = min(DEFAULT_MAX_TOKENS, _positions(config))
    sentence = folder / "sentence_bert_config.json"
    if sentence.is_file():
        length = read_json(sentence).get("max_seq_length")
        limit = min(limit, length) if isinstance(length, int) and length > 0 else limit
    return AirRepModel(AirRepConfig(config, max_tokens=limit), encoder.float())


def _positions(encoder: PretrainedConfig) -> int:
    """The longest input, in tokens, that the encoder has positions for."""
    positions = getattr(encoder, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return DEFAULT_MAX_TOKENS
    # These number positions from the padding id + 1 (MPNet: always from 2).
    if encoder.model_type == "mpnet":
        return positions - 2
    if encoder.model_type in _POSITIONS_AFTER_PADDING:
        return positions - (encoder.pad_token_id or 0) - 1
    return positions


def _load_tokenizer(folder: Path, model: AirRepModel) -> Any:
    file = folder / "tokenizer_config.json"
    # The name that transformers 5 writes for what both versions have as PreTrainedTokenizerFast.
    generic = file.is_file() and read_json(file, nul=True).get("tokenizer_class") == "TokenizersBackend"
    with refusing(f"{folder}: no usable tokenizer"):
        tokenizer_class = PreTrainedTokenizerFast if generic else AutoTokenizer
        tokenizer = tokenizer_class.from_pretrained(folder, trust_remote_code=False)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{folder}: the tokenizer has no fast version (tokenizer.json), which inference needs"
        )
    # Without any tokenizer file transformers 5 makes up a tokenizer of the special tokens alone.
    if tokenizer.vocab_size <= len(set(tokenizer.all_special_ids)):
        raise InputError(f"{folder}: no usable tokenizer: no tokenizer.json, or its vocabulary is empty")
    if tokenizer.pad_token is None:
        raise InputError(f"{folder}: the tokenizer has no padding token, which batches need")
    rows = model.encoder.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens but the encoder only {rows} embeddings"
        )
    return tokenizer
