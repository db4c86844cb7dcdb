"""What a bundle is, in lines for people: its size, how near it is to its checkpoint, what was fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airrep_infer.bundle import Bundle


def describe_bundle(bundle: Bundle) -> list[str]:
    """What the command and a pipeline say of a bundle: a line for every figure of its manifest's parity."""
    fp32 = bundle.precision("fp32")
    parity, operators = fp32.parity, fp32.operators
    return [
        f"{bundle.path}: {bundle.dimension} dimensions, up to {bundle.max_tokens} tokens, fp32",
        f"parity with the checkpoint over {parity['texts']} texts of 1..{parity['longest']} tokens: "
        f"max difference {parity['max_abs_difference']:.1e}, min cosine {parity['min_cosine']:.7f}, "
        f"top-10 agreement {parity['top10_agreement']:.3f}, "
        f"alone against in a batch {parity['batch_dependence']:.1e}",
        f"fused operators: {operators['attention']} attention, {operators['layer_norm']} layer norm, "
        f"{operators['gelu']} gelu",
        *(_reduced(name, made.parity) for name, made in bundle.precisions.items() if name != "fp32"),
    ]


def _reduced(name: str, parity: Mapping[str, Any]) -> str:
    """One line on a reduced precision."""
    line = (
        f"{name}: {parity['bytes'] / 1e6:.1f} MB, cosine to fp32 at least {parity['min_cosine']:.4f} "
        f"(mean {parity['mean_cosine']:.4f}), alone against in a batch {parity['batch_cosine']:.6f}"
    )
    if parity["speed"] is not None:
        line += f", {parity['speed']:.2f} times the speed of fp32"
    if parity["lds_change"] is not None:
        line += f", LDS {parity['lds_change']:+.4f}"
    return line
