"""The compute precision of a pass: float32, or bfloat16 matrix products over float32 weights."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from airrep_infer.resources import processor_description
from airrep_train.options import MatmulDtype

HAS_ONE_DNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")


@contextlib.contextmanager
def autocast(device: torch.device, precision: MatmulDtype) -> Iterator[None]:
    """Run the block in `precision`; bfloat16 is PyTorch's autocast, which keeps norms and softmax in float32.

    On CPUs bfloat16 leaves out fused attention: its bfloat16 backward (torch 2.13, AMX) takes nine times
    as long as in float32, half of a whole training step. Products in float32 are oneDNN's where
    `_mkl_is_slow`.
    """
    with contextlib.ExitStack() as stack:
        if precision == "bfloat16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            if device.type == "cpu":
                stack.enter_context(_Instead(scaled_dot_product_attention, _float32_attention))
        elif device.type == "cpu" and _mkl_is_slow():
            stack.enter_context(_Instead(linear, _one_dnn_linear))
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


@functools.cache
def _mkl_is_slow() -> bool:
    """Whether PyTorch's oneDNN multiplies float32 faster here than its MKL: on AMD CPUs with AVX-512.

    Measured on 2 cores of an AMD EPYC (Zen 5) with `benchmarks/train_step.py`: 27 s a step against 46. Not
    measured on Zen 4.
    """
    return (
        HAS_ONE_DNN
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and "AuthenticAMD" in processor_description()
    )


def _one_dnn_linear(
    input: torch.Tensor,  # `linear`'s own name for it
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    given = [input, weight] if bias is None else [input, weight, bias]
    if not input.numel() or any(one.dtype != torch.float32 or one.device.type != "cpu" for one in given):
        return linear(input, weight, bias)
    result: torch.Tensor = _OneDnnLinear.apply(input, weight, bias)
    return result


class _OneDnnLinear(torch.autograd.Function):
    """`linear` of float32 tensors on the CPU, its three products by oneDNN."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        for_rows, for_weight, _ = ctx.needs_input_grad
        # Activations before frozen weights (LoRA) need not be kept.
        ctx.save_for_backward(rows if for_weight else None, weight if for_rows else None)
        return _product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        rows, weight = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        for_rows, for_weight, for_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if for_rows else None,
            _product(flat.t(), rows.reshape(-1, rows.shape[-1]).t()) if for_weight else None,
            flat.sum(dim=0) if for_bias else None,
        )


def _product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`rows @ weight.T + bias`."""
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return result
