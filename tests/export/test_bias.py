"""Biases inside products: the same function, and only where it is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from airrep_export.bias import biases_into_products
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
WEIGHTS = {
    "w1": rng.normal(size=(3, 4)), "b1": rng.normal(size=4),
    "w2": rng.normal(size=(3, 5)), "b2": rng.normal(size=5),
    "square": rng.normal(size=(4, 4)), "row": rng.normal(size=(1, 4)),
}  # fmt: skip


def model(nodes: list, outputs: list[str]) -> object:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in WEIGHTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(made: object, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def operators(made: object) -> list[str]:
    return sorted(node.op_type for node in made.graph.node)


def test_two_products_of_one_input_become_gemms_and_share_its_reshape() -> None:
    made = model(
        [
            helper.make_node("MatMul", ["x", "w1"], ["p1"]),
            helper.make_node("Add", ["p1", "b1"], ["y1"]),
            helper.make_node("MatMul", ["x", "w2"], ["p2"]),
            helper.make_node("Add", ["b2", "p2"], ["y2"]),
            helper.make_node("Relu", ["y1"], ["z1"]),
        ],
        ["z1", "y2"],
    )
    inputs = [rng.normal(size=shape).astype(np.float32) for shape in ((2, 7, 3), (1, 1, 3), (5, 2, 3))]
    expected = [run(made, x) for x in inputs]
    assert biases_into_products(made) == 2
    assert operators(made) == ["Concat"] * 2 + ["Gemm"] * 2 + ["Relu"] + ["Reshape"] * 3 + ["Shape"]
    for x, before in zip(inputs, expected, strict=True):
        for one, other in zip(run(made, x), before, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_a_product_of_a_product_reads_its_rows() -> None:
    """Nothing stands between the two in ALBERT, whose embeddings are widened before the first layer."""
    made = model(
        [
            helper.make_node("MatMul", ["x", "w1"], ["p1"]),
            helper.make_node("Add", ["p1", "b1"], ["y1"]),
            helper.make_node("MatMul", ["y1", "square"], ["p2"]),
            helper.make_node("Add", ["p2", "b1"], ["y2"]),
        ],
        ["y2"],
    )
    x = rng.normal(size=(2, 7, 3)).astype(np.float32)
    expected = run(made, x)
    assert biases_into_products(made) == 2
    np.testing.assert_allclose(run(made, x)[0], expected[0], rtol=1e-5, atol=1e-6)


def test_other_sums_stay() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["p"]),  # read twice
        helper.make_node("Add", ["p", "b1"], ["y"]),
        helper.make_node("MatMul", ["p", "square"], ["q"]),  # a bias that is no vector
        helper.make_node("Add", ["q", "row"], ["r"]),
        helper.make_node("MatMul", ["r", "square"], ["s"]),  # a sum with an activation
        helper.make_node("Add", ["s", "y"], ["t"]),
        helper.make_node("MatMul", ["t", "square"], ["u"]),  # twice itself
        helper.make_node("Add", ["u", "u"], ["v"]),
        helper.make_node("MatMul", ["v", "square"], ["out"]),  # an output of the graph
        helper.make_node("Add", ["out", "b1"], ["also"]),
    ]
    made = model(nodes, ["also", "out"])
    before = operators(made)
    assert biases_into_products(made) == 0
    assert operators(made) == before


def test_minilm_has_no_bias_left_after_a_product(minilm_bundle: Path) -> None:
    import onnx

    graph = onnx.load(str(minilm_bundle / "encoder.onnx")).graph
    counts = [node.op_type for node in graph.node]
    assert counts.count("Gemm") == 6 * 3 + 1  # attention output, both of the MLP; the projector
    assert biases_into_products(onnx.load(str(minilm_bundle / "encoder.onnx"))) == 0
