"""Ranges of the inputs of products over real text, for `int8_scales`, and rows to observe them on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from airrep_infer.encode import pad_batch, plan_batches
from airrep_infer.session import Placement, open_session

_BATCH_TOKENS = 2_048
# Rows (tokens) that are kept to measure errors on: all of the first tokens' kind are among them.
_SAMPLE_ROWS = 1_024
_ROWS_PER_BATCH = 128


@dataclass(frozen=True)
class InputRange:
    """One input of a product: (K,) lowest and highest value per channel, and (n, K) rows of it."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    rows: NDArray[np.float32]


def calibration_batches(
    ids: Sequence[NDArray[np.int64]], pad_id: int
) -> Iterator[dict[str, NDArray[np.int64]]]:
    """Token ids of texts -> inputs of the graph, in the order of `plan_batches`."""
    lengths = np.array([len(text) for text in ids], dtype=np.intp)
    for places in plan_batches(lengths, _BATCH_TOKENS):
        batch = pad_batch(ids, places, pad_id)
        yield {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def observe_inputs(
    graph: Path, names: Sequence[str], batches: Iterable[dict[str, NDArray[np.int64]]]
) -> dict[str, InputRange]:
    """Run a graph and look at some of its tensors (batch, sequence, K), padding left out."""
    # Beside the graph, whose weights may lie in a file of their own there.
    model = onnx.load(str(graph), load_external_data=False)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    observed = graph.with_name(f"observed.{graph.name}")
    try:
        onnx.save(model, str(observed))
        session = open_session(observed, Placement(runs_on="cpu", threads=1))
    finally:
        observed.unlink(missing_ok=True)
    chooser = np.random.default_rng(0)
    low: dict[str, NDArray[np.float32]] = {}
    high: dict[str, NDArray[np.float32]] = {}
    rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    for feed in batches:
        real = np.flatnonzero(feed["attention_mask"].reshape(-1))
        sampled = chooser.choice(real, min(len(real), _ROWS_PER_BATCH), replace=False)
        for name, value in zip(names, session.run(list(names), feed), strict=True):
            flat = value.reshape(-1, value.shape[-1])
            lowest, highest = flat[real].min(axis=0), flat[real].max(axis=0)
            low[name] = np.minimum(low.get(name, lowest), lowest)
            high[name] = np.maximum(high.get(name, highest), highest)
            if len(rows[name]) < _SAMPLE_ROWS // _ROWS_PER_BATCH:
                rows[name].append(flat[sampled])
    return {name: InputRange(low[name], high[name], np.concatenate(rows[name])) for name in names}
