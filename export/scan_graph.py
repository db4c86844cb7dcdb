"""The graph that scores a block of a corpus on a GPU: `airrep_infer/scan.onnx`, for `airrep_infer.onnx_scan`.

The lean install has no `onnx` to build it with, so the file is committed; a test compares the two.

    python -m airrep_export.scan_graph        # writes it again after a change here
"""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, checker, helper

import airrep_infer

OPSET = 17  # the last in which ReduceMax takes its axes as an attribute, as older ONNX Runtimes want it
IR_VERSION = 8
FILE = Path(airrep_infer.__file__).with_name("scan.onnx")

_Kind = tuple[int, list[str | int | None]]
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


def build_scan_graph() -> bytes:
    """s = q . z of every pair; the k highest and lowest a query; max |s| and the sums of `PooledPartial`."""
    node = helper.make_node
    nodes = [
        node("Gemm", ["queries", "block"], ["scores"], transB=1),
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
    graph = helper.make_graph(
        nodes,
        "scan",
        [helper.make_tensor_value_info(name, *kind) for name, kind in _INPUTS.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in _OUTPUTS.items()],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(
        graph,
        producer_name="airrep",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


if __name__ == "__main__":
    FILE.write_bytes(build_scan_graph())
    print(FILE)
