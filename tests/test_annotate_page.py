"""The ranking page in a real browser: keys, drag, reloads, two people at once, a killed server, hostile
text."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.annotating import Person, rows, served, session, write_file
from tests.browser import opened
from tests.fake_run import fake_run

ROOT = Path(__file__).parent.parent


TABS: list = []


@pytest.fixture(autouse=True)
def closed_tabs():
    """No page is left to work on beside the next test."""
    yield
    while TABS:
        TABS.pop().context.close()


class Tab:
    """A browser's tab in which somebody annotates."""

    def __init__(self, chromium, address, name="Ana", **more):
        self.page = opened(chromium, address, **more)
        TABS.append(self.page)
        self.page.wait_for_selector("#start:visible")
        self.page.fill("#name", name)
        self.page.keyboard.press("Enter")
        self.shown()

    def shown(self, step=0):
        """Wait until so many actions were answered."""
        self.page.wait_for_selector(f"body[data-step='{step}']")
        return self

    @property
    def step(self) -> int:
        return int(self.page.evaluate("document.body.dataset.step"))

    def press(self, *keys):
        """Press keys, each of them an action that is answered."""
        for key in keys:
            step = self.step
            self.page.keyboard.press(key)
            self.shown(step + 1)

    @property
    def texts(self):
        return self.page.locator("#responses .text").all_inner_texts()

    def prefers(self, word):
        self.press("1" if self.texts[0].endswith(word) else "2")

    def reload(self):
        step = self.step
        self.page.reload()
        self.page.wait_for_selector("#work:visible")
        self.shown(step)


def test_keys_alone_suffice(chromium, tmp_path):
    made = session(write_file(tmp_path / "f.jsonl", items=5), tmp_path / "out")
    with served(made) as address:
        tab = Tab(chromium, address)
        tab.prefers("x")
        tab.press("u")
        tab.prefers("y")
        tab.page.keyboard.press("n")
        tab.page.keyboard.type("1 is short, u see")  # keys in a note are text
        tab.page.keyboard.press("Escape")
        tab.press("0", "s")
        tab.prefers("x")
        tab.prefers("y")
        assert tab.page.locator("#ended").inner_text().startswith("5 items")
        tab.press("u")
        assert tab.page.locator("#count").inner_text().startswith("4 of 5")
        tab.prefers("x")
        assert not tab.page.errors
    found = rows(tmp_path / "out" / "labels.jsonl")
    assert [row["verdict"] for row in found] == ["b", "tie", "a", "a"]
    assert found[1]["rationale"] == "1 is short, u see"
    assert all(0 <= row["seconds"] < 60 for row in found)


def test_a_reload_in_the_middle_of_an_item_loses_nothing(chromium, tmp_path):
    source = write_file(tmp_path / "f.jsonl", items=3, responses=4)
    made = session(source, tmp_path / "out", ranking=True)
    with served(made) as address:
        tab = Tab(chromium, address)
        before = tab.texts
        tab.page.keyboard.press("3")
        tab.page.keyboard.press("n")
        tab.page.keyboard.type("half a note")
        tab.page.keyboard.press("Escape")
        tab.page.wait_for_timeout(400)
        tab.reload()
        assert tab.texts == before
        assert tab.page.input_value("#note") == "half a note"
        assert tab.page.locator("[data-rank='1']").inner_text().split() == ["best", "3"]
        for key in "142":
            tab.page.keyboard.press(key)
        tab.press("Enter")
        tab.reload()
        assert tab.page.locator("#count").inner_text().startswith("1 of 3")
        assert not tab.page.errors
    [action] = rows(tmp_path / "out" / "actions.jsonl")
    assert [action["ranks"][place] for place in action["order"]] == [2, 4, 1, 3]
    assert action["note"] == "half a note"
    assert action["seconds"] >= 0.4


def drag(page, chip, to):
    page.locator(f".chip[data-place='{chip}']").drag_to(page.locator(to))


def test_a_ranking_by_drag_and_by_keys(chromium, tmp_path):
    made = session(write_file(tmp_path / "f.jsonl", items=2, responses=4), tmp_path / "out", ranking=True)
    with served(made) as address:
        tab = Tab(chromium, address)
        save = tab.page.locator("[data-key='Enter']")
        drag(tab.page, 2, "[data-gap='0']")
        drag(tab.page, 0, "[data-gap='0']")  # before it
        drag(tab.page, 1, "[data-rank='2']")  # beside the first one
        assert save.is_disabled()
        drag(tab.page, 3, "[data-gap='1']")  # between the two
        drag(tab.page, 0, "[data-rank='pool']")
        assert save.is_disabled()
        drag(tab.page, 0, "[data-rank='1']")
        assert save.is_enabled()
        save.click()
        tab.shown(1)
        for key in ("4", "0", "2", "1", "Backspace", "3", "1"):
            tab.page.keyboard.press(key)
        tab.press("Enter")
        assert not tab.page.errors
    ranked = [[row["ranks"][place] for place in row["order"]] for row in rows(tmp_path / "out/actions.jsonl")]
    assert ranked == [[1, 2, 2, 1], [3, 1, 2, 1]]


