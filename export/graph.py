"""AirRepModel -> ONNX: optimum exports the graph, ONNX Runtime's optimizer fuses it.

`optimum.exporters.onnx.export` is called with a configuration of our own, since `main_export` only
takes model classes that live inside transformers.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model
from optimum.exporters.error_utils import AtolError, OutputMatchError, ShapeError
from optimum.exporters.onnx import export, validate_model_outputs
from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.utils import DummyTextInputGenerator, NormalizedTextConfig

from airrep_infer.errors import InputError
from airrep_train.model import AirRepModel

from .bias import biases_into_products

OPSET = 18
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "embedding"
# Protobuf stops at 2 GiB; a larger model keeps its weights in a file beside the graph.
_EXTERNAL_DATA_BYTES = 1_900_000_000
_ATTENTION = ("Attention", "MultiHeadAttention", "PackedAttention")
_LAYER_NORM = ("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization")
_GELU = ("Gelu", "BiasGelu", "FastGelu")


class AirRepOnnxConfig(TextEncoderOnnxConfig):
    """Two int64 inputs (batch, sequence), one float32 output (batch, D)."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (DummyTextInputGenerator,)
    DEFAULT_ONNX_OPSET = OPSET
    ATOL_FOR_VALIDATION = 1e-4

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {name: {0: "batch", 1: "sequence"} for name in INPUTS}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {OUTPUT: {0: "batch"}}


def export_graph(model: AirRepModel, file: Path, plain: Path, fused: Path) -> dict[str, int]:
    """Write the float32 graph of `model` in three forms.

    Args:
        file: what runs: fused, with biases inside the products.
        plain: in standard operators.
        fused: fused, with biases after the products.

    Returns:
        How often each kind of fused operator occurs in the graph (see `count_operators`).

    Raises:
        InputError: the architecture cannot be exported, or its graph does not compute what it computes.
    """
    with silent_exporters():
        config = AirRepOnnxConfig(model.config.encoder, task="feature-extraction")
        try:
            _, outputs = export(model, config, plain, opset=OPSET)
            validate_model_outputs(config, model, plain, outputs, use_subprocess=False)
        except OSError:  # a full disk is no matter of the architecture
            raise
        except (AtolError, OutputMatchError, ShapeError) as error:
            raise _refused(model, "its graph gives other vectors than the model") from error
        except Exception as error:  # torch and optimum raise nearly anything
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            raise _refused(model, reason or type(error).__name__) from error
        _fuse(plain, fused, model.config.encoder)
        graph = onnx.load(str(fused))
        biases_into_products(graph)
        save_graph(graph, file)
    return count_operators(file)


def _refused(model: AirRepModel, reason: str) -> InputError:
    kind = model.config.encoder.model_type
    return InputError(
        f"{kind} cannot be exported to ONNX: {reason}; use an encoder of another architecture: BERT, "
        "RoBERTa, DistilBERT, MPNet, ModernBERT, ..."
    )


def _fuse(plain: Path, file: Path, config: Any) -> None:
    options = FusionOptions("bert")
    # MultiHeadAttention takes Q, K and V from three large products; the fused Attention operator
    # multiplies head by head, which on a CPU is 2.5x slower for heads of 32.
    options.use_multi_head_attention = True
    # These three are left to the session, which fuses them for CUDA; on the CPU they are slower
    # than their parts (measured with all-MiniLM-L6-v2: 12% against 4% of the time).
    options.enable_skip_layer_norm = False
    options.enable_embed_layer_norm = False
    options.enable_bias_gelu = False
    heads = getattr(config, "num_attention_heads", 0)
    fused = optimize_model(
        str(plain),
        model_type="bert",
        num_heads=heads,
        hidden_size=config.hidden_size if heads else 0,
        opt_level=0,
        optimization_options=options,
    )
    large = sum(part.stat().st_size for part in plain.parent.glob(f"{plain.name}*")) > _EXTERNAL_DATA_BYTES
    fused.save_model_to_file(str(file), use_external_data_format=large)


def save_graph(model: Any, file: Path) -> None:
    """Write a graph with its weights; those of a large one go to `<file>.data`."""
    if model.ByteSize() > _EXTERNAL_DATA_BYTES:
        onnx.save(model, str(file), save_as_external_data=True, location=f"{file.name}.data")
    else:
        onnx.save(model, str(file))


def count_operators(file: Path) -> dict[str, int]:
    """Count a graph's fused operators, and what an unfused one would leave over.

    Returns:
        `attention`, `layer_norm`, `gelu`: fused operators; `softmax`, `erf`: parts of attention and
        GELU that stayed apart (0 in a fully fused graph); `nodes`: all operators.
    """
    graph = onnx.load(str(file), load_external_data=False).graph
    counts = Counter(node.op_type for node in _nodes(graph))
    return {
        "attention": sum(counts[name] for name in _ATTENTION),
        "layer_norm": sum(counts[name] for name in _LAYER_NORM),
        "gelu": sum(counts[name] for name in _GELU),
        "softmax": counts["Softmax"],
        "erf": counts["Erf"],
        "nodes": sum(counts.values()) - counts["Constant"],
    }


def _nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph; of an If also those of its first branch (they compute the same)."""
    for node in graph.node:
        yield node
        if node.op_type == "If":
            yield from _nodes(node.attribute[0].g)


@contextmanager
def silent_exporters() -> Iterator[None]:
    """Silence the exporters: tracing warns of every Python branch, the optimizer logs each pass."""
    loggers = [
        logging.getLogger(name) for name in ("optimum", "onnxruntime", "onnx", "onnxscript", "torch.onnx")
    ]
    names = ("fusion_base", "onnx_model", "optimizer")
    loggers += [logging.getLogger(f"onnxruntime.transformers.{name}") for name in names]
    loggers.append(logging.getLogger())  # the quantizer's
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
