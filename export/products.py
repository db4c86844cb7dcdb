"""The large products of an encoder's graph, found and replaced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper


@dataclass(frozen=True)
class Bias:
    """The Add of a constant (N,) to a product that nothing else reads."""

    node: Any
    name: str  # of the constant
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Product:
    """A MatMul by constant float32 weights (K, N), and the bias that follows it, if any."""

    node: Any
    weights: NDArray[np.float32]
    bias: Bias | None


def find_products(graph: Any) -> list[Product]:
    """All products of an activation by constant weights, in the order of the graph."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {output.name for output in graph.output}  # these are read outside
    products = []
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants or node.input[0] in constants:
            continue
        weights = numpy_helper.to_array(constants[node.input[1]])
        if weights.ndim != 2 or weights.dtype != np.float32:
            continue
        bias, result = None, node.output[0]
        if len(readers[result]) == 1 and readers[result][0].op_type == "Add" and result not in outputs:
            (add,) = readers[result]
            (other,) = (name for name in add.input if name != result)
            if other in constants and list(constants[other].dims) == [weights.shape[1]]:
                bias = Bias(add, other, numpy_helper.to_array(constants[other]))
        products.append(Product(node, weights, bias))
    return products


def replace_all(field: Any, messages: Iterable[Any]) -> None:
    """Make `messages`, which may be among those of the repeated `field` of a graph, its content."""
    copies = [copy_of(message) for message in messages]  # clearing the list frees the messages in it
    del field[:]
    field.extend(copies)


def copy_of(message: Any) -> Any:
    """A message of the same content that no graph owns."""
    copied = type(message)()
    copied.CopyFrom(message)
    return copied
