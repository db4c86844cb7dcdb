"""The report page in a real Chromium, from disk: what a reader sees and does, and that nothing is fetched."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from airrep_infer.report.page import write_report

EVIL = "</script><script>window.broken=1</script><img src=x onerror='window.broken=2'><!-- <b>bold</b> \u2028"
GROUPS = ["capitals", "dates", "units", EVIL]
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1400,900",
)
# Measured on 2 busy cores: opening about 1 s, an action below 0.2 s. The bounds only tell that from hanging.
OPEN_SECONDS, ACTION_SECONDS = 20.0, 3.0


class Reader:
    """A person with a browser. Elements go by CSS selector; texts are read in one step, since the page may
    draw them anew at any time."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText.trim())"
        return list(self.run(script, selector))

    def text(self, selector: str) -> str:
        (one,) = self.texts(selector)
        return one

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)  # type: ignore[no-untyped-call]

    def wait(self, until: Callable[[], object]) -> None:
        WebDriverWait(self.driver, ACTION_SECONDS, 0.02).until(lambda _: until())

    def listed(self) -> list[str]:
        """The ids in the list's rows, from the top."""
        script = (
            "return [...document.querySelectorAll('.row')]"
            ".sort((a, b) => a.dataset.position - b.dataset.position)"
            ".map((row) => row.querySelector('.id').textContent)"
        )
        return list(self.run(script))

    def cell(self, row: str, column: str) -> WebElement:
        line = self.texts("th[scope=row]").index(row) + 1
        return self.all(f"tbody tr:nth-child({line}) .cell")[self.texts("th[scope=col]").index(column)]

    def search(self, words: str) -> None:
        box = self.find("#search")
        box.send_keys(Keys.CONTROL + "a", Keys.DELETE)
        box.send_keys(words)

    def nodes(self) -> int:
        return int(self.run("return document.getElementsByTagName('*').length"))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def page(folder: Path, count: int, *, by: str | None = "skill", measured: bool = True) -> Path:
    """A page of `count` queries; query n is of group n % 4, its influence is n, and its proponents and
    opponents are the training rows 5n, 5n + 1, 5n + 2 and 5n + 4, 5n + 3, 0 (5 * count for an odd n)."""
    folder.mkdir()
    words = ["river", "mountain", "seven", "light", "number", "city", "answer", "quick", "dark", "over"]
    chance = random.Random(0)

    def text(most: int) -> str:
        return " ".join(chance.choices(words, k=chance.randint(3, most)))

    train = [
        {"id": f"t{n}", "skill": GROUPS[n % 4], "prompt": text(60), "response": EVIL if n == 6 else text(20)}
        for n in range(5 * count + 2)
    ]
    queries = [
        {"id": f"q{n}", "skill": GROUPS[n % 4], "prompt": f"{text(50)} zebra{n}", "response": text(10)}
        for n in range(count)
    ]
    queries[1] |= {"id": EVIL, "prompt": EVIL, "response": EVIL}
    queries[2] |= {"prompt": "line one\n\n\nline two " + "more words " * 300}
    rows = [
        {
            "query_id": queries[n]["id"],
            "group_influence": n + 0.25,
            "proponents": [{"id": f"t{5 * n + i}", "score": 4.0 - i} for i in range(3)],
            "opponents": [{"id": f"t{5 * n + 4 - i}", "score": i - 2.0} for i in range(2)]
            + [{"id": f"t{5 * count if n % 2 else 0}", "score": 0.5}],
            **({"groups": {name: float(n * (i - 1)) for i, name in enumerate(GROUPS)}} if measured else {}),
        }
        for n in range(count)
    ]
    verdict = {
        "kind": "airrep-verdict",
        "format_version": 1,
        "add": False,
        "sentence": f"removing these 3 rows raises the loss {EVIL}",
        "arms": [
            {"name": "reference", "rows": 60, "query_loss": 0.25, "control_loss": 0.5},
            {"name": EVIL, "rows": 57, "query_loss": 5.125, "control_loss": None},
        ],
    }
    write_report(
        write(folder / "out.jsonl", rows),
        folder / "report.html",
        verdict=write(folder / "verdict.json", [verdict]),
        train=[write(folder / "train.jsonl", train)],
        query=[write(folder / "query.jsonl", queries)],
        by=by,
        title=f"A title {EVIL}",
        facts={"LDS": "0.31", EVIL: EVIL},
    )
    return folder / "report.html"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    service = shutil.which("chromedriver")
    if chromium is None or service is None:
        pytest.skip("no chromium with chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("chromium")
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(service))
    yield started
    started.quit()


