"""A real headless Chromium for the tests of pages: Debian's, driven by playwright; no other host can be
reached.

Tests that ask for `chromium` are skipped where there is none.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser, one a file of tests: while it runs, `asyncio.run` cannot be used beside it."""
    program = shutil.which("chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    if program is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


def opened(browser: Any, address: str, scheme: str = "light", width: int = 1280, height: int = 860) -> Any:
    """A page of its own session at an address; what its console calls an error is in `page.errors`."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
    page = context.new_page()
    page.set_default_timeout(90_000)  # a busy machine is slow, not wrong
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.errors.append(said.text))
    page.goto(address)
    return page


def shot(page: Any, path: Path) -> Path:
    """A picture of the page as it stands."""
    page.screenshot(path=path)
    return path
