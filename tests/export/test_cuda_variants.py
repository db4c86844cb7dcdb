"""The graphs for CUDA: what they compute, by ONNX Runtime on the CPU or by its operators in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from airrep_export.bundle import Reduced, export_bundle
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from airrep_infer.bundle import Bundle
from airrep_infer.encode.batching import pad_batch
from airrep_infer.encode.encoder import Encoder
from airrep_infer.errors import InputError

COSINE = 0.9999
LENGTHS = [40, 1, 17, 23, 0, 39]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Callable[[str], Path]) -> Bundle:
    folder = tmp_path_factory.mktemp("cuda") / "bundle"
    reduced = Reduced(["fp16", "fp16-packed"])
    return export_bundle(encoder_folder("bert"), folder, untrained=True, reduced=reduced)


def graph_of(bundle: Bundle, precision: str) -> Any:
    return onnx.load(str(bundle.path / bundle.precision(precision).file)).graph


def batch() -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    ids = [np.random.default_rng(n).integers(5, 60, n) for n in LENGTHS]
    padded = pad_batch(ids, np.arange(len(ids)), 0)
    return {"input_ids": padded.input_ids, "attention_mask": padded.attention_mask}, ids


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("precision", ["fp16", "fp16-packed"])
def test_every_part_of_a_layer_is_one_operator(bundle: Bundle, precision: str) -> None:
    operators = bundle.precision(precision).operators
    assert operators["attention"] == 2 and operators["softmax"] == 0
    assert operators["gelu"] == 2 and operators["erf"] == 0 and operators["layer_norm"] == 5
    kinds = [node.op_type for node in graph_of(bundle, precision).node]
    assert kinds.count("SkipLayerNormalization") == 4 and kinds.count("BiasGelu") == 2
    assert kinds.count("PackedAttention" if precision == "fp16-packed" else "Attention") == 2


@pytest.mark.parametrize("precision", ["fp16", "fp16-packed"])
def test_the_encoder_is_in_half_precision_and_what_follows_is_not(bundle: Bundle, precision: str) -> None:
    graph = graph_of(bundle, precision)
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("MatMul", "Attention", "PackedAttention", "SkipLayerNormalization", "BiasGelu"):
            kinds = {weights[name] for name in node.input if name in weights}
            assert kinds == {TensorProto.FLOAT16}, node.op_type
    (projector,) = [node for node in graph.node if node.op_type == "Gemm"]
    assert {weights[name] for name in projector.input if name in weights} == {TensorProto.FLOAT}
    casts = [
        attribute.i for node in graph.node if node.op_type == "Cast" for attribute in node.attribute
    ]  # one from the last layer to pooling, one of the mask for pooling, integers for the mask of attention
    assert casts.count(TensorProto.FLOAT16) == 0 and casts.count(TensorProto.FLOAT) == 2


def test_attention_is_told_lengths_and_starts(bundle: Bundle) -> None:
    """The one form of a mask for padded batches that has a fused kernel on every GPU."""
    graph = graph_of(bundle, "fp16")
    (mask,) = {node.input[3] for node in graph.node if node.op_type == "Attention"}
    model = onnx.load(str(bundle.path / "encoder.fp16.onnx"))
    wanted = onnx.utils.Extractor(model).extract_model(["attention_mask"], [mask])
    feed = {"attention_mask": batch()[0]["attention_mask"]}
    (found,) = ReferenceEvaluator(wanted).run(None, feed)
    starts = [0, 40, 80, 120, 160, 200, 240]
    assert found.dtype == np.int32 and found.tolist() == [40, 1, 17, 23, 1, 39, *starts, *starts]


def test_half_precision_gives_the_vectors_of_fp32(bundle: Bundle) -> None:
    from onnxruntime import InferenceSession

    feed, ids = batch()
    sessions = [InferenceSession(str(bundle.path / f"encoder{kind}.onnx")) for kind in ("", ".fp16")]
    exact, half = (session.run(["embedding"], feed)[0] for session in sessions)
    assert half.dtype == np.float32 and np.isfinite(half).all()
    real = [n for n, row in enumerate(ids) if len(row)]
    assert cosines(exact[real], half[real]).min() >= COSINE


def test_without_padding_the_vectors_are_the_same(bundle: Bundle) -> None:
    """ONNX Runtime has these operators for CUDA alone; here they are what it documents, in NumPy."""
    from onnxruntime import InferenceSession

    feed, ids = batch()
    (exact,) = InferenceSession(str(bundle.path / "encoder.onnx")).run(["embedding"], feed)
    graph = bundle.path / bundle.precision("fp16-packed").file
    packed = ReferenceEvaluator(str(graph), new_ops=OPERATORS).run(["embedding"], feed)[0]
    real = [n for n, row in enumerate(ids) if len(row)]
    assert packed.dtype == np.float32 and cosines(exact[real], packed[real]).min() >= COSINE
    assert np.allclose(exact[real], packed[real], atol=0.01 * np.abs(exact).max())


def test_what_cannot_be_packed_is_refused(encoder_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fp16-packed: ONNX Runtime fuses the attention .* use fp16"):
        export_bundle(
            encoder_folder("mpnet"), tmp_path / "b", untrained=True, reduced=Reduced(["fp16-packed"])
        )
    assert not (tmp_path / "b").exists()


def test_they_run_on_cuda_alone(bundle: Bundle) -> None:
    packed = bundle.precision("fp16-packed")
    assert packed.runs_on == "cuda" and packed.parity["min_cosine"] >= COSINE
    assert packed.parity["bytes"] == (bundle.path / packed.file).stat().st_size
    with pytest.raises(InputError, match="runs on CUDA alone"):
        Encoder(bundle, precision="fp16-packed", device="cpu")


class RemovePadding(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, tokens):  # type: ignore[no-untyped-def]
        rows, length, _ = x.shape
        place = np.arange(rows * length).reshape(rows, length)
        real = np.arange(length) < tokens[:, None]
        offset = np.concatenate([place[real], place[~real]]).reshape(rows, length).astype(np.int32)
        cumulated = np.cumsum([0, *tokens]).astype(np.int32)
        return x[real], offset, cumulated, np.array([max(tokens)], np.int32)


class RestorePadding(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, offset):  # type: ignore[no-untyped-def]
        padded = np.zeros((offset.size, x.shape[1]), x.dtype)
        padded[offset.reshape(-1)[: len(x)]] = x
        return (padded.reshape(*offset.shape, -1),)


class PackedAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, weight, bias, _offset, cumulated, _bias=None, num_heads=None):  # type: ignore[no-untyped-def]
        q, k, v = np.split(x.astype(np.float32) @ weight + bias, 3, axis=1)
        out = np.empty_like(q)
        size = q.shape[1] // num_heads
        for start, end in pairwise(cumulated):
            for head in range(num_heads):
                part = np.s_[start:end, head * size : (head + 1) * size]
                scores = q[part] @ k[part].T / math.sqrt(size)
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                out[part] = weights / weights.sum(axis=1, keepdims=True) @ v[part]
        return (out.astype(x.dtype),)


class SkipLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, skip, gamma, beta, bias, epsilon=None):  # type: ignore[no-untyped-def]
        total = x.astype(np.float32) + skip + bias
        centred = total - total.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
        return ((centred / scale * gamma + beta).astype(x.dtype),)


class BiasGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, bias):  # type: ignore[no-untyped-def]
        y = x.astype(np.float32) + bias
        return ((y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2).astype(x.dtype),)


OPERATORS = [RemovePadding, RestorePadding, PackedAttention, SkipLayerNormalization, BiasGelu]
