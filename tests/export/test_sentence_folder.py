"""Folders for sentence-transformers: it loads them, and gives the checkpoint's vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from airrep_export.cli import main
from airrep_export.sentence_folder import export_sentence_folder
from click.testing import CliRunner
from tiny import TEXTS

from airrep_infer.encode.batching import pad_batch
from airrep_infer.encode.tokenization import TextTokenizer
from airrep_infer.errors import InputError
from airrep_train.model import AirRepConfig, AirRepModel, Checkpoint, load_checkpoint, save_checkpoint

SAME = {"rtol": 1e-4, "atol": 1e-5}
WORDS = [*TEXTS, "x Paris " * 60]
TANH = {"size": 12, "bias": True, "activation": "Tanh"}


def make(source: Path, folder: Path, *, moved: bool = True, **settings: Any) -> Path:
    """A trained checkpoint with the given configuration; `moved`: its projector is not the identity."""
    plain = load_checkpoint(source)
    torch.manual_seed(3)
    config = AirRepConfig(plain.model.config.encoder, max_tokens=24, **settings)
    model = AirRepModel(config, plain.model.encoder).eval()
    with torch.no_grad():
        model.beta.fill_(0.3)
        if moved:
            model.projector.weight.normal_()
            model.projector.bias.normal_()
    save_checkpoint(Checkpoint(model, plain.tokenizer, "", True), folder)
    return folder


def embed(folder: Path) -> np.ndarray:
    checkpoint = load_checkpoint(folder)
    definition = checkpoint.tokenizer.backend_tokenizer.to_str()
    rows = TextTokenizer(definition, checkpoint.model.config.max_tokens).encode(WORDS)
    batch = pad_batch(rows, np.arange(len(rows)), checkpoint.tokenizer.pad_token_id)
    with torch.no_grad():
        vectors = checkpoint.model(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask))
    return vectors.numpy()


@pytest.mark.parametrize(
    ("kind", "settings", "modules"),
    [
        ("bert", {}, "Transformer Pooling Dense"),
        ("bert", {"moved": False, "normalize": True}, "Transformer Pooling Normalize"),
        ("roberta", {"normalize": True, "scale": 8**0.5}, "Transformer Pooling Dense Normalize Dense"),
        ("bert", {"scale": 0.5, "embedding_dim": 7}, "Transformer Pooling Dense"),
        ("mpnet", {"pooling": ["cls", "max"], "dense": [TANH]}, "Transformer Pooling Dense Dense"),
        ("bert", {"prompt": "Represent this: ", "lower_case": True}, "Transformer Pooling Dense"),
    ],
    ids=str,
)
def test_sentence_transformers_gives_the_same_vectors(
    encoder_folder: Callable[[str], Path], tmp_path: Path, kind: str, settings: dict[str, Any], modules: str
) -> None:
    st = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    checkpoint = make(encoder_folder(kind), tmp_path / "checkpoint", **settings)
    folder = export_sentence_folder(checkpoint, tmp_path / "out")
    kinds = [entry["type"].rsplit(".", 1)[-1] for entry in json.loads((folder / "modules.json").read_text())]
    assert kinds == modules.split()
    theirs = st.SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(theirs.encode(WORDS), embed(checkpoint), **SAME)
    # And we read it again, as any folder of its kind.
    again = load_checkpoint(folder)
    assert not again.trained
    assert again.model.config.scale == pytest.approx(
        settings.get("scale", 1) if "normalize" in settings else 1
    )
    np.testing.assert_allclose(embed(folder), embed(checkpoint), **SAME)
    assert "scale 0.3" in (folder / "README.md").read_text()


def test_command(encoder_folder: Callable[[str], Path], tmp_path: Path) -> None:
    source = str(make(encoder_folder("bert"), tmp_path / "checkpoint"))
    out = str(tmp_path / "out")
    (tmp_path / "mine").mkdir()
    for arguments, expected in (
        ([source], "-o BUNDLE, --sentence-transformers FOLDER, or both"),
        ([source, "--sentence-transformers", out, "--precision", "int8"], "add -o BUNDLE"),
        ([source, "--sentence-transformers", str(tmp_path / "mine")], "exists and has no modules.json"),
        ([str(encoder_folder("bert")), "--sentence-transformers", out], "--untrained"),
    ):
        refused = CliRunner().invoke(main, arguments)
        assert refused.exit_code == 2 and expected in refused.stderr
    done = CliRunner().invoke(main, [source, "--sentence-transformers", out])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}: for sentence-transformers, with the checkpoint's vectors\n"
    again = CliRunner().invoke(main, [source, "--sentence-transformers", out])
    assert again.exit_code == 0 and "complete already" in again.stderr
    with pytest.raises(InputError, match=r"with other content \(.*json\); .*--overwrite"):
        export_sentence_folder(source, out, max_tokens=20)
    assert export_sentence_folder(source, out, overwrite=True) == Path(out)
