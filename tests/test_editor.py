"""`rlaif constitution open`: the answers of its page, and the page in a real browser."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.audit.card import JudgeSetting
from rlaif.cli import app
from rlaif.engines import Scripted
from rlaif.errors import Conflict, UserError
from rlaif.pages.server import PageServer
from rlaif.prompting.templates import Templates
from rlaif.records import Message, Prompt
from rlaif.workbench.editor import Editor, as_bytes, as_text, static_files, write_in_place
from rlaif.workbench.probe import Probe, ProbePair
from rlaif.workbench.watching import Watch, version_of
from tests import scripts
from tests.browser import opened

ROOT = Path(__file__).parent.parent
HOSTILE = (
    "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\"> {{ 7*7 }} "
    "\x1b[31m\u202e rude"
)
FILE = """# a comment on top
name: words
principles:
  - id: no-rude   # a comment behind
    text: Never say rude.
  # a comment between
  - id: no-wrong
    text: Never say wrong.
    tags: [style]
"""


def editor_of(path, texts, judge=None):
    prompts = [
        Prompt(messages=(Message(role="user", content=f"Question {n}?"),), tags=("fact",))
        for n in range(len(texts))
    ]
    pairs = [ProbePair(prompt, *both) for prompt, both in zip(prompts, texts, strict=True)]
    watch = Watch(path, Probe(JudgeSetting(judge or scripts.feedback(), Templates.load("brief")), pairs))
    watch.start()
    return Editor(watch, "the judge")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def editor(file):
    return editor_of(file, [("rude day", "nice day"), ("sun", "nice day"), (HOSTILE, "wrong")])


def test_saving_writes_the_text_as_typed(file, editor):
    os.chmod(file, 0o640)
    given = editor.file()
    assert given["text"] == FILE
    text = FILE.replace("Never say rude.", "Never say sun.  # ä")
    saved = editor.save({"text": text, "version": given["version"]})
    assert file.read_text() == text
    assert saved["version"] == version_of(file.read_bytes())
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["c.yaml"]
    editor.save({"text": "not: [yaml", "version": saved["version"]})  # half an edit can be saved, too
    assert file.read_text() == "not: [yaml"


def test_a_file_changed_meanwhile_is_not_written_over(file, editor):
    version = editor.file()["version"]
    file.write_text(FILE + "# by another editor\n")
    with pytest.raises(Conflict, match="has changed since it was opened here"):
        editor.save({"text": "name: mine", "version": version})
    assert file.read_text() == FILE + "# by another editor\n"
    with pytest.raises(Conflict):
        editor.save({"text": "name: mine"})
    file.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        editor.save({"text": "name: mine", "version": version})
    assert not file.exists()


def test_of_two_saves_at_once_one_is_told_of_the_other(file, editor, monkeypatch):
    def slow(path, content):
        time.sleep(0.3)
        write_in_place(path, content)

    monkeypatch.setattr("rlaif.workbench.editor.write_in_place", slow)
    version, told = editor.file()["version"], []

    def save(text):
        try:
            editor.save({"text": text, "version": version})
            told.append(text)
        except Conflict:
            told.append(None)

    threads = [threading.Thread(target=save, args=(FILE + f"# {n}\n",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.count(None) == 3
    assert file.read_text() in told


def test_line_ends_a_mark_and_a_link_stay(file, editor):
    made = b"\xef\xbb\xbf" + FILE.replace("\n", "\r\n").encode()
    real = file.with_name("real.yaml")
    real.write_bytes(made)
    file.unlink()
    file.symlink_to(real)
    given = editor.file()
    assert given["text"] == FILE
    editor.save({"text": FILE + "# more\n", "version": given["version"]})
    assert real.read_bytes() == made + b"# more\r\n"
    assert file.is_symlink()


@pytest.mark.parametrize("content", [b"a\nb\n", b"a\r\nb\r\n", b"\xef\xbb\xbfa\n", b""])
def test_a_text_that_was_not_edited_is_the_same_file(content):
    assert as_bytes(as_text(content, Path("x")), content) == content


def test_a_write_that_fails_leaves_the_file(file, monkeypatch):
    def full(partial, final):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlaif.workbench.editor.move_into_place", full)
    with pytest.raises(OSError, match="No space"):
        write_in_place(file, b"other")
    assert file.read_text() == FILE
    assert [path.name for path in file.parent.iterdir()] == ["c.yaml"]


def test_problems_have_the_lines_of_the_loader(file, editor):
    def found(text, level="error"):
        return [one for one in editor.check({"text": text})["problems"] if one["level"] == level]

    assert found(FILE) == []
    noted = found(FILE, "note")  # the linter's
    assert [(one["line"], one["message"]) for one in noted] == [
        (4, '"no-rude" has no example'),
        (7, '"no-wrong" has no example'),
    ]
    assert noted[0]["silence"] == "at the end of line 4: # lint: ignore=no-example"
    (one,) = found(FILE.replace("tags: [style]", "tagz: [style]"))
    assert one["line"] == 9
    assert one["message"].startswith('unknown key "tagz" — did you mean "tags"?')
    two = found(FILE.replace("text: Never say rude.", "weight: heavy"))
    assert [problem["line"] for problem in two] == [4, 5]
    assert found("a: [")[0]["line"] in (1, 2)
    assert "stands twice" in found(FILE.replace("no-wrong", "no-rude"))[0]["message"]
    assert found("")[0]["line"] == 1
    with pytest.raises(UserError, match="no text was sent"):
        editor.check({"text": 3})


def test_the_state_holds_verdicts_only_where_they_are_new(file, editor):
    first = editor.state({"seen": ""})
    assert first["number"] == 0
    assert first["saved"] is None
    assert [row["principles"][0]["verdict"] for row in first["verdicts"]] == ["b", "tie", "b"]
    assert "verdicts" not in editor.state({"seen": "0"})
    facts = editor.facts()
    assert facts["tags"] == ["fact"]
    assert "\x1b" not in facts["pairs"][2]["a"]
    assert "<script>" in facts["pairs"][2]["a"]  # escaped where it is shown, not where it is sent


def test_a_judge_that_breaks_down_is_told_and_saving_goes_on(file):
    def score(messages, suffix, choices):
        if "sun" in suffix:
            raise RuntimeError("out of \x1b[31mmemory")
        return scripts.judge(messages, suffix, choices)

    told = []
    editor = editor_of(file, [("rude", "nice")], Scripted(on_score=score, name="brittle"))
    editor.failed = told.append
    thread = editor.follow()
    given = editor.file()
    editor.save({"text": FILE.replace("say rude", "say sun"), "version": given["version"]})
    thread.join(20)
    assert told == ["judging has ended: RuntimeError: out of \\x1b[31mmemory"]
    assert editor.state({"seen": "0"})["saved"]["error"] == told[0]


def test_without_the_extra_it_says_which_is_needed(monkeypatch):
    monkeypatch.setattr("rlaif.workbench.editor.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"rlaif-loop\[editor\]"):
        static_files()


def test_every_file_of_the_page_is_there():
    page = (ROOT / "rlaif/pages/templates/editor.html.j2").read_text()
    named = set(re.findall(r"/static/([\w.-]+)", page))
    assert named <= set(static_files()) | {"ask.js", "style.css"}
    assert all(path.is_file() for path in static_files().values())


# In a browser


@pytest.fixture
def page(chromium, editor):
    editor.follow()
    with PageServer(editor.site()).running() as address:
        shown = opened(chromium, address)
        shown.wait_for_selector("#pairs .pair")
        yield shown
        shown.context.close()
    editor.stop()


def test_a_file_that_cannot_be_loaded_is_opened_and_judged_once_it_can_be(chromium, file, editor):
    file.write_text(FILE.replace("tags: [style]", "tagz: [style]"))
    pairs = editor.watch.probe.pairs
    asked = []
    watch = Watch(file, Probe(editor.watch.probe.setting, ()), lambda rules: asked.append(rules) or pairs)
    with pytest.raises(UserError, match=r"c\.yaml:9: unknown key"):
        watch.start()  # a terminal has no way to mend it
    watch.open()
    broken = Editor(watch, "the judge")
    assert (broken.state({})["verdicts"], asked, len(broken.facts()["pairs"])) == ([], [], 0)
    broken.follow()
    with PageServer(broken.site()).running() as address:
        shown = opened(chromium, address)
        shown.wait_for_selector("#headline.bad")
        assert 'c.yaml:9: unknown key "tagz" — did you mean "tags"?' in shown.inner_text("#headline")
        assert shown.inner_text("#size") == "0 pairs"
        shown.wait_for_selector('#problems .error:has-text("line 9")')
        state(shown, "saved, line 9 is wrong")
        retype(shown, "tagz: [style]", "tags: [style]")
        shown.click("#save")
        shown.wait_for_selector("#pairs .pair")
        assert shown.inner_text("#headline") == "the file can be loaded, and 3 pairs are judged."
        assert shown.inner_text("#size") == "3 pairs"
        assert len(asked) == 1
        retype(shown, "Never say rude.", "Never say sun.")  # from now on as ever
        shown.click("#save")
        shown.wait_for_selector("#turned .pair")
        assert shown.inner_text("#headline").startswith("3 of 6 verdicts changed, ")
        assert [saved.number for saved in watch.history] == [0, 1, 2]
        assert shown.errors == []
        shown.context.close()
    broken.stop()


def retype(page, old, new):
    page.evaluate(
        """([old, to]) => { const cm = document.querySelector(".CodeMirror").CodeMirror;
        const at = cm.getValue().indexOf(old); if (at < 0) throw new Error("not there: " + old);
        cm.replaceRange(to, cm.posFromIndex(at), cm.posFromIndex(at + old.length)); }""",
        [old, new],
    )


def text_of(page):
    return page.evaluate('document.querySelector(".CodeMirror").CodeMirror.getValue()')


def state(page, words):
    page.wait_for_selector(f'#state:text-is("{words}")')


def test_typing_and_saving_shows_what_turned(page, file):
    assert text_of(page) == FILE
    assert page.locator("#save").is_disabled()
    assert page.locator("#pairs .pair").count() == 3
    page.locator(".CodeMirror-line", has_text="Never say rude.").click()
    page.keyboard.press("End")
    for _ in "rude.":
        page.keyboard.press("Backspace")
    page.keyboard.type("sun.")
    state(page, "not saved")
    page.keyboard.press("Control+s")
    page.wait_for_selector("#turned .pair")
    assert file.read_text() == FILE.replace("say rude.", "say sun.")
    state(page, "saved")
    assert page.inner_text("#headline").startswith("3 of 6 verdicts changed, ")
    assert page.inner_text("#edits del") == "rude."
    assert page.inner_text("#edits ins") == "sun."
    assert "no-rude: b 0.10 → tie 0.50" in page.inner_text("#turned .pair:has-text('rude day')")
    framed = page.locator("#pairs .chip.now").all_inner_texts()
    assert "no-rude tie 0.50" in framed
    page.select_option("#principle", "no-rude")
    page.select_option("#verdict", "b")
    assert page.inner_text("#count") == "1 of 3"
    assert page.errors == []


def test_mistakes_are_marked_in_their_line(page, file):
    retype(page, "tags: [style]", "tagz: [style]")
    page.wait_for_selector('#problems .error:has-text("tagz")')  # an earlier answer may stand there first
    assert page.inner_text("#problems .error").startswith('line 9: unknown key "tagz"')
    page.wait_for_selector(".CodeMirror-lint-marker-error")
    state(page, "not saved, line 9 is wrong")
    page.click("#save")
    page.wait_for_selector("#headline.bad")
    assert 'c.yaml:9: unknown key "tagz"' in page.inner_text("#headline")
    retype(page, "tagz: [style]", "tags: [style]")
    page.click("#save")
    state(page, "saved")
    assert file.read_text() == FILE


def test_a_change_elsewhere_is_loaded_or_asked_about(page, file):
    file.write_text(FILE + "# elsewhere\n")
    page.wait_for_selector('.CodeMirror-line:has-text("# elsewhere")')
    retype(page, "# a comment on top", "# mine")
    file.write_text(FILE + "# elsewhere again\n")
    page.wait_for_selector("#notice:not([hidden])")
    with page.expect_response("**/api/save") as answer:
        page.click("#save")
    assert answer.value.status == 409
    assert file.read_text() == FILE + "# elsewhere again\n"
    page.click("#load")
    page.wait_for_selector('.CodeMirror-line:has-text("# elsewhere again")')
    assert "# mine" not in text_of(page)
    retype(page, "# a comment on top", "# mine")
    file.write_text(FILE + "# elsewhere once more\n")
    page.wait_for_selector("#over:not([hidden])")
    page.click("#over")
    state(page, "saved")
    assert file.read_text() == FILE.replace("# a comment on top", "# mine") + "# elsewhere again\n"


def test_a_file_that_is_no_text_any_more_is_told_in_the_servers_words(page, file):
    file.write_bytes(b"\xff")
    page.wait_for_selector('#notice:has-text("not UTF-8 text")')
    state(page, "saved, and not judged")
    file.write_text(FILE + "# back\n")
    page.wait_for_selector('.CodeMirror-line:has-text("# back")')
    assert page.is_hidden("#notice")


def test_hostile_texts_are_shown_as_texts(page, file):
    assert "<script>document.title" in page.inner_text("#pairs .pair:nth-of-type(3)")
    retype(
        page,
        "Never say rude.",
        "'Never say sun. <img src=x onerror=\"document.title=1\"><script>x</script> {{ 7*7 }}'",
    )
    retype(page, "tags: [style]", "<b>bad</b>: [style]")
    page.wait_for_selector('#problems .error:has-text("<b>bad</b>")')
    page.hover(".CodeMirror-lint-marker-error")
    page.wait_for_selector(".CodeMirror-lint-tooltip")
    retype(page, "<b>bad</b>: [style]", "tags: [style]")
    page.click("#save")
    page.wait_for_selector('#edits ins:has-text("<script>x</script>")')
    assert "<script>x</script> {{ 7*7 }}" in page.inner_text("#edits")
    assert page.title() == f"{file} · rlaif"
    assert page.locator("body script, body img, #edits b >> nth=1").count() == 0
    assert page.errors == []


def completed(page, text, tags=()):
    """The names that complete a text at its |, from the page's own script."""
    line = text[: text.index("|")].count("\n")
    column = len(text[: text.index("|")].rsplit("\n", 1)[-1])
    return page.evaluate(
        """async ([text, cursor, tags]) => {
        const { completions } = await import("/static/hints.js");
        const facts = await (await fetch("/api/facts")).json();
        return completions(text, cursor, facts.schema, tags).list.map((one) => one.text.replace(/: $/, "")); \
}""",
        [text.replace("|", ""), {"line": line, "ch": column}, list(tags)],
    )


