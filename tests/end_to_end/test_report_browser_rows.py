"""The report page's training rows in a real Chromium: figures, selection, one row, and 50,000 of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import ACTION_SECONDS, Reader
from report_pages import EVIL, large_page, write
from selenium.webdriver.common.keys import Keys

from airrep_infer.report.page import write_report
from airrep_train.verify import read_named_rows

LINES = ".lines .line"
PAINT_SECONDS = 20.0
"""Measured on 2 busy cores: 1.7 s. The bound only tells that from hanging."""


def figures(reader: Reader, name: str) -> list[str]:
    """Queries, mean, strongest and strength of the row with this id."""
    line = reader.listed(LINES).index(name)
    position = reader.all(LINES)[0].get_attribute("data-position")
    assert position is not None
    return reader.texts(f"{LINES}[data-position='{line + int(position)}'] > .number")


def test_figures_are_of_the_filtered_queries(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    reader.click("#show-rows")
    reader.wait(lambda: reader.listed(LINES)[:2] == ["t0", "t5"])
    assert reader.text(".rows-total") == "201 rows listed" and reader.text(".rows-note .note").startswith(
        "Over all 40"
    )
    # t0: 4 for q0 and 0.5 for 20 queries, q0 among them, which has it at both ends and counts it once.
    assert figures(reader, "t0") == ["20", "+0.68", "+4.00", "1.00"]
    assert figures(reader, "t5") == ["1", "+4.00", "+4.00", "1.00"]
    reader.search("zebra3 q3")
    reader.wait(lambda: reader.text(".rows-total") == "57 rows listed")
    assert "Over 11 filtered of 40 queries" in reader.text(".rows-note .note")
    reader.choose("#row-sort", "Most queries")
    reader.wait(lambda: reader.listed(LINES)[:2] == ["t200", "t0"])
    assert figures(reader, "t200") == ["6", "+0.50", "+0.50", "0.00"]
    reader.choose("#row-sort", "Lowest mean")
    reader.wait(lambda: reader.listed(LINES)[0] == "t19")
    reader.click(".heads button:nth-of-type(3)")
    reader.wait(lambda: reader.listed(LINES)[0] == "t15")
    assert reader.text(".heads [aria-pressed=true]") == "Strongest"


def test_search_of_rows(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small, view="#rows")
    reader.search("T20", "#row-search")  # in the id
    reader.wait(lambda: sorted(reader.listed(LINES)) == ["t20", "t200"])
    reader.search("window.broken=1", "#row-search")  # the text of t6 and the group of a quarter of the rows
    reader.wait(lambda: reader.text(".rows-total") == "51 rows listed")


def test_selected_ids_are_what_verify_reads(
    small: Path, opened: Callable[..., Reader], downloads: Path
) -> None:
    reader = opened(small, view="#rows")
    reader.all(f"{LINES} .check")[2].click()
    reader.all(f"{LINES} .check")[0].click()
    reader.find("#rows-list").send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.SPACE)
    assert reader.text(".rows-total") == "3 selected, 201 rows listed"
    assert [line.get_attribute("aria-selected") for line in reader.all(LINES)[:4]] == [
        "true",
        "true",
        "true",
        "false",
    ]
    reader.search("nothing of this kind", "#row-search")
    reader.wait(lambda: reader.text(".rows-total") == "3 selected, 0 rows listed")
    reader.search("", "#row-search")
    reader.wait(lambda: reader.text(".rows-total") == "3 selected, 201 rows listed")
    (button,) = [button for button in reader.all(".rows-actions button") if "Download" in button.text]
    assert button.text == "Download ids of 3 selected"
    button.click()
    file = downloads / "rows.jsonl"
    reader.wait(file.exists)
    assert read_named_rows(file, 1000) == ["t0", "t5", "t10"]
    reader.run(
        "const writeText = async (text) => { window.copied = text; };"
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText}})"
    )
    next(button for button in reader.all(".rows-actions button") if "Copy" in button.text).click()
    reader.wait(lambda: reader.run("return window.copied") == "t0\nt5\nt10\n")
    assert "Copied 3 ids" in reader.texts(".rows-actions button")
    next(button for button in reader.all(".rows-actions button") if button.text == "Clear").click()
    assert reader.text(".rows-total") == "201 rows listed"


def test_the_rows_of_the_verdict(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    assert reader.text(".show-verified") == "Show these 2 rows of 3"
    reader.click(".show-verified")
    reader.wait(lambda: reader.listed(LINES) == ["t0", "t4"])
    assert reader.text(".rows-total") == "2 selected, 2 rows listed"
    next(button for button in reader.all(".rows-actions button") if button.text == "Only selected").click()
    reader.wait(lambda: reader.text(".rows-total") == "2 selected, 201 rows listed")


def test_one_row(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    reader.search("zebra3")
    reader.wait(lambda: reader.text("#count") == "11 of 40 queries")
    reader.click("#show-queries")
    reader.wait(lambda: reader.texts(".question .id") == ["q3"])
    links = reader.all(".hit-foot button")
    assert [link.text for link in links] == ["in 1 query"] * 5 + ["in 20 queries"]
    links[-1].click()
    reader.wait(lambda: reader.texts(".question .id") == ["t200"])
    assert reader.texts("#detail .facts dd") == ["6 of 11", "+0.50", "+0.50", "0.00", "capitals"]
    assert reader.texts(".hits-head h2") == [
        "Proponent of 0 queries (of the filtered queries)",
        "Among the lowest of 6 queries (of the filtered queries)",
    ]
    assert reader.texts(".hit-list .id") == ["q3", "q31", "q33", "q35", "q37", "q39"]
    assert "opposes none" in reader.text(".hits-head .note") and reader.all(".hit .negative") == []
    assert reader.texts(".hit .rank") == ["3"] * 6  # its place in the query's list
    reader.click(".question-head [aria-pressed]")
    reader.wait(lambda: reader.text(".question-head [aria-pressed]") == "Selected")
    reader.click(".question-head .filter")
    reader.wait(lambda: reader.texts(".chip b") == ["t200"])
    assert reader.listed() == ["q3", "q31", "q33", "q35", "q37", "q39"]  # filters add up
    reader.search("")
    reader.wait(lambda: reader.text("#count") == "20 of 40 queries")
    reader.click("#show-rows")
    reader.wait(lambda: reader.text(".rows-total").startswith("1 selected"))
    reader.click(".chip")
    reader.wait(lambda: reader.text("#count") == "40 queries")
    reader.driver.get(reader.driver.current_url.split("#")[0] + "#row=t4")
    reader.wait(lambda: reader.texts(".hits-head h2")[1] == "Opponent of 1 query")


def test_rows_on_a_phone(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small, width=390, height=844, scheme="dark", view="#rows")
    assert not reader.find("#list").is_displayed() and reader.find("#rows-list").is_displayed()
    assert reader.texts(f"{LINES} .line-foot")[0] == "20 queries, strength 1.00"
    assert reader.run("return document.documentElement.scrollWidth") <= 390
    reader.all(LINES)[1].click()
    reader.wait(lambda: reader.texts(".question .id") == ["t5"])
    assert not reader.find("#rows-list").is_displayed()
    assert reader.run("return document.querySelector('main').scrollWidth") <= 390
    reader.click(".question .back")
    reader.wait(lambda: reader.find("#rows-list").is_displayed())


NAMES = [f"https://example.org/data/{kind}" for kind in ("mails/cleaned", "mails/raw")]
CHAT = [
    {"role": "system", "content": "You answer for a shop."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Good morning."},
    {"role": "user", "content": "The plate is broken."},
    {"role": "assistant", "content": "Send it back."},
]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of one conversation; its proponent has evidence, and a text of 30,000 characters."""
    folder = tmp_path_factory.mktemp("chat")
    evidence = {"sentences": [["Send it.", 0.75], [EVIL, -0.25]], "spans": ["send it back", EVIL]}
    train: list[dict[str, Any]] = [
        {"id": f"t{n}", "source": NAMES[n], "stars": n + 3, "prompt": "Broken?", "response": text}
        for n, text in enumerate(("Send it. " * 2000, "word " * 6000))
    ]
    known = {"percentile": 99.5, "predicted_nats": {"nats": 0.31, "low": 0.26, "high": 0.37}}
    row = {
        "query_id": "q",
        "group_influence": 1.0,
        "proponents": [{"id": "t0", "score": 2.0, "evidence": evidence, **known}],
        "opponents": [{"id": "t1", "score": -1.0}],
    }
    write_report(
        write(folder / "o.jsonl", [row]),
        folder / "r.html",
        train=[write(folder / "t.jsonl", train)],
        query=[write(folder / "q.jsonl", [{"id": "q", "source": NAMES[0], "messages": CHAT}])],
        by="source",
    )
    return folder / "r.html"


