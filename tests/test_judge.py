"""The arithmetic from labels to preferences, and the judge on scripts."""

import math
import shutil
from dataclasses import replace

import pytest

from rlaif.config import ModelConfig
from rlaif.constitution import Constitution, Principle
from rlaif.engines import GenerateRequest, Generation, Scores, Scripted, open_engine
from rlaif.errors import UserError
from rlaif.feedback.judge import Judge, JudgeQuestion, slot_of
from rlaif.feedback.preferences import (
    Tally,
    aggregate,
    combine_orders,
    logit,
    order_statistics,
    sigmoid,
    weighted_mean,
)
from rlaif.options.modes import MODES
from rlaif.prompting.templates import Templates
from rlaif.records import Annotator, Comparison, Label, Message, Prompt, Response
from tests import scripts

AI = Annotator(kind="ai", id="judge")
PERSON = Annotator(kind="human", id="ann")
RULES = Constitution(
    name="c",
    principles=(
        Principle(id="one", text="Never say rude."),
        Principle(id="two", text="Never say wrong.", weight=2.0),
    ),
)


def label(p, principle="one", order="ab", who=AI, comparison="c1"):
    verdict = "invalid" if p is None else "a" if p > 0.5 else "b"
    return Label(
        comparison_id=comparison, annotator=who, principle_id=principle, order=order, p_a=p, verdict=verdict
    )


def question(a: str, b: str) -> JudgeQuestion:
    prompt = Prompt(messages=(Message(role="user", content="Hello?"),))
    left, right = Response(prompt_id=prompt.id, text=a), Response(prompt_id=prompt.id, text=b)
    return JudgeQuestion(
        Comparison(prompt_id=prompt.id, a=left.id, b=right.id), prompt, a, b, RULES.principles
    )


def ask(engine, questions, **options):
    judge = Judge(engine, Templates.load("brief"), **options)
    return [row for batch in judge.compare(questions) for row in batch]


def test_orders_are_averaged_as_logits():
    both = combine_orders([label(0.9), label(0.5, order="ba")])
    # logit 0.9 = ln 9, logit 0.5 = 0: the mean is ln 3, and sigmoid(ln 3) = 3/4.
    assert both[("ai:judge", "one")] == pytest.approx(0.75)


def test_principles_add_up_with_their_weights_and_ties_say_nothing():
    p, deciding = aggregate([label(0.75), label(0.25, "two")], RULES)
    # ln 3 − 2 ln 3 = −ln 3.
    assert p == pytest.approx(0.25)
    assert deciding == "two"
    assert aggregate([label(0.75), label(0.5, "two")], RULES)[0] == pytest.approx(0.75)


def test_unreadable_labels_are_missing_not_ties():
    assert aggregate([label(None), label(None, order="ba")], RULES) is None
    assert aggregate([label(None), label(0.75, order="ba")], RULES)[0] == pytest.approx(0.75)
    assert order_statistics([label(None), label(0.75, order="ba")])["invalid_rate"] == 0.5


def test_a_reward_by_principles_is_missing_where_one_that_counts_is_unread():
    one, two = RULES.principles
    assert weighted_mean({"one": 1.0, "two": 0.25}, RULES.principles) == pytest.approx(0.5)
    # The mean of what is left would be the reward of another constitution.
    assert weighted_mean({"one": 1.0}, RULES.principles) is None
    assert weighted_mean({"one": 1.0}, [one]) == 1.0
    silent = two.model_copy(update={"weight": 0.0})
    assert weighted_mean({"one": 1.0}, [one, silent]) == 1.0
    assert weighted_mean({"two": 1.0}, [silent]) is None


def test_logit_is_bounded_and_inverts_sigmoid():
    assert logit(1.0) == 8.0
    assert logit(0.0) == -8.0
    assert sigmoid(logit(0.3)) == pytest.approx(0.3)


def test_judge_reads_both_orders_about_the_stored_pair():
    rows = ask(scripts.feedback(), [question("you are rude", "you are nice")])
    assert len(rows) == 4
    one = [row for row in rows if row.principle_id == "one"]
    assert {row.order for row in one} == {"ab", "ba"}
    assert all(row.p_a == pytest.approx(0.1) and row.verdict == "b" for row in one)
    assert all(row.answer_mass == pytest.approx(0.9) for row in rows)
    assert all(row.verdict == "tie" for row in rows if row.principle_id == "two")


