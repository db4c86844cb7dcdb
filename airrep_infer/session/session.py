"""ONNX Runtime sessions: which provider runs a graph, and clear errors where it cannot."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from airrep_infer.errors import InputError
from airrep_infer.resources import processor_description
from airrep_infer.session import cuda

Device = Literal["auto", "cpu", "cuda"]
RunsOn = Literal["any", "cpu", "cuda", "openvino"]
Kind = Literal["cpu", "cuda", "openvino"]
PROVIDERS: dict[Kind, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}

# On the CPU provider these fusions are slower than what they replace (SkipLayerNormalization by 6x).
CPU_SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasGeluFusion"]
# On x86 without VNNI sums of uint8 times int8 saturate. This is ONNX Runtime's exact way, at half the speed.
_EXACT_INT8 = ("session.x64quantprecision", "1")
_WITHOUT_CUDA = "--device cpu with a precision for it"
_ONLY_THIS_PROVIDER = ("session.disable_cpu_ep_fallback", "1")


@dataclass(frozen=True)
class Placement:
    """What a graph is made for (`runs_on`), and what the user asked for.

    Attributes:
        precision: named in errors.
        device_id: which of several GPUs.
        threads: batches that run at once on the CPU; threads beside the GPU.
    """

    precision: str = "fp32"
    runs_on: RunsOn = "any"
    device: Device = "auto"
    device_id: int = 0
    threads: int = 1


def open_session(file: Path, placement: Placement) -> Any:
    """An `onnxruntime.InferenceSession` on the provider that `placement` asks for, never on another.

    Raises:
        InputError: no ONNX Runtime, not the provider that is needed, or a graph it cannot load.
    """
    ort = _onnxruntime()
    kind = _provider(placement, ort)
    if kind == "cuda" and (obstacle := cuda.obstacle(ort, placement.device_id)):
        if _must_be_cuda(placement):
            raise InputError(f"{_asked(placement)}: {obstacle}; or use {_WITHOUT_CUDA}")
        kind = "cpu"
    session = _start(ort, file, placement, kind)
    if session.get_providers()[0] == PROVIDERS[kind]:
        return session
    # ONNX Runtime only logs a provider that does not start, and takes the CPU.
    if kind == "openvino":
        raise InputError(
            f"{_asked(placement)}: OpenVINO did not start; install airrep[openvino] again, "
            "or use --precision fp32"
        )
    if _must_be_cuda(placement):
        raise InputError(
            f"{_asked(placement)}: CUDA did not start on GPU {placement.device_id}, although driver, CUDA "
            f"and cuDNN were found; ONNX Runtime wrote the reason on standard error; or use {_WITHOUT_CUDA}"
        )
    return _start(ort, file, placement, "cpu")


def _start(ort: Any, file: Path, placement: Placement, kind: Kind) -> Any:
    """A session with that provider first; see its `get_providers` for whether it started."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = 1  # each worker thread runs its batches itself
    # Memory patterns are kept per input shape: with free lengths they only grow.
    options.enable_mem_pattern = False
    providers: list[Any] = [PROVIDERS["cpu"]]
    if kind == "cpu" and _saturates():
        options.add_session_config_entry(*_EXACT_INT8)
    if kind == "cuda":
        # The arena grows to what is asked for, not to the next power of two.
        # And float32 is float32: TensorFloat-32, the default, keeps 10 bits of a mantissa.
        settings = {
            "device_id": placement.device_id,
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": 0,
        }
        providers.insert(0, (PROVIDERS["cuda"], settings))
        options.intra_op_num_threads = placement.threads
    if kind == "openvino":
        options.add_session_config_entry(*_ONLY_THIS_PROVIDER)
        providers = [(PROVIDERS["openvino"], _openvino_settings(placement.threads))]
    try:
        return ort.InferenceSession(
            str(file),
            options,
            providers=providers,
            disabled_optimizers=CPU_SLOW_FUSIONS if kind == "cpu" else None,
        )
    except Exception as error:  # ONNX Runtime raises many types of its own, without a common base
        raise InputError(f"{file}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from error


def _provider(placement: Placement, ort: Any) -> Kind:
    """Which provider to start; an error if this ONNX Runtime does not have it."""
    runs_on, device = placement.runs_on, placement.device
    working = ort.get_available_providers()
    if runs_on == "cuda" and device == "cpu":
        raise InputError(f"--precision {placement.precision} runs on CUDA alone; drop --device cpu")
    if runs_on in ("cpu", "openvino") and device == "cuda":
        raise InputError(
            f"--precision {placement.precision} runs on the CPU alone; drop --device cuda, "
            "or use --precision fp16 or fp32"
        )
    if runs_on == "openvino":
        if PROVIDERS["openvino"] not in working:
            raise InputError(
                f"--precision {placement.precision}: this ONNX Runtime has no OpenVINO provider, only "
                f"{', '.join(working)}; pip uninstall onnxruntime, then pip install 'airrep[openvino]'"
            )
        return "openvino"
    if runs_on == "cpu":
        return "cpu"
    if _must_be_cuda(placement) and PROVIDERS["cuda"] not in working:
        raise InputError(f"{_asked(placement)}: {cuda.no_provider(ort)}; or use {_WITHOUT_CUDA}")
    return "cuda" if device != "cpu" and PROVIDERS["cuda"] in working else "cpu"


def _must_be_cuda(placement: Placement) -> bool:
    return placement.device == "cuda" or placement.runs_on == "cuda"


def _asked(placement: Placement) -> str:
    """The option that asks for this provider, as the user knows it."""
    by_device = placement.device == "cuda" and placement.runs_on != "cuda"
    return "--device cuda" if by_device else f"--precision {placement.precision}"


def _saturates() -> bool:
    """Whether int8 products of this CPU may saturate: x86 that is not known to have VNNI."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return "vnni" not in processor_description()


def _openvino_settings(threads: int) -> dict[str, str]:
    """bfloat16 where the graph is not in int8; one stream of one thread for each worker."""
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "NUM_STREAMS": str(threads),
        "INFERENCE_NUM_THREADS": str(threads),
    }
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": settings})}


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "ONNX Runtime is not installed: pip install 'airrep[cpu]' (any machine) "
            "or pip install 'airrep[gpu]' (CUDA 13; 'airrep[gpu-cuda12]' for 12); never both"
        ) from error
    return onnxruntime
