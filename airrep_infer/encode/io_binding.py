"""Running a graph through IO binding: inputs and outputs keep their place on the device, per shape.

On a GPU `InferenceSession.run` allocates new inputs and a new output for every batch. Lengths are rounded up
(see `batching`), so that few shapes occur and their buffers can be reused.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Sets of buffers to keep: enough for all lengths (512 / 32) and some shorter last batches.
_KEPT = 32


@dataclass(frozen=True)
class _Buffers:
    inputs: dict[str, Any]
    output: Any
    binding: Any


class BoundSession:
    """A session whose `input_ids`, `attention_mask` (b, t) and `embedding` (b, D) lie in kept buffers.

    A run takes the buffers of its shape out and puts them back when its result is copied, so that another
    thread that comes with the same shape makes its own.

    Args:
        session: an `onnxruntime.InferenceSession`.
        device: where its first provider computes, "cuda" or "cpu".
        dimension: D.
    """

    def __init__(self, session: Any, device: str, device_id: int, dimension: int) -> None:
        self._session = session
        self._place = device, device_id
        self._dimension = dimension
        self._sets: OrderedDict[tuple[int, ...], _Buffers] = OrderedDict()
        self._lock = Lock()

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """The embeddings (b, D) of a batch (b, t)."""
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        with self._lock:
            buffers = self._sets.pop(input_ids.shape, None)
        if buffers is None:
            buffers = self._allocate(feed)
        else:
            for name, value in feed.items():
                buffers.inputs[name].update_inplace(value)
        self._session.run_with_iobinding(buffers.binding)
        embeddings = np.array(
            buffers.output.numpy(), np.float32
        )  # on the CPU `numpy` is a view of the buffer
        with self._lock:
            self._sets[input_ids.shape] = buffers  # the latest last
            if len(self._sets) > _KEPT:
                self._sets.popitem(last=False)
        return embeddings

    def _allocate(self, feed: dict[str, NDArray[np.int64]]) -> _Buffers:
        from onnxruntime import OrtValue

        inputs = {name: OrtValue.ortvalue_from_numpy(value, *self._place) for name, value in feed.items()}
        shape = [len(feed["input_ids"]), self._dimension]
        output = OrtValue.ortvalue_from_shape_and_type(shape, np.float32, *self._place)
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("embedding", output)
        return _Buffers(inputs, output, binding)
