"""The response cache: nothing is asked twice, nothing is served to another question, a killed process loses
little."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.engines import GenerateRequest, Generation, ScoreRequest, Scores, Scripted
from rlaif.engines.cache import CachedEngine
from rlaif.errors import UserError
from rlaif.prompting.templates import user


class Counting(Scripted):
    """A script that remembers what it was asked."""

    def __init__(self, name: str = "counting") -> None:
        super().__init__(self._write, self._score, name)
        self.written: list[int] = []
        self.scored: list[str] = []

    def _write(self, request: GenerateRequest) -> str:
        self.written.append(request.seed)
        return f"{request.messages[-1]['content']} {request.seed}"

    def _score(self, messages, suffix, choices):
        self.scored.append(suffix)
        return [0.25, 0.5]


def ask(text: str = "hello", **options) -> GenerateRequest:
    return GenerateRequest([user(text)], **{"max_tokens": 9, "seed": 1} | options)


def question(*suffixes: str, text: str = "shared", choices: tuple[str, ...] = ("A", "B")) -> ScoreRequest:
    return ScoreRequest([user(text)], suffixes, choices)


def test_the_second_time_nothing_is_asked(tmp_path: Path):
    requests, questions = (
        [ask(seed=s) for s in range(700)],
        [question("one", "two", text=str(n)) for n in range(300)],
    )
    first = CachedEngine(Counting(), tmp_path / "c.sqlite")
    texts, scores = dict(first.generate(requests)), dict(first.score_choices(questions))
    again = Counting()
    second = CachedEngine(again, tmp_path / "c.sqlite")
    assert dict(second.generate(requests)) == texts
    assert {i: s.logprobs for i, s in second.score_choices(questions)} == {
        i: s.logprobs for i, s in scores.items()
    }
    assert again.written == again.scored == []
    assert (second.usage.calls, second.usage.cached) == (0, 700 + 600)


def test_what_is_asked_again_leaves_the_cache_as_it_is(tmp_path: Path):
    inner = Counting()
    engine = CachedEngine(inner, tmp_path / "c.sqlite")
    for asked in (replace(question("a"), again=True), question("a"), question("a")):
        assert len(dict(engine.score_choices([asked]))[0].logprobs) == 1
    assert inner.scored == ["a", "a"]


def test_one_edited_suffix_is_scored_alone(tmp_path: Path):
    CachedEngine(Counting(), tmp_path / "c.sqlite").score_choices([])
    first = CachedEngine(Counting(), tmp_path / "c.sqlite")
    list(first.score_choices([question("a", "b", "c")]))
    inner = Counting()
    scores = dict(
        CachedEngine(inner, tmp_path / "c.sqlite").score_choices([question("a", "edited", "c", "d")])
    )[0]
    assert inner.scored == ["edited", "d"]
    assert len(scores.logprobs) == 4
    assert scores.probability(1) == pytest.approx((1 / 3, 2 / 3))


@pytest.mark.parametrize(
    "other",
    [
        ask("other"),
        ask(seed=2),
        ask(temperature=0.5),
        ask(top_p=0.9),
        ask(max_tokens=8),
    ],
)
def test_what_makes_another_question(tmp_path: Path, other: GenerateRequest):
    inner = Counting()
    engine = CachedEngine(inner, tmp_path / "c.sqlite")
    list(engine.generate([ask()]))
    list(engine.generate([other]))
    assert len(inner.written) == 2


def test_another_engine_or_choice_is_another_question(tmp_path: Path):
    engines = [Counting("one"), Counting("two")]
    for inner in engines:
        engine = CachedEngine(inner, tmp_path / "c.sqlite")
        list(engine.generate([ask()]))
        list(engine.score_choices([question("s"), question("s", choices=("B", "A"))]))
    assert all((len(e.written), len(e.scored)) == (1, 2) for e in engines)


def test_greedy_texts_do_not_depend_on_the_seed(tmp_path: Path):
    inner = Counting()
    engine = CachedEngine(inner, tmp_path / "c.sqlite")
    list(engine.generate([ask(temperature=0.0, seed=1)]))
    list(engine.generate([ask(temperature=0.0, seed=2)]))
    assert inner.written == [1]


def test_hits_come_before_anything_is_asked(tmp_path: Path):
    list(CachedEngine(Counting(), tmp_path / "c.sqlite").generate([ask(seed=5)]))
    inner = Counting()
    arriving = CachedEngine(inner, tmp_path / "c.sqlite").generate([ask(seed=4), ask(seed=5)])
    assert next(arriving)[0] == 1
    assert inner.written == []
    assert next(arriving)[0] == 0


class Odd(Scripted):
    """A model that can read nothing, or not fit the question."""

    def generate(self, requests):
        for index, _ in enumerate(requests):
            self.usage.calls += 1
            yield index, Generation("", "too_long", 99)

    def score_choices(self, requests):
        for index, request in enumerate(requests):
            self.usage.calls += 1
            yield index, Scores(tuple(() for _ in request.suffixes))


def test_unreadable_is_remembered_and_too_long_is_not(tmp_path: Path):
    for calls in (2, 1):
        engine = CachedEngine(Odd(), tmp_path / "c.sqlite")
        assert dict(engine.generate([ask()]))[0].finish_reason == "too_long"
        scores = dict(engine.score_choices([question("x", "y")]))[0]
        assert not scores.readable(0)
        assert scores.answer_mass(1) == 0.0
        assert engine.usage.calls == calls


def test_answers_before_an_abandoned_loop_are_kept(tmp_path: Path):
    arriving = CachedEngine(Counting(), tmp_path / "c.sqlite").generate([ask(seed=s) for s in range(9)])
    for _ in range(3):
        next(arriving)
    arriving.close()
    inner = Counting()
    list(CachedEngine(inner, tmp_path / "c.sqlite").generate([ask(seed=s) for s in range(9)]))
    assert inner.written == [3, 4, 5, 6, 7, 8]


KILLED = """
import sys, time
from pathlib import Path
from rlaif.engines import GenerateRequest, Scripted
from rlaif.engines.cache import CachedEngine
def slow(request):
    time.sleep(0.01)
    return str(request.seed)
