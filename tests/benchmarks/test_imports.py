"""Benchmarks rarely run, so this test finds the names they import that have moved."""

import ast
import importlib
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))
PACKAGES = ("airrep_infer", "airrep_train", "airrep_export", "demo")


def missing_names(script):
    """`module.name` of every import from the project that finds nothing."""
    missing = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            try:
                module = importlib.import_module(node.module)
            except ModuleNotFoundError as error:
                missing.append(str(error))
                continue
            missing += [f"{node.module}.{name.name}" for name in node.names if not hasattr(module, name.name)]
    return missing


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_what_a_benchmark_imports_exists(script):
    assert missing_names(script) == []


def test_a_name_that_moved_is_found(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from airrep_infer import attribute, gone\nfrom airrep_infer.gone import name\n")
    assert missing_names(script) == ["airrep_infer.gone", "No module named 'airrep_infer.gone'"]
