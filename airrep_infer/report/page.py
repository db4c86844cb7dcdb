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

from airrep_infer.errors import InputError, refuse_single
from airrep_infer.files import atomic_write
from airrep_infer.report.data import ReportData, collect
from airrep_infer.report.verdict import ShownVerdict, read_lds, read_verdict
from airrep_infer.rows import AS_WRITTEN, Reading

_SCRIPTS = (
    "list.js",
    "charts.js",
    "heat.js",
    "model.js",
    "rows_model.js",
    "overview.js",
    "detail.js",
    "rows.js",
    "row.js",
    "app.js",
)


@dataclass(frozen=True)
class ReportSummary:
    """What one `write_report` wrote.

    Queries, distinct training rows, bytes of the page, and after how many characters texts are cut.
    """

    queries: int
    train_rows: int
    bytes: int
    chars: int


def write_report(
    attributions: str | Path,
    output: str | Path,
    *,
    train: Sequence[str | Path],
    query: Sequence[str | Path],
    by: str | None = None,
    title: str = "Training data attribution",
    facts: Mapping[str, str] | None = None,
    note: str = "",
    verdict: str | Path | None = None,
    evaluation: str | Path | None = None,
    chars: int | None = None,
    reading: Reading = AS_WRITTEN,
) -> ReportSummary:
    """Write attributions with the texts of their rows as an HTML page.

    The page begins with the strongest rows for the queries, and the groups of queries against the groups of
    training rows: the mean group influence, or where the attributions have no groups the share of the shown
    proponents. It lists the queries (search, sort, filters), shows for each its proponents and opponents with
    their scores and the influence of every group, and lists the training rows with what the filtered queries
    say of each; rows can be selected there, and their ids copied and downloaded.

    Args:
        attributions: JSONL that `airrep-infer attribute` wrote, or `-`.
        train, query: the examples it was made from; only rows that are mentioned are kept in memory.
        by: a field of the rows that names their group.
        facts: what else the page states at its top, e.g. {"Model": "...", "LDS": "0.31"}.
        note: what the page says first, as a paragraph.
        verdict: the `verdict.json` of `airrep-train verify`, which the overview then begins with.
        evaluation: the JSON of `airrep-train evaluate`, whose LDS is stated as a fact, with its interval.
        chars: prompts and responses are cut after so many characters; default: 20,000, or less where the page
            would hold more than 40 million.
        reading: as the rows were read when they were embedded.

    Raises:
        InputError: a file cannot be used, or an id of the attributions is in none of the files (`file:line`).
        StorageError: the page cannot be written.
    """
    if chars is not None and chars < 1:
        raise InputError(f"texts can be cut after 1 character at least, got {chars}")
    refuse_single(train, "train")
    refuse_single(query, "query")
    sources = [str(path) for path in (attributions, *train, *query)]
    if sources.count("-") > 1:
        raise InputError("standard input (-) can be read only once; name files for the others")
    data = collect(
        sources[0], list(map(str, train)), list(map(str, query)), by=by, chars=chars, reading=reading
    )
    stated = list((facts or {}).items())
    if evaluation is not None:
        stated.insert(0, ("LDS", read_lds(evaluation)))
    shown = None if verdict is None else read_verdict(verdict)
    page = render(data, title=title, note=note, facts=stated, verdict=shown)
    with atomic_write(Path(output)) as stream:
        stream.write(page)
    return ReportSummary(data.queries, data.train_rows, len(page), data.value["chars"])


def render(
    data: ReportData,
    *,
    title: str,
    note: str = "",
    facts: Sequence[tuple[str, str]] = (),
    verdict: ShownVerdict | None = None,
) -> bytes:
    """The template with everything in it; the page's own policy allows exactly its script and style."""
    for text in (title, note, *(text for pair in facts for text in pair)):
        _check_text(text)
    data.value.update(
        title=title, note=note, facts=facts, verdict=None if verdict is None else verdict.to_json()
    )
    folder = files("airrep_infer.report") / "assets"
    script = "\n".join((folder / name).read_text("utf-8") for name in _SCRIPTS)
    style = (folder / "style.css").read_text("utf-8")
    parts = {
        "title": html.escape(title),
        "script": script,
        "script-hash": _hash(script),
        "style": style,
        "style-hash": _hash(style),
        "data": data.as_json(),
    }
    # One pass: what is put in is not searched for names again.
    template = (folder / "page.html").read_text("utf-8")
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda match: parts[match[1]], template).encode()


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{text!r}: not text that can be written; titles, notes and facts must be UTF-8"
        ) from error


def _hash(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
