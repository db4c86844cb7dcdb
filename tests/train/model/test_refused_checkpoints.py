"""Checkpoints that cannot be used are refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import Folder, edit_weights, embed, error_of, published, trained
from tiny import ENCODERS, TEXTS, edit_json, tiny_tokenizer
from transformers import AutoConfig, AutoModel

from airrep_train.model import (
    load_checkpoint,
)


@pytest.mark.parametrize("layout", ["plain", "ours", "published"])
def test_weights_that_do_not_fit(encoder_folder: Folder, tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "model"
    prefix = {"plain": "", "ours": "encoder.", "published": "bert."}[layout]
    if layout == "published":
        published(encoder_folder, folder)
    elif layout == "ours":
        trained(encoder_folder("bert"), folder)
    else:
        shutil.copytree(encoder_folder("bert"), folder)
    whole = (folder / "model.safetensors").read_bytes()
    key = f"{prefix}encoder.layer.0.output.dense.weight"
    shown = "encoder.layer.0.output.dense.weight"

    edit_weights(folder, lambda weights: weights.pop(key))
    message = error_of(folder)
    assert "misses weights: " in message
    assert f"{shown} (1 in all)" in message

    (folder / "model.safetensors").write_bytes(whole)
    edit_weights(
        folder, lambda weights: weights.update({key.replace("layer.0", "layer.2"): weights[key].clone()})
    )
    assert "has unknown weights: " in (message := error_of(folder))
    assert "layer.2.output.dense.weight (1 in all)" in message

    (folder / "model.safetensors").write_bytes(whole)
    edit_weights(folder, lambda weights: weights.update({key: weights[key][:, :5].clone()}))
    assert "has wrongly shaped weights: " in (message := error_of(folder))
    assert f"{shown} (1 in all)" in message

    for damaged in (whole[: len(whole) // 2], b"", b"PK\x03\x04 not safetensors at all"):
        (folder / "model.safetensors").write_bytes(damaged)
        error_of(folder)

    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    assert f"{folder}: no model.safetensors; only safetensors weights are read" in error_of(folder)


def test_a_missing_projector_is_not_made_up(encoder_folder: Folder, tmp_path: Path) -> None:
    published(encoder_folder, tmp_path / "model")
    edit_weights(tmp_path / "model", lambda weights: weights.pop("projector.bias"))
    assert "misses weights: projector.bias (1 in all)" in error_of(tmp_path / "model")


def test_only_the_published_layout_may_lack_beta(encoder_folder: Folder, tmp_path: Path) -> None:
    folder = trained(encoder_folder("bert"), tmp_path / "ours")
    edit_weights(folder, lambda weights: weights.pop("beta"))
    assert "misses weights: beta (1 in all)" in error_of(folder)


def remove_tokenizer(folder: Path) -> None:
    for file in folder.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("ours", [False, True])
def test_no_tokenizer(copy: Folder, tmp_path: Path, kind: str, ours: bool) -> None:
    folder = copy(kind)
    if ours:
        folder = trained(folder, tmp_path / "ours")
    remove_tokenizer(folder)
    assert "tokenizer" in error_of(folder)


def test_the_tokenizer_class_that_transformers_5_writes(copy: Folder, encoder_folder: Folder) -> None:
    folder = copy("roberta")
    edit_json(folder / "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    assert torch.equal(
        embed(load_checkpoint(folder), TEXTS), embed(load_checkpoint(encoder_folder("roberta")), TEXTS)
    )


def test_tokenizers_that_cannot_be_used(copy: Folder) -> None:
    folder = copy("bert")
    remove_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
    assert "the tokenizer has no fast version (tokenizer.json)" in error_of(folder)

    tiny_tokenizer("bert").save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": ')
    assert f"{folder}: no usable tokenizer: " in error_of(folder)

    larger = tiny_tokenizer("bert")
    larger.add_tokens(["<extra-1>", "<extra-2>"])
    larger.save_pretrained(folder)
    size = len(larger)
    assert f"the tokenizer has {size} tokens but the encoder only {size - 2} embeddings" in error_of(folder)

    tiny_tokenizer("bert").save_pretrained(folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            edit_json(folder / name, pad_token=None, tokenizer_class="PreTrainedTokenizerFast")
    assert "no padding token" in error_of(folder)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 300}),
        (
            "llama",
            {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
            | {"vocab_size": 300},
        ),
        ("t5", {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 300}),
        (
            "bart",
            {
                "d_model": 32,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "encoder_ffn_dim": 32,
                "vocab_size": 300,
            }
            | {"decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
        ),
        (
            "vit",
            {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        ),
        (
            "bert",
            {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
            | {"vocab_size": 300, "is_decoder": True},
        ),
    ],
)
def test_other_models_are_not_encoders(tmp_path: Path, kind: str, sizes: dict[str, Any]) -> None:
    AutoModel.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(tmp_path)
    tiny_tokenizer("bert").save_pretrained(tmp_path)
    assert f"{tmp_path / 'config.json'}: {kind} is not a text encoder; expected BERT, RoBERTa" in error_of(
        tmp_path
    )


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "no-such-model"},
        {"model_type": None},
        {"hidden_size": 33},
        {"num_attention_heads": "four"},
        # Code from the hub is never run.
        {"model_type": "remote", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}},
    ],
)
def test_configurations_that_make_no_sense(copy: Folder, change: dict[str, Any]) -> None:
    folder = copy("bert")
    (folder / "evil.py").write_text("raise SystemExit('this code must not run')")
    edit_json(folder / "config.json", **change)
    assert str(folder) in error_of(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": {"model_type": "no-such-model"}},
        {"encoder": {"model_type": "gpt2"}},
        {"encoder": 3},
        {"encoder": {"model_type": "bert", "hidden_size": 33, "num_attention_heads": 2}},
        {"max_tokens": 5000},
        {"max_tokens": "many"},
        {"normalize": "yes"},
        {"scale": 0},
        {"scale": "large"},
    ],
)
def test_airrep_configurations_that_make_no_sense(
    encoder_folder: Folder, tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = trained(encoder_folder("bert"), tmp_path / "model")
    edit_json(folder / "config.json", **change)
    assert str(folder) in error_of(folder)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    assert error_of(tmp_path / "no").endswith(": no such checkpoint folder")
    assert error_of("./no").endswith(": no such checkpoint folder")
    assert "no config.json; expected a checkpoint or an encoder folder" in error_of(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert error_of(file).endswith(": no such checkpoint folder")
    for name in ("no-one/no-such-model", "not a hub id!"):
        assert f"{name}: no such folder, and the hub does not give it: " in error_of(name)
    (tmp_path / "config.json").write_text("{")
    assert "config.json: not valid JSON" in error_of(tmp_path)
