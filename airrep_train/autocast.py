"""The compute precision of a pass: float32, or bfloat16 matrix products over float32 weights."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

Precision = Literal["float32", "bfloat16"]


@contextlib.contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Run the block in `precision`; bfloat16 is PyTorch's autocast, which keeps norms and softmax in float32.

    On CPUs bfloat16 leaves out fused attention: its bfloat16 backward (torch 2.13, AMX) takes nine times
    as long as in float32, half of a whole training step. In float32, on CPUs that MKL does not know
    well, products are oneDNN's (see `_mkl_is_slow`).
    """
    if precision == "float32":
        with _OneDnnProducts() if device.type == "cpu" and _mkl_is_slow() else contextlib.nullcontext():
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


@functools.cache
def _mkl_is_slow() -> bool:
    """Whether PyTorch's float32 products (MKL) leave vector units idle that oneDNN, also in PyTorch, uses.

    MKL has no AVX-512 kernels for other makers' CPUs. Measured with products of all-MiniLM-L6-v2's sizes
    on 2 cores of an AMD EPYC (Zen 5): 205 GFLOP/s against 450 forward, 460 and 350 backward.
    """
    return (
        torch.backends.mkl.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and "GenuineIntel" not in _cpu_description()
    )


def _cpu_description() -> str:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else "GenuineIntel"


class _OneDnnProducts(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not linear:
            return func(*args, **kwargs)
        return _one_dnn_linear(*args, **kwargs)


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
        ctx.save_for_backward(rows, weight)
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
