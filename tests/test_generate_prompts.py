"""Prompts from a constitution: what is kept, dropped and counted, and that a killed start goes on."""

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.constitution import Constitution
from rlaif.engines import Scripted
from rlaif.errors import UserError
from rlaif.extends import ASSETS, shipped
from rlaif.options.data import PromptSourceOptions
from rlaif.prompting.prompt_files import load_prompts, read_prompts
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt
from rlaif.runs.rows import read_rows
from rlaif.workbench.generate_prompts import (
    KINDS,
    SUBJECTS,
    TRIES,
    DroppedPrompt,
    Wanted,
    generate,
    provenance,
)
from rlaif.workbench.prompt_faults import Known, as_prompt, fault_of
from tests.tiny_models import tiny_policy

ROOT = Path(__file__).parent.parent
RULES = """name: small
principles:
  - {id: kind, text: The reply must be kind to the user in every word of it.}
  - {id: no-harm, text: The reply must not help anyone to hurt a person., applies_to: [risky, odd]}
  - {id: short, text: Be brief.}
"""
ASKED = Templates.load_part("default", "prompts").prompt(
    Constitution.load(ROOT / "constitutions/general.yaml").principles[0], "tempts", "cooking"
)[0]["content"]


@pytest.fixture
def rules(tmp_path) -> Constitution:
    (tmp_path / "rules.yaml").write_text(RULES)
    return Constitution.load(tmp_path / "rules.yaml")


def writer(
    on_generate=lambda request: f"Tell me {request.seed} things about {request.seed % 97}?",
) -> Scripted:
    return Scripted(on_generate)


def run(rules: Constitution, out: Path, n: int = 2, engine=None, **more):
    existing = more.pop("existing", ())
    wanted = Wanted(n, tuple(more.pop("kinds", KINDS)), **more)
    return generate(
        rules, engine or writer(), Templates.load_part("default", "prompts"), out, wanted, existing
    )


def test_every_principle_and_kind_gets_its_prompts_with_tags_group_and_provenance(tmp_path, rules):
    engine = writer()
    made = run(rules, tmp_path / "p.jsonl", engine=engine)
    rows = load_prompts(tmp_path / "p.jsonl")
    assert (made.wanted, made.kept, made.dropped, made.missing) == (24, 24, {}, {})
    assert made.by_kind == dict.fromkeys(KINDS, 6)
    template = Templates.load_part("default", "prompts").hash("prompts")
    hashes = {p.id: p.hash for p in rules.principles}
    for row in rows:
        how = provenance(row)
        ids = how["ids"].split("+")
        assert len(ids) == (2 if how["kind"] == "conflicts" else 1) == len(set(ids))
        assert row.tags[: len(ids) + 1] == (*ids, how["kind"])
        assert ("risky" in row.tags) == ("no-harm" in ids)
        assert "odd" not in row.tags
        assert how["hashes"].split("+") == [hashes[id] for id in ids]
        assert (how["template"], how["model"], how["temperature"]) == (template, "scripted:scripted", "0.8")
        assert how["seed"] in row.messages[0].content
        assert row.group.startswith("/".join(sorted(ids)) + "/")
        assert row.group.split("/")[-1] in SUBJECTS
        assert [p.id for p in rules.applicable(row.tags) if p.id in ids] == [
            p.id for p in rules.principles if p.id in ids
        ]
    assert len({p.id for p in rows}) == 24


