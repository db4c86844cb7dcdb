"""Attributions as tables on a terminal, for people without a browser.

Ids and texts are other people's: their control characters are made visible, so that no row can move the
cursor, colour the screen or turn the reading direction, and nothing of them is read as rich's markup.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from airrep_infer.errors import refuse_single
from airrep_infer.report.lookup import find_examples
from airrep_infer.rows import AS_WRITTEN, AttributionRow, Example, PredictedNats, Reading, ScoredRow
from airrep_infer.store import EmbeddedRows, EmbeddingStore, StoreRow

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL and C1 controls: escape sequences start with these
    "\u2028\u2029\u202a-\u202e\u2066-\u2069"  # line ends and bidirectional overrides
    "\ud800-\udfff]"  # halves of surrogate pairs, which cannot be printed
)
_BAR = 15
_GROUPS = 10
_QUERY_CHARS = 400
_ROW_CHARS = 300  # rich cuts a line to the room there is

Row = Example | StoreRow


def plain(text: str) -> str:
    """One line without anything a terminal obeys: white space becomes a space, other controls `�`."""
    return _UNSAFE.sub("\ufffd", " ".join(text.split()))


def known_rows(
    sources: Iterable[str], rows: Iterable[StoreRow], ids: Collection[str], reading: Reading = AS_WRITTEN
) -> Mapping[str, Row]:
    """What there is to show of some rows, by the text of their id: their examples from files that can be read
    again, of others what was kept of them when they were embedded.

    Raises:
        InputError: a file cannot be read.
    """
    refuse_single(sources, "examples")
    files = [source for source in sources if Path(source).is_file()]
    known: dict[str, Row] = dict(find_examples(files, ids, reading).examples) if files else {}
    if len(known) < len(ids):
        known = {**{str(row.id): row for row in rows if str(row.id) in ids}, **known}
    return known


def show_attributions(
    rows: Sequence[AttributionRow],
    train: tuple[Sequence[str], EmbeddingStore],
    queries: tuple[Sequence[str], EmbeddedRows],
    stream: TextIO | None = None,
    reading: Reading = AS_WRITTEN,
) -> None:
    """Print output rows, one table a query.

    Args:
        train: what the user named as the training rows, and their store.
        queries: what the user named as the queries, and what was attributed.
        reading: as the rows were read when they were embedded.
        stream: default, standard output; its width is the terminal's, or 100 columns.
    """
    shown_ids = {str(scored.id) for row in rows for scored in (*row.proponents, *row.opponents)}
    known_training = known_rows(train[0], train[1].rows(), shown_ids, reading)
    known_queries = known_rows(queries[0], queries[1].rows, {str(row.query_id) for row in rows}, reading)
    console = _console(stream or sys.stdout)
    for row in rows:
        _show_query(console, row, known_training, known_queries)


def _console(stream: TextIO) -> Console:
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
    if not encoding.startswith("utf") and isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    width = max(40, shutil.get_terminal_size((100, 24)).columns)
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def _show_query(
    console: Console,
    row: AttributionRow,
    known_training: Mapping[str, Row],
    known_queries: Mapping[str, Row],
) -> None:
    title = Text.assemble((plain(str(row.query_id)), "bold"), f"  influence {_number(row.group_influence)}")
    console.rule(title, align="left", style="dim")
    for line in _lines(known_queries.get(str(row.query_id)), _QUERY_CHARS):
        console.print(line)
    scale = _extent([scored.score for scored in (*row.proponents, *row.opponents)])
    for end, scored_rows in (("proponents", row.proponents), ("opponents", row.opponents)):
        console.print(Text(f"\n{_title(end, scored_rows)}", style="bold"))
        table = _table()
        for rank, scored in enumerate(scored_rows, 1):
            name = Text.assemble((plain(str(scored.id)), "bright_blue"), _nats(scored.predicted_nats))
            lines = [name, *_lines(known_training.get(str(scored.id)), _ROW_CHARS)]
            table.add_row(str(rank), *_scored(console, scored.score, scale), Text("\n").join(lines))
        console.print(table)
    if row.groups:
        _show_groups(console, row.groups, row.group_nats or {})
    console.print()


def _title(end: str, scored_rows: Sequence[ScoredRow]) -> str:
    """A score is relative to the average row: one that is not below 0 opposes nothing."""
    if end == "proponents" or not scored_rows:
        return end
    below = sum(scored.score < 0 for scored in scored_rows)
    if not below:
        return "lowest scores (none is below 0: no row shown opposes)"
    return end if below == len(scored_rows) else f"opponents ({below} of {len(scored_rows)} are below 0)"


def _show_groups(console: Console, groups: Mapping[str, float], nats: Mapping[str, PredictedNats]) -> None:
    """The strongest groups, highest influence first."""
    strongest = sorted(groups.items(), key=lambda item: -abs(item[1]))[:_GROUPS]
    scale = _extent([influence for _, influence in strongest])
    console.print(Text("\ngroups", style="bold"))
    table = _table()
    for name, influence in sorted(strongest, key=lambda item: -item[1]):
        described = Text.assemble(plain(name), _nats(nats.get(name)))
        table.add_row("", *_scored(console, influence, scale), described)
    console.print(table)
    if len(groups) > _GROUPS:
        console.print(Text(f"     and {len(groups) - _GROUPS} weaker groups", style="dim"))


def _table() -> Table:
    """Ranks, scores, bars, and in the room that is left texts, whose lines are cut and not wrapped."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=4, justify="right")
    table.add_column(width=7, justify="right", no_wrap=True)
    table.add_column(width=_BAR, no_wrap=True)
    table.add_column(ratio=1, no_wrap=True)
    return table