def test_a_page_left_open_for_days_still_takes_a_choice(chromium, tmp_path):
    made = session(write_file(tmp_path / "f.jsonl", items=2), tmp_path / "out")
    with served(made) as address:
        tab = Tab(chromium, address)
        tab.page.add_init_script(
            "const draft = JSON.parse(sessionStorage.getItem('draft'));"
            "if (draft) sessionStorage.setItem('draft', JSON.stringify({...draft, looked: 2e8}))"
        )
        tab.reload()
        tab.prefers("x")
        tab.prefers("x")
        assert tab.page.is_hidden("#problem")
    first, second = rows(tmp_path / "out" / "actions.jsonl")
    assert "seconds" not in first
    assert second["seconds"] < 60


def test_at_the_end_only_the_key_that_takes_back_is_the_pages_own(chromium, tmp_path):
    made = session(write_file(tmp_path / "f.jsonl", items=1), tmp_path / "out")
    with served(made) as address:
        tab = Tab(chromium, address)
        tab.prefers("x")
        tab.page.wait_for_selector("#end:visible")
        tab.page.evaluate("addEventListener('keydown', (event) => (window.kept = event.defaultPrevented))")
        for key in ("F5", "Tab", "PageDown"):
            tab.page.evaluate(
                "(key) => dispatchEvent.call(document.body, new KeyboardEvent('keydown', "
                "{key, bubbles: true, cancelable: true}))",
                key,
            )
            assert tab.page.evaluate("window.kept") is False, key
        tab.press("u")


def test_a_name_that_is_none_is_asked_for_again_after_a_reload(chromium, tmp_path):
    made = session(write_file(tmp_path / "f.jsonl", items=1), tmp_path / "out")
    with served(made) as address:
        page = opened(chromium, address)
        TABS.append(page)
        for _ in range(2):
            page.wait_for_selector("#start:visible")
            page.fill("#name", "   ")
            page.keyboard.press("Enter")
            page.wait_for_selector("#problem:visible")
            page.reload()
        page.fill("#name", "Ana")
        page.keyboard.press("Enter")
        page.wait_for_selector("#work:visible")
        assert page.is_hidden("#problem")


def test_two_people_at_once(chromium, tmp_path):
    made = session(write_file(tmp_path / "f.jsonl", items=8), tmp_path / "out", overlap=0.5)
    with served(made) as address:
        ana, ben = Tab(chromium, address), Tab(chromium, address, "Ben")
        while ana.page.is_visible("#work") or ben.page.is_visible("#work"):
            for tab, word in ((ana, "x"), (ben, "y")):
                if tab.page.is_visible("#work"):
                    tab.prefers(word)
        assert not ana.page.errors + ben.page.errors
    found = rows(tmp_path / "out" / "labels.jsonl")
    by = {
        name: {r["comparison_id"]: r["verdict"] for r in found if r["annotator"]["id"] == name}
        for name in ("Ana", "Ben")
    }
    assert set(by["Ana"].values()) == {"a"}
    assert set(by["Ben"].values()) == {"b"}
    assert len(by["Ana"].keys() | by["Ben"].keys()) == 8
    assert len(by["Ana"].keys() & by["Ben"].keys()) == len(made.desk.shared)


def test_one_person_in_two_tabs_answers_each_item_once(chromium, tmp_path):
    made = session(write_file(tmp_path / "f.jsonl", items=3), tmp_path / "out")
    with served(made) as address:
        first, second = Tab(chromium, address), Tab(chromium, address)
        second.page.wait_for_timeout(1500)
        first.prefers("x")
        second.page.keyboard.press("0")
        second.shown(1)
        assert "another tab" in second.page.locator("#problem").inner_text()
        second.page.evaluate("looked_at = performance.now()")
        second.prefers("y")
        took = second.page.evaluate("(performance.now() - looked_at) / 1000")
    found = rows(tmp_path / "out" / "labels.jsonl")
    assert [row["verdict"] for row in found] == ["a", "b"]
    assert found[1]["seconds"] < took + 1  # not also what the tab showed before