def test_a_judge_that_follows_the_position_flips_every_verdict():
    rows = ask(scripts.biased_judge(), [question("rude sun", "sun"), question("rain", "wrong rain")])
    found = order_statistics(rows)
    assert found["order_flip_rate"] == 1.0
    assert found["first_position_rate"] == 1.0
    assert found["mass"] == pytest.approx(0.4)
    assert aggregate([r for r in rows if r.comparison_id == rows[0].comparison_id], RULES)[
        0
    ] == pytest.approx(0.5)


def test_the_best_and_the_worst_are_two_verdicts_on_a_pair():
    def named(p_ab, p_ba, asked):
        return [
            label(p, order=order).model_copy(update={"judge": {"decoding": asked}})
            for p, order in ((p_ab, "ab"), (p_ba, "ba"))
        ]

    # Each is the same in both orders, and they contradict one another: no order effect at all.
    found = order_statistics([*named(0.9, 0.9, "best of 3"), *named(0.2, 0.2, "worst of 3")])
    assert found["order_flip_rate"] == 0.0
    found = order_statistics([*named(0.9, 0.9, "best of 3"), *named(0.2, 0.8, "worst of 3")])
    assert (found["decided"], found["order_flip_rate"]) == (2, 0.5)


def test_done_labels_are_not_asked_again():
    engine = scripts.feedback()
    judge = Judge(engine, Templates.load("brief"))
    pairs = [question("rude", "nice")]
    first = [row for batch in judge.compare(pairs) for row in batch]
    calls = engine.usage.calls
    again = [row for batch in judge.compare(pairs, {slot_of(row) for row in first[:3]}) for row in batch]
    assert [row.id for row in again] == [first[3].id]
    assert engine.usage.calls == calls + 1


def test_an_edited_principle_gets_new_labels_and_a_weight_does_not():
    judge = Judge(scripts.feedback(), Templates.load("brief"))
    base = RULES.principles[0]
    heavier, reworded = (
        base.model_copy(update={"weight": 5.0}),
        base.model_copy(update={"text": "Never say sun."}),
    )
    assert judge.identity(heavier) == judge.identity(base)
    assert judge.identity(reworded) != judge.identity(base)


def test_reasoning_first_asks_for_a_text_and_then_the_verdict():
    engine = scripts.feedback()
    seen = []
    engine.on_generate = lambda request: seen.append(request.messages) or "Reply A says it."
    engine.on_score = lambda messages, suffix, choices: seen.append((messages, suffix)) or [0.7, 0.2]
    rows = ask(engine, [question("rude", "nice")], max_tokens=32)
    assert len(rows) == 4
    assert {row.rationale for row in rows} == {"Reply A says it."}
    asked, suffix = seen[-1]
    assert [turn["role"] for turn in asked] == ["user", "assistant", "user"]
    assert asked[1]["content"] == "Reply A says it."
    assert "A or B" in suffix


def test_unreadable_scores_leave_the_label_invalid():
    engine = scripts.feedback()
    engine.score_choices = lambda requests: ((i, Scores((), too_long=True)) for i in range(len(requests)))
    rows = ask(engine, [question("rude", "nice")])
    assert {row.verdict for row in rows} == {"invalid"}
    assert all(row.p_a is None for row in rows)


NAN = float("nan")


def scoring(*rows: tuple[float, ...]) -> Scripted:
    """An engine that gives these log-probabilities to every question, the last row to all further
    suffixes."""
    engine = scripts.feedback()
    engine.notes = []
    engine.score_choices = lambda requests: (
        (i, Scores(tuple(rows[min(at, len(rows) - 1)] for at in range(len(r.suffixes)))))
        for i, r in enumerate(requests)
    )
    return engine


@pytest.mark.parametrize("row", [(NAN, NAN), (NAN, -1.0), (-1.0, NAN), (math.inf, -1.0)])
@pytest.mark.parametrize("mode", ["pairwise", "best"])
def test_what_is_no_number_is_no_verdict(row, mode):
    engine = scoring(row, (-0.1, -3.0))
    rows = ask(engine, [question("rude", "nice")], mode=MODES[mode])
    broken = [found for found in rows if found.principle_id == "one"]
    assert {(found.verdict, found.p_a, found.reason) for found in broken} == {
        ("invalid", None, "not a number")
    }
    assert all(found.p_a is not None for found in rows if found.principle_id == "two")
    assert order_statistics(rows)["not_numbers"] == 2
    assert order_statistics(rows)["invalid_rate"] == 0.5
    assert "dtype: float32" in engine.notes[0]
    assert aggregate(broken, RULES) is None


