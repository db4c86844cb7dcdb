"""Expressions that readers stumbled over do not come back."""

from __future__ import annotations

import re

from pages import PAGES, ROOT

AVOIDED = {
    r"\bmend(s|ed)?\b": "fix",
    r"\bgo(es)? on (where|from|with)\b": "resume, continue",
    r"\bquick(er|est)\b": "faster, fastest",
    r"\bunder way\b": "in flight, running",
    r"\bis a demand\b": "say what happens",
}
SOURCES = [
    file for name in ("airrep_infer", "airrep_train", "export") for file in (ROOT / name).rglob("*.py")
]


def test_plain_words() -> None:
    met = [
        f"{file.relative_to(ROOT)}:{number}: {match[0]!r}; write: {instead}"
        for file in [*PAGES, *SOURCES]
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        for pattern, instead in AVOIDED.items()
        if (match := re.search(pattern, line))
    ]
    assert met == []