def test_the_judges_verdict_comes_after_ones_own(chromium, tmp_path):
    run = fake_run(tmp_path / "run", until=6, prompts=40)
    made = session(run, tmp_path / "out", assisted=True)
    with served(made) as address:
        tab = Tab(chromium, address)
        assert not tab.page.is_visible("#opinion")
        tab.press("1")
        assert "AI judge" in tab.page.locator("#opinion h3").inner_text()
        assert tab.page.locator("#opinion tr").count() == 3
        tab.press("Enter")  # kept
        tab.press("1", "2")  # changed
        tab.press("1", "u")  # seen, taken back, and chosen anew
        tab.press("2", "Enter")
        assert not tab.page.errors
    out = tmp_path / "out"
    blind, anchored = (rows(out / f"{name}.jsonl") for name in ("labels", "anchored"))

    def first_preferred(row):
        return (row["verdict"] == "a") == (row["order"] == "ab")

    # Of the third item there is no blind label: its judge was seen before the choice that counts.
    assert [first_preferred(row) for row in blind] == [True, True]
    assert [first_preferred(row) for row in anchored] == [True, False, False]
    assert all(row["anchored"] for row in anchored)
    assert not any("anchored" in row for row in blind)
    figures = made.results.summary()["Ana"]
    assert (figures["opinions_seen"], figures["changed_after"]) == (3, 1)


HOSTILE = [
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">",
    "{{ 7 * 7 }} {% raw %} ${7*7} \x1b[31mred\x1b]0;owned\x07 \u202egnp.exe \x00 " + "long " * 40_000,
]


def test_hostile_text_does_no_harm(chromium, tmp_path):
    source = write_file(tmp_path / "f.jsonl", items=2, texts=HOSTILE)
    made = session(source, tmp_path / "out")
    with served(made, name="<b>Ana</b>") as address:
        tab = Tab(chromium, address, "<b>Ana</b>")
        shown = "".join(tab.page.locator("#responses .text").all_text_contents())
        assert len(shown) > 200_000
        assert HOSTILE[0] in shown
        assert "{{ 7 * 7 }} {% raw %} ${7*7} \\x1b[31mred\\x1b]0;owned\\x07 \\u202egnp.exe \\x00 " in shown
        assert tab.page.title() == "annotate"
        assert tab.page.locator("#responses script, #responses img, b").count() == 0
        tab.press("1")
        assert not tab.page.errors
    assert rows(tmp_path / "out" / "labels.jsonl")[0]["annotator"]["id"] == "<b>Ana</b>"


def test_a_long_conversation_shows_its_last_turn(chromium, tmp_path):
    turns = [
        {"role": ("user", "assistant")[n % 2], "content": f"turn {n} " + "and more " * 60} for n in range(15)
    ]
    source = tmp_path / "f.jsonl"
    source.write_text(json.dumps({"prompt": turns, "a": "x", "b": "y"}) + "\n")
    with served(session(source, tmp_path / "out")) as address:
        page = Tab(chromium, address).page
        box, last = (page.locator(where).bounding_box() for where in ("#prompt", "#prompt .turn:last-child"))
        assert box["height"] < 300
        assert last["y"] + last["height"] <= box["y"] + box["height"] + 8


def test_harmful_text_is_blurred_until_asked_for(chromium, tmp_path):
    made = session(write_file(tmp_path / "f.jsonl", items=2, tags=["harmful"]), tmp_path / "out")
    with served(made) as address:
        page = opened(chromium, address)
        assert "2 of the 2 items may hold harmful" in page.locator("#start .warnings").inner_text()
        page.fill("#name", "Ana")
        page.keyboard.press("Enter")
        page.wait_for_selector("#work:visible")

        def blurs():
            style = "getComputedStyle(document.querySelector('#responses .text')).filter"
            return page.evaluate(style)

        assert "blur" in blurs()
        page.keyboard.press("b")
        assert blurs() == "none"
        page.keyboard.press("1")
        page.wait_for_selector("body[data-step='1']")
        assert "blur" in blurs()


def test_principles_are_asked_one_by_one_and_reasons_before_choices(chromium, tmp_path):
    run = fake_run(tmp_path / "run", until=6, prompts=40)
    made = session(run, tmp_path / "out", per_principle=True, reasons=True)
    with served(made) as address:
        tab = Tab(chromium, address)
        asked = []
        for n in range(4):
            asked.append(tab.page.locator("#rules .asked").inner_text())
            tab.page.keyboard.type(f"because {n}")
            tab.page.keyboard.press("Escape")
            tab.press("1")
        assert tab.page.evaluate("document.activeElement.id") == "note"
        tab.page.keyboard.press("Escape")
        tab.page.keyboard.press("1")
        assert "reason first" in tab.page.locator("#problem").inner_text()
        assert tab.page.locator("#count").inner_text().startswith("1 of")
    assert asked[:3] == [f"Never say {word}." for word in ("rude", "wrong", "sad")]
    assert "by these principles together" in asked[3]
    found = rows(tmp_path / "out" / "labels.jsonl")
    assert [row.get("principle_id") for row in found] == ["no-rude", "no-wrong", "no-sad", None]
    assert [row["rationale"] for row in found] == [f"because {n}" for n in range(4)]


