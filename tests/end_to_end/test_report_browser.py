"""The report page in a real Chromium, from disk: overview and queries, and that nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Reader
from report_pages import EVIL, GROUPS, made_page, write
from selenium.webdriver.common.keys import Keys

from airrep_infer.report.page import write_report


def test_the_page_begins_with_what_is_known(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    parts = reader.texts("#overview > *")
    assert parts[0] == f"A note {EVIL}".replace("\u2028", "").strip()
    assert parts[1].startswith("Verified on the language model") and "Strongest rows" in parts[3]
    sentence = f"Removing these 3 rows raises the loss {EVIL}"
    assert reader.text(".verdict") == sentence.replace("\u2028", "\n").strip()
    table = [line.split() for line in reader.text(".arms").splitlines()]
    assert table[1] == ["all", "rows", "60", "0.250", "0.500"] and table[-1][-2:] == ["5.125", "\u2013"]
    assert reader.texts(".facts dd")[0] == "0.310 [0.250, 0.375] over 40 queries"


def test_opens_with_the_overview(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    assert reader.text("h1").startswith("A title </script><script>")
    assert reader.text("#summary") == "40 queries, 201 of 202 training rows shown"
    assert reader.text("#count") == "40 queries" and reader.listed()[:3:2] == ["q0", "q2"]
    # 120 scores at either end: bins of one sign are of one colour.
    assert reader.texts(".bins-name span") == ["120", "120"]
    # Every query's first proponent counts 1, its second half; the same of the scores below 0.
    strongest, opposing = ".pair > .card:first-child", ".pair > .card:last-child"
    assert reader.texts(f"{strongest} .id")[:2] == ["t0", "t5"]
    assert reader.texts(f"{strongest} .answer-figure")[:2] == ["1.00", "1.00"]
    assert reader.texts(f"{strongest} .answer-count")[0] == "in 20 queries, mean +0.68"
    assert reader.texts(f"{opposing} .id")[:2] == ["t4", "t9"]  # and not t0 and t200, which score 0.5
    assert reader.text(f"{opposing} .quiet") == "All 80 rows"
    reader.click(f"{opposing} .quiet")
    reader.wait(lambda: reader.listed(".lines .line")[:2] == ["t4", "t9"])
    assert (
        reader.run("return document.getElementById('row-sort').selectedOptions[0].text") == "Strength below 0"
    )


def test_the_answer_follows_the_filters(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    reader.search("zebra3 q3")
    reader.wait(lambda: reader.text("#count") == "11 of 40 queries")
    assert reader.texts(".answer h2") == [
        "Strongest rows for the filtered queries",
        "Opponents of the filtered queries",
    ]
    assert reader.texts(".pair > .card:first-child .id")[:3] == ["t15", "t150", "t155"]
    # The matrix, too: 3 is of the fourth group, 30 to 39 are of all.
    reader.search("zebra31")
    reader.wait(lambda: reader.texts(".heat th[scope=row]") == [GROUPS[3].replace("\u2028", "").strip()])


def test_the_colours_of_the_heat_map(small: Path, opened: Callable[..., Reader]) -> None:
    """The mean of n * (i - 1) over the queries n = g, g + 4, ... is (g + 18) * (i - 1)."""
    reader = opened(small)
    assert reader.text(".switch [aria-pressed=true]") == "By column"
    assert reader.cell("dates", "capitals").text == "0.50" and reader.cell("units", "dates").text == "0.00"
    assert reader.cell("capitals", "units").text == "−1.50"
    reader.click(".switch button:nth-child(2)")
    assert reader.cell("dates", "capitals").text == "−28.5" and reader.cell("units", "units").text == "10.0"
    reader.click(".switch button:nth-child(3)")
    assert reader.cell("dates", "capitals").text == "−19.0" and reader.cell("units", "units").text == "20.0"
    assert "the values themselves" in reader.text(".matrix .note")


def test_search_filters(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    reader.search("ZEBRA17")
    reader.wait(lambda: reader.text("#count") == "1 of 40 queries")
    assert reader.listed() == ["q17"]
    reader.search("q2 zebra2")  # all words, anywhere
    reader.wait(lambda: reader.text("#count") == "10 of 40 queries")
    reader.search("nowhere to be found")
    reader.wait(lambda: reader.text("#count") == "0 of 40 queries")
    assert reader.listed() == []
    reader.search("</script>")
    reader.wait(lambda: reader.text("#count") == "1 of 40 queries")
    assert "</script><script>" in reader.listed()[0]


def test_a_sorted_list_shows_what_it_is_sorted_by(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    for name, first, value in (
        ("Highest influence", ["q39", "q38"], "+39.3"),
        ("Lowest influence", ["q0", EVIL], "+0.25"),
        ("Lowest score", ["q0", EVIL], "−2.00"),
        ("Strongest proponent", ["q0", EVIL], "+4.00"),
        ("File order", ["q0", EVIL], "+0.25"),
    ):
        reader.choose("#sort", name)
        reader.wait(lambda first=first: reader.listed()[:2] == first)
        assert reader.text("#measure") == ("influence" if name == "File order" else name.lower())
        assert reader.texts(".row .number")[0] == value


def test_a_click_on_the_heat_map_filters(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    reader.cell("units", "capitals").click()
    reader.wait(lambda: reader.text("#count") == "10 of 40 queries")
    # Queries of units, by the influence of capitals, which is -n: the smallest n first.
    assert reader.listed()[:3] == ["q2", "q6", "q10"]
    assert reader.texts(".chip b") == ["units", "capitals"]
    assert reader.texts(".row .number")[0] == "−2.00"
    assert len(reader.all(".cell[aria-selected=true]")) == 1
    reader.all(".row")[0].click()
    reader.wait(lambda: reader.texts(".question .id") == ["q2"])
    # Rows of capitals only: of t10, t11, t12 and t14, t13, t0 these are t12, and t0.
    assert reader.texts(".hit-foot .id") == ["t12", "t0"]
    assert reader.texts(".hit .rank") == ["3", "3"]
    for chip in (1, 0):
        reader.all(".chip")[chip].click()
    reader.wait(lambda: reader.text("#count") == "40 queries")
    assert reader.texts(".hit-foot .id") == ["t10", "t11", "t12", "t14", "t13", "t0"]


def test_a_heat_map_by_keyboard(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    reader.run("document.querySelector('.cell[tabindex=\"0\"]').focus()")
    body = reader.driver.switch_to.active_element
    body.send_keys(Keys.ARROW_DOWN)
    reader.driver.switch_to.active_element.send_keys(Keys.ENTER)
    reader.wait(lambda: "of 40" in reader.text("#count"))
    assert len(reader.texts(".chip")) == 2


def test_one_query(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    reader.click("#show-queries")
    reader.wait(lambda: reader.texts(".question .id") == ["q0"])
    assert reader.texts(".losses td:nth-child(2)") == ["0.250", "5.500"]
    assert reader.texts(".losses .answer-now")[0] == "as before"
    assert (
        reader.run("return document.querySelector('.losses tr:last-child .answer-now').textContent") == EVIL
    )
    reader.find("#list").send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    reader.wait(lambda: reader.texts(".question .id") == ["q2"])
    assert reader.text(".row[aria-selected=true] .id") == "q2"
    assert reader.all(".losses") == []  # the verdict is not about this query
    assert reader.text(".figure") == "+2.25" and reader.text(".where") == "3 of 40"
    assert reader.texts(".hit-foot .id") == ["t10", "t11", "t12", "t14", "t13", "t0"]
    assert reader.texts(".hit .rank") == ["1", "2", "3"] * 2
    assert reader.texts(".hit .number") == ["+4.00", "+3.00", "+2.00", "−2.00", "−1.00", "+0.50"]
    assert reader.texts(".hit .tag")[0] == "units"
    # Bars: as long as the scores, on one scale, from one zero.
    bars = [bar.rect for bar in reader.all(".hit .fill")]
    scale = bars[0]["width"] / 4
    lengths = [bar["width"] / scale for bar in bars]
    assert lengths == pytest.approx([4, 3, 2, 2, 1, 0.5], abs=0.1)
    assert bars[3]["x"] + bars[3]["width"] == pytest.approx(bars[4]["x"] + bars[4]["width"], abs=1)
    assert bars[5]["x"] == pytest.approx(bars[4]["x"] + bars[4]["width"], abs=1)
    # Groups of the query, highest first: n * (i - 1) for n = 2.
    assert reader.texts(".bar-line .number") == ["+4.00", "+2.00", "0.00", "−2.00"]
    # A long text opens, and then is exactly what was given (up to where it was cut).
    assert reader.text(".question .prompt").startswith("line one\nline two")
    reader.find(".question .more").click()
    whole = reader.run("return document.querySelector('.question .prompt').textContent")
    assert whole.startswith("line one\n\n\nline two") and whole.endswith(" more characters]")
    # The browser's own back button.
    reader.driver.back()
    reader.wait(lambda: reader.find("#overview").is_displayed())


def test_untrusted_text_is_text(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    reader.all(".row")[1].click()
    reader.wait(lambda: bool(reader.all(".question .response")))
    shown = reader.run(
        "return ['.question .id', '.question .response', '.hit .response', '.facts dd:nth-of-type(1)', 'h1']"
        ".map((selector) => [...document.querySelectorAll(selector)].map((shown) => shown.textContent))"
    )
    assert shown[0] == [EVIL] and shown[1] == [EVIL.strip()] and EVIL.strip() in shown[2]
    assert reader.all("img, .panes script, [onerror]") == []
    reader.driver.refresh()  # the address holds the id; opening it anew finds the query
    reader.wait(lambda: reader.texts(".question .where") == ["2 of 40"])


def test_themes(small: Path, opened: Callable[..., Reader]) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        reader = opened(small, scheme=scheme)
        color = "return getComputedStyle(document.querySelector('.card')).backgroundColor"
        grounds[scheme] = reader.run(color)
    assert grounds["light"] != grounds["dark"]
    reader.find("#theme").click()
    assert reader.run(color) == grounds["light"]
    reader.driver.refresh()
    assert reader.run(color) == grounds["light"]  # kept against the system's dark


def test_a_phone(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small, width=390, height=844)
    assert not reader.find("#list").is_displayed() and reader.find(".heat").is_displayed()
    reader.click("#show-queries")
    reader.wait(lambda: reader.find("#list").is_displayed() and not reader.find("main").is_displayed())
    reader.all(".row")[2].click()
    reader.wait(lambda: reader.find(".question").is_displayed() and not reader.find("#list").is_displayed())
    assert reader.run("return document.documentElement.scrollWidth") <= 390
    assert reader.run("return document.querySelector('main').scrollWidth") <= 390
    reader.find(".back").click()
    reader.wait(lambda: reader.find("#list").is_displayed())
    reader.click("#show-overview")
    reader.run("arguments[0].click()", reader.cell("units", "capitals"))
    reader.wait(lambda: reader.find("#list").is_displayed() and reader.texts(".chip b")[0] == "units")


def test_without_group_influence_the_matrix_counts_proponents(
    tmp_path: Path, opened: Callable[..., Reader]
) -> None:
    reader = opened(made_page(tmp_path / "p", 8, measured=False))
    reader.click(".switch button:nth-child(3)")
    # Proponents of query n are the rows 5n, 5n + 1, 5n + 2, so of the groups n, n + 1, n + 2 (mod 4).
    for query in range(3):
        shares = [reader.cell(GROUPS[query], GROUPS[group]).text for group in range(3)]
        assert shares == ["33%" if (group - query) % 4 < 3 else "0%" for group in range(3)]
    reader = opened(made_page(tmp_path / "q", 8, by=None, measured=False))
    assert reader.all(".heat") == [] and reader.find(".histogram").is_displayed()
    reader.all(".row")[0].click()
    reader.wait(lambda: len(reader.all(".hit")) == 6)
    assert reader.all(".tag") == []


def test_many_hits_come_in_pages(tmp_path: Path, opened: Callable[..., Reader]) -> None:
    train = write(tmp_path / "t.jsonl", [{"id": f"t{n}", "text": f"row {n} " * 99} for n in range(60)])
    query = write(tmp_path / "q.jsonl", [{"id": "q", "text": "why"}])
    hits = [{"id": f"t{n}", "score": 60.0 - n} for n in range(60)]
    row = {"query_id": "q", "group_influence": 60, "proponents": hits, "opponents": hits[::-1]}
    write_report(write(tmp_path / "o.jsonl", [row]), tmp_path / "r.html", train=[train], query=[query])
    reader = opened(tmp_path / "r.html")
    reader.find(".row").click()
    first = ".hit-column:first-child"
    reader.wait(lambda: len(reader.all(f"{first} .hit")) == 25)
    reader.find(f"{first} > .quiet").click()
    reader.find(f"{first} > .quiet").click()
    assert reader.texts(f"{first} .hit .rank") == [str(rank) for rank in range(1, 61)]
    assert reader.all(f"{first} > .quiet") == [] and len(reader.all(f"{first} .more")) == 60
    notes = reader.texts(".hits-head .note")
    assert "more likely" in notes[0] and "none opposes this response" in notes[1]
    assert reader.texts(".hits-head h2") == ["Proponents", "Lowest scores"]
    assert len(reader.all(".hit .negative")) == 0  # above 0 is not painted as harm
    reader.click("#show-overview")
    reader.wait(lambda: reader.texts(".answer h2") == ["Strongest rows for all queries"])
    assert "none opposes these queries" in reader.text(".answer .apart")
