"""Attributions as one self-contained HTML page, to be opened from disk: no network, no server."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write
from airrep_infer.report.data import collect
from airrep_infer.report.verdict import read_verdict
from airrep_infer.rows import AS_WRITTEN, Reading

TEXT_CHARS = 1000
"""Prompts and responses are cut after this many characters, unless told otherwise."""

_SCRIPTS = ("list.js", "charts.js", "model.js", "overview.js", "detail.js", "app.js")


@dataclass(frozen=True)
class ReportSummary:
    """What one `write_report` wrote: queries, distinct training rows, bytes of the page."""

    queries: int
    train_rows: int
    bytes: int


def write_report(
    attributions: str | Path,
    output: str | Path,
    *,
    train: Sequence[str | Path],
    query: Sequence[str | Path],
    by: str | None = None,
    title: str = "Training data attribution",
    facts: Mapping[str, str] | None = None,
    verdict: str | Path | None = None,
    chars: int = TEXT_CHARS,
    reading: Reading = AS_WRITTEN,
) -> ReportSummary:
    """Write attributions with the texts of their rows as an HTML page.

    The page lists the queries (search, sort, filters), shows for each its proponents and opponents with
    their scores and the influence of every group, and as an overview the groups of queries against the
    groups of training rows: the mean group influence, or where the attributions have no groups the share
    of the shown proponents.

    Args:
        attributions: JSONL that `airrep-infer attribute` wrote, or `-`.
        train, query: the examples it was made from; only rows that are mentioned are kept in memory.
        by: a field of the rows that names their group.
        facts: what else the page states at its top, e.g. {"Model": "...", "LDS": "0.31"}.
        verdict: the `verdict.json` of `airrep-train verify`, which the overview then begins with.
        chars: prompts and responses are cut after so many characters.
        reading: as the rows were read when they were embedded.

    Raises:
        InputError: a file cannot be used, or an id of the attributions is in none of the files (`file:line`).
        StorageError: the page cannot be written.
    """
    if chars < 1:
        raise InputError(f"texts can be cut after 1 character at least, got {chars}")
    sources = [str(path) for path in (attributions, *train, *query)]
    if sources.count("-") > 1:
        raise InputError("standard input (-) can be read only once; name files for the others")
    data = collect(
        sources[0], list(map(str, train)), list(map(str, query)), by=by, chars=chars, reading=reading
    )
    stated = list((facts or {}).items())
    for text in (title, *(text for pair in stated for text in pair)):
        _check_text(text)
    shown = None if verdict is None else read_verdict(verdict).to_json()
    data.value.update(title=title, facts=stated, verdict=shown)
    page = _page(title, data.as_json())
    with atomic_write(Path(output)) as stream:
        stream.write(page)
    return ReportSummary(data.queries, data.train_rows, len(page))


def _page(title: str, data: str) -> bytes:
    """The template with everything in it; the page's own policy allows exactly its script and style."""
    folder = files("airrep_infer.report") / "assets"
    script = "\n".join((folder / name).read_text("utf-8") for name in _SCRIPTS)
    style = (folder / "style.css").read_text("utf-8")
    parts = {
        "title": html.escape(title),
        "script": script,
        "script-hash": _hash(script),
        "style": style,
        "style-hash": _hash(style),
        "data": data,
    }
    # One pass: what is put in is not searched for names again.
    template = (folder / "page.html").read_text("utf-8")
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda match: parts[match[1]], template).encode()


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{text!r}: not text that can be written; titles and facts must be UTF-8") from error


def _hash(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