def test_a_choice_ruled_out_is_a_verdict_and_no_answer_at_all_is_a_refusal():
    rows = ask(scoring((-0.1, -math.inf)), [question("rude", "nice")])
    assert {(found.order, found.p_a) for found in rows} == {("ab", 1.0), ("ba", 0.0)}
    rows = ask(scoring((-math.inf, -math.inf)), [question("rude", "nice")])
    assert {(found.verdict, found.reason) for found in rows} == {("invalid", "refused")}


def test_compliance_leaves_out_what_is_no_number():
    judge = Judge(scoring((NAN, NAN), (-0.1, -3.0)), Templates.load("default"))
    item = (question("rude", "nice").prompt, "rude", RULES.principles)
    assert list(dict(judge.compliance([item]))[0]) == ["two"]
    assert "dtype: float32" in judge.engine.notes[0]
    five = Judge(scoring((NAN,) * 5, (-1.0,) * 5), Templates.load("default"))
    assert dict(five.pointwise([item]))[0] == {"two": pytest.approx(0.0)}


def test_half_precision_that_overflows_gives_no_labels(tmp_path):
    load_file, save_file = (
        getattr(pytest.importorskip("safetensors.torch"), f"{verb}_file") for verb in ("load", "save")
    )
    folder = shutil.copytree("rlaif/playground/weights/feedback", tmp_path / "judge")
    weights = load_file(folder / "model.safetensors")
    last = [name for name in weights if "norm" in name][-1]
    # Large activations: too large for half precision, and nothing to single precision.
    save_file({**weights, last: weights[last] * 1e6}, folder / "model.safetensors", {"format": "pt"})
    for dtype, verdicts in (("float32", {"a", "b", "tie"}), ("float16", {"invalid"})):
        rows = ask(
            open_engine(ModelConfig(model=str(folder), device="cpu", dtype=dtype)), [question("rude", "nice")]
        )
        assert {found.verdict for found in rows} <= verdicts


def test_compliance_reads_yes_by_principle():
    judge = Judge(scripts.feedback(), Templates.load("brief"))
    prompt = Prompt(messages=(Message(role="user", content="Hello?"),))
    found = dict(judge.compliance([(prompt, "rude", RULES.principles), (prompt, "sun", RULES.principles)]))
    assert found[0]["one"] == pytest.approx(1 / 9)
    assert found[0]["two"] == pytest.approx(8 / 9)
    assert found[1]["one"] == pytest.approx(8 / 9)


class Batched:
    """An engine that remembers which questions it was asked together."""

    batched, fingerprint = True, "batched"

    def __init__(self) -> None:
        self.asked = []

    def score_choices(self, requests):
        self.asked.append([(r.messages[-1]["content"], r.suffixes) for r in requests])
        yield from ((i, Scores(tuple((-0.1, -2.0) for _ in r.suffixes))) for i, r in enumerate(requests))


def test_a_chunk_broken_off_is_asked_in_the_same_company_and_only_the_missing_labels_come_back():
    whole, resumed = Batched(), Batched()
    questions = [question("rude", "fine"), question("wrong", "right")]
    labels = [row for batch in Judge(whole, Templates.load("brief")).compare(questions) for row in batch]
    done = {slot_of(row) for row in labels[:5]}
    rest = [
        row for batch in Judge(resumed, Templates.load("brief")).compare(questions, done) for row in batch
    ]
    assert resumed.asked == whole.asked
    assert sorted(r.id for r in rest) == sorted(r.id for r in labels[5:])


def test_an_edited_principle_is_asked_alone():
    engine = Batched()
    asked = question("rude", "fine")
    first = Judge(engine, Templates.load("brief")).compare([asked])
    done = {slot_of(row) for batch in first for row in batch}
    edited = replace(asked, principles=(RULES.principles[0], Principle(id="two", text="Never say bad.")))
    rest = [row for batch in Judge(engine, Templates.load("brief")).compare([edited], done) for row in batch]
    assert {row.principle_id for row in rest} == {"two"}
    assert all(len(suffixes) == 1 for _, suffixes in engine.asked[-1])