@contextmanager
def command(*words, port=0):
    """`rlaif annotate` as its own process, and the address that it prints."""
    line = [sys.executable, "-m", "rlaif.cli", "annotate", *map(str, words), "--port", str(port)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=dict(os.environ))
    try:
        said = process.stdout.readline()
        yield process, re.search(r"http://\S+", said)[0]
    finally:
        process.kill()
        process.wait()


def test_a_server_killed_between_two_clicks_loses_and_doubles_no_vote(chromium, tmp_path):
    source, out = write_file(tmp_path / "f.jsonl", items=6), tmp_path / "out"
    words = (source, "--out", out, "--queue", "in-order")
    with command(*words) as (process, address):
        port = int(re.search(r":(\d+)/", address)[1])
        ana, ben = Tab(chromium, address), Tab(chromium, address, "Ben")
        ana.prefers("x")
        ben.prefers("y")
        ana.prefers("x")
        assert len(rows(out / "actions.jsonl")) == 3  # on disk before the page goes on
        process.send_signal(signal.SIGKILL)
        process.wait()
        ben.page.keyboard.press("1")
        ben.page.wait_for_selector("#again")
        assert "Not saved yet" in ben.page.locator("#problem").inner_text()
        wanted = ben.texts[0]
    with command(*words, port=port) as (process, address):
        for tab, step in ((ana, 2), (ben, 2)):  # what Ben chose is sent again by itself
            tab.page.goto(address)
            tab.page.wait_for_selector("#work:visible")
            tab.shown(step)
        ben.reload()
        ana.prefers("x")
        ben.prefers("y")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)
        said = process.stdout.read()
    assert "Ana: 3 items" in said
    assert "Ben: 3 items" in said
    actions = rows(out / "actions.jsonl")
    assert [row["step"] for row in actions if row["annotator"] == "Ben"] == [0, 1, 2]
    labels = rows(out / "labels.jsonl")
    assert len(labels) == len({row["id"] for row in labels}) == 6
    assert [row["verdict"] for row in labels if row["annotator"]["id"] == "Ana"] == ["a"] * 3
    texts = {row["id"]: row["text"] for row in rows(out / "responses.jsonl")}
    second = [row for row in actions if row["annotator"] == "Ben"][1]
    assert texts[second["response_ids"][second["ranks"].index(1)]] == wanted


def ask(address, method, path, headers, body=None):
    port = int(re.search(r":(\d+)/", address)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_request_without_token_of_another_page_or_with_a_forged_id_is_refused(tmp_path):
    made = session(write_file(tmp_path / "f.jsonl"), tmp_path / "out")
    with served(made) as address:
        origin, token = address.split("/?token=")
        task = Person(made).state["task"]["id"]
        act = {"annotator": "Ana", "step": 0, "kind": "choice", "task": task, "ranks": [1, 2]}
        kind = {"Content-Type": "application/json", "Origin": origin}
        own = {**kind, "Cookie": f"rlaif-{origin.rpartition(':')[2]}={token}"}
        refused = [
            (401, "GET", "/api/state?annotator=Ana", {}, None),
            (401, "POST", "/api/act", kind, act),
            (403, "POST", "/api/act", {**own, "Origin": "https://elsewhere.example"}, act),
            (403, "POST", "/api/act", {**own, "Sec-Fetch-Site": "cross-site"}, act),
            (400, "POST", "/api/act", own, {**act, "task": "0123456789abcdef"}),
            (409, "POST", "/api/act", own, {**act, "step": 7}),
            (413, "POST", "/api/act", own, {**act, "note": "x" * 2_000_000}),
        ]
        for status, *request in refused:
            assert ask(address, *request) == status, request
        assert not rows(tmp_path / "out" / "actions.jsonl")
        assert ask(address, "POST", "/api/act", own, act) == 200
    assert len(rows(tmp_path / "out" / "labels.jsonl")) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_stands_in_both_schemes_and_on_a_narrow_screen(chromium, tmp_path, scheme):
    made = session(write_file(tmp_path / "f.jsonl", responses=4), tmp_path / "out", ranking=True)
    with served(made) as address:
        tab = Tab(chromium, address, scheme=scheme, width=390)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
        ink, paper = (
            tab.page.evaluate(f"getComputedStyle(document.body).{name}")
            for name in ("color", "backgroundColor")
        )
        light = sum(map(int, re.findall(r"\d+", paper)[:3])) > sum(map(int, re.findall(r"\d+", ink)[:3]))
        assert light == (scheme == "light")
