"""The browser that the tests of the report page share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import OPTIONS, Reader
from report_pages import made_page
from selenium import webdriver
from selenium.webdriver.chrome.service import Service


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the browser puts what is downloaded."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Iterator[webdriver.Chrome]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    service = shutil.which("chromedriver")
    if chromium is None or service is None:
        pytest.skip("no chromium with chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(service))
    yield started
    started.quit()


@pytest.fixture
def opened(driver: webdriver.Chrome) -> Iterator[Callable[..., Reader]]:
    """Opens a page; afterwards nothing was fetched, nothing was logged, and no text has run."""

    def reader(
        path: Path, width: int = 1400, height: int = 900, scheme: str = "light", view: str = ""
    ) -> Reader:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        driver.get("about:blank")  # a page of the same address with another #query would not load again
        driver.get(path.as_uri() + view)
        return Reader(driver)

    yield reader
    assert driver.execute_script("return window.broken === undefined")
    assert [entry["message"] for entry in driver.get_log("browser")] == []
    # Where the page's own policy stops a request, the browser logs that; what it lets pass is listed here.
    fetched = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert [url for url in driver.execute_script(fetched) if not url.startswith("data:")] == []
    driver.execute_script("localStorage.clear()")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`made_page` with 40 queries."""
    return made_page(tmp_path_factory.mktemp("report") / "small", 40)