def lineup(*texts: str) -> list[JudgeQuestion]:
    """All pairs of some responses to one prompt; the last one is stored the other way round."""
    prompt = Prompt(messages=(Message(role="user", content="Hello?"),))
    made = [Response(prompt_id=prompt.id, text=text) for text in texts]
    pairs = [(a, b) for i, a in enumerate(made) for b in made[i + 1 :]]
    pairs[-1] = pairs[-1][::-1]
    return [
        JudgeQuestion(
            Comparison(prompt_id=prompt.id, a=a.id, b=b.id), prompt, a.text, b.text, RULES.principles[:1]
        )
        for a, b in pairs
    ]


def slotted(*rows: list[float]) -> Scripted:
    """A judge that answers the given probabilities of A, B, C in turn."""
    answers = iter(rows)
    return Scripted(on_score=lambda m, s, c: next(answers), name="slotted")


def test_the_best_of_three_is_named_by_both_orders_together():
    # In order x y z: x 0.6, y 0.3; reversed (A is z): x 0.1, y 0.8. Means of logs: y wins, 0.24 to 0.06.
    judge = Judge(slotted([0.6, 0.3, 0.1], [0.1, 0.8, 0.1]), Templates.load("brief"), mode=MODES["best"])
    questions = lineup("x", "y", "z")
    rows = [row for batch in judge.compare(questions) for row in batch]
    xy, xz, zy = (question.comparison.id for question in questions)
    p = {(row.comparison_id, row.order): row.p_a for row in rows}
    assert p[xy, "ab"] == pytest.approx(0.6 / 0.9)
    assert p[xy, "ba"] == pytest.approx(0.1 / 0.9)
    # z is stored first and shown last: its order "ab" is the reversed line.
    assert p[zy, "ab"] == pytest.approx(0.1 / 0.9)
    assert p[zy, "ba"] == pytest.approx(0.1 / 0.4)
    assert {row.verdict for row in rows if row.comparison_id == xz} == {"abstain"}
    assert Tally().add(rows).figures()["invalid_rate"] == 0.0


def test_a_line_that_is_refused_in_one_order_is_named_by_the_other():
    judge = Judge(slotted([0.6, 0.3, 0.1], [1e-4, 1e-4, 1e-4]), Templates.load("brief"), mode=MODES["best"])
    rows = [row for batch in judge.compare(lineup("x", "y", "z")) for row in batch]
    assert sorted(row.verdict for row in rows) == ["a", "a", "abstain", "invalid", "invalid", "invalid"]
    assert {row.reason for row in rows if row.verdict == "invalid"} == {"refused"}


def test_a_line_up_broken_off_half_way_is_asked_again_and_only_the_missing_labels_come_back():
    judge = Judge(scripts.feedback(), Templates.load("brief"), mode=MODES["best"])
    judge.engine.on_score = lambda messages, suffix, choices: [0.5, 0.3, 0.1]
    questions = lineup("x", "y", "z")
    rows = [row for batch in judge.compare(questions) for row in batch]
    assert {slot_of(row) for row in rows} == judge.expected_slots(questions)
    again = [row for batch in judge.compare(questions, {slot_of(row) for row in rows[:2]}) for row in batch]
    assert again == rows[2:]
    assert not list(judge.compare(questions, (), {slot_of(row) for row in rows}))


def test_more_responses_than_letters_are_refused():
    judge = Judge(scripts.feedback(), Templates.load("brief"), mode=MODES["best"])
    with pytest.raises(UserError, match="27 responses"):
        list(judge.compare(lineup(*map(str, range(27)))))


@pytest.mark.parametrize(
    ("templates", "answer", "value"),
    # 1 … 5 stand for −1 … 1: 0.5 · 0.25 + 1 · 0.75, renormalised; Yes and No for 1 and 0.
    [("default", [0.0, 0.0, 0.0, 0.2, 0.6], 0.875), ("brief", [0.6, 0.2], 0.75)],
)
def test_a_score_is_the_expected_value_over_the_answers(templates, answer, value):
    judge = Judge(Scripted(on_score=lambda m, s, c: answer), Templates.load(templates))
    prompt = Prompt(messages=(Message(role="user", content="Hello?"),))
    found = dict(judge.pointwise([(prompt, "a response", RULES.principles)]))
    assert found == {0: {"one": pytest.approx(value), "two": pytest.approx(value)}}


