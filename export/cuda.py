"""The variants for CUDA: half precision with fused attention, and the same with the padding removed.

Which kernel computes attention on a GPU depends on the form of the mask. With the number of tokens of each
row alone, which is what fusing gives, an H100 has no fused kernel: ONNX Runtime's kernels from TensorRT end
at compute capability 8.9, its flash attention takes no mask, and its memory-efficient attention wants the
starts of the rows beside their lengths. So the mask gets that form here; it computes the same everywhere.

Without padding (`fp16-packed`) RemovePadding cuts a batch to its tokens before the first layer,
PackedAttention keeps the rows apart, and RestorePadding comes before pooling. ONNX Runtime has these for
CUDA alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.convert_to_packing_mode import PackingMode
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.onnx_model import OnnxModel
from onnxruntime.transformers.optimizer import optimize_model

from airrep_infer.errors import InputError

_MASK_INPUT = {"Attention": 3, "MultiHeadAttention": 4}


def half_graph(plain: Path, fused: Path) -> Any:
    """The encoder in half precision, pooling and what follows in float32.

    Args:
        plain: the graph in standard operators.
        fused: fused with three products for attention; taken where one product cannot be fused.
    """
    model = _fuse_for_gpu(plain, fused)
    if lengths := _attend_to_at_least_one_token(model):
        _say_where_rows_start(model, lengths)
    return _in_half_precision(model)


def packed_graph(plain: Path, fused: Path) -> Any:
    """`half_graph` with the padding removed.

    Raises:
        InputError: attention is not one operator with a mask of lengths, as in BERT: nothing else is packed.
    """
    model = _fuse_for_gpu(plain, fused)
    if _attend_to_at_least_one_token(model):
        PackingMode(model).convert(use_symbolic_shape_infer=False)
    if not model.get_nodes_by_op_type("PackedAttention"):
        raise InputError(
            "precision fp16-packed: ONNX Runtime fuses the attention of this architecture in another form, "
            "which cannot be packed; use fp16"
        )
    return _in_half_precision(model)


def _fuse_for_gpu(plain: Path, fused: Path) -> OnnxModel:
    options = FusionOptions("bert")
    options.enable_embed_layer_norm = False  # its output is what padding is removed from
    model = optimize_model(str(plain), "bert", opt_level=0, optimization_options=options)
    if not model.get_nodes_by_op_type("Attention"):
        return OnnxModel(onnx.load(str(fused)))
    imports = model.model.opset_import
    if all(known.domain != "com.microsoft" for known in imports):  # otherwise added when it is saved
        imports.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _attend_to_at_least_one_token(model: OnnxModel) -> str | None:
    """Raise the lengths of all masks to at least 1: over no token at all attention is NaN.

    Returns:
        The name of the lengths, (batch,) int32; None where attention has no mask of lengths.
    """
    masks = {node.input[place] for node, place in _masked(model)}
    # ONNX Runtime's fusion sums the int32 attention mask; masks in another form stay as they are.
    sources = [node for node in model.nodes() if node.op_type == "ReduceSum" and node.output[0] in masks]
    if len(masks) != 1 or not sources:
        return None
    (lengths,) = masks
    raised = f"{lengths}_at_least_1"
    model.add_initializer(numpy_helper.from_array(np.array([1], np.int32), "one_token"))
    model.add_node(helper.make_node("Max", [lengths, "one_token"], [raised]))
    for node, place in _masked(model):
        node.input[place] = raised
    model.topological_sort()
    return raised


def _say_where_rows_start(model: OnnxModel, lengths: str) -> None:
    """Masks become (3 batch + 2,): lengths, and twice the batch + 1 places at which padded rows start."""
    constants = {"mask_zero": 0, "mask_one": 1}
    for name, value in constants.items():
        model.add_initializer(numpy_helper.from_array(np.array(value, np.int64), name))
    make = helper.make_node
    for node in (
        make("Shape", ["attention_mask"], ["mask_shape"]),
        make("Gather", ["mask_shape", "mask_zero"], ["mask_rows"]),
        make("Gather", ["mask_shape", "mask_one"], ["mask_length"]),
        make("Add", ["mask_rows", "mask_one"], ["mask_starts_count"]),
        make("Mul", ["mask_starts_count", "mask_length"], ["mask_end"]),
        make("Range", ["mask_zero", "mask_end", "mask_length"], ["mask_starts_int64"]),
        make("Cast", ["mask_starts_int64"], ["mask_starts"], to=TensorProto.INT32),
        make("Concat", [lengths, "mask_starts", "mask_starts"], ["mask_lengths_and_starts"], axis=0),
    ):
        model.add_node(node)
    for node, place in _masked(model):
        node.input[place] = "mask_lengths_and_starts"
    model.topological_sort()


def _masked(model: OnnxModel) -> list[tuple[Any, int]]:
    """Each attention operator that has a mask, and which of its inputs that is."""
    return [
        (node, _MASK_INPUT[node.op_type])
        for node in model.nodes()
        if node.op_type in _MASK_INPUT and len(node.input) > _MASK_INPUT[node.op_type]
    ]


def _in_half_precision(model: OnnxModel) -> Any:
    """All that the last layer norm needs in half precision; the sums over tokens after it stay in float32."""
    model.topological_sort()
    nodes = list(model.model.graph.node)
    for number, node in enumerate(nodes):
        node.name = node.name or f"unnamed_{number}"
    norms = [node for node in nodes if node.op_type.endswith("LayerNormalization")]
    needed = _ancestors(nodes, norms[-1])
    kept = [node.name for node in nodes if node.name not in needed and node.op_type != "RestorePadding"]
    # Symbolic inference knows the types of ONNX Runtime's own operators; plain inference stops at them.
    model.convert_float_to_float16(use_symbolic_shape_infer=True, keep_io_types=True, node_block_list=kept)
    _keep_exact_between_float32(model)
    return model.model


def _keep_exact_between_float32(model: OnnxModel) -> None:
    """Remove each Cast to half precision and back, which the conversion puts between operators in float32."""
    makers = {output: node for node in model.nodes() for output in node.output}
    outputs = {output.name for output in model.model.graph.output}
    for back in model.nodes():
        there = makers.get(back.input[0]) if _casts_to(back, TensorProto.FLOAT) else None
        if there is None or not _casts_to(there, TensorProto.FLOAT16):
            continue
        exact, (copy,) = there.input[0], back.output
        if copy in outputs:  # the graph's output keeps its name
            model.remove_node(back)
            model.replace_output_of_all_nodes(exact, copy)
            model.replace_input_of_all_nodes(exact, copy)
        else:
            model.replace_input_of_all_nodes(copy, exact)
    model.prune_graph()
    model.topological_sort()


def _casts_to(node: Any, kind: int) -> bool:
    return node.op_type == "Cast" and bool(OnnxModel.get_node_attribute(node, "to") == kind)


def _ancestors(nodes: list[Any], last: Any) -> set[str]:
    """The names of `last` and all nodes that it depends on."""
    makers = {output: node for node in nodes for output in node.output}
    names: set[str] = set()
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node.name not in names:
            names.add(node.name)
            waiting += [makers[name] for name in _read(node) if name in makers]
    return names


def _read(node: Any) -> list[str]:
    """What a node reads, also in the branches of an If."""
    branches = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [*node.input, *(name for branch in branches for inner in branch.node for name in _read(inner))]
