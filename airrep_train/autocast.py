"""The compute precision of a pass: float32, or bfloat16 matrix products over float32 weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

Precision = Literal["float32", "bfloat16"]


@contextlib.contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Run the block in `precision`; bfloat16 is PyTorch's autocast, which keeps norms and softmax in float32.

    On CPUs bfloat16 leaves out fused attention: its bfloat16 backward (torch 2.13, AMX) takes nine times
    as long as in float32, half of a whole training step.
    """
    if precision == "float32":
        yield
        return
    attention = _Float32Attention() if device.type == "cpu" else contextlib.nullcontext()
    with torch.autocast(device.type, torch.bfloat16), attention:
        yield


class _Float32Attention(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        args = [_to_float32(value) for value in args]
        with torch.autocast("cpu", enabled=False):
            return func(*args, **{key: _to_float32(value) for key, value in kwargs.items()})


def _to_float32(value: Any) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.float() if floating else value