def test_a_conversation_begins_with_its_last_turn(chat: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(chat, view="#query=q")
    assert reader.texts(".row > div")[:2] == ["user: The plate is broken.", "Send it back."]
    assert reader.texts(".question .text p")[:2] == ["user: The plate is broken.", "Send it back."]
    assert reader.texts(".question .earlier")[0].splitlines()[-1] == "assistant: Good morning."
    reader.search("good morning shop")
    reader.wait(lambda: reader.text("#count") == "1 query")


def test_evidence_is_shown_as_text(chat: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(chat, view="#query=q")
    assert len(reader.all(".evidence")) == 1
    assert reader.texts(".hit-foot .note") == [
        "percentile 99.5",
        "+0.31 nats [+0.26, +0.37] against a random row",
    ]
    reader.click(".evidence summary")
    assert reader.texts(".evidence li")[0] == "send it back"
    assert reader.texts(".sentence .number") == ["+0.75", "−0.25"]
    assert reader.run("return document.querySelector('.sentence:last-child p').textContent") == EVIL


def test_a_row_is_shown_whole_and_says_where_it_is_cut(chat: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(chat, view="#row=t0")
    text = "return document.querySelector('.question .response').textContent"
    assert reader.run(text) == "Send it. " * 2000
    assert reader.texts("#detail .facts dd")[-2:] == [NAMES[0], "3"]
    assert (
        reader.text(".question .tag") == "…cleaned"
        and reader.find(".question .tag").get_attribute("title") == NAMES[0]
    )
    reader.run("go('#row=t1')")
    assert reader.run(text).endswith("… [10,000 more characters]")
    assert "longer than 20,000 characters are cut" in reader.text(".foot")


def test_5000_queries_and_50000_rows(tmp_path: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(large_page(tmp_path / "p"))
    timing = "return performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"
    assert reader.run(timing) < PAINT_SECONDS
    assert reader.text("#summary") == "5,000 queries, 50,000 training rows shown"
    bounded = 3500  # 1,600 of them are cells of the heat map
    for act in (
        "setFilters({search: 'zebra49 dark'})",
        "setFilters({search: '', sort: 'high'})",
        "act.filterGroups(2, 1)",
        "act.filterRow(0)",
        "setFilters({queryGroup: -1, column: -1, showing: -1, sort: 'file'})",
        "go('#rows')",
        "act.setRows({rowSearch: 'dark', rowSort: 'low'})",
        "rowsView.selectAll()",
        "act.setRows({rowSearch: ''})",
        "setFilters({search: 'zebra4'})",
        "act.openRow(7)",
        "act.openQuery(4000)",
    ):
        assert reader.seconds(act) < ACTION_SECONDS, act
        assert reader.nodes() < bounded, act
    reader.run("setFilters({search: ''})")
    assert reader.text("#count") == "5,000 queries"
    reader.run("document.getElementById('list').scrollTop = 1e9")
    reader.wait(lambda: reader.listed()[-1] == "q4999")
    assert len(reader.listed()) < 40
    reader.click("#show-rows")
    reader.search("yak43217", "#row-search")
    reader.wait(lambda: reader.listed(LINES) == ["t43217"])
    reader.search("", "#row-search")
    reader.wait(lambda: reader.text(".rows-total").endswith("50,000 rows listed"))
    reader.choose("#row-sort", "File order")
    reader.run("document.getElementById('rows-list').scrollTop = 1e9")
    reader.wait(lambda: reader.listed(LINES)[-1] == "t49999")
    assert len(reader.listed(LINES)) < 40
