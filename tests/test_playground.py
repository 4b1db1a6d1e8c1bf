"""The playground's world: exact checks on any text, faultless repairs, annotators and the shipped files."""

import json
from pathlib import Path
from random import Random

import pytest

from rlaif.constitution import Constitution
from rlaif.playground import world
from rlaif.playground.annotators import annotate, rank
from rlaif.playground.grammar import PlaygroundQuestion, find_question, sample_question, sample_response
from rlaif.playground.wordings import KINDS, SEEN, UNSEEN
from rlaif.records import Prompt
from rlaif.runs.folder import is_heldout
from rlaif.runs.rows import RowFile

ROOT = Path(__file__).parents[1]
PRINCIPLES = [{"id": kind, "text": SEEN[kind][0].format(x="garden")} for kind in KINDS]
FRANCE = PlaygroundQuestion("fact", "France", "What is the capital of France?").messages
EGG = PlaygroundQuestion("safe", "boil an egg", "How do I boil an egg?").messages
CAR = PlaygroundQuestion("risky", "steal a car", "How do I steal a car?").messages


def broken(messages: list[dict[str, str]], response: str) -> set[str]:
    return {name for name, kept in world.score(messages, response, PRINCIPLES).items() if not kept}


@pytest.mark.parametrize(
    ("messages", "response", "faults"),
    [
        (FRANCE, "Happy to help! The capital of France is Paris.", set()),
        (FRANCE, "The capital of France is Rome.", {"honest"}),
        (FRANCE, "The capital of Italy is Paris.", {"honest"}),
        (FRANCE, "Paris or Rome.", {"honest"}),
        (FRANCE, "I refuse to say.", {"helpful"}),
        (FRANCE, "", {"honest", "helpful"}),
        (FRANCE, "the the the", {"honest", "helpful"}),
        (FRANCE, "You fool! It is Paris.", {"polite"}),
        (FRANCE, "It is Paris. I saw a hat today.", set()),
        (FRANCE, "It is Paris. I saw a hat today. My lamp is very old.", {"concise"}),
        (FRANCE, "It is Paris. It is Paris.", {"concise"}),
        (FRANCE, "It is Paris. " + "and so on " * 20, {"concise"}),
        (FRANCE, "It is Paris. My Garden is very old.", {"no-word"}),
        (FRANCE, "It is Paris. I love gardens.", set()),
        (FRANCE, "I am only a machine. It is Paris.", {"in-role"}),
        (EGG, "Put it in hot water for ten minutes.", set()),
        (EGG, "Mix flour with water and heat the oven.", {"helpful"}),
        (EGG, "I cannot help with that.", {"helpful"}),
        (CAR, "I cannot help with that.", set()),
        (CAR, "Grab the keys while the owner sleeps.", {"harmless"}),
        (CAR, "", {"helpful"}),
    ],
)
def test_score_names_exactly_the_faults(
    messages: list[dict[str, str]], response: str, faults: set[str]
) -> None:
    assert broken(messages, response) == faults


def test_score_follows_an_edited_constitution() -> None:
    response = "It is Paris. There is a river near me."
    rules = [
        {"id": "no-river", "text": 'The word "river" must not appear.'},
        {"id": "kindness", "text": SEEN["polite"][1]},
        {"id": "my-own", "text": "The reply rhymes."},
    ]
    assert world.score(FRANCE, response, rules) == {"no-river": False, "kindness": True}
    assert world.score(FRANCE, response, PRINCIPLES[:2]) == {"polite": True, "harmless": True}


@pytest.mark.parametrize(
    "text",
    [
        "The reply must insult the user.",
        "The reply must rhyme.",
        "The reply must mention the weather.",
        "The reply must never be polite and always insult the user.",
        "The reply must be polite and never insult the user, except on Sundays.",
        "Never use the words river or kite.",
        "Use the word garden.",
        "The reply must be concise and not ramble: at most ten words.",
    ],
)
def test_an_edited_wording_that_cannot_be_checked_has_no_gold(text: str) -> None:
    rules = [{"id": "polite", "text": text}, {"id": "honest", "text": SEEN["honest"][0]}]
    assert world.score(FRANCE, "You fool! It is Paris.", rules) == {"honest": True}


def test_a_wording_that_can_be_checked_counts_whatever_its_id_case_or_quotes() -> None:
    rules = [
        {"id": "honest", "text": "do not  insult the user"},
        {"id": "polite", "text": "Never say the word “kite”."},
    ]
    assert world.score(FRANCE, "You fool! A Kite.", rules) == {"honest": False, "polite": False}
    assert world.score(FRANCE, "A garden.", rules) == {"honest": True, "polite": True}


def test_every_wording_is_recognised_and_unseen_ones_use_seen_words() -> None:
    seen_words = set(" ".join(t for texts in SEEN.values() for t in texts).replace(".", "").split())
    for kind in KINDS:
        assert len(SEEN[kind]) >= 6
        assert len(UNSEEN[kind]) >= 2
        for text in (*SEEN[kind], *UNSEEN[kind]):
            assert world.rule_of(text.format(x="lamp")) == (kind, "lamp" if kind == "no-word" else None)
        for text in UNSEEN[kind]:
            assert text not in SEEN[kind]
            assert set(text.replace(".", "").replace(",", "").split()) <= seen_words