def _lines(row: Row | None, chars: int) -> list[Text]:
    """A row as a few lines: prompt and response, or what a store kept of its fields."""
    if row is None:
        return []
    if isinstance(row, StoreRow):
        fields = ", ".join(f"{key}: {value}" for key, value in row.fields.items())
        return [Text(_cut(fields, chars), style="dim")] if fields else []
    prompt = [] if row.prompt is None else [Text(_cut(row.prompt, chars), style="dim")]
    return [*prompt, Text(_cut(row.response, chars))]


def _cut(text: str, chars: int) -> str:
    # Cut before cleaning, so that a row of a hundred thousand words costs nothing.
    line = plain(text[: 4 * chars])
    return line if len(line) <= chars and len(text) <= 4 * chars else f"{line[:chars]}…"


def _extent(values: Iterable[float]) -> tuple[float, float]:
    low, high = min((0.0, *values)), max((0.0, *values))
    return (low, high) if low < high else (0.0, 1.0)


def _scored(console: Console, value: float, scale: tuple[float, float]) -> tuple[Text, Text]:
    """A score and its bar: from zero to the value, on a scale that all bars of a table share."""
    low, high = scale
    full, axis = ("#", "|") if console.options.ascii_only else ("█", "│")
    zero = round(-low / (high - low) * (_BAR - 1))
    length = round(abs(value) / (high - low) * (_BAR - 1))
    style = "cyan" if value >= 0 else "red"
    bar: tuple[str | tuple[str, str], ...]
    if value >= 0:
        bar = (" " * zero, axis, (full * min(length, _BAR - 1 - zero), style))
    else:
        length = min(length, zero)
        bar = (" " * (zero - length), (full * length, style), axis)
    return Text(_number(value), style=style), Text.assemble(*bar)


def _nats(nats: PredictedNats | None) -> tuple[str, str]:
    """What stands behind an id or a name, and its style.

    Said against random rows: one that lowers the loss by less than they do need not raise it.
    """
    if nats is None:
        return "", "dim"
    shown, low, high = map(_number, (nats.nats, nats.low, nats.high))
    return f"  {shown} nats [{low}, {high}] against random rows", "dim"


def _number(value: float) -> str:
    size = abs(value)
    return f"{value:+.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.01 or not size else 4}f}"