@pytest.fixture
def opened(driver: webdriver.Chrome) -> Iterator[Callable[..., Reader]]:
    """Opens a page; afterwards nothing was fetched, nothing was logged, and no text has run."""

    def reader(path: Path, width: int = 1400, height: int = 900, scheme: str = "light") -> Reader:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        driver.get("about:blank")  # a page of the same address with another #query would not load again
        driver.get_log("performance")
        driver.get(path.as_uri())
        return Reader(driver)

    yield reader
    assert driver.execute_script("return window.broken === undefined")
    assert [entry["message"] for entry in driver.get_log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
    assert len({url for url in asked if url.startswith("file:")}) == 1
    driver.execute_script("localStorage.clear()")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page(tmp_path_factory.mktemp("report") / "small", 40)


def test_the_page_begins_with_the_verdict(driver: webdriver.Chrome, tmp_path: Path) -> None:
    driver.get(page(tmp_path / "page", 4).as_uri())
    reader = Reader(driver)
    assert reader.texts("#overview > *")[0].startswith("Verified on the language model")
    sentence = f"removing these 3 rows raises the loss {EVIL}"
    assert reader.text(".verdict") == sentence.replace("\u2028", "\n").strip()
    table = [line.split() for line in reader.text(".arms").splitlines()]
    assert table[1] == ["all", "rows", "60", "0.250", "0.500"] and table[-1][-2:] == ["5.125", "\u2013"]
    assert reader.run("return window.broken") is None


def test_opens_with_the_overview(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    assert reader.text("h1").startswith("A title </script><script>")
    assert reader.text("#summary") == "40 queries, 201 of 202 training rows shown"
    assert reader.texts(".facts dd")[0] == "0.31"
    assert reader.text("#count") == "40 queries" and reader.listed()[:3:2] == ["q0", "q2"]
    # The mean of n * (i - 1) over the queries n = g, g + 4, ... is (g + 18) * (i - 1).
    assert reader.cell("dates", "capitals").text == "−19.0"
    assert reader.cell("units", "dates").text == "0.0" and reader.cell("units", "units").text == "20.0"
    # 120 scores at either end: bins of one sign are of one colour.
    assert reader.texts(".bins-name span") == ["120", "120"]
    assert reader.texts(".often-id")[:2] == ["t0", "t200"]
    assert reader.texts(".often-count")[:2] == ["proponent of 1, opponent of 20", "opponent of 20"]


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


def choose(reader: Reader, name: str) -> None:
    next(one for one in reader.all("#sort option") if one.text == name).click()


def test_sorts(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    choose(reader, "Highest influence")
    reader.wait(lambda: reader.listed()[:3] == ["q39", "q38", "q37"])
    choose(reader, "Lowest influence")
    reader.wait(lambda: reader.listed()[0] == "q0" and reader.listed()[3] == "q3")
    choose(reader, "File order")
    reader.wait(lambda: reader.listed()[0] == "q0")


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
    reader.find("#show-queries").click()
    reader.wait(lambda: reader.texts(".question .id") == ["q0"])
    reader.find("#list").send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    reader.wait(lambda: reader.texts(".question .id") == ["q2"])
    assert reader.text(".row[aria-selected=true] .id") == "q2"
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


def test_a_row_leads_to_the_queries_that_show_it(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    reader.search("zebra3")
    reader.wait(lambda: reader.text("#count") == "11 of 40 queries")
    reader.find("#show-queries").click()
    reader.wait(lambda: reader.texts(".question .id") == ["q3"])
    (link,) = reader.all(".hit-foot button")
    assert link.text == "in 20 queries"
    link.click()
    reader.wait(lambda: reader.texts(".chip b") == ["t200"])
    assert reader.listed() == ["q3", "q31", "q33", "q35", "q37", "q39"]  # filters add up
    reader.search("")
    reader.wait(lambda: reader.text("#count") == "20 of 40 queries")
    reader.find("#show-overview").click()
    reader.find(".often-line[aria-pressed=true]").click()
    reader.wait(lambda: reader.text("#count") == "40 queries")


def test_untrusted_text_is_text(small: Path, opened: Callable[..., Reader]) -> None:
    reader = opened(small)
    reader.all(".row")[1].click()
    reader.wait(lambda: bool(reader.all(".question .response")))
    shown = reader.run(
        "return ['.question .id', '.question .response', '.hit .response', '.facts dd:nth-of-type(1)', 'h1']"
        ".map((selector) => [...document.querySelectorAll(selector)].map((one) => one.textContent))"
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
    reader.find("#show-queries").click()
    reader.wait(lambda: reader.find("#list").is_displayed() and not reader.find("main").is_displayed())
    reader.all(".row")[2].click()
    reader.wait(lambda: reader.find(".question").is_displayed() and not reader.find("#list").is_displayed())
    assert reader.run("return document.documentElement.scrollWidth") <= 390
    assert reader.run("return document.querySelector('main').scrollWidth") <= 390
    reader.find(".back").click()
    reader.wait(lambda: reader.find("#list").is_displayed())
    reader.find("#show-overview").click()
    reader.run("arguments[0].click()", reader.cell("units", "capitals"))
    reader.wait(lambda: reader.find("#list").is_displayed() and reader.texts(".chip b")[0] == "units")


def test_without_group_influence_the_matrix_counts_proponents(
    tmp_path: Path, opened: Callable[..., Reader]
) -> None:
    reader = opened(page(tmp_path / "p", 8, measured=False))
    # Proponents of query n are the rows 5n, 5n + 1, 5n + 2, so of the groups n, n + 1, n + 2 (mod 4).
    for query in range(3):
        shares = [reader.cell(GROUPS[query], GROUPS[group]).text for group in range(3)]
        assert shares == ["33%" if (group - query) % 4 < 3 else "0%" for group in range(3)]
    reader = opened(page(tmp_path / "q", 8, by=None, measured=False))
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
    assert "more likely" in notes[0] and "No row is predicted to lower" in notes[1]


def test_5000_queries_stay_quick(tmp_path: Path, opened: Callable[..., Reader]) -> None:
    path = page(tmp_path / "p", 5000)
    reader = opened(path)
    timing = "return performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"
    assert reader.run(timing) < OPEN_SECONDS
    assert reader.text("#count") == "5,000 queries"
    bounded = 1200
    assert reader.nodes() < bounded

    def seconds(act: str) -> float:
        laid_out = "document.body.offsetHeight"
        script = f"const t = performance.now(); {act}; {laid_out}; return performance.now() - t"
        return float(reader.run(script)) / 1000

    for act in (
        "setFilters({search: 'zebra49 dark'})",
        "setFilters({search: '', sort: 'high'})",
        "act.filterGroups(2, 1)",
        "act.filterRow(0)",
        "setFilters({queryGroup: -1, column: -1, row: -1})",
        "open(4000)",
    ):
        assert seconds(act) < ACTION_SECONDS, act
        assert reader.nodes() < bounded, act
    choose(reader, "File order")
    reader.run("document.getElementById('list').scrollTop = 1e9")
    reader.wait(lambda: reader.listed()[-1] == "q4999")
    assert len(reader.listed()) < 40
    reader.search("zebra4321")
    reader.wait(lambda: reader.listed() == ["q4321"])
    reader.find(".row").click()
    reader.wait(lambda: reader.texts(".question .id") == ["q4321"])
    assert reader.texts(".hit-foot .id") == ["t21605", "t21606", "t21607", "t21609", "t21608", "t25000"]