@pytest.mark.parametrize("answer", [None, [0.5], ["a", "b"], 0.5, [0.1, None]])
def test_a_script_that_returns_no_probabilities_is_told_so(answer):
    judge = Judge(Scripted(on_score=lambda m, s, c: answer, name="odd"), Templates.load("default"))
    prompt = Prompt(messages=(Message(role="user", content="Hello?"),))
    with pytest.raises(UserError, match=r"the script odd returned .*\nNeeded: a probability for each of"):
        dict(judge.pointwise([(prompt, "a response", RULES.principles)]))
    with pytest.raises(UserError, match="Needed: a text"):
        list(Scripted(on_generate=lambda request: answer).generate([GenerateRequest([], 4)]))


def test_a_refused_score_is_left_out():
    judge = Judge(Scripted(on_score=lambda m, s, c: [1e-5] * len(c)), Templates.load("default"))
    prompt = Prompt(messages=(Message(role="user", content="Hello?"),))
    assert dict(judge.pointwise([(prompt, "a response", RULES.principles)])) == {0: {}}


def test_a_reasoning_that_does_not_fit_is_too_long():
    engine = scripts.feedback()
    engine.generate = lambda requests: ((i, Generation("", "too_long")) for i in range(len(requests)))
    rows = ask(engine, [question("rude", "nice")], max_tokens=32)
    assert {row.reason for row in rows} == {"too long"}
    assert {row.rationale for row in rows} == {None}
    assert order_statistics(rows)["too_long"] == len(rows)


def test_labels_had_from_elsewhere_are_not_asked_and_do_not_count_as_a_broken_chunk():
    engine = Batched()
    judge = Judge(engine, Templates.load("brief"))
    old, new = question("rude", "fine"), question("wrong", "right")
    had = judge.expected_slots([old])
    rows = [row for batch in judge.compare([old, new], (), had) for row in batch]
    assert {row.comparison_id for row in rows} == {new.comparison.id}
    assert len(engine.asked[0]) == 2


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("I'm sorry, but I can’t help with that.", "stop", "refused"),
        ("As an AI, I do not choose between replies. Both differ.", "stop", "refused"),
        ("", "content_filter", "refused"),
        ('Reply A only says "I\'m sorry, I cannot help." Reply B helps.', "stop", None),
        ("A says ‘I can’t do that’, B is kind.", "stop", None),
        ("Reply B is kind. I cannot say so of A.", "stop", None),
    ],
)
def test_a_refusal_in_place_of_reasons_is_no_verdict(text, finish, reason):
    engine = scripts.feedback()
    engine.generate = lambda requests: ((i, Generation(text, finish)) for i in range(len(requests)))
    engine.on_score = lambda messages, suffix, choices: [0.9, 0.05]
    rows = ask(engine, [question("rude", "nice")], max_tokens=32)
    assert {row.reason for row in rows} == {reason}
    assert order_statistics(rows)["refused"] == (len(rows) if reason else 0)
    assert engine.usage.calls == (0 if reason else len(rows))


def test_reasons_are_written_and_judged_a_part_of_a_chunk_at_a_time():
    class PulledPlug(Exception):
        pass

    def write(request):
        if engine.usage.calls >= 600:  # texts and verdicts
            raise PulledPlug
        return "A is kinder."

    engine = Scripted(on_generate=write, on_score=lambda messages, suffix, choices: [0.7, 0.2])
    pairs = [question(f"reply {n}", "nice") for n in range(200)]
    judge, rows = Judge(engine, Templates.load("brief"), max_tokens=32), []
    with pytest.raises(PulledPlug):
        rows.extend(row for batch in judge.compare(pairs) for row in batch)
    assert len(rows) == 256
    engine.usage.calls = 0
    engine.on_generate = lambda request: "A is kinder."
    rest = [row for batch in judge.compare(pairs, {slot_of(row) for row in rows}) for row in batch]
    assert len(rest) == 4 * 200 - 256
    assert engine.usage.calls == 2 * len(rest)
