"""The house is as docs/development.md says, and small enough to find one's way in it."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
from pages import ROOT

PAGE = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
PLACES = re.findall(r"^\| (.+?) \| `([\w/.]+)` \| `(\w+)` \|$", PAGE, re.MULTILINE)
LONGEST = 350


def defined_names(file: Path) -> set[str]:
    """The functions, classes and constants at the top level of a file."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".js":
        return set(re.findall(r"^function (\w+)", text, re.MULTILINE))
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_the_page_has_the_questions() -> None:
    assert len(PLACES) >= 22


@pytest.mark.parametrize(("change", "file", "name"), PLACES, ids=[change for change, _, _ in PLACES])
def test_the_place_of_a_change_is_where_the_page_says(change: str, file: str, name: str) -> None:
    assert (ROOT / file).is_file(), f"{change}: no {file}; correct docs/development.md"
    assert name in defined_names(ROOT / file), f"{change}: {file} does not define {name}"


def test_every_room_is_on_the_page() -> None:
    rooms = {
        f"{package}/{folder.name}/"
        for package in ("airrep_infer", "airrep_train")
        for folder in (ROOT / package).iterdir()
        if (folder / "__init__.py").is_file()
    }
    named = set(re.findall(r"^\| `(airrep_\w+/\w+/)`", PAGE, re.MULTILINE))
    assert rooms == named


@pytest.mark.parametrize(("package", "most"), [("airrep_infer", 20), ("airrep_train", 12)])
def test_a_package_has_few_things_at_its_top(package: str, most: int) -> None:
    top = [
        entry.name
        for entry in (ROOT / package).iterdir()
        if (entry / "__init__.py").is_file() or (entry.suffix == ".py" and not entry.name.startswith("__"))
    ]
    assert len(top) <= most, sorted(top)


def calls(file: Path, name: str) -> list[ast.Call]:
    """The calls of a function in a file."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def test_no_command_types_again_what_a_dataclass_says_of_an_option() -> None:
    files = [file for package in ("airrep_infer", "airrep_train") for file in (ROOT / package).rglob("*.py")]
    said = {call.args[0].value for file in files for call in calls(file, "option") if is_text(call.args[0])}  # type: ignore[attr-defined]
    assert len(said) > 50
    again = [
        f"{file.relative_to(ROOT)}:{call.lineno}"
        for file in files
        for call in calls(file, "click.option")
        for keyword in call.keywords
        if keyword.arg == "help" and is_text(keyword.value) and keyword.value.value in said  # type: ignore[attr-defined]
    ]
    assert again == []


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_no_file_is_long() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.js"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.splitlines() if not name.startswith("tests/")]
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files if file.exists()}
    assert lengths
    assert [str(file) for file, length in lengths.items() if length > LONGEST] == []
