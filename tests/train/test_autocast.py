"""Autocast: what runs in bfloat16, and that attention on a CPU does not."""

from __future__ import annotations

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from airrep_train.autocast import autocast

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


def test_float32_changes_nothing() -> None:
    states, weight = torch.randn(3, 8), torch.randn(8, 8)
    with autocast(CPU, "float32"):
        assert torch.equal(linear(states, weight), states @ weight.T)
    with autocast(CPU, "bfloat16"):
        pass
    assert linear(states, weight).dtype == torch.float32  # the block's end is the end
