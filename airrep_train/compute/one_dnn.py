"""A special case for one kind of hardware: float32 products by oneDNN instead of PyTorch's MKL.

MKL does not choose its AVX-512 kernels on AMD CPUs. On 2 cores of an AMD EPYC (Zen 5) a training step takes
27 s instead of 46 (benchmarks/results/train_step.amd-epyc-model-2-2-cores.json). Not measured on Zen 4. On
Intel CPUs and in bfloat16 it is off.

It can go when `benchmarks/train_step.py` shows no difference on such a CPU any more: with a PyTorch whose
`linear` uses oneDNN there, or an MKL that has kernels for it. The op is private to PyTorch; where it is
missing this is off.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from airrep_infer.resources import processor_description

HAS_ONE_DNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")


@functools.cache
def pays_here() -> bool:
    """Whether this is such a CPU."""
    return (
        HAS_ONE_DNN
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and "AuthenticAMD" in processor_description()
    )


def one_dnn_linear(
    input: torch.Tensor,  # `linear`'s own name for it
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """`torch.nn.functional.linear`, by oneDNN where all tensors are float32 on the CPU."""
    tensors = [input, weight] if bias is None else [input, weight, bias]
    if not input.numel() or any(t.dtype != torch.float32 or t.device.type != "cpu" for t in tensors):
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
