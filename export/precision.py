"""Reduced precisions: how each is made of the float32 graph.

============  ====================================================  ========
precision     what                                                  runs on
============  ====================================================  ========
int8          products in int8 at calibrated scales (`int8`)        CPU
bf16          the float32 graph, which OpenVINO runs in bfloat16    OpenVINO
fp16          half precision; pooling and projector in float32      CUDA
fp16-packed   fp16 with the padding of batches removed               CUDA
============  ====================================================  ========

int8 run by OpenVINO was tried: 5% faster on a CPU with VNNI, but a text's vector then depends on its
batch (worst cosine 0.998), because rounding differs between shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from airrep_infer.bundle import Precision
from airrep_infer.files import sha256_file
from airrep_infer.session import RunsOn

from .cuda import half_graph, packed_graph
from .graph import count_operators, save_graph, silent_exporters
from .int8 import make_int8
from .int8_ranges import calibration_batches
from .int8_scales import Quantiser
from .variant import Ids


@dataclass(frozen=True)
class Sources:
    """What a reduced precision is made of.

    Attributes:
        plain: the graph as it was exported, in standard operators.
        fused: the fp32 graph with fused operators, each bias an Add after its product.
        exact: the fp32 graph as the bundle has it.
        calibration: token ids of the texts that scales are taken from.
        samples: token ids of other texts, to compare vectors on.
    """

    plain: Path
    fused: Path
    exact: Path
    calibration: Ids
    samples: Ids
    pad_id: int


@dataclass(frozen=True)
class Recipe:
    """How a precision is made, and where it runs.

    Attributes:
        measured_as: one that computes the same and runs here, for a precision with operators that no CPU has.
    """

    runs_on: RunsOn
    make: Callable[[Sources, Path], dict[str, int]]
    equal_lengths: bool = False
    calibrated: bool = False
    measured_as: str | None = None


def make_precision(name: str, sources: Sources, folder: Path) -> Precision:
    """Write `encoder.<name>.onnx` into the bundle `folder`, by `RECIPES`; its parity is not measured yet."""
    recipe = RECIPES[name]
    file = folder / f"encoder.{name}.onnx"
    with silent_exporters():
        made = recipe.make(sources, file)
    files = {part.name: sha256_file(part) for part in sorted(file.parent.glob(f"{file.name}*"))}
    operators = {**count_operators(file), **made}
    return Precision(name, file.name, files, {}, operators, recipe.runs_on, recipe.equal_lengths)


def _int8(sources: Sources, file: Path) -> dict[str, int]:
    batches = calibration_batches(sources.calibration, sources.pad_id)
    quantiser = Quantiser.observe(sources.fused, batches)
    return asdict(make_int8(quantiser, file, sources.exact, sources.samples, sources.pad_id))


def _bf16(sources: Sources, file: Path) -> dict[str, int]:
    save_graph(onnx.load(str(sources.plain)), file)
    return {}


def _fp16(sources: Sources, file: Path) -> dict[str, int]:
    save_graph(half_graph(sources.plain, sources.fused), file)
    return {}


def _fp16_packed(sources: Sources, file: Path) -> dict[str, int]:
    save_graph(packed_graph(sources.plain, sources.fused), file)
    return {}


RECIPES = {
    "int8": Recipe("cpu", _int8, equal_lengths=True, calibrated=True),
    "bf16": Recipe("openvino", _bf16),
    "fp16": Recipe("cuda", _fp16),
    "fp16-packed": Recipe("cuda", _fp16_packed, measured_as="fp16"),
}
