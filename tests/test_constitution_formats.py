"""Constitutions of other projects: recognised, read, written, and what is lost on the way is said."""

import json
from pathlib import Path

import pytest

from rlaif.constitution import Constitution, Example, Principle, Source, Votes
from rlaif.errors import UserError
from rlaif.workbench.constitution_formats import FORMATS
from rlaif.workbench.constitution_formats.votes import suggested_weight
from rlaif.workbench.exchange import export, import_files, read_back

SL = {
    "kind0": {
        "prompt": ["\n\nCritiqueRequest: Where is it unkind?\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Make it kind.\n\nRevision:",
    },
    "kind one": {
        "prompt": [
            "\n\nCritiqueRequest: Is it rude?\n\nCritique:",
            "\n\nCritiqueRequest: Again?\n\nCritique:",
        ],
        "edit_request": "\n\nRevisionRequest: Make it  polite.\n\nRevision:",
        "tag": "tone",
    },
}
RL = ["\nChoose the kinder response. Options:", "\nWhich response is more polite? Options:"]
CHAT = ["Hi", "Go away.", "Where is it unkind?", "It sends the user away.", "Make it kind.", "Hello!"]
SWARM = {
    "constitutions": [
        {"critic": "Where is it unkind?", "revision": "Make it kind."},
        {"critic": "Is it rude?", "revision": "Make it polite."},
    ],
    "system_chat": [
        [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(CHAT)],
        [{"role": "user", "content": "Of another shape"}],
    ],
}
TRAITS = [
    {"trait": "I stay calm.", "questions": ["Why are you late?", "Are you angry?"]},
    {"trait": "I ask before I act.", "questions": ["Delete it all!", "Are you angry?"]},
]
RUBRIC = """[[criteria]]
name = "sources"
text = "The reply names its sources."
weight = 2.5
choices = ["no", "partly", "yes"]

[[criteria]]
name = "no guesses"
text = "The reply does not guess."
"""
GROUPS = """comment-id,comment,total-votes,total-agrees,total-disagrees,total-passes,group-a-votes,\
group-a-agrees,group-a-disagrees,group-a-passes,group-b-votes,group-b-agrees,group-b-disagrees,group-b-passes
4,"It should be honest, always.",20,15,3,2,10,9,1,0,10,6,2,2
5,It should obey.,10,2,8,0,6,2,4,0,4,0,4,0
"""
COMMENTS = """timestamp,datetime,comment-id,author-id,agrees,disagrees,moderated,comment-body
1,Mon,0,7,8,1,1,It should be honest.
2,Mon,1,7,3,3,-1,Buy now!
"""
SPEC = """---
title: not read
---
# House rules

What we ask of the assistant.

## Honesty

### Do not make up facts

The reply states only what is known.

Guesses do harm:

- to the user
- to everybody else

### Uncertainty {#unsure}
The reply says how sure it is.

## Tone

The reply is polite.
"""
LIST = """# Rules

1. Be kind.
2. Be brief,
   in every reply.

   It saves time.
   - and paper
3. Never guess.
"""


def write(folder: Path, name: str, content) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path


def read(folder: Path, name: str, content, format: str | None = None):
    constitution, (report,) = import_files([write(folder, name, content)], format)
    return constitution, report


def rows(constitution: Constitution, *fields: str) -> list[tuple]:
    return [tuple(getattr(p, field) for field in fields) for p in constitution.principles]


def test_pairs_of_critique_and_revision(tmp_path):
    constitution, report = read(tmp_path, "pairs.json", SL)
    assert report.format == "anthropic-sl"
    assert rows(constitution, "id", "text", "critique", "revise") == [
        ("kind0", "Make it kind.", "Where is it unkind?", "Make it kind."),
        ("kind-one", "Make it polite.", "Is it rude?", "Make it  polite."),
    ]
    assert constitution.principles[1].source.kept == {
        "key": "kind one",
        "tag": "tone",
        "prompt": ["\n\nCritiqueRequest: Again?\n\nCritique:"],
    }
    assert constitution.principles[0].source.link == "pairs.json#/kind0"
    assert json.loads(export(constitution, "anthropic-sl").text) == SL
    assert report.not_kept == []


def test_what_has_no_scaffolding_is_read_and_said_to_come_back_otherwise(tmp_path):
    plain = {"a": {"prompt": "Is it rude?", "edit_request": " RevisionRequest: Make it kind. "}}
    constitution, report = read(tmp_path, "pairs.json", plain)
    assert rows(constitution, "critique", "revise") == [("Is it rude?", "Make it kind.")]
    assert report.not_kept == ["/a/prompt: not as it stands there", "/a/edit_request: not as it stands there"]


def test_questions_for_the_judge(tmp_path):
    constitution, report = read(tmp_path, "rl.json", [*RL, "\n Options:"])
    assert report.format == "anthropic-rl"
    assert rows(constitution, "id", "text", "compare") == [
        ("kinder", "Choose the kinder response.", None),
        ("more-polite", "Which response is more polite?", None),
    ]
    assert (report.entries, report.principles, report.dropped) == (3, 2, {"an empty text": 1})
    assert json.loads(export(constitution, "anthropic-rl").text) == RL


def test_llm_swarm_with_its_chats_as_examples(tmp_path):
    constitution, report = read(tmp_path, "swarm.json", SWARM)
    assert report.format == "llm-swarm"
    assert rows(constitution, "critique", "revise") == [
        ("Where is it unkind?", "Make it kind."),
        ("Is it rude?", "Make it polite."),
    ]
    assert constitution.principles[0].examples == (
        Example(prompt="Hi", worse="Go away.", critique="It sends the user away.", better="Hello!"),
    )
    assert constitution.source.kept == {"system_chat": [SWARM["system_chat"][1]]}
    assert json.loads(export(constitution, "llm-swarm").text) == SWARM


def test_traits_and_their_questions(tmp_path):
    constitution, report = read(tmp_path, "calm.txt", TRAITS)
    assert report.format == "character"
    assert rows(constitution, "id", "text") == [
        ("stay-calm", "I stay calm."),
        ("ask-before-act", "I ask before I act."),
    ]
    assert json.loads(export(constitution, "character").text) == TRAITS


def test_a_rubric(tmp_path):
    constitution, report = read(tmp_path, "rubric.toml", RUBRIC)
    assert report.format == "verifiers-rubric"
    assert rows(constitution, "id", "weight") == [("sources", 2.5), ("no-guesses", 1.0)]
    assert constitution.principles[0].source.kept == {"choices": ["no", "partly", "yes"]}
    assert export(constitution, "verifiers-rubric").text == RUBRIC
    as_json = {"criteria": [{"name": "a", "text": "b"}]}
    assert rows(read(tmp_path, "rubric.json", as_json)[0], "id", "text") == [("a", "b")]


def test_votes_by_group_and_the_weight_they_suggest(tmp_path):
    constitution, report = read(tmp_path, "groups.csv", GROUPS)
    assert report.format == "votes"
    # (10/12 · 7/12) ** ½ and (3/8 · 1/6) ** ½, by hand
    assert rows(constitution, "id", "text", "weight") == [
        ("statement-4", "It should be honest, always.", 0.7),
        ("statement-5", "It should obey.", 0.25),
    ]
    assert constitution.principles[0].source == Source(
        format="votes",
        link="groups.csv:2",
        votes=(
            Votes(group="total", agrees=15, disagrees=3, passes=2),
            Votes(group="a", agrees=9, disagrees=1),
            Votes(group="b", agrees=6, disagrees=2, passes=2),
        ),
    )
    assert export(constitution, "votes").text == GROUPS.replace("0,4,0,4,0\n", "0,4,0,4,0\n").replace(
        "It should be honest, always.", "It should be honest, always."
    )


def test_votes_without_groups_leave_out_what_a_moderator_rejected(tmp_path):
    constitution, report = read(tmp_path, "comments.csv", COMMENTS)
    assert rows(constitution, "id", "weight") == [("statement-0", round(9 / 11, 2))]
    assert report.dropped == {"rejected by a moderator": 1}
    assert report.not_kept == [
        f"column {name}" for name in ("timestamp", "datetime", "author-id", "moderated")
    ]


def test_groups_come_back_in_one_order_whichever_votes_first():
    late = tuple(Votes(group=group, agrees=1) for group in "ba")
    constitution = Constitution(
        name="c",
        principles=(
            Principle(id="p", text="One.", source=Source(votes=late[:1])),
            Principle(id="q", text="Two.", source=Source(votes=late)),
        ),
    )
    back = read_back(export(constitution, "votes").text, FORMATS["votes"], "c")
    assert [[v.group for v in p.source.votes] for p in back.principles] == [["b"], ["a", "b"]]
    assert export(back, "votes").not_kept == {}


def test_a_group_that_disagrees_counts_whatever_its_size():
    large, small = Votes(group="a", agrees=1000), Votes(group="b", disagrees=10)
    assert suggested_weight([large, small]) < 0.3 < 0.9 < suggested_weight([large])
    assert suggested_weight([Votes(group="total", agrees=9), small]) == round(1 / 12, 2)
    assert suggested_weight([]) == suggested_weight([Votes(group="a")]) == 1.0


def test_sections_of_a_specification(tmp_path):
    constitution, report = read(tmp_path, "spec.md", SPEC)
    assert report.format == "markdown-spec"
    assert (constitution.name, constitution.description) == ("House rules", "What we ask of the assistant.")
    assert rows(constitution, "id", "text", "why") == [
        (
            "do-not-make-up-facts",
            "Do not make up facts. The reply states only what is known.",
            "Guesses do harm:\n\n- to the user\n- to everybody else",
        ),
        ("unsure", "Uncertainty. The reply says how sure it is.", None),
        ("tone", "Tone. The reply is polite.", None),
    ]
    assert [p.source.link for p in constitution.principles] == [
        "spec.md#do-not-make-up-facts",
        "spec.md#unsure",
        "spec.md#tone",
    ]
    assert constitution.principles[0].source.kept == {"heading": "Do not make up facts", "under": ["Honesty"]}
    assert report.dropped == {"a heading without a text of its own": 1}
    assert report.not_kept == ["the front matter, before the first line of text"]
    written = export(constitution, "markdown-spec")
    assert (written.not_kept, written.lost) == ({}, {})
    assert written.text == SPEC.split("---\n")[-1].replace("{#unsure}\n", "{#unsure}\n\n")


def test_headings_that_stand_twice_get_ids_of_their_own_and_come_back(tmp_path):
    text = (
        "# T\n\n## Cookies\n\nOne.\n\n### Set\n\nTwo.\n\n## Files\n\n### Set\n\nThree.\n\n### Set\n\nFour.\n"
    )
    constitution, _ = read(tmp_path, "t.md", text)
    assert constitution.ids == ["cookies", "set", "files-set", "files-set-2"]
    written = export(constitution, "markdown-spec")
    assert (written.not_kept, written.lost) == ({}, {})
    assert written.text == text.replace("Set\n\nThree", "Set {#files-set}\n\nThree").replace(
        "Set\n\nFour", "Set {#files-set-2}\n\nFour"
    )


def test_a_specification_is_written_so_that_a_person_can_read_it():
    constitution = Constitution(
        name="tone",
        description="How to talk.",
        principles=(
            Principle(id="kind", text="Be kind.", why="People leave otherwise."),
            Principle(id="short", text="# Be brief."),
        ),
    )
    assert export(constitution, "markdown-spec").text == (
        "# tone\n\nHow to talk.\n\n## `kind`\n\nBe kind.\n\nPeople leave otherwise.\n\n## "
        "`short`\n\n\\# Be brief.\n"
    )


def test_items_of_a_list(tmp_path):
    constitution, report = read(tmp_path, "rules.md", LIST)
    assert report.format == "markdown-list"
    assert rows(constitution, "text", "why") == [
        ("Be kind.", None),
        ("Be brief, in every reply.", "It saves time.\n- and paper"),
        ("Never guess.", None),
    ]
    assert [p.source.link for p in constitution.principles] == ["rules.md:3", "rules.md:4", "rules.md:9"]


@pytest.mark.parametrize(
    "beginning",
    [
        "[![build](b.svg)](b)\n\n",
        "[TOC]\nx = 3\n\n",
        "```toml\n[[criteria]]\nname = 1\n```\n\n",
        "{{ toc }}\n\n",
    ],
)
def test_markdown_that_begins_like_another_format_is_markdown(tmp_path, beginning):
    constitution, report = read(tmp_path, "spec.md", f"{beginning}# One\n\nBe kind.\n\n# Two\n\nBe brief.\n")
    assert (report.format, rows(constitution, "text")) == (
        "markdown-spec",
        [("One. Be kind.",), ("Two. Be brief.",)],
    )
    lines = beginning.count("\n")
    assert report.not_kept == [f"the text before the first heading (line 1 to {lines})"]


def test_formats_are_recognised_without_a_name_that_helps(tmp_path):
    for content, name in [
        (SL, "anthropic-sl"),
        (TRAITS, "character"),
        (RUBRIC, "verifiers-rubric"),
        (GROUPS, "votes"),
    ]:
        assert read(tmp_path, "principles", content)[1].format == name


AMBIGUOUS = "# Rules\n\n## Safety\n\n- Do no harm.\n\n## Honesty\n\n- Do not lie.\n"


def test_what_could_be_two_formats_is_named_by_the_user(tmp_path):
    with pytest.raises(UserError, match=r"r\.md:1: could be read as markdown-spec or markdown-list"):
        read(tmp_path, "r.md", AMBIGUOUS)
    assert rows(read(tmp_path, "r.md", AMBIGUOUS, "markdown-list")[0], "id") == [
        ("do-no-harm",),
        ("do-not-lie",),
    ]
    assert rows(read(tmp_path, "r.md", AMBIGUOUS, "markdown-spec")[0], "id", "text") == [
        ("safety", "Safety."),
        ("honesty", "Honesty."),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[1, "x"]', r"a\.json:1: not recognised"),
        ("a.json", '{"a": {"edit_request": "x"}', r"a\.json:1: not JSON \(Expecting ',' delimiter"),
        ("a.json", '{"a": {"prompt": [],\n "edit_request": "x"}}', r"a\.json:1: a\.prompt is empty"),
        (
            "a.json",
            '{"a": {"prompt": ["x"],\n "edit_request": 7}}',
            r"a\.json:2: a\.edit_request is a number",
        ),
        ("a.json", '{"a": {"edit_request": "x"},\n\n"a": {}}', r'a\.json:3: the key "a" stands twice'),
        ("a.json", '[{"trait": "x"},\n{"questions": []}]', r'a\.json:2: 1 has no "trait"'),
        ("a.json", '[{"trait": "x", "questions": ["q",\n 1]}]', r"a\.json:2: 0\.questions\.1 is a number"),
        ("a.json", '{"constitutions": {}}', r"a\.json:1: constitutions is an object"),
        ("a.json", "[" * 5000, r"a\.json:1: nested too deeply"),
        ("a.toml", "[[criteria]]\nname = 1\ntext = 'x'\n", r"a\.toml:2: criteria\.0\.name is a number"),
        (
            "a.toml",
            "[[criteria]]\nname = 'a'\ntext = 'x'\n[[criteria]]\nname = 'a'\ntext = 'x'",
            r'a\.toml:5: the name "a"',
        ),
        ("a.toml", "[[criteria]]\nname = 'a'\ntext = 'x'\nweight = -1", r"a\.toml:4: the weight is -1"),
        ("a.toml", "[[criteria]]\nname = 'a'\ntext = 'x'\nwheight = 1", r'a\.toml:4: unknown key "wheight"'),
        ("a.toml", "[[criteria]]\nname = \n", r"a\.toml:2: not TOML"),
        ("a.csv", "participant,0,1\n7,1,-1\n", r"a\.csv:1: no column of statements with votes"),
        ("a.csv", "comment,agrees,disagrees\nx,1,\ny,-2,0\n", r'a\.csv:3: agrees is "-2"'),
        (
            "a.csv",
            "comment,comment-id,agrees\nx,1,1\ny,1,1\n",
            r"a\.csv:3: the comment-id \"1\" stands in line 2",
        ),
        ("a.md", "Only prose.\n", r"a\.md:1: not recognised"),
        ("a.md", "  \n", r"a\.md:1: is empty"),
        ("a.yaml", "name: x", r"a\.yaml:1: YAML, which is what an import writes"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, name, content)
