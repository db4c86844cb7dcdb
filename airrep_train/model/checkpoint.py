"""Folders that a model is loaded from and saved to: ours, the published AirRep layout, plain encoders."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from airrep_infer.errors import InputError
from airrep_infer.json_reader import read_json
from airrep_infer.rows import SHARED
from airrep_train.model.config import DEFAULT_MAX_TOKENS, MODEL_TYPE, MODEL_TYPES, AirRepConfig, positions
from airrep_train.model.network import AirRepModel, without_pooler
from airrep_train.model.sentence_layout import MODULES, SentenceLayout, read_layout
from airrep_train.model.tokenizer import load_tokenizer, prepare
from airrep_train.pretrained import (
    check_weights,
    is_spare,
    quiet_transformers,
    read_weights,
    refusing,
    weight_files,
)

_CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*/config.json"]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with its tokenizer (a `transformers` fast tokenizer) and where it came from."""

    model: AirRepModel
    tokenizer: Any
    source: str
    trained: bool

    @property
    def improved(self) -> bool:
        """Whether it was trained, and training made it better than its start."""
        return self.trained and self.model.config.trained


def load_checkpoint(source: str | Path, *, max_tokens: int | None = None) -> Checkpoint:
    """Load our checkpoint, the published AirRep layout, or a plain encoder as an untrained start.

    Weights are float32 whatever they were saved in. A sentence-transformers folder is a plain encoder
    with its pooling, dense layers, unit length, token limit and default prompt (see `sentence_layout`).

    Args:
        source: a folder, or a hub id.
        max_tokens: overrides the checkpoint's token limit (at most the encoder's positions).

    Raises:
        InputError: no such checkpoint, no safetensors weights, weights that do not fit the
            configuration, or no fast tokenizer.
    """
    layout = read_layout(_resolve(source))
    folder = layout.transformer
    settings = read_json(folder / "config.json")
    kind = settings.get("model_type")
    trained = kind in MODEL_TYPES
    if not trained and isinstance(kind, str) and kind.startswith(f"{MODEL_TYPE}-"):
        raise InputError(
            f"{folder / 'config.json'}: its format {kind!r} is newer than this AirRep, which reads "
            f"{' and '.join(MODEL_TYPES)}; upgrade airrep"
        )
    with quiet_transformers():
        model = _load_airrep(folder, settings) if trained else _load_plain(layout, settings)
        tokenizer = load_tokenizer(folder, _count_embeddings(folder, model.encoder))
        config: Any = model.config
        prepare(tokenizer, config, folder)
    least, most = tokenizer.num_special_tokens_to_add() + 1, positions(config.encoder)
    if (
        not trained and layout.has_modules and layout.max_tokens is None
    ):  # what sentence-transformers does then
        config.max_tokens = min(most, tokenizer.model_max_length)
    limit = config.max_tokens if max_tokens is None else max_tokens
    if not isinstance(limit, int) or not least <= limit <= most:
        raise InputError(f"{source}: max tokens must lie in {least}..{most} for this encoder, got {limit!r}")
    config.max_tokens = limit
    return Checkpoint(model.eval(), tokenizer, str(source), trained)


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Save model and tokenizer in the layout that `load_checkpoint` and `airrep-export` read."""
    with quiet_transformers():
        checkpoint.model.save_pretrained(folder)
        checkpoint.tokenizer.save_pretrained(folder)


def _resolve(source: str | Path) -> Path:
    folder = Path(source)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("config.json", MODULES)):
            raise InputError(f"{folder}: no config.json; expected a checkpoint or an encoder folder")
        return folder
    name = str(source)
    if folder.exists() or name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise InputError(f"{source}: no such checkpoint folder")
    from huggingface_hub import snapshot_download

    with refusing(f"{source}: no such folder, and the hub does not give it"):
        return Path(snapshot_download(name, allow_patterns=_CHECKPOINT_FILES))


def _check_encoder(file: Path, config: PretrainedConfig) -> None:
    """Refuse what does not read its input in both directions: decoder LMs, T5, image models, ..."""
    decodes = getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False)
    if decodes or config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise InputError(
            f"{file}: {config.model_type} is not a text encoder; "
            "expected BERT, RoBERTa, DistilBERT, MPNet, ModernBERT, ..."
        )


def _count_embeddings(folder: Path, encoder: Any) -> int:
    """The tokens that an encoder has an embedding for; refuse one that is not made for batches of tokens."""
    embeddings = getattr(encoder.get_input_embeddings(), "weight", None)
    if embeddings is None or "attention_mask" not in inspect.signature(encoder.forward).parameters:
        raise InputError(
            f"{folder}: {encoder.config.model_type} takes no padded batches of tokens, so a text's "
            "vector would depend on its batch; use another encoder: BERT, RoBERTa, DistilBERT, MPNet, ..."
        )
    return int(embeddings.shape[0])


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


def _load_plain(layout: SentenceLayout, settings: dict[str, Any]) -> AirRepModel:
    folder = layout.transformer
    if not isinstance(settings.get("model_type"), str):  # transformers would guess from the folder's name
        raise InputError(f"{folder / 'config.json'}: no model_type; expected the name of an architecture")
    with refusing(f"{folder / 'config.json'}: not a usable configuration"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    _check_encoder(folder / "config.json", config)
    weight_files(folder)
    with refusing(f"{folder}: configuration and weights cannot be read"):
        encoder, loaded = AutoModel.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported in `loaded`, and refused below
            **without_pooler(config),
        )
    # A head for another task may stay unused, but not a part of the encoder itself.
    parts = {name for name, _ in encoder.named_children()}
    unknown = [
        key
        for key in loaded["unexpected_keys"]
        if key.removeprefix(f"{encoder.base_model_prefix}.").split(".")[0] in parts and not is_spare(key)
    ]
    missing = [key for key in loaded["missing_keys"] if not is_spare(key)]
    # Keys, or in other versions of transformers (key, shape, shape).
    wrong = [key if isinstance(key, str) else key[0] for key in loaded["mismatched_keys"]]
    check_weights(folder, missing, unknown, wrong)
    limit = min(layout.max_tokens or DEFAULT_MAX_TOKENS, positions(config))
    with refusing(f"{folder}: its modules do not fit"):
        model = AirRepModel(
            AirRepConfig(config, max_tokens=limit, template=str(SHARED), **layout.settings), encoder.float()
        )
    expected = {key: tensor for key, tensor in model.state_dict().items() if key.startswith("dense.")}
    given = layout.weights
    wrong = [key for key in expected.keys() & given.keys() if expected[key].shape != given[key].shape]
    check_weights(folder, expected.keys() - given.keys(), given.keys() - expected.keys(), wrong)
    model.load_state_dict(dict(given), strict=False)
    return model
