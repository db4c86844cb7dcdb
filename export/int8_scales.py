"""A float32 encoder graph -> the same with its large products in int8, at scales fixed by real text.

The products of activations and weights are nine tenths of an encoder's time. They alone are quantised:
weights to int8 with a scale per output channel, activations to uint8 with one scale per tensor. The scale
is fixed at export time, so a text's vector cannot depend on its batch, as it does under ORT's dynamic int8.

What keeps them close to float32, each decided by its measured effect on the product's own output:

* SmoothQuant: a few channels of a few tokens (often the first) are several times larger than all others
  and would waste the 256 steps. Such inputs are divided by a scale per channel, the weights multiplied.
* A product that is still too far off stays in float32 (and where vectors are, see `int8`).
* The mean error of each output is taken off the bias.

Attention scores, softmax, layer norms, GELU, pooling and the projector stay in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .graph import save_graph
from .int8_ranges import InputRange, observe_inputs
from .products import Product, copy_of, find_products, replace_all

# Migration strengths of SmoothQuant: 0 gives the channel scales to the weights, 1 to the activations.
_STRENGTHS = (0.5, 0.65, 0.8, 0.9, 1.0)
# Squared error of a product's output, as a share of its square. Measured on all-MiniLM-L6-v2: without
# smoothing 0.0002 to 0.003, with it 0.00003 to 0.001. Smoothing is one more pass over the input, so only
# inputs with an error above the first are smoothed; above the second a product stays in float32.
_SMOOTH_ABOVE = 0.001
_SENSITIVE = 0.01
_DOMAIN = "com.microsoft"  # of ONNX Runtime's own operators
_WEIGHT_STEPS = 127
_INPUT_STEPS = 255


@dataclass(frozen=True)
class Quantised:
    """What a variant has: products in int8, products left in float32, inputs that were smoothed."""

    products: int
    kept: int
    smoothed: int


@dataclass(frozen=True)
class _Plan:
    """How one input and the products that share it are quantised."""

    scale: np.float32
    zero_point: np.uint8
    smoothing: NDArray[np.float32] | None
    error: float


@dataclass(frozen=True)
class Quantiser:
    """A float32 graph, observed and planned, of which int8 variants can be written.

    Attributes:
        source: the float32 graph.
        ranges: of the inputs of its products.
        plans: how each input is quantised; those that are not in it stay in float32.
    """

    source: Path
    ranges: Mapping[str, InputRange]
    plans: Mapping[str, _Plan]

    @staticmethod
    def observe(source: Path, batches: Iterable[dict[str, NDArray[np.int64]]]) -> Quantiser:
        """Look at the inputs of its products.

        Args:
            batches: inputs of the graph, from the texts to calibrate with.
        """
        by_input = _by_input(find_products(onnx.load(str(source)).graph))
        ranges = observe_inputs(source, list(by_input), batches)
        plans = {
            name: _plan(ranges[name], np.concatenate([product.weights for product in sharing], axis=1))
            for name, sharing in by_input.items()
        }
        return Quantiser(
            source, ranges, {name: plan for name, plan in plans.items() if plan.error <= _SENSITIVE}
        )

    def write(self, output: Path, kept: Collection[str] = ()) -> Quantised:
        """Write the int8 variant, for the CPU kernels of ONNX Runtime.

        Args:
            kept: inputs whose products stay in float32, too.
        """
        model = onnx.load(str(self.source))
        products = find_products(model.graph)
        writer = _Writer(model.graph)
        left = smoothed = 0
        for name, sharing in _by_input(products).items():
            if name in kept or name not in self.plans:
                left += len(sharing)
                continue
            smoothed += self.plans[name].smoothing is not None
            writer.replace(name, sharing, self.plans[name], self.ranges[name].rows)
        writer.finish()
        skip_masks(model.graph)
        if not any(opset.domain == _DOMAIN for opset in model.opset_import):
            model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        save_graph(model, output)
        return Quantised(len(products) - left, left, smoothed)


def _by_input(products: Iterable[Product]) -> dict[str, list[Product]]:
    found: dict[str, list[Product]] = {}
    for product in products:
        found.setdefault(product.node.input[0], []).append(product)
    return found


def _plan(observed: InputRange, weights: NDArray[np.float32]) -> _Plan:
    """The scale, and the smoothing if it is worth it, with the least error of the products' output."""
    rows = observed.rows
    exact = rows @ weights
    power = float(np.square(exact).mean()) or 1.0
    largest = np.maximum(np.abs(observed.low), np.abs(observed.high)) + 1e-6
    heaviest = np.abs(weights).max(axis=1) + 1e-6
    plans: list[_Plan] = []
    for strength in (None, *_STRENGTHS):
        if plans and plans[0].error <= _SMOOTH_ABOVE:
            break
        smoothing = None
        if strength is not None:
            smoothing = largest**strength / heaviest ** (1 - strength)
            smoothing = (smoothing / np.exp(np.log(smoothing).mean())).astype(np.float32)
        by = np.float32(1) if smoothing is None else smoothing
        scale, zero_point = input_scale(float((observed.low / by).min()), float((observed.high / by).max()))
        steps, weight_scale = weight_steps(weights if smoothing is None else weights * smoothing[:, None])
        approximate = _round_trip(rows / by, scale, zero_point) @ (steps * weight_scale)
        error = float(np.square(approximate - exact).mean()) / power
        plans.append(_Plan(scale, zero_point, smoothing, error))
    return min(plans, key=lambda plan: plan.error)


