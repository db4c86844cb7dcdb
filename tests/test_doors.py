"""A room is entered by its door: outside a room only what its `__init__` names is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = sorted(door.parent for door in (ROOT / "airrep_train").glob("*/__init__.py"))
READERS = sorted(
    file
    for folder in ("airrep_infer", "airrep_train", "export", "demo", "benchmarks")
    for file in (ROOT / folder).rglob("*.py")
    if file.name not in ("train_step.py", "gpu_training.py")  # they take a training step apart to time it
)


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports from."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.name))
def test_nobody_climbs_in_at_a_window(room: Path) -> None:
    inside = ".".join(room.relative_to(ROOT).parts) + "."
    climbers = [
        f"{file.relative_to(ROOT)}: {module}"
        for file in READERS
        if not file.is_relative_to(room)
        for module in imported(file)
        if module.startswith(inside)
    ]
    assert not climbers, "\n".join(climbers)


def test_a_door_names_only_what_is_behind_it() -> None:
    import importlib

    for room in ROOMS:
        door = importlib.import_module(".".join(room.relative_to(ROOT).parts))
        for name in getattr(door, "__all__", ()):
            assert getattr(door, name) is not None
        with pytest.raises(AttributeError, match="no_such_name"):
            door.no_such_name  # noqa: B018
