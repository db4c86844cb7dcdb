"""The compute precision of a pass: float32, or bfloat16 matrix products over float32 weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from airrep_train.compute import one_dnn
from airrep_train.options import MatmulDtype


@contextlib.contextmanager
def autocast(device: torch.device, precision: MatmulDtype) -> Iterator[None]:
    """Run the block in `precision`; bfloat16 is PyTorch's autocast, which keeps norms and softmax in float32.

    On CPUs bfloat16 leaves out fused attention: its bfloat16 backward (torch 2.13, AMX) takes nine times
    as long as in float32, half of a whole training step. Products in float32 are oneDNN's where
    that pays (`one_dnn`).
    """
    with contextlib.ExitStack() as stack:
        if precision == "bfloat16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            if device.type == "cpu":
                stack.enter_context(_Instead(scaled_dot_product_attention, _float32_attention))
        elif device.type == "cpu" and one_dnn.pays_here():
            stack.enter_context(_Instead(linear, one_dnn.one_dnn_linear))
        yield


class _Instead(TorchFunctionMode):
    """Calls `ours` for PyTorch's `function`."""

    def __init__(self, function: Callable[..., Any], ours: Callable[..., Any]) -> None:
        super().__init__()
        self._function, self._ours = function, ours

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (self._ours if func is self._function else func)(*args, **(kwargs or {}))


def _float32_attention(*args: Any, **kwargs: Any) -> Any:
    with torch.autocast("cpu", enabled=False):
        return scaled_dot_product_attention(
            *map(_to_float32, args), **{key: _to_float32(value) for key, value in kwargs.items()}
        )


def _to_float32(value: Any) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.float() if floating else value