def input_scale(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 steps over [low, high], which always includes 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / _INPUT_STEPS or 1.0)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, _INPUT_STEPS))


def weight_steps(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 steps of (K, N) weights, and their (N,) scales."""
    scale = (np.abs(weights).max(axis=0) / _WEIGHT_STEPS).astype(np.float32)
    scale[scale == 0] = 1
    return np.rint(weights / scale).astype(np.int8), scale


def _round_trip(rows: NDArray[np.float32], scale: np.float32, zero_point: np.uint8) -> NDArray[np.float32]:
    offset = np.float32(zero_point)
    result: NDArray[np.float32] = (np.clip(np.rint(rows / scale) + offset, 0, _INPUT_STEPS) - offset) * scale
    return result


class _Writer:
    """Collects replacements of nodes and puts them into the graph at once, in topological order."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._before: dict[str, list[Any]] = {}  # output of a product -> what takes its place
        self._gone: set[str] = set()
        self._prefix = 0

    def replace(self, name: str, sharing: Sequence[Product], plan: _Plan, rows: NDArray[np.float32]) -> None:
        """Quantise the input `name` once and all products of it."""
        self._prefix += 1
        base = f"int8_{self._prefix}"
        nodes: list[Any] = []
        source = name
        if plan.smoothing is not None:
            source = f"{base}_smooth"
            factor = self._constant(f"{base}_factor", (1 / plan.smoothing).astype(np.float32))
            nodes.append(helper.make_node("Mul", [name, factor], [source]))
            rows = rows / plan.smoothing
        scale = self._constant(f"{base}_scale", np.array(plan.scale))
        zero = self._constant(f"{base}_zero", np.array(plan.zero_point))
        nodes.append(helper.make_node("QuantizeLinear", [source, scale, zero], [f"{base}_steps"]))
        rounded = _round_trip(rows, plan.scale, plan.zero_point)
        for number, product in enumerate(sharing):
            weights = product.weights
            if plan.smoothing is not None:
                weights = weights * plan.smoothing[:, None]
            steps, weight_scale = weight_steps(weights)
            drift = (rounded @ (steps * weight_scale) - rows @ weights).mean(axis=0)
            part = f"{base}_{number}"
            inputs = [
                f"{base}_steps",
                self._constant(f"{part}_weights", steps),
                scale,
                self._constant(f"{part}_weight_scale", weight_scale),
                zero,
                self._constant(f"{part}_weight_zero", np.zeros(len(weight_scale), np.int8)),
            ]
            self._before[product.node.output[0]] = [*nodes, self._multiply(part, product, inputs, drift)]
            nodes = []  # the input is quantised before the first of them

    def _multiply(self, part: str, product: Product, inputs: list[str], drift: Any) -> Any:
        """The one operator that multiplies, scales and adds the bias."""
        bias, output = -drift, product.node.output[0]
        if product.bias is not None:
            bias, output = product.bias.values - drift, product.bias.node.output[0]
            self._gone.add(output)
        inputs = [*inputs, self._constant(f"{part}_bias", bias.astype(np.float32))]
        return helper.make_node(
            "MatMulIntegerToFloat", inputs, [output], name=product.node.name, domain=_DOMAIN
        )

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def finish(self) -> None:
        """Put the replacements in, and drop the weights that nothing reads any more."""
        nodes: list[Any] = []
        for node in self._graph.node:
            output = node.output[0]
            if output in self._before:
                nodes += self._before[output]
            elif output not in self._gone:
                nodes.append(node)
        replace_all(self._graph.node, nodes)
        read = {name for node in self._graph.node for name in node.input}
        replace_all(
            self._graph.initializer, [tensor for tensor in self._graph.initializer if tensor.name in read]
        )


def skip_masks(graph: Any) -> None:
    """Let attention run without its mask when a batch has no padding: ONNX Runtime is then faster.

    Measured for all-MiniLM-L6-v2: 1.3 times for texts of 60 tokens, 1.4 times for 250.
    """
    masked = {
        node.output[0]
        for node in graph.node
        if node.op_type == "MultiHeadAttention" and len(node.input) == 5 and node.input[4]
    }
    if not masked:
        return
    condition = "without_padding"
    nodes: list[Any] = [
        helper.make_node("ReduceMin", ["attention_mask"], ["smallest_mask"], keepdims=0),
        helper.make_node("Cast", ["smallest_mask"], [condition], to=TensorProto.BOOL),
    ]
    for node in graph.node:
        if node.output[0] not in masked:
            nodes.append(node)
            continue
        branches = {}
        for branch, inputs in (("then_branch", node.input[:4]), ("else_branch", node.input)):
            inner = copy_of(node)
            inner.ClearField("input")
            inner.input.extend(inputs)
            inner.output[0] = f"{node.output[0]}_{branch}"
            result = helper.make_tensor_value_info(inner.output[0], TensorProto.FLOAT, None)
            branches[branch] = helper.make_graph([inner], f"{node.name}_{branch}", [], [result])
        name = f"{node.name}_if"
        nodes.append(helper.make_node("If", [condition], list(node.output), name=name, **branches))
    replace_all(graph.node, nodes)