def test_completion_knows_which_keys_may_stand_where(page):
    assert completed(page, "na|") == ["name"]
    assert completed(page, "name: x\n|\nprinciples:\n  - id: a\n") == ["source", "version", "description"]
    head = "name: x\nprinciples:\n  - id: a\n    text: b\n"
    assert completed(page, head + "    c|") == ["critique", "compare"]
    assert "text" not in completed(page, head + "    |\n    weight: 1\n")
    assert "weight" not in completed(page, head + "    |\n    weight: 1\n  - id: b\n")
    assert "weight" in completed(page, head + "    |\n  - id: b\n    weight: 1\n")
    assert set(completed(page, head + "  - |")) >= {"id", "text", "weight"}
    example = head + "    examples:\n      - prompt: p\n        |"
    assert completed(page, example) == ["better", "worse", "critique"]
    assert completed(page, head + "    examples:\n    - |") == ["prompt", "better", "worse", "critique"]
    assert completed(page, "principles:\n- id: a\n  w|") == ["why", "weight"]
    assert completed(page, head + "    text: w|") == []
    assert completed(page, head + "    applies_to: [talk, f|", ("fact", "talk")) == ["fact"]
    page.locator(".CodeMirror-line", has_text="tags: [style]").click()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.keyboard.type("we")
    page.wait_for_selector(".CodeMirror-hints")
    page.keyboard.press("Enter")
    assert text_of(page).endswith("tags: [style]\n    weight: \n")


