"""Reduced precisions: close to fp32, independent of the batch, honestly described, whole or refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from airrep_export import bundle as bundle_module
from airrep_export.bundle import Reduced, export_bundle
from airrep_export.cli import main
from airrep_export.int8_ranges import calibration_batches, observe_inputs
from airrep_export.int8_scales import Quantiser, input_scale, weight_steps
from airrep_export.parity import SENTENCES, sample_ids
from airrep_export.texts import PASSAGES, calibration_texts
from airrep_export.variant import Variant, check_variant
from click.testing import CliRunner
from onnx import numpy_helper

from airrep_infer.bundle import MANIFEST, TOKENIZER, Bundle
from airrep_infer.encode.encoder import Encoder
from airrep_infer.encode.tokenization import TextTokenizer
from airrep_infer.errors import AirRepError, InputError
from airrep_infer.rows import Example, Reading

INT8_COSINE = 0.99
FP16_COSINE = 0.99999
ALONE = 1e-5
SPIKE = 120
TEXTS = [*SENTENCES, "", "café 🙂", "word " * 200, "x"]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Callable[[str], Path]) -> Bundle:
    folder = tmp_path_factory.mktemp("reduced") / "bundle"
    return export_bundle(encoder_folder("bert"), folder, untrained=True, reduced=Reduced(["int8", "fp16"]))


@pytest.fixture(scope="module")
def spiky_folder(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Callable[[str], Path]) -> Path:
    """A BERT with one neuron a layer that is far larger than the others on some tokens, as real ones have."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = tmp_path_factory.mktemp("spiky")
    model = AutoModel.from_pretrained(encoder_folder("bert"), add_pooling_layer=False)
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.intermediate.dense.weight[0] *= SPIKE
            layer.output.dense.weight[:, 0] /= SPIKE
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder_folder("bert")).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["roberta", "mpnet", "modernbert"])  # fused, unfused, gated
def test_int8_of_other_architectures(
    kind: str, encoder_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    made = export_bundle(encoder_folder(kind), tmp_path / "b", untrained=True, reduced=Reduced(["int8"]))
    exact, coarse = Encoder(made, device="cpu").embed(TEXTS), Encoder(made, precision="int8").embed(TEXTS)
    assert cosines(exact, coarse).min() >= INT8_COSINE
    assert np.abs(exact - coarse).max() > 0
    operators = made.precision("int8").operators
    layers = 2
    products = 4 if kind == "modernbert" else 6  # ModernBERT: one product for Q, K and V, a gated GELU
    assert operators["products"] + operators["kept"] == layers * products
    assert operators["kept"] == 0


def test_int8_vectors_do_not_depend_on_the_batch(bundle: Bundle) -> None:
    texts = [f"{text} {number}" for number in range(12) for text in TEXTS]
    encoder = Encoder(bundle, precision="int8", threads=2)
    together = encoder.embed(texts)
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=ALONE)
    one_batch = Encoder(bundle, precision="int8", batch_tokens=100_000).embed(texts)
    np.testing.assert_allclose(together, one_batch, rtol=0, atol=ALONE)


def test_padding_takes_the_masked_branch(bundle: Bundle) -> None:
    """The encoder never pads for int8, but the graph must be right for whoever does."""
    encoder = Encoder(bundle, precision="int8")
    plain = encoder.embed(TEXTS)
    encoder._equal_lengths = False
    assert cosines(plain, encoder.embed(TEXTS)).min() >= INT8_COSINE