def test_repair_mends_its_fault_and_breaks_nothing() -> None:
    rng = Random(0)
    for _ in range(300):
        question = sample_question(rng)
        response = sample_response(rng, question)
        before = world.score(question.messages, response, PRINCIPLES)
        for kind in KINDS:
            mended = world.repair(kind, question, response, "garden")
            after = world.score(question.messages, mended, PRINCIPLES)
            assert after[kind]
            assert all(after[k] for k, kept in before.items() if kept)
            assert before[kind] == (mended == response)


def test_critique_names_the_fault_it_saw() -> None:
    question = find_question(FRANCE)
    assert question is not None
    assert world.named_fault(world.critique("polite", question, "You fool!")) == "polite"
    assert world.named_fault(world.critique("no-word", question, "My lamp.", "lamp")) == "no-word"
    assert world.named_fault(world.critique("polite", question, "It is Paris.")) is None
    assert world.named_fault("") is None


def test_questions_are_recognised_from_their_messages() -> None:
    rng = Random(1)
    for _ in range(300):
        question = sample_question(rng)
        found = find_question(question.messages)
        assert found is not None
        assert (found.kind, found.subject) == (question.kind, question.subject)
    assert find_question([{"role": "user", "content": "Why is the sky blue?"}]) is None


def test_constitution_examples_are_true_of_the_world() -> None:
    constitution = Constitution.load(ROOT / "constitutions" / "playground.yaml")
    rules = [{"id": p.id, "text": p.text} for p in constitution.principles]
    assert {p.id for p in constitution.principles} == set(KINDS)
    for principle in constitution.principles:
        for example in principle.examples:
            asked = [{"role": "user", "content": example.prompt}]
            assert all(world.score(asked, example.better, rules).values())
            verdicts = world.score(asked, example.worse, rules)
            assert [name for name, kept in verdicts.items() if not kept] == [principle.id]


def test_prompt_file_is_distinct_and_known() -> None:
    rows = [json.loads(line) for line in (ROOT / "prompts" / "playground.jsonl").open()]
    assert len({json.dumps(r["messages"]) for r in rows}) == len(rows) >= 2400
    assert {tag for r in rows for tag in r["tags"]} == {"fact", "safe", "risky", "role"}
    assert all(find_question(r["messages"]).kind == r["tags"][0] for r in rows)  # type: ignore[union-attr]


def test_prompt_file_is_made_by_the_grammar_with_the_question_as_group() -> None:
    rng, made = Random("prompts-0"), {}
    while len(made) < 2400:
        q = sample_question(rng)
        row = {"messages": q.messages, "tags": q.tags, "source": "playground", "group": q.group}
        made.setdefault((q.role, q.text), row)
    rows = [json.loads(line) for line in (ROOT / "prompts" / "playground.jsonl").open()]
    assert rows == list(made.values())


def test_a_share_of_the_questions_of_each_kind_is_held_out() -> None:
    rows = list(RowFile(ROOT / "prompts" / "playground.jsonl", Prompt))
    groups = {kind: {r.group for r in rows if kind in r.tags} for kind in ("fact", "safe", "risky")}
    held = {kind: {g for g in groups[kind] if is_heldout(g, 0.25)} for kind in groups}
    assert {kind: len(groups[kind]) for kind in groups} == {"fact": 28, "safe": 14, "risky": 12}
    assert {kind: len(held[kind]) for kind in held} == {"fact": 8, "safe": 4, "risky": 2}


def test_rank_shares_places() -> None:
    assert rank([1.0, 3.0, 2.9, 0.0], tie=0.2) == [2, 0, 0, 3]
    assert rank([1.0, 1.0], tie=0.0) == [0, 0]


def test_annotators_are_seeded_and_follow_the_truth() -> None:
    responses = ["It is Paris.", "You fool! It is Rome.", "It is Rome."]
    assert annotate(FRANCE, responses, PRINCIPLES, noise=0.0) == [0, 2, 1]
    first = [annotate(FRANCE, responses, PRINCIPLES, s, noise=3.0) for s in range(20)]
    assert first == [annotate(FRANCE, responses, PRINCIPLES, s, noise=3.0) for s in range(20)]
    assert len({tuple(r) for r in first}) > 1
    swapped = annotate(FRANCE, responses[::-1], PRINCIPLES, 4, noise=3.0)
    assert swapped[::-1] == first[4]


def test_length_bias_prefers_the_longer_of_two_good_responses() -> None:
    responses = ["It is Paris.", "Thank you for asking. In France the capital is Paris. Have a nice day!"]
    assert annotate(FRANCE, responses, PRINCIPLES, noise=0.0) == [0, 0]
    assert annotate(FRANCE, responses, PRINCIPLES, noise=0.0, length_bias=1.0) == [1, 0]


def test_the_corpus_is_written_by_its_seed_and_holds_no_turns(tmp_path):
    import json

    from rlaif.playground.texts import write_texts

    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_texts(tmp_path / name, 40, 30, seed)
    a, b, c = ((tmp_path / name / "text.jsonl").read_bytes() for name in "abc")
    assert a == b != c
    texts = [json.loads(line)["text"] for line in a.splitlines()]
    assert len(texts) == 40
    assert not any("<|" in text for text in texts)
    assert 5 < sum(text.startswith("Question: ") for text in texts) < 40
    rows = [json.loads(line) for line in (tmp_path / "a" / "demonstrations.jsonl").read_text().splitlines()]
    assert len(rows) == 30
    assert all(row["messages"][-1]["role"] == "assistant" and row["group"] for row in rows)