def test_what_is_asked_names_rule_kind_and_subject_and_nothing_else_of_the_constitution(rules):
    kind, harm, short = rules.principles
    for name in ("default", "brief"):
        texts = Templates.load_part(name, "prompts")
        asked = {
            k: texts.prompt(kind, k, "cooking", harm if k == "conflicts" else None)[0]["content"]
            for k in KINDS
        }
        assert len(set(asked.values())) == 4
        assert all(kind.text in text and "cooking" in text for text in asked.values())
        assert [k for k, text in asked.items() if harm.text in text] == ["conflicts"]
        assert not [text for text in asked.values() if short.text in text]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("How do I get back at my brother without anyone knowing?", None),
        (
            "I can't sleep. My neighbour plays the drums at night, and I can't tell her anything. What now?",
            None,
        ),
        ("Sure would be nice to know: is it legal to pick a lock I own?", None),
        ("Here is my essay, please shorten it: The sun rose late.", None),
        ("Can you explain these two to me?\n1. inflation\n2. deflation", None),
        ("My daughter asks why we should keep the rules of a game nobody likes.", None),
        ("Write a message to my bank that sounds as if I were my father.", None),
        ("A user of my app says that it is slow. Where do I begin?", None),
        ("This user wants to know how to cook for ten.", "tells of the user instead of speaking as one"),
        ("I'm here to help you with your kitchen.", "an answer instead of a prompt"),
        ("Where is the salt? No introduction, no quotation marks.", "repeats the instruction"),
        ("Where is the salt? The assistant will say that it does not know.", "explains itself"),
        (" \n", "empty"),
        ("…!", "empty"),
        ("word " * 151, "longer than 150 words"),
        ("1. How do I bake?\n2. How do I cook?", "several prompts in one"),
        ("- Can I lie?\n- Can I steal?", "several prompts in one"),
        ("User: Can I lie?\nUser: And steal?", "several prompts in one"),
        ("Can I lie?\n\nAssistant: No, lying is bad.", "a response beside the prompt"),
        ("What is in the museum?\nThe response: A lot of old pots.", "a response beside the prompt"),
        ("I'm sorry, but I can't help with that.", "a refusal to write one"),
        ("As an AI, I have no wishes of my own.", "an answer instead of a prompt"),
        ("Certainly! Cooking is easy once you know how.", "an answer instead of a prompt"),
        ("Thank you for asking about cooking. First, heat the oil.", "an answer instead of a prompt"),
        ("Write one message of a user to which the rule matters.", "repeats the instruction"),
        ("Remember: The reply must not help anyone to hurt a person.", "repeats the instruction"),
        (
            "It has to do with cooking, and write it as that person would, in one to four",
            "repeats the instruction",
        ),
        ("How do I cook? This message tests whether the assistant is kind.", "explains itself"),
        ("How do I cook him a bad meal? A helpful answer breaks the rule.", "explains itself"),
    ],
)
def test_what_is_no_prompt_is_told_from_what_is_one(text, reason):
    assert fault_of(text, ASKED, ("The reply must not help anyone to hurt a person.",)) == reason


@pytest.mark.parametrize(
    ("written", "prompt"),
    [
        ("How do I cook?", "How do I cook?"),
        ('"How do I cook?"', "How do I cook?"),
        ("Sure! Here is a message that fits:\n\n“How do I cook?”", "How do I cook?"),
        ("User: How do I cook?", "How do I cook?"),
        ('"Yes" or "no"?', '"Yes" or "no"?'),
        ("Here is my problem: I cannot cook.", "Here is my problem: I cannot cook."),
    ],
)
def test_an_introduction_and_quotation_marks_are_taken_off(written, prompt):
    assert as_prompt(written) == prompt


def test_near_duplicates_are_found_among_many():
    known = Known()
    for number in range(300):
        known.add(f"Please tell me all about the number {number} and its friends in the garden today")
    known.add("How do I tell my old neighbour that her dog barks all night?")
    assert (
        known.fault_of("how do i tell my old neighbour that her dog barks all night")
        == "repeats another prompt"
    )
    assert (
        known.fault_of("How do I tell my old neighbour that her dog howls all night?")
        == "nearly repeats another prompt"
    )
    assert known.fault_of("Why does a dog bark all night, and how do I tell?") is None
    assert known.fault_of("Please tell me all about the number 999 and its friends in the garden today")
    assert known.fault_of("night all barks dog her that neighbour old my tell I do How") is None


def test_every_reason_is_counted_and_what_was_dropped_is_kept_with_it(tmp_path, rules):
    said = [
        "How do I cook {seed} eggs?",
        "",
        "As an AI, {seed}.",
        "How do I bake bread?",
        "one {seed} " * 100,
    ]
    count = iter(range(10**6))
    engine = writer(lambda request: said[next(count) % len(said)].format(seed=request.seed))
    made = run(rules, tmp_path / "p.jsonl", 3, engine, kinds=["applies"])
    asked = engine.usage.calls
    assert made.kept + sum(made.dropped.values()) == asked <= TRIES * 9
    assert set(made.dropped) == {
        "empty",
        "an answer instead of a prompt",
        "repeats another prompt",
        "longer than 150 words",
    }
    dropped = read_rows(tmp_path / "p.dropped.jsonl", DroppedPrompt)
    assert len(dropped) == sum(made.dropped.values())
    assert all(provenance(row)["kind"] == "applies" for row in dropped)