def test_a_precision_that_depends_on_the_batch_leaves_nothing_behind(
    spiky_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airrep_export.variant.MIN_BATCH_COSINE", 1.1)  # as if it did
    with pytest.raises(InputError, match=r"another vector in another batch .*use another precision"):
        export_bundle(spiky_folder, tmp_path / "b", untrained=True, reduced=Reduced(["int8"]))
    assert list(tmp_path.iterdir()) == []


def figures(**changes: float) -> Variant:
    values = {"min_cosine": 0.99, "mean_cosine": 1.0, "max_abs_difference": 0.0, "top10_agreement": 1.0}
    rest = {"texts": 64, "longest": 64, "bytes": 1, "speed": 1.0, "lds_change": None}
    return Variant(**{**values, **rest, "batch_cosine": 1.0, "calibrated_with": None, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", [{"min_cosine": 0.9}, {"min_cosine": float("nan")}])
def test_a_broken_precision_is_refused(broken: dict[str, float]) -> None:
    check_variant("int8", figures())
    with pytest.raises(AirRepError, match=r"worst cosine to fp32.*--calibrate"):
        check_variant("int8", figures(**broken))


def test_nan_is_not_independent_of_the_batch() -> None:
    with pytest.raises(InputError, match="another batch"):
        check_variant("int8", figures(batch_cosine=float("nan")))


def test_manifest_says_what_was_measured(bundle: Bundle) -> None:
    entries = json.loads((bundle.path / MANIFEST).read_text())["precisions"]
    assert list(entries) == ["fp32", "int8", "fp16"]
    assert entries["fp32"]["runs_on"] == "any" and entries["fp32"]["equal_lengths"] is False
    int8, fp16 = entries["int8"], entries["fp16"]
    assert int8["runs_on"] == "cpu" and int8["equal_lengths"] is True
    assert int8["parity"]["bytes"] == (bundle.path / "encoder.int8.onnx").stat().st_size
    assert INT8_COSINE <= int8["parity"]["min_cosine"] <= int8["parity"]["mean_cosine"] < 1
    assert int8["parity"]["batch_cosine"] >= 0.999 and int8["parity"]["speed"] > 0
    assert int8["parity"]["calibrated_with"] == "built-in text" and int8["parity"]["lds_change"] is None
    assert fp16["runs_on"] == "cuda" and fp16["parity"]["min_cosine"] >= FP16_COSINE
    assert fp16["parity"]["speed"] is None, "this machine has no CUDA to measure it on"
    assert fp16["parity"]["bytes"] < 0.7 * (bundle.path / "encoder.onnx").stat().st_size
    assert bundle.describe()["precisions"]["int8"]["parity"] == int8["parity"]


def test_further_precisions_leave_the_fingerprint(bundle: Bundle, tiny_bundle: Path) -> None:
    assert bundle.fingerprint == Bundle.open(tiny_bundle).fingerprint


def test_a_damaged_precision_is_found(bundle: Bundle, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy"))
    file = copy / "encoder.int8.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"encoder\.int8\.onnx: damaged"):
        Encoder(copy, precision="int8")
    Encoder(copy)  # fp32 is as it was


def test_outliers_are_smoothed(spiky_folder: Path, tmp_path: Path) -> None:
    made = export_bundle(spiky_folder, tmp_path / "b", untrained=True, reduced=Reduced(["int8"]))
    int8 = made.precision("int8")
    assert int8.operators["smoothed"] == 2 and int8.operators["kept"] == 0
    assert int8.parity["min_cosine"] >= INT8_COSINE


def test_a_sensitive_product_stays_in_float32(
    encoder_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airrep_export.int8_scales._SENSITIVE", 0.0)
    made = export_bundle(encoder_folder("bert"), tmp_path / "b", untrained=True, reduced=Reduced(["int8"]))
    assert made.precision("int8").operators["kept"] == 12
    exact, same = Encoder(made, device="cpu").embed(TEXTS), Encoder(made, precision="int8").embed(TEXTS)
    np.testing.assert_allclose(exact, same, rtol=0, atol=1e-5)


def test_products_that_move_vectors_most_stay_in_float32(
    bundle: Bundle, encoder_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bundle.precision("int8")
    # What it takes to be asked for more than int8 alone gives.
    monkeypatch.setattr("airrep_export.int8.CLOSE", 1 - (1 - first.parity["min_cosine"]) / 2)
    written: list[tuple[str, ...]] = []
    write = Quantiser.write

    def noted(self: Quantiser, output: Path, kept: tuple[str, ...] = ()) -> object:
        written.append(tuple(kept))
        return write(self, output, kept)

    monkeypatch.setattr(Quantiser, "write", noted)
    made = export_bundle(encoder_folder("bert"), tmp_path / "b", untrained=True, reduced=Reduced(["int8"]))
    closer = made.precision("int8")
    assert first.operators["kept"] == 0 < closer.operators["kept"] < 12
    assert closer.parity["min_cosine"] > first.parity["min_cosine"]
    inputs = len({name for kept in written for name in kept})
    assert inputs == 8  # of two blocks: queries, keys and values share one
    assert len(written[-1]) == len({*written[-1]}) <= 4
    assert len(written) == 1 + sum(inputs - number + 1 for number in range(len(written[-1])))
    exact, same = Encoder(made, device="cpu").embed(TEXTS), Encoder(made, precision="int8").embed(TEXTS)
    np.testing.assert_allclose(exact, same, rtol=0, atol=0.05)


def test_calibration_looks_at_more_than_the_first_rows(tmp_path: Path) -> None:
    """A file that is sorted by kind: every kind is among the texts, about as often as in the file."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"kind {n // 1000}"}) + "\n" for n in range(4000)))
    kinds = Counter(example.text for example in calibration_texts(rows) if isinstance(example, Example))
    assert len(kinds) == 4 and sum(kinds.values()) == 256 and min(kinds.values()) > 40
    assert calibration_texts(rows) == calibration_texts(rows)


def test_ranges_leave_padding_out(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    graph = tiny_bundle / "encoder.onnx"
    tokenizer = TextTokenizer((tiny_bundle / TOKENIZER).read_text(encoding="utf-8"), bundle.max_tokens)
    ids = sample_ids(tokenizer, bundle.max_tokens)
    model = onnx.load(str(graph))
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [n.input[0] for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in constants]
    names = list(dict.fromkeys(names))
    before = set(tiny_bundle.iterdir())
    together = observe_inputs(graph, names, calibration_batches(ids, bundle.pad_id))
    one_by_one = observe_inputs(
        graph, names, (feed for one in ids for feed in calibration_batches([one], bundle.pad_id))
    )
    assert set(tiny_bundle.iterdir()) == before
    for name in names:
        np.testing.assert_allclose(together[name].low, one_by_one[name].low, atol=1e-5)
        np.testing.assert_allclose(together[name].high, one_by_one[name].high, atol=1e-5)
        assert (together[name].rows >= together[name].low - 1e-5).all()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)])
def test_steps_cover_the_range_and_hit_zero(low: float, high: float) -> None:
    scale, zero_point = input_scale(low, high)
    ends = (np.array([0, 255]) - float(zero_point)) * float(scale)
    assert ends[0] <= min(low, 0) + scale and ends[1] >= max(high, 0) - scale
    assert 0 <= zero_point <= 255 and scale > 0


def test_weights_are_within_half_a_step() -> None:
    weights = np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32)
    weights[:, 2] = 0
    steps, scale = weight_steps(weights)
    assert (np.abs(steps * scale - weights) <= scale / 2 + 1e-7).all()


def test_scales_come_from_the_given_texts(
    bundle: Bundle, encoder_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"only this {n}"}) + "\n" for n in range(300)))
    assert len(calibration_texts(rows)) == 256
    assert not {*PASSAGES} & {*SENTENCES}
    reduced = Reduced(["int8"], calibrate=rows)
    made = export_bundle(encoder_folder("bert"), tmp_path / "b", untrained=True, reduced=reduced)
    assert made.precision("int8").parity["calibrated_with"] == str(rows)
    assert made.precision("int8").files != bundle.precision("int8").files
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="no rows"):
        calibration_texts(tmp_path / "empty.jsonl")
    rows.write_text('{"Q": "q", "completion": "c"}\n')
    with pytest.raises(InputError, match="no prompt found"):
        calibration_texts(rows)
    (text,) = calibration_texts(rows, Reading.of(["prompt=Q"]))
    assert isinstance(text, Example) and text.prompt == "q"


def test_an_unknown_precision() -> None:
    with pytest.raises(InputError, match="'int4'; expected fp32, int8"):
        Reduced(["int4"])


def test_bf16_names_the_install(encoder_folder: Callable[[str], Path], tmp_path: Path) -> None:
    import onnxruntime

    if "OpenVINOExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has OpenVINO")
    with pytest.raises(InputError, match=r"--precision bf16.*OpenVINO.*airrep\[openvino\]"):
        export_bundle(encoder_folder("bert"), tmp_path / "b", untrained=True, reduced=Reduced(["bf16"]))
    assert list(tmp_path.iterdir()) == []


def test_weights_are_really_int8(bundle: Bundle) -> None:
    model = onnx.load(str(bundle.path / "encoder.int8.onnx"))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    multiplied = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(multiplied) == 12
    assert {constants[node.input[1]].dtype for node in multiplied} == {np.dtype(np.int8)}
    assert not [node for node in model.graph.node if node.op_type == "MatMul"]


def test_command(spiky_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [str(spiky_folder), "-o", str(tmp_path / "b"), "--untrained"]
    done = CliRunner().invoke(main, [*arguments, "--precision", "fp32", "--precision", "int8"])
    assert done.exit_code == 0, done.output
    assert "int8: " in done.stdout and "cosine to fp32 at least " in done.stdout
    monkeypatch.setattr("airrep_export.variant.MIN_BATCH_COSINE", 1.1)
    refused = CliRunner().invoke(main, [*arguments, "--overwrite", "--precision", "int8"])
    assert refused.exit_code == 2 and "another vector in another batch" in refused.stderr
    assert "int8" in Bundle.open(tmp_path / "b").precisions, "the bundle that was there stays"


def test_lds_change_is_recorded(
    encoder_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Found:
        def __init__(self, mean: float) -> None:
            self.mean = mean

    def evaluate(folder: Path, truth: object, precision: str = "fp32") -> Found:
        assert Encoder(folder, precision=precision).embed(["x"]).shape == (1, 32)
        return Found({"fp32": 0.5, "int8": 0.47}[precision])

    monkeypatch.setattr(bundle_module, "evaluate", evaluate)
    reduced = Reduced(["int8"], truth=SimpleNamespace(examples=[], splits=[]))  # type: ignore[arg-type]
    made = export_bundle(encoder_folder("bert"), tmp_path / "b", untrained=True, reduced=reduced)
    assert made.precision("int8").parity["lds_change"] == pytest.approx(-0.03)
