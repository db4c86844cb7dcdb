"""What progress shows on a terminal and in a log."""

from __future__ import annotations

import io
import re
import time

import pytest

from airrep_infer.progress import begin, duration, show_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(stream: io.StringIO, pattern: str) -> re.Match[str]:
    """The first match of `pattern` in what is written to `stream` within a few seconds."""
    for _ in range(500):
        if match := re.search(pattern, stream.getvalue()):
            return match
        time.sleep(0.01)
    raise AssertionError(f"{pattern!r} not in {stream.getvalue()!r}")


def test_begin_reports_sums_from_what_was_done_before() -> None:
    told: list[tuple[str, int, int | None]] = []
    add = begin(lambda *report: told.append(report), "embed", 10, done=4)
    add(1)
    add(5)
    assert told == [("embed", 4, 10), ("embed", 5, 10), ("embed", 10, 10)]
    begin(None, "embed", None)(3)  # nobody asks


def test_a_short_command_writes_nothing_to_a_log() -> None:
    log = io.StringIO()
    with show_progress(log) as progress:
        progress("embed", 0, 10)
        progress("embed", 10, 10)
    assert log.getvalue() == ""


def test_a_log_gets_a_line_though_the_work_reports_nothing() -> None:
    log = io.StringIO()
    with show_progress(log, line_seconds=0.02) as progress:
        progress("label", 3, 12)
        wait_for(log, r"label: 3 of 12 \(25%\) after 0\.\d s\n")
        assert "left" not in log.getvalue()  # this run has done nothing yet that a pace could be told by
        progress("fit", 7, None)
        wait_for(log, r"fit: 7 after \d\.\d s\n")
    lines = log.getvalue()
    time.sleep(0.06)
    assert log.getvalue() == lines  # nothing is written once the work has ended


def test_a_log_gets_a_line_before_the_first_stage() -> None:
    log = io.StringIO()
    with show_progress(log, line_seconds=0.02):
        wait_for(log, r"at work for 0\.\d s\n")


def test_the_time_that_is_left_is_judged_by_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("airrep_infer.progress.time.monotonic", lambda: now)
    log = io.StringIO()
    with show_progress(log, line_seconds=0.02) as progress:
        progress("label", 900, 1000)
        now += 100.0
        progress("label", 950, 1000)
        # 50 in 100 s, so the other 50 take 100 s more; counted from zero it would be 5 s.
        wait_for(log, r"label: 950 of 1000 \(95%\) after 2 min, about 2 min left\n")


def test_a_closed_log_does_not_end_the_work() -> None:
    log = io.StringIO()
    with show_progress(log, line_seconds=0.01) as progress:
        progress("embed", 0, 10)
        log.close()
        time.sleep(0.05)
        progress("embed", 1, 10)


def test_a_terminal_shows_one_bar_a_stage() -> None:
    terminal = Terminal()
    with show_progress(terminal) as progress:
        progress("embed", 40, 50)
        progress("embed", 50, 50)
        progress("attribute", 0, None)
        progress("attribute", 7, None)
    shown = terminal.getvalue()
    assert re.search(r"embed: +80%\|.* 40/50 \[", shown)
    assert re.search(r"embed: 100%\|.* 50/50 \[", shown)
    assert re.search(r"attribute: 7 \[", shown)
    assert shown.index("50/50") < shown.index("attribute")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (45, "45 s"), (720, "12 min"), (3600 * 3.5, "3.5 h"), (86400 * 2.1, "2.1 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