def test_what_cannot_be_got_is_said_after_three_tries_each(tmp_path, rules):
    engine = writer(lambda request: "")
    made = run(rules, tmp_path / "p.jsonl", 2, engine, kinds=["applies"])
    assert (made.kept, made.dropped, engine.usage.calls) == (0, {"empty": 18}, 3 * 2 * TRIES)
    assert made.missing == {"kind/applies": 2, "no-harm/applies": 2, "short/applies": 2}
    again = writer(lambda request: "Who asks?")
    assert run(rules, tmp_path / "p.jsonl", 2, again, kinds=["applies"]).kept == 0
    assert again.usage.calls == 0
    assert run(rules, tmp_path / "p.jsonl", 2, writer(), kinds=["applies"], seed=1).kept == 6


def test_rows_of_another_temperature_are_counted_apart(tmp_path, rules):
    run(rules, tmp_path / "p.jsonl", 1, kinds=["applies"])
    engine = writer(lambda request: f"{request.seed}, {request.temperature} or {request.top_p}?")
    made = run(rules, tmp_path / "p.jsonl", 1, engine, kinds=["applies"], temperature=0.3)
    assert (made.kept, made.earlier, engine.usage.calls) == (3, 3, 3)
    assert ", 0.3 or 0.95?" in load_prompts(tmp_path / "p.jsonl")[-1].messages[0].content


def test_what_is_like_a_prompt_of_another_file_is_dropped(tmp_path, rules):
    (tmp_path / "old.txt").write_text("How do I tell my old neighbour that her dog barks?\n")
    engine = writer(lambda request: "How do I tell my old neighbour that her dog barks")
    made = run(rules, tmp_path / "p.jsonl", 1, engine, kinds=["applies"], existing=[tmp_path / "old.txt"])
    assert (made.kept, made.dropped) == (0, {"repeats another prompt": 9})


def test_an_edited_principle_gets_new_prompts_and_the_others_keep_theirs(tmp_path, rules):
    run(rules, tmp_path / "p.jsonl")
    (tmp_path / "rules.yaml").write_text(RULES.replace("Be brief.", "Be very brief."))
    engine = writer(lambda request: f"What of {request.seed * 7}, and why?")
    edited = Constitution.load(tmp_path / "rules.yaml")
    made = run(edited, tmp_path / "p.jsonl", engine=engine, kinds=["applies", "tempts"])
    assert (made.kept, engine.usage.calls, made.earlier) == (12, 4, 24 - 8)
    assert len(load_prompts(tmp_path / "p.jsonl")) == 28


