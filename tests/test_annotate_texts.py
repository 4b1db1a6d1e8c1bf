"""The ranking page in a real browser: which way texts run, and what is said of a judge near a tie."""

from dataclasses import replace

import pytest

from rlaif.human.annotating.opening import open_material
from rlaif.records import Annotator, Label, verdict_of
from tests.annotating import served, session, write_file
from tests.browser import chromium  # noqa: F401
from tests.test_annotate_page import Tab, closed_tabs  # noqa: F401

ENDS = """text => {
  const range = document.createRange();
  range.selectNodeContents(text);
  const [own, box] = [range.getBoundingClientRect(), text.getBoundingClientRect()];
  return [own.left - box.left, box.right - own.right];
}"""


def test_right_to_left_texts_run_from_the_right(chromium, tmp_path):  # noqa: F811
    source = write_file(tmp_path / "f.jsonl", items=1, texts=["مرحبا 1.", "hello 1."])
    with served(session(source, tmp_path / "out")) as address:
        page = Tab(chromium, address).page
        for text in page.locator("#responses .text").all():
            left, right = text.evaluate(ENDS)
            assert (right < left) == text.inner_text().startswith("م")
        page.keyboard.press("n")
        page.keyboard.type("مرحبا")
        assert page.evaluate("getComputedStyle(document.getElementById('note')).direction") == "rtl"


@pytest.mark.parametrize(
    ("p_a", "said"), [(0.56, "a tie (56 % for the "), (0.5, "a tie"), (0.7, " is better (70 %)")]
)
def test_a_judge_within_the_margin_of_a_tie_is_said_to_call_one(chromium, tmp_path, p_a, said):  # noqa: F811
    """As `rlaif agree` counts its verdict."""
    source = write_file(tmp_path / "f.jsonl", items=1)
    material = open_material(source)
    judge = Annotator(kind="ai", id="j")
    [pair] = material.comparisons
    label = Label(comparison_id=pair.id, annotator=judge, p_a=p_a, verdict=verdict_of(p_a))
    made = session(
        source, tmp_path / "out", material=replace(material, labels=lambda id: [label]), assisted=True
    )
    with served(made) as address:
        tab = Tab(chromium, address)
        tab.press("1")
        heading = tab.page.locator("#opinion h3").inner_text()
    assert said in heading
    assert ("tie" in heading) == (verdict_of(p_a) == "tie")
