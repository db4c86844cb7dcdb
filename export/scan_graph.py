"""The graphs that score: `scan.onnx`, `scan.fp16.onnx` a block of rows on a GPU, `product.onnx` a CPU tile.

They lie in `airrep_infer/score`, for `onnx_scan` and `product` there. The lean install has no
`onnx` to build them with, so the files are committed; a test compares.

    python -m airrep_export.scan_graph        # writes them again after a change here
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from onnx import TensorProto, checker, helper

from airrep_infer.score import HALF_SCAN_GRAPH, PRODUCT_GRAPH, SCAN_GRAPH

OPSET = 17  # the last in which ReduceMax takes its axes as an attribute, as older ONNX Runtimes want it
IR_VERSION = 8

_Kind = tuple[int, list[str | int | None]]
_PRODUCT_INPUTS: dict[str, _Kind] = {
    "rows": (TensorProto.FLOAT, ["rows", "dimension"]),
    "columns": (TensorProto.FLOAT, ["dimension", "queries"]),
}
_PRODUCT_OUTPUTS: dict[str, _Kind] = {"out": (TensorProto.FLOAT, ["rows", "queries"])}
_INPUTS: dict[str, _Kind] = {
    "queries": (TensorProto.FLOAT, ["queries", "dimension"]),
    "block": (TensorProto.FLOAT, ["rows", "dimension"]),
    "k": (TensorProto.INT64, [1]),
    "beta": (TensorProto.FLOAT, []),
}
_OUTPUTS: dict[str, _Kind] = {
    "scores": (TensorProto.FLOAT, ["queries", "rows"]),
    "high_scores": (TensorProto.FLOAT, ["queries", "k"]),
    "high_rows": (TensorProto.INT64, ["queries", "k"]),
    "low_scores": (TensorProto.FLOAT, ["queries", "k"]),
    "low_rows": (TensorProto.INT64, ["queries", "k"]),
    "top": (TensorProto.FLOAT, ["queries"]),
    "weight": (TensorProto.FLOAT, ["queries"]),
    "weighted": (TensorProto.FLOAT, ["queries"]),
}


def build_scan_graph(block: int = TensorProto.FLOAT) -> bytes:
    """s = q . z of every pair; the k highest and lowest a query; max |s| and the sums of `PooledPartial`.

    Args:
        block: dtype of the rows; they are scored in float32.
    """
    node = helper.make_node
    nodes = [
        *([] if block == TensorProto.FLOAT else [node("Cast", ["block"], ["exact"], to=TensorProto.FLOAT)]),
        node("Gemm", ["queries", "block" if block == TensorProto.FLOAT else "exact"], ["scores"], transB=1),
        node("TopK", ["scores", "k"], ["high_scores", "high_rows"], axis=1, largest=1, sorted=1),
        node("TopK", ["scores", "k"], ["low_scores", "low_rows"], axis=1, largest=0, sorted=1),
        node("Abs", ["scores"], ["magnitudes"]),
        node("ReduceMax", ["magnitudes"], ["tops"], axes=[1], keepdims=1),
        node("Sub", ["magnitudes", "tops"], ["differences"]),
        node("Mul", ["differences", "beta"], ["exponents"]),
        node("Exp", ["exponents"], ["weights"]),
        node("Mul", ["weights", "scores"], ["products"]),
        node("ReduceSum", ["weights", "axis"], ["weight"], keepdims=0),
        node("ReduceSum", ["products", "axis"], ["weighted"], keepdims=0),
        node("Squeeze", ["tops", "axis"], ["top"]),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    inputs = {**_INPUTS, "block": (block, _INPUTS["block"][1])}
    return _serialized("scan", nodes, inputs, _OUTPUTS, [axis])


def build_product_graph() -> bytes:
    """out = rows @ columns."""
    nodes = [helper.make_node("MatMul", ["rows", "columns"], ["out"])]
    return _serialized("product", nodes, _PRODUCT_INPUTS, _PRODUCT_OUTPUTS, [])


def _serialized(
    name: str, nodes: list[Any], inputs: dict[str, _Kind], outputs: dict[str, _Kind], constants: list[Any]
) -> bytes:
    def described(values: dict[str, _Kind]) -> list[Any]:
        return [helper.make_tensor_value_info(value, *kind) for value, kind in values.items()]

    graph = helper.make_graph(nodes, name, described(inputs), described(outputs), constants)
    model = helper.make_model(
        graph,
        producer_name="airrep",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


BUILDERS: dict[Path, Callable[[], bytes]] = {
    SCAN_GRAPH: build_scan_graph,
    HALF_SCAN_GRAPH: partial(build_scan_graph, TensorProto.FLOAT16),
    PRODUCT_GRAPH: build_product_graph,
}

if __name__ == "__main__":
    for file, build in BUILDERS.items():
        file.write_bytes(build())
        print(file)
