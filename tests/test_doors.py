"""A room is entered by its door: outside a room only what its `__init__` names is imported."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"airrep_infer": "airrep_infer", "airrep_train": "airrep_train", "airrep_export": "export"}
ROOMS = {
    f"{package}.{door.parent.name}": door.parent
    for package, folder in PACKAGES.items()
    for door in sorted((ROOT / folder).glob("*/__init__.py"))
} | {"airrep_export": ROOT / "export"}
TAKE_TRAINING_APART = [
    ROOT / "benchmarks" / name for name in ("train_step.py", "gpu_training.py", "projector.py")
]
READERS = sorted(
    file
    for folder in (*PACKAGES.values(), "demo", "benchmarks")
    for file in (ROOT / folder).rglob("*.py")
    if file not in TAKE_TRAINING_APART
)


@cache
def imported(file: Path) -> list[tuple[str, str]]:
    """What a file imports: modules, and the names that it takes from them (empty for a whole module)."""
    taken: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            taken += ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            taken += ((alias.name, "") for alias in node.names)
    return taken


def named(room: str) -> set[str]:
    """What the door of a room names, without opening it."""
    for node in ast.parse((ROOMS[room] / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def climbs(file: Path, room: str) -> list[tuple[str, str]]:
    """What a file outside a room imports of it past its door."""
    names = named(room)
    return [
        (module, name)
        for module, name in imported(file)
        if module.startswith(f"{room}.") or (module == room and name not in names)
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_nobody_climbs_in_at_a_window(room: str) -> None:
    names = named(room)
    assert names, f"the door of {room} names nothing"
    climbers = [
        f"{file.relative_to(ROOT)}: {module} {name}"
        for file in READERS
        if not file.is_relative_to(ROOMS[room])
        for module, name in climbs(file, room)
    ]
    assert not climbers, "\n".join(climbers)


@pytest.mark.parametrize("file", TAKE_TRAINING_APART, ids=lambda file: file.name)
def test_who_may_climb_in_does_so_and_is_on_the_page(file: Path) -> None:
    assert any(climbs(file, room) for room in ROOMS)
    assert f"`{file.name}`" in (ROOT / "docs" / "development.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("room", [*ROOMS, "airrep_infer"])
def test_a_door_names_only_what_is_behind_it(room: str) -> None:
    door = importlib.import_module(room)
    for name in door.__all__:
        assert getattr(door, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        door.no_such_name  # noqa: B018


def test_help_waits_for_nothing_heavy() -> None:
    code = """
import sys, airrep_infer
print([name for name in sys.modules if name.startswith("airrep_infer.")])
import airrep_infer.cli, airrep_train.cli
heavy = {"torch", "transformers", "onnxruntime", "rich", "pyarrow", "ray"}
print(sorted(heavy & set(sys.modules)))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == ["['airrep_infer.lazy_import']", "[]"]
