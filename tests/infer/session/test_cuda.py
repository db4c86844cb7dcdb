"""What stands in CUDA's way is named: driver, GPU, CUDA's major version, the CPU build, cuDNN."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace
from typing import Any

import pytest

from airrep_infer.session import cuda


class Driver:
    """libcuda.so.1 of a machine with `gpus` GPUs that runs CUDA `supports` (12040 is 12.4)."""

    def __init__(self, gpus: int = 1, supports: int = 13000, status: int = 0) -> None:
        self.cuInit = lambda _flags: status
        self.cuDeviceGetCount = lambda out: self._write(out, gpus)
        self.cuDriverGetVersion = lambda out: self._write(out, supports)

    @staticmethod
    def _write(out: Any, value: int) -> int:
        out._obj.value = value
        return 0


LIBRARIES = {f"lib{name}.so.13" for name in ("cudart", "cublasLt", "cublas")} | {"libcudnn.so.9"}


def obstacle(
    monkeypatch: pytest.MonkeyPatch,
    driver: Driver | None,
    libraries: set[str] = LIBRARIES,
    packages: dict[str, str] | None = None,
    device_id: int = 0,
) -> str | None:
    there: dict[str, Any] = dict.fromkeys(libraries, object())
    if driver:
        there["libcuda.so.1"] = driver
    monkeypatch.setattr(cuda, "_load", there.get)
    monkeypatch.setattr(cuda, "_installed", (packages or {}).get)
    return cuda.obstacle(build("13.0"), device_id)


def build(cuda_version: str) -> Any:
    return SimpleNamespace(
        cuda_version=cuda_version,
        __version__="1.31.1",
        preload_dlls=lambda: print("Failed to load libcublasLt.so.13"),
        get_available_providers=lambda: ["CPUExecutionProvider"],
    )


def test_nothing_stands_in_the_way_where_all_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert obstacle(monkeypatch, Driver(gpus=2), device_id=1) is None
    assert not capsys.readouterr().out  # standard output belongs to results


@pytest.mark.parametrize(
    ("driver", "missing", "reason"),
    [
        (None, set(), "no NVIDIA driver.*nvidia-smi"),
        (Driver(status=100), set(), r"no usable GPU \(cuInit gives 100\).*CUDA_VISIBLE_DEVICES"),
        (Driver(gpus=1), set(), "no GPU 1: the driver shows 1"),
        (
            Driver(2, 12040),
            set(),
            r"up to 12\.4, and onnxruntime-gpu 1\.31\.1 is built for CUDA 13\.0.*cuda12.*580",
        ),
        (Driver(2), {"libcublasLt.so.13"}, r"libcublasLt\.so\.13 is not found.*airrep\[gpu\]"),
        (Driver(2), {"libcudnn.so.9"}, "cuDNN is missing.*nvidia-cudnn-cu13"),
    ],
)
def test_the_first_obstacle_is_named(
    monkeypatch: pytest.MonkeyPatch, driver: Driver | None, missing: set[str], reason: str
) -> None:
    found = obstacle(monkeypatch, driver, LIBRARIES - missing, device_id=1)
    assert found is not None and re.search(reason, found)


def test_libraries_of_another_cuda_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = obstacle(monkeypatch, Driver(), {"libcudnn.so.9"}, {"nvidia-cublas-cu12": "12.8"})
    assert found is not None and "only CUDA 12 is there" in found
    assert "airrep[gpu]" in found and "airrep[gpu-cuda12]" in found


@pytest.mark.parametrize(
    ("packages", "reason"),
    [
        ({"onnxruntime": "1.32.0"}, "no CUDA provider, only CPUExecutionProvider; pip uninstall it"),
        ({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}, r"1\.32\.0 \(for CPUs\) was installed over"),
        ({"onnxruntime-gpu": "1.31.1"}, "onnxruntime-gpu 1.31.1 has no CUDA provider"),
    ],
)
def test_a_build_without_the_provider_says_which(
    monkeypatch: pytest.MonkeyPatch, packages: dict[str, str], reason: str
) -> None:
    def version(name: str) -> str:
        if name not in packages:
            raise PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(cuda, "version", version)
    assert re.search(reason, cuda.no_provider(build("")))