def test_a_server_that_has_ended_is_said(chromium, editor):
    with PageServer(editor.site()).running() as address:
        shown = opened(chromium, address)
        shown.wait_for_selector("#pairs .pair")
    state(shown, "the server does not answer")
    shown.context.close()


@pytest.mark.parametrize("broken", [False, True])
def test_the_command_serves_the_page_and_ends_in_order(project, broken):
    if broken:
        (project / "constitution.yaml").write_text("name: words\nprinciples: [{id: a, tekst: b}]\n")
    words = [
        "open",
        str(project / "constitution.yaml"),
        "--judge",
        str(project / "config.yaml"),
        "--num-pairs",
        "4",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlaif.cli", "constitution", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    said = process.stdout.readline()
    assert re.fullmatch(r".*constitution\.yaml is open at http://127\.0\.0\.1:\d+/\?token=\S+\n", said)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    told = process.stderr.read()
    assert "Traceback" not in told
    assert ('constitution.yaml:2: unknown key "tekst"' in told) == broken


def test_what_is_no_text_is_not_opened(project):
    (project / "constitution.yaml").write_bytes(b"\xff")
    words = ["open", str(project / "constitution.yaml"), "--judge", str(project / "config.yaml")]
    done = CliRunner().invoke(app, ["constitution", *words])
    assert "not UTF-8 text" in str(done.exception)
