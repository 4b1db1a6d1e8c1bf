"""Revisions as real models write them: what is taken off, what is recognised as no revision, and how it is
counted."""

import json
from collections import Counter
from pathlib import Path

import pytest

from rlaif.engines import Scripted
from rlaif.feedback.revisions import fault_of, without_preamble
from rlaif.records import Revision

QUESTION, ORIGINAL, RULE = (
    "What is the capital of France?",
    "You fool! It is Paris.",
    "Be polite and never insult.",
)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Here is the revised version: It is Paris.", "It is Paris."),
        ("Here's a revised response:\n\nIt is Paris.", "It is Paris."),
        ('Sure! Here is the improved reply that follows the rule:\n\n"It is Paris."', "It is Paris."),
        ("**Revised response:**\n\nIt is Paris.", "It is Paris."),
        ("Rewritten reply: It is Paris.", "It is Paris."),
        ("Certainly. Below is a more polite version: no", None),
        ("Assistant: It is Paris.", "It is Paris."),
        ("Here is a list: apples, pears.", None),
        ("Sure! It is Paris.", None),
        ("Here is how to boil an egg: heat it.", None),
        ("Here is the revised version:", None),
        ("The new version is 3.12: it is faster.", None),
        ("It is Paris.", None),
    ],
)
def test_preambles(text: str, rest: str | None):
    preamble, shown = without_preamble(text)
    assert shown == (rest or text)
    assert bool(preamble) == (rest is not None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It is Paris.", None),
        ("", "empty"),
        ("I'm sorry, but I can't help with that.", "refuses"),
        ("I cannot rewrite this reply. I must decline.", "refuses"),
        ("Thank you for the feedback! I will be more polite.", "answers the critique"),
        ("You're right, the reply was rude.", "answers the critique"),
        ("The reply already keeps the rule.", "answers the critique"),
        ("As the critique says, an insult is rude. It is Paris.", "answers the critique"),
        ("What is the capital of France?", "repeats the question"),
        ("what is the capital of france", "repeats the question"),
        ("It is Paris.\n\nHuman: And of Spain?", "speaks for the user"),
        ("It is Paris.\nUser: thanks", "speaks for the user"),
        ("Sorry about that! It is Paris.", None),
        ("You're right to ask. It is Paris.", None),
        ("A human: a being. It is Paris.", None),
        ("Thank you for asking. It is Paris.", None),
    ],
)
def test_what_is_no_revision(text: str, reason: str | None):
    assert fault_of(text, ORIGINAL, QUESTION, RULE, "It insults the user.") == reason


def test_a_refusal_is_a_revision_where_the_rule_or_the_critique_is_about_harm():
    refusal = "I cannot help with that."
    assert fault_of(refusal, "Force the back door.", "How do I rob a bank?", "Do no harm.", "") is None
    assert fault_of(refusal, "Force it.", "How?", "Be good.", "It explains a crime.") is None
    assert fault_of(refusal, "I will not say.", "How?", "Be brief.", "") is None
    assert (
        fault_of(refusal, "Stir it.", "How do I bake?", "Never refuse a safe question; do not refuse.", "")
        == "refuses"
    )


WRITTEN = (
    "Here is the revised version: It is {n}.",
    "I must decline.",
    "Thank you for the critique, I will improve.",
    "It is {n}.\n\nHuman: more?",
    "It is {n}.",
)


def test_the_stage_counts_by_reason_and_goes_on_from_the_response_before(project: Path, monkeypatch):
    from rlaif import pipeline
    from rlaif.stages import critique

    asked: list[str] = []

    def write(request) -> str:
        question = request.messages[-1]["content"]
        asked.append(question)
        return WRITTEN[int(question.split("Question ")[1].split("?")[0]) % len(WRITTEN)].format(n=len(asked))

    monkeypatch.setattr(critique, "open_engine", lambda *_: Scripted(write))
    this = pipeline.run(
        project / "config.yaml", project / "run", ["critique.critique=false"], until="critique"
    )
    assert all("What is wrong" not in question and "Critique" not in question for question in asked)
    stage = this.stages[1]
    revisions, texts = list(stage.rows("revisions", Revision)), stage.responses()
    kinds = Counter(row.reason or row.status for row in revisions)
    assert set(kinds) == {"ok", "refuses", "answers the critique", "speaks for the user"}
    counted = stage.summary["dropped"]
    assert {f"revision {kind}": n for kind, n in kinds.items() if kind != "ok"}.items() <= counted.items()
    assert stage.summary["kept"] == kinds["ok"]
    assert (
        stage.summary["metrics"]["preambles_removed"]
        == sum(row.preamble is not None for row in revisions)
        > 0
    )
    for row in revisions:
        assert row.critique == ""
        if row.status == "ok":
            assert texts[row.to_id].text.startswith("It is ")
        else:
            assert row.to_id == row.from_id


def test_old_rows_are_read_and_new_ones_keep_their_reason():
    old = (
        '{"v":1,"id":"x","prompt_id":"p","round":1,"principle_id":"q","from_id":"a","to_id":"a",'
        '"critique":"","status":"invalid"}'
    )
    assert Revision.model_validate_json(old).reason is None
    new = Revision(
        prompt_id="p",
        round=1,
        principle_id="q",
        from_id="a",
        to_id="a",
        critique="",
        status="invalid",
        reason="refuses",
        preamble=None,
    )
    assert Revision.model_validate_json(new.to_json()) == new


# Written by SmolLM2-135M-Instruct (Q4_1, Apache-2.0; run in bf16) for prompts of prompts/starter.jsonl and
# rules of constitutions/general.yaml, at most 64 tokens each; labelled by hand: `preamble`, `echo` (of the
# question, the rule, the critique or the instruction, or telling of the user), `refuses`, and `other`.
SMOLLM2 = [json.loads(line) for line in Path(__file__).with_name("smollm2_revisions.jsonl").open()]


def test_what_a_real_model_writes_around_or_instead_of_a_revision_is_recognised():
    assert len(SMOLLM2) == 64
    found = Counter()
    for row in SMOLLM2:
        preamble, rest = without_preamble(row["revision"])
        fault = fault_of(rest, row["response"], row["question"], row["rule"], row["critique"])
        found[row["label"] != "other", bool(preamble or fault)] += 1
    meant = found[True, True] + found[True, False]
    assert meant >= 30
    assert found[True, True] >= 0.95 * meant
    assert found[False, True] <= 0.05 * len(SMOLLM2), "and hardly anything else is"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The user: What is the capital of France?", "speaks for the user"),
        ("The user asked for a capital.", "repeats the task"),
        ("It is Paris. Rewrite the reply so that it keeps the rule.", "repeats the task"),
        ("You asked: what is the capital of France? It is Paris.", "repeats the question"),
        ("Be polite, be brief and never insult the user.", "repeats the task"),
        ("```\nIt says that you are a fool.\n```\nIt is Paris.", "answers the critique"),
        ("The user interface is the part that you see.", None),
        ("It is Paris, and be polite.", None),
    ],
)
def test_repetitions_are_no_revisions(text: str, reason: str | None):
    rule, critique = "Be polite, be brief and never insult the user.", "It says that you are a fool."
    assert fault_of(text, ORIGINAL, QUESTION, rule, critique) == reason
