"""Autocast: what runs in bfloat16, that attention on a CPU does not, and float32 products by oneDNN."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from airrep_train.compute import autocast
from airrep_train.compute.one_dnn import HAS_ONE_DNN, pays_here

CPU = torch.device("cpu")


class _Inputs(TorchFunctionMode):
    """Notes the dtype that fused attention really gets."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is scaled_dot_product_attention:
            self.seen.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


def test_products_are_bfloat16_and_attention_float32() -> None:
    states = torch.randn(1, 2, 4, 8)
    noted = _Inputs()
    with noted, autocast(CPU, "bfloat16"):
        projected = linear(states, torch.randn(8, 8))
        mixed = scaled_dot_product_attention(projected, projected, projected, attn_mask=torch.zeros(4, 4))
    assert projected.dtype == torch.bfloat16
    assert mixed.dtype == torch.float32
    assert noted.seen == [torch.float32]


def test_attention_keeps_a_boolean_mask() -> None:
    states = torch.randn(1, 2, 4, 8)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    with autocast(CPU, "bfloat16"):
        masked = scaled_dot_product_attention(states, states, states, attn_mask=mask)
    assert torch.equal(masked, scaled_dot_product_attention(states, states, states, is_causal=True))


def test_float32_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airrep_train.compute.one_dnn.pays_here", lambda: False)
    states, weight = torch.randn(3, 8), torch.randn(8, 8)
    with autocast(CPU, "float32"):
        assert torch.equal(linear(states, weight), states @ weight.T)
    with autocast(CPU, "bfloat16"):
        pass
    assert linear(states, weight).dtype == torch.float32  # the block's end is the end


@pytest.mark.skipif(not HAS_ONE_DNN, reason="this PyTorch has no oneDNN linear")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5), (2, 1, 3, 5), (1, 5)])
def test_one_dnn_products_are_those_of_linear(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], bias: bool
) -> None:
    monkeypatch.setattr("airrep_train.compute.one_dnn.pays_here", lambda: True)
    module = torch.nn.Linear(5, 7, bias=bias)
    upstream = torch.randn(*shape[:-1], 7)

    def gradients(context: contextlib.AbstractContextManager[None]) -> list[torch.Tensor]:
        states = torch.arange(float(torch.Size(shape).numel())).reshape(shape).sin().requires_grad_()
        with context:
            result = module(states)
        result.backward(upstream)
        found = [result.detach(), states.grad, *(parameter.grad for parameter in module.parameters())]
        module.zero_grad()
        return [one for one in found if one is not None]

    plain, ours = gradients(contextlib.nullcontext()), gradients(autocast(CPU, "float32"))
    assert len(plain) == len(ours) == 3 + bias
    for expected, found in zip(plain, ours, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.skipif(not HAS_ONE_DNN, reason="this PyTorch has no oneDNN linear")
def test_one_dnn_leaves_other_types_empty_batches_and_frozen_weights_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("airrep_train.compute.one_dnn.pays_here", lambda: True)
    weight = torch.randn(7, 5)
    with autocast(CPU, "float32"):
        assert linear(torch.randn(2, 5).double(), weight.double()).dtype == torch.float64
        assert linear(torch.empty(0, 5), weight).shape == (0, 7)
        states = torch.randn(2, 5, requires_grad=True)
        result = linear(states, weight=weight, bias=torch.zeros(7))
    assert result.grad_fn is not None
    assert result.grad_fn.saved_tensors[0] is None  # the states, which only a weight's gradient needs
    result.sum().backward()
    torch.testing.assert_close(states.grad, weight.sum(0).expand(2, 5))


@pytest.mark.parametrize(
    ("capability", "cpu", "slow"),
    [
        ("AVX512_BF16", "vendor_id : AuthenticAMD", True),
        ("AVX512", "vendor_id : GenuineIntel", False),
        ("AVX2", "vendor_id : AuthenticAMD", False),
    ],
)
@pytest.mark.skipif(not (HAS_ONE_DNN and torch.backends.mkl.is_available()), reason="no oneDNN or no MKL")
def test_one_dnn_is_for_avx512_of_other_makers(
    monkeypatch: pytest.MonkeyPatch, capability: str, cpu: str, slow: bool
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr("airrep_train.compute.one_dnn.processor_description", lambda: cpu)
    assert pays_here.__wrapped__() is slow
