"""A person with a browser, for tests of pages in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

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
ACTION_SECONDS = 3.0
"""Measured on 2 busy cores: an action takes below 0.4 s. The bound only tells that from hanging."""


class Reader:
    """Elements go by CSS selector; texts are read in one step, since the page may draw anew at any time."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def texts(self, selector: str) -> list[str]:
        script = (
            "return [...document.querySelectorAll(arguments[0])].map((element) => element.innerText.trim())"
        )
        return list(self.run(script, selector))

    def text(self, selector: str) -> str:
        (text,) = self.texts(selector)
        return text

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)  # type: ignore[no-untyped-call]

    def wait(self, until: Callable[[], object]) -> None:
        WebDriverWait(self.driver, ACTION_SECONDS, 0.02).until(lambda _: until())

    def listed(self, rows: str = ".row") -> list[str]:
        """The ids in a list's rows, from the top."""
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".sort((a, b) => a.dataset.position - b.dataset.position)"
            ".map((row) => row.querySelector('.id').textContent)"
        )
        return list(self.run(script, rows))

    def choose(self, select: str, name: str) -> None:
        next(option for option in self.all(f"{select} option") if option.text == name).click()

    def search(self, words: str, box: str = "#search") -> None:
        self.find(box).send_keys(Keys.CONTROL + "a", Keys.DELETE)
        self.find(box).send_keys(words)

    def cell(self, row: str, column: str) -> WebElement:
        """A cell of the heat map by the names of its row and its column."""
        line = self.texts("th[scope=row]").index(row) + 1
        return self.all(f"tbody tr:nth-child({line}) .cell")[self.texts("th[scope=col]").index(column)]

    def nodes(self) -> int:
        return int(self.run("return document.getElementsByTagName('*').length"))

    def seconds(self, act: str) -> float:
        """How long a statement of the page takes, its layout included."""
        laid_out = "document.body.offsetHeight"
        script = f"const start = performance.now(); {act}; {laid_out}; return performance.now() - start"
        return float(self.run(script)) / 1000