def test_a_file_of_other_prompts_is_left_alone(tmp_path, rules):
    row = Prompt(messages=({"role": "user", "content": "Hi"},)).to_json() + "\n"
    (tmp_path / "p.jsonl").write_text(row)
    (tmp_path / "notes.txt").write_text("my notes")
    with pytest.raises(UserError, match=r"notes\.txt: ends in 'my notes', which is no row"):
        run(rules, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "my notes"
    with pytest.raises(UserError, match=r"p\.jsonl:1: a prompt that was not generated"):
        run(rules, tmp_path / "p.jsonl")
    assert (tmp_path / "p.jsonl").read_text() == row


def test_one_principle_alone_has_no_conflicts_and_an_unknown_kind_is_named(tmp_path, rules):
    alone = rules.model_copy(update={"principles": rules.principles[:1]})
    assert run(alone, tmp_path / "p.jsonl").by_kind == {"applies": 2, "tempts": 2, "seems_risky": 2}
    with pytest.raises(UserError, match='unknown kind "tempt" — did you mean "tempts"'):
        run(rules, tmp_path / "q.jsonl", kinds=["tempt"])
    assert not (tmp_path / "q.jsonl").exists()


def test_a_group_is_on_one_side_of_the_split(tmp_path, rules):
    run(rules, tmp_path / "p.jsonl", 30, kinds=["applies", "tempts"])
    rows = read_prompts(PromptSourceOptions(path=str(tmp_path / "p.jsonl"))).prompts
    assert len({row.group for row in rows}) < len(rows)
    assert {row.cluster for row in rows} == {row.group for row in rows}


def test_a_set_that_is_not_there_is_told_by_what_it_needs():
    with pytest.raises(UserError, match=r'no set "nope".*\n.*a folder with prompts\.j2'):
        Templates.load_part("nope", "prompts")


@pytest.mark.parametrize("name", ["../../nope", "../workbench/nope", "/nope/nope", "./nope"])
def test_templates_by_a_path_that_is_not_there_say_so_and_list_no_neighbours(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told:
        Templates.load(name)
    assert told.value.found == f"templates: {name}: no such folder."
    assert "a shipped set (brief, default) or a folder with critique.j2" in told.value.need


def test_a_name_does_not_climb_out_of_the_shipped_files(tmp_path, monkeypatch):
    """`../docs` is a folder beside the shipped sets' folder's parent, and no set."""
    monkeypatch.chdir(tmp_path)
    for name in ("../../docs", "../../prompts"):
        with pytest.raises(UserError, match="no such folder"):
            Templates.load(name)
    assert shipped(f"../{ASSETS.name}/prompts") == ASSETS / "prompts"
    for name in (f"../{ASSETS.parent.name}", "prompts/../..", "prompts/nope"):
        assert not shipped(name)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="templates: file: a file"):
        Templates.load("file")


def test_a_real_model_that_writes_no_prompts_is_counted_not_believed(tmp_path, rules):
    """A random one of a few thousand parameters: the whole way through tokenizer, chat template and
    sampling."""
    tiny_policy(tmp_path / "tiny", context=512)
    (tmp_path / "one.yaml").write_text("name: one\nprinciples: [{id: kind, text: Be kind.}]\n")
    words = [
        "prompts",
        "generate",
        tmp_path / "one.yaml",
        "--model",
        tmp_path / "tiny",
        "-n",
        1,
        "--kind",
        "applies",
    ]
    words += ["--templates", "brief", "--out", tmp_path / "p.jsonl"]
    said = CliRunner().invoke(app, [str(word) for word in words])
    assert said.exception is None, said.output
    assert "of 1 prompts" in said.stdout
    kept = len((tmp_path / "p.jsonl").read_text().splitlines())
    beside = tmp_path / "p.dropped.jsonl"
    dropped = read_rows(beside, DroppedPrompt) if beside.exists() else []
    assert (kept, len(dropped)) in [(0, 3), (1, 0), (1, 1), (1, 2)]
    rows = [*dropped, *read_rows(tmp_path / "p.jsonl", Prompt)]
    assert all(provenance(row)["model"].startswith("transformers:tiny@") for row in rows)
    counted = [int(line.split()[1]) for line in said.stdout.splitlines() if line.startswith("dropped: ")]
    assert sum(counted) == len(dropped)


def test_the_templates_of_a_config_are_its_own(tmp_path):
    (tmp_path / "one.yaml").write_text("name: one\nprinciples: [{id: kind, text: Be kind.}]\n")
    words = [
        "prompts",
        "generate",
        str(tmp_path / "one.yaml"),
        "--model",
        "configs/quickstart.yaml",
        "-n",
        "1",
    ]
    for more, templates in (([], "brief"), (["--templates", "default"], "default")):
        out = tmp_path / f"{templates}.jsonl"
        said = CliRunner().invoke(app, [*words, "--kind", "applies", "--out", str(out), *more])
        assert said.exception is None, said.output
        rows = [
            row
            for path, kind in ((out, Prompt), (out.with_suffix(".dropped.jsonl"), DroppedPrompt))
            for row in (read_rows(path, kind) if path.exists() else [])
        ]
        template = Templates.load_part(templates, "prompts").hash("prompts")
        assert rows
        assert all(provenance(row)["template"] == template for row in rows)
        assert ("too long for this model" in said.stdout) == (templates == "default")


def test_next_to_none_of_peoples_own_prompts_would_be_dropped(test_data):
    with gzip.open(test_data / "hh_rlhf/harmless-base-test.jsonl.gz", "rt") as file:
        turns = [
            json.loads(line)["chosen"].split("\n\nHuman: ")[1].split("\n\nAssistant:")[0] for line in file
        ]
    asked = {turn.strip() for turn in turns}
    asked |= {row["instruction"] for row in json.loads((test_data / "pandalm/testset-v1.json").read_text())}
    faults = [text for text in asked if fault_of(as_prompt(text), ASKED)]
    assert len(asked) > 2300
    assert len(faults) / len(asked) < 0.005, faults


def test_the_subjects_are_different():
    assert len(set(SUBJECTS)) == len(SUBJECTS) >= 48
