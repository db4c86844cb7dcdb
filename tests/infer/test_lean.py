"""The lean install: airrep_infer never needs torch or transformers, and says so when ONNX Runtime lacks."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import airrep_infer

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
"""


def run(code: str, blocked: set[str]) -> subprocess.CompletedProcess[str]:
    script = BLOCK.format(blocked=blocked) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_every_module_imports_without_torch() -> None:
    modules = [name for _, name, _ in pkgutil.walk_packages(airrep_infer.__path__, "airrep_infer.")]
    assert len(modules) > 10
    heavy = {
        "torch",
        "transformers",
        "optimum",
        "onnx",
        "scipy",
        "accelerate",
        "airrep_train",
        "pyarrow",
        "ray",
    }
    result = run("".join(f"import {name}\n" for name in modules), heavy)
    assert result.returncode == 0, result.stderr


def test_without_onnxruntime_the_error_names_both_installs(tiny_bundle: Path) -> None:
    command = ["embed", str(tiny_bundle / "airrep.json"), "--model", str(tiny_bundle), "-o", "s"]
    code = f"from airrep_infer.cli import main\nmain({command!r})"
    result = run(code, {"onnxruntime"})
    assert result.returncode == 2
    assert "airrep[cpu]" in result.stderr and "airrep[gpu]" in result.stderr
    assert "Traceback" not in result.stderr
