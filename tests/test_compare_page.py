"""The page of a comparison in a real browser: both colour schemes, wide and narrow."""

import pytest

from rlaif.report.compare import compare
from tests.browser import opened
from tests.fake_run import fake_run


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    made = [
        fake_run(folder / "ai", keep={"base": 0.5, "ppo": 0.9}, prompts=120),
        fake_run(folder / "people", keep={"base": 0.5, "ppo": 0.7}, prompts=120, human=True),
        fake_run(folder / "few", keep={"base": 0.5, "ppo": 0.6}, prompts=100, words=("rude", "wrong")),
    ]
    compare(made, out=folder / "page.html")
    return folder / "page.html"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 420)])
def test_it_is_read_without_scrolling_sideways(chromium, page_file, scheme, width):
    page = opened(chromium, page_file.as_uri(), scheme, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h1").inner_text().startswith("By gold the strongest of 3 arms is ai")
    unfair = page.locator(".warnings").first
    assert "Not a fair comparison" in unfair.inner_text()
    assert unfair.bounding_box()["y"] < 860  # on the first screen
    assert page.locator(".answers").count() == 2  # of each arm against the first
    assert page.locator("svg").count() >= 4
    assert not page.errors