engine = CachedEngine(Scripted(slow), Path(sys.argv[1]))
for _ in engine.generate([GenerateRequest([{"role": "user", "content": "x"}], 4, seed=s) for s in \
range(100000)]):
    pass
"""


def test_a_killed_process_leaves_a_readable_file(tmp_path: Path):
    path = tmp_path / "c.sqlite"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)])
    deadline = time.monotonic() + 60
    while _kept(path) < 20 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    requests = [GenerateRequest([user("x")], 4, seed=s) for s in range(20)]
    inner = Counting("scripted")
    texts = dict(CachedEngine(inner, path).generate(requests))
    assert inner.written == []
    assert [texts[i].text for i in range(20)] == [str(s) for s in range(20)]


def _kept(path: Path) -> int:
    import sqlite3

    if not path.exists():
        return 0
    try:
        with sqlite3.connect(path) as db:
            return db.execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.Error:
        return 0


def changed(path: Path, change: str) -> None:
    import sqlite3

    db = sqlite3.connect(path)
    db.execute(change)
    db.commit()
    db.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE answers SET value = replace(value, '-1.38', '-0.38')",  # a flipped digit
        "UPDATE answers SET value = 'x'",
        "UPDATE answers SET value = NULL",
        "UPDATE answers SET value = 3",
        "UPDATE answers SET value = '[]]'",
        "UPDATE answers SET value = '{\"text\": 1}'",
        "UPDATE answers SET value = '[1, \"a\"]'",
        "UPDATE answers SET value = '[-1.0, -2.0, -3.0]'",
        "UPDATE answers SET value = '[true, false]'",
        "DROP TABLE answers",
        "ALTER TABLE answers RENAME COLUMN value TO other",
    ],
)
def test_a_damaged_answer_is_asked_for_again_and_never_used(tmp_path: Path, change: str):
    path = tmp_path / "c.sqlite"
    first = CachedEngine(Counting(), path)
    texts, scores = (
        dict(first.generate([ask()])),
        dict(first.score_choices([question("a", "b")])),
    )
    changed(path, change)
    inner = Counting()
    again = CachedEngine(inner, path)
    assert dict(again.generate([ask()])) == texts
    assert dict(again.score_choices([question("a", "b")]))[0].logprobs == scores[0].logprobs
    assert inner.scored == ["a", "b"]
    assert "DROP" in change or any("damaged" in note for note in again.notes)
    third = CachedEngine(Counting(), path)
    list(third.score_choices([question("a", "b")]))
    assert third.usage.cached == 2


def test_answers_that_changed_places_are_noticed(tmp_path: Path):
    path = tmp_path / "c.sqlite"
    list(CachedEngine(Counting(), path).generate([ask("one"), ask("two")]))
    changed(path, "UPDATE answers SET value = (SELECT value FROM answers AS o WHERE o.key <> answers.key)")
    texts = dict(CachedEngine(Counting(), path).generate([ask("one"), ask("two")]))
    assert [texts[i].text for i in range(2)] == ["one 1", "two 1"]


def test_answers_of_an_earlier_version_are_read(tmp_path: Path):
    path = tmp_path / "c.sqlite"
    first = CachedEngine(Counting(), path)
    list(first.generate([ask()]))
    list(first.score_choices([question("a")]))
    changed(path, "UPDATE answers SET value = substr(value, 18)")
    inner = Counting()
    again = CachedEngine(inner, path)
    list(again.generate([ask()]))
    list(again.score_choices([question("a")]))
    assert (inner.written, inner.scored, again.notes) == ([], [], [])


@pytest.mark.parametrize("harm", ["header", "pages", "short", "empty"])
def test_a_damaged_file_is_set_aside_and_the_answers_asked_for_again(tmp_path: Path, harm: str):
    path = tmp_path / "c.sqlite"
    requests = [ask(seed=s) for s in range(2000)]
    first = CachedEngine(Counting(), path)
    texts = dict(first.generate(requests))
    first._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    first._closing()
    whole = path.read_bytes()
    path.write_bytes(
        {
            "header": b"not a database at all, but long enough" * 100,
            "pages": whole[:4096] + bytes(len(whole) - 4096),
            "short": whole[: len(whole) // 2],
            "empty": b"",
        }[harm]
    )
    again = CachedEngine(Counting(), path)
    assert dict(again.generate(requests)) == texts
    if harm != "empty":
        assert any("damaged" in note for note in again.notes)
        assert (tmp_path / "c.sqlite.damaged").exists()
    third = CachedEngine(Counting(), path)
    assert dict(third.generate(requests)) == texts
    assert third.usage.cached == 2000


def test_a_place_that_cannot_hold_a_cache_is_named(tmp_path: Path):
    (tmp_path / "c.sqlite").mkdir()
    with pytest.raises(UserError, match="not a usable response cache"):
        CachedEngine(Counting(), tmp_path / "c.sqlite")


def test_a_text_kept_by_an_earlier_version_is_read(tmp_path: Path):
    made = dict(CachedEngine(Counting(), tmp_path / "c.sqlite").generate([ask()]))[0]
    with sqlite3.connect(tmp_path / "c.sqlite") as db:
        ((value,),) = db.execute("SELECT value FROM answers").fetchall()
        kept = value.partition(" ")[2].replace('"finish_reason"', '"finish"')
        assert '"finish"' in kept
        db.execute("UPDATE answers SET value = ?", (kept,))
    inner = Counting()
    assert dict(CachedEngine(inner, tmp_path / "c.sqlite").generate([ask()]))[0] == made
    assert inner.written == []
