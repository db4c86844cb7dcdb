"""CUDA for ONNX Runtime: loading its libraries, and what stands in its way on this machine.

ONNX Runtime only logs a CUDA provider that does not start. What it needs is looked at here beforehand, in
the order in which it needs it, so that the error can say what to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from importlib.metadata import PackageNotFoundError, version
from typing import Any

CUDNN = "libcudnn.so.9"
# The packages of NVIDIA's libraries for each CUDA, and the extra of this package that brings them.
_CUBLAS_PACKAGE = {"12": "nvidia-cublas-cu12", "13": "nvidia-cublas"}
_EXTRA = {"12": "airrep[gpu-cuda12]", "13": "airrep[gpu]"}
# The oldest driver series of each.
_DRIVER = {"12": "525", "13": "580"}


def load_libraries(ort: Any) -> None:
    """Load the libraries of CUDA and cuDNN from the `nvidia-*` packages (torch's, too) or the usual places.

    Without it only LD_LIBRARY_PATH says where those packages keep them. ONNX Runtime prints what it cannot
    load on standard output, where results go; that is left out here, and `obstacle` says it.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()


def obstacle(ort: Any, device_id: int) -> str | None:
    """Why the CUDA provider cannot start on GPU `device_id`, and what to do; None if nothing is known.

    Args:
        ort: the module `onnxruntime`, a build with CUDA.
    """
    load_libraries(ort)
    built_for = str(ort.cuda_version or "")
    major = built_for.split(".")[0]
    build = f"onnxruntime-gpu {ort.__version__}"
    driver = _load("libcuda.so.1")
    if driver is None:
        return (
            "no NVIDIA driver here (libcuda.so.1 is not found); install it, or start the container with "
            "--gpus all, until nvidia-smi works"
        )
    if status := driver.cuInit(0):
        return (
            f"the NVIDIA driver finds no usable GPU (cuInit gives {status}); check nvidia-smi and "
            "CUDA_VISIBLE_DEVICES"
        )
    if device_id >= (count := _number(driver.cuDeviceGetCount)):
        return f"there is no GPU {device_id}: the driver shows {count}, counted from 0"
    supported = _number(driver.cuDriverGetVersion)  # 12040 is 12.4
    if major.isdigit() and supported // 1000 < int(major):
        older = str(supported // 1000)
        instead = f"pip install '{_EXTRA[older]}' in its place, or " if older in _EXTRA else ""
        return (
            f"the driver runs CUDA up to {older}.{supported % 1000 // 10}, and {build} is built for CUDA "
            f"{built_for}; {instead}install a driver of series {_DRIVER.get(major, 'for it')} or newer"
        )
    for name in (f"libcudart.so.{major}", f"libcublasLt.so.{major}", f"libcublas.so.{major}"):
        if _load(name) is None:
            return f"{name} is not found, and {build} is built for CUDA {major}; {_libraries_hint(major)}"
    if _load(CUDNN) is None:
        return f"cuDNN is missing ({CUDNN} is not found); pip install nvidia-cudnn-cu{major}"
    return None


def no_provider(ort: Any) -> str:
    """Why this ONNX Runtime has no CUDA provider at all, and what to install."""
    providers = ", ".join(ort.get_available_providers())
    gpu, cpu = _installed("onnxruntime-gpu"), _installed("onnxruntime")
    if gpu and cpu:
        return (
            f"onnxruntime {cpu} (for CPUs) was installed over onnxruntime-gpu {gpu}, and one overwrites the "
            "other; pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'airrep[gpu]'"
        )
    if gpu:
        return (
            f"onnxruntime-gpu {gpu} has no CUDA provider, only {providers}; pip install 'airrep[gpu]' again"
        )
    return (
        f"this ONNX Runtime has no CUDA provider, only {providers}; pip uninstall it, then pip install "
        "'airrep[gpu]' (CUDA 13) or 'airrep[gpu-cuda12]'"
    )


def _libraries_hint(major: str) -> str:
    bring = f"pip install '{_EXTRA[major]}' brings its libraries" if major in _EXTRA else "install CUDA"
    for other, package in _CUBLAS_PACKAGE.items():
        if other != major and (_load(f"libcublasLt.so.{other}") or _installed(package)):
            return f"only CUDA {other} is there; {bring}, and '{_EXTRA[other]}' fits CUDA {other}"
    return bring


def _load(name: str) -> Any:
    """A shared library by its name, or None where the loader does not find or cannot load it."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _number(function: Any) -> int:
    """What a function of the driver writes through its one pointer to an integer."""
    value = ctypes.c_int(0)
    function(ctypes.byref(value))
    return value.value


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
