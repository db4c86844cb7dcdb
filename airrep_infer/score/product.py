"""The float32 products of a scan: by NumPy's BLAS, or by ONNX Runtime where that BLAS leaves AVX-512 idle.

OpenBLAS picks its kernels by a list of CPUs and takes those for AVX2 on one that it does not know. That is so
on AMD's family 26 (Zen 5) with NumPy 2.4 (OpenBLAS 0.3.31): 125 GFLOP/s a core, ONNX Runtime 240; the records
are benchmarks/results/score.amd-epyc-model-2-2-cores.json. On an Intel Xeon with AMX the same NumPy takes its
AVX-512 kernels, and this file does nothing; made to take those for AVX2 (OPENBLAS_CORETYPE=Haswell, tiles of
256 x 1,000 and 8,192 x 32, dimension 384) it multiplies at 80 and 44, ONNX Runtime at 141 and 117.

It can go, with product.onnx, when a NumPy release takes AVX-512 kernels on Zen 5: `_blas_leaves_avx512_idle`
is then False there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airrep_infer.resources import blas_libraries, processor_description
from airrep_infer.session import Placement, open_session

PRODUCT_GRAPH = Path(__file__).with_name("product.onnx")  # written by export/scan_graph.py
_AVX2_KERNELS = {"haswell", "zen"}

Multiply = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], object]


def make_multiply(kind: np.dtype[Any]) -> Multiply:
    """What computes rows (n, D) @ columns (D, q) into out (n, q), C-contiguous, all of dtype `kind`.

    It runs on the thread that calls it, and is for that thread alone.
    """
    if kind == np.float32 and find_spec("onnxruntime") and _blas_leaves_avx512_idle():
        return _OnnxMultiply()
    return lambda rows, columns, out: np.matmul(rows, columns, out=out)


@cache
def _blas_leaves_avx512_idle() -> bool:
    openblas = [library for library in blas_libraries() if library["internal_api"] == "openblas"]
    kernels = {library["architecture"].lower() for library in openblas}
    return bool(kernels) and kernels <= _AVX2_KERNELS and "avx512f" in processor_description()


@cache
def _session() -> Any:
    return open_session(PRODUCT_GRAPH, Placement(runs_on="cpu"))


class _OnnxMultiply:
    """Arrays are bound where they lie, so that nothing is copied."""

    def __init__(self) -> None:
        self._session = _session()
        self._binding = self._session.io_binding()

    def __call__(self, rows: NDArray[Any], columns: NDArray[Any], out: NDArray[Any]) -> None:
        rows = np.ascontiguousarray(rows)
        for bind, name, array in (
            (self._binding.bind_input, "rows", rows),
            (self._binding.bind_input, "columns", columns),
            (self._binding.bind_output, "out", out),
        ):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(self._binding)
