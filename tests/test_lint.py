"""The linter of constitutions: what each rule finds and where, what silences it, and the command."""

import json
import os
import random
import re
import shutil
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from rlaif.constitution import Constitution, Example, Principle, json_schema
from rlaif.errors import UserError
from rlaif.prompting.prompt_files import load_prompts
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt
from rlaif.workbench.lint import LEVELS, RULES, lint
from rlaif.workbench.lint.files import Use, lint_files
from rlaif.workbench.lint.fit import KNOWN, judge_context
from tests import lint_recall
from tests.faults.fuzz import mutated

ROOT = Path(__file__).parent.parent
GENERAL = ROOT / "constitutions/general.yaml"
JUDGE = ROOT / "rlaif/playground/weights/feedback"
GOOD = "    examples: [{prompt: Hi, better: Hello there., worse: Go away now.}]\n"


def written(tmp_path: Path, *principles: str, head: str = "name: x\n") -> Path:
    """A constitution of these principles, each the lines below its id; ids are p0, p1, …"""
    path = tmp_path / "c.yaml"
    body = "".join(
        f"  - id: p{n}\n" + "".join(f"    {line}\n" for line in text.split("\n"))
        for n, text in enumerate(principles)
    )
    path.write_text(f"{head}principles:\n{body}")
    return path


def said(path: Path, *rules: str, **use) -> list[str]:
    """The findings of these rules as "line:column: message"."""
    found = lint(path, use.pop("prompts", ()), rules=rules or None, **use)
    return [f"{f.line}:{f.column}: {f.message}" for f in found]


def prompt(*tags: str) -> Prompt:
    return Prompt.model_validate({"messages": [{"role": "user", "content": " ".join(tags)}], "tags": tags})


def test_the_scope_and_the_weight_of_principles(tmp_path):
    path = written(
        tmp_path,
        "text: Be kind.\nweight: 0\napplies_to: [fact,\n  riskyy]",
        "text: Be true.\napplies_to: []\nweight: 0",
    )
    rules = ("unknown-tag", "empty-scope", "uncovered-prompts", "no-weight")
    assert said(path, *rules, prompts=[prompt("risky"), prompt("fact"), prompt("risky", "fact")]) == [
        "2:1: every weight is 0: nothing decides a comparison",
        "2:1: no principle applies to 1 of 3 prompts",
        '5:5: "p0" has weight 0: it is judged, but decides nothing',
        '7:7: "p0" applies to "riskyy", which no prompt has: did you mean "risky"?',
        '10:5: "p1" applies to no prompt: its applies_to is empty',
        '11:5: "p1" has weight 0: it is judged, but decides nothing',
    ]
    alone = [prompt("code"), prompt("fact")]
    assert '2:1: no principle applies to the tag "code" (1 prompts)' in said(path, *rules, prompts=alone)


def test_a_finding_stands_at_the_words_that_show_it_also_in_folded_texts(tmp_path):
    path = written(
        tmp_path,
        "text: >-\n  The reply must name\n  a few sources.",
        'text: "The reply must not\n  fail   to answer."',
    )
    assert said(path, "vague", "double-negative") == [
        '6:7: "p0" leaves open how much ("a few")',
        '8:27: "p1" negates twice ("not fail to"): say what is wanted',
    ]


def test_a_text_that_cannot_be_found_as_it_stands_has_the_place_of_its_value(tmp_path):
    path = written(tmp_path, "text: &t The reply must be as kind as possible.", "text: *t")
    path.write_text(path.read_text().replace("as kind as", r"as kind as"))
    assert [line.split(" ")[0] for line in said(path, "vague")] == ["4:32:", "4:32:"]


@pytest.mark.parametrize(
    ("comment", "left"),
    [
        ("", ["vague", "double-negative"]),
        ("  # lint: ignore=vague", ["double-negative"]),
        ("  # why not #lint: ignore = vague , double-negative", []),
        ("  # lint: ignore=no-example", ["vague", "double-negative"]),
    ],
)
def test_a_comment_in_the_principles_first_line_silences_a_rule_in_it(tmp_path, comment, left):
    path = written(tmp_path, "text: >-\n  Never fail to give\n  a few examples.", "text: Give a few.")
    path.write_text(path.read_text().replace("id: p0", f"id: p0{comment}"))
    found = lint(path, rules=("vague", "double-negative"))
    assert sorted(f.rule for f in found if f.principle == "p0") == sorted(left)
    assert [f.rule for f in found if f.principle == "p1"] == ["vague"]


def test_a_comment_behind_a_line_silences_that_line_alone_and_one_inside_a_text_none(tmp_path):
    path = written(
        tmp_path,
        "text: Give a few examples.  # lint: ignore=vague\ncompare: Prefer a few examples.",
        "text: |  # lint: ignore=vague\n  Give a few examples.\ncompare: '# lint: ignore=vague; a few'",
        "text: |\n  Give a few. # lint: ignore=vague",
    )
    found = [(f.principle, f.line) for f in lint(path, rules=("vague",))]
    assert found == [("p0", 5), ("p1", 8), ("p1", 9), ("p2", 12)]
    assert said(path, "comment-in-text", "unknown-rule") == []
    path.write_text(path.read_text().replace("ignore=vague\ncompare", "ignore=vaque\ncompare"))
    path.write_text(
        path.read_text().replace("examples.  # lint: ignore=vague", "examples.  # lint: ignore=, vag")
    )
    (unknown,) = said(path, "unknown-rule")
    assert unknown.startswith('4:50: "vag" is no rule: did you mean "vague"?')


def test_a_comment_that_silences_nothing_is_a_note(tmp_path):
    path = written(
        tmp_path,
        "text: Give a few examples.\napplies_to: [risky]  # lint: ignore=unknown-tag",
        "text: Be kind.  # lint: ignore=double-negative, no-exampl\n# lint: ignore=vague",
    )
    path.write_text(path.read_text().replace("id: p0", "id: p0  # lint: ignore=vague, many-demands"))
    told = "silences nothing: the rule finds nothing in this line, nor in a principle that begins in it"
    assert said(path, *RULES.keys() - {"no-example", "unknown-rule"}) == [
        f'3:35: "many-demands" {told}',
        f'7:36: "double-negative" {told}',
        f'8:20: "vague" {told}',
    ]
    assert said(path, "vague", "unused-ignore") == [f'8:20: "vague" {told}']  # no other rule was checked
    assert f'5:41: "unknown-tag" {told}' in said(path, prompts=[prompt("risky")])
    assert not [line for line in said(path, prompts=[prompt("talk")]) if '"unknown-tag"' in line]
    (first, *_) = lint(path, rules=("many-demands", "unused-ignore"))
    assert (first.level, first.silence) == ("note", "take the name out of the comment in line 3")
    assert not lint_files([path], Use(), select=["vague", "unused-ignore"]).at_least("warning")
    path.write_text(path.read_text().replace("many-demands", "many-demands, unused-ignore"))
    assert [line[:4] for line in said(path, "many-demands", "double-negative", "unused-ignore")] == ["7:36"]


def test_every_finding_says_how_to_silence_it_and_that_does(tmp_path):
    path = written(tmp_path, "text: >-\n  Be brief and\n  kind.", "text: Be brief, as far as possible.")
    before = lint(path)
    assert {"many-demands", "vague", "no-example", "duplicate"} & {f.rule for f in before}
    for finding in before:
        path = written(tmp_path, "text: >-\n  Be brief and\n  kind.", "text: Be brief, as far as possible.")
        line, comment = re.fullmatch(r"at the end of line (\d+): (# lint: .*)", finding.silence).groups()
        lines = path.read_text().split("\n")
        lines[int(line) - 1] += f"  {comment}"
        path.write_text("\n".join(lines))
        left = [f for f in before if (f.rule, f.principle) != (finding.rule, finding.principle)]
        assert [(f.rule, f.message) for f in lint(path)] == [(f.rule, f.message) for f in left]


def test_a_comment_that_cuts_a_text_is_found_where_it_stands(tmp_path):
    path = written(tmp_path, "text: Never be rude # of them")
    (only,) = said(path, "comment-in-text")
    assert only == '4:25: "# of them" behind a text without quotes is a comment: no model reads it'


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        ("The reply must be long.", "The reply must be short.", "more and less of one thing: length"),
        ("The reply must rhyme.", "The reply must not rhyme.", "one asks for what the other forbids: rhym"),
        ("Never name a brand.", "The reply must name a brand.", "forbids: brand, nam"),
        ("When asked, refuse to rhyme.", "When asked, the reply must rhyme.", "forbids: rhym"),
    ],
)
def test_opposed_principles(tmp_path, one, two, words):
    (found,) = said(written(tmp_path, f"text: {one}", f"text: {two}"), "opposed")
    assert found.startswith('6:5: "p1" is opposed to "p0"')
    assert words in found


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("text: The reply must be long.\napplies_to: [a]", "text: The reply must be short.\napplies_to: [b]"),
        ("text: When a child asks, be simple.", "text: When an engineer asks, be technical."),
        ("text: The reply must not refuse a safe question.", "text: The reply must answer a safe question."),
        ("text: Never use the word garden.", "text: The reply must use the word please."),
        ("text: The reply must not help anyone do harm.", "text: The reply must help the user."),
        ("text: The reply must be no longer than needed.", "text: The reply must be short."),
    ],
)
def test_what_only_looks_opposed(tmp_path, one, two):
    assert said(written(tmp_path, one, two), "opposed") == []


@pytest.mark.parametrize(
    ("text", "better", "worse", "wrong"),
    [
        ("The reply must have at most four words.", "It is five words long.", "Four words, no more.", True),
        ("The reply must have at most four words.", "Four words, no more.", "It is five words long.", False),
        ("The reply must be one sentence.", "Yes. Surely.", "Yes.", True),
        ("Never use the word garden.", "A garden.", "A field.", True),
        ("Never use the word garden.", "Gardening.", "A garden.", False),
        ("Never use the word garden.", "A garden.", "No garden.", True),
        ('The reply must begin with "Dear".', "Hi, dear.", "Dear all.", True),
        ("The reply must not end with a question.", "Rice?", "Rice.", True),
        ("Prefer the shorter reply.", "One two three four five.", "One two.", True),
        ("Prefer the shorter reply.", "One two three.", "One two.", False),
        ("Prefer the longer reply.", "One two.", "One two three four five.", True),
        ("The reply must contain no exclamation marks.", "Yes!", "Yes.", True),
        ("If it is late, use an emoji.", "Good night.", "Go away.", False),
        ("If it is late, use an emoji.", "Good night.", "Go away \U0001f634", True),
        ("The reply must say no more than two words.", "One two.", "One two three.", False),
    ],
)
def test_an_example_that_contradicts_its_principle(tmp_path, text, better, worse, wrong):
    example = json.dumps([{"prompt": "Hi", "better": better, "worse": worse}], ensure_ascii=False)
    path = written(tmp_path, f"text: {json.dumps(text)}\nexamples: {example}")
    assert bool(said(path, "contradicted-example")) == wrong


def test_examples_that_test_nothing(tmp_path):
    same = "examples:\n  - {prompt: p, better: same, worse: 'same '}\n  - {prompt: '', better: a, worse: b}"
    path = written(tmp_path, f"text: Be kind.\n{same}", "text: Be true.\nexamples: []", f"text: Be.\n{same}")
    rules = ("same-responses", "empty-example", "no-example", "repeated-example")
    assert [line for line in said(path, *rules) if int(line.split(":")[0]) < 11] == [
        '6:35: "p0" has an example whose better and worse response are the same ("p")',
        '7:10: "p0" has an example with an empty text: prompt',
        '8:5: "p1" has no example',
    ]
    assert '14:10: an example of "p2" stands in "p0" already ("p")' in said(path, *rules)


def sources(**changed: str) -> Templates:
    default = Templates.load("default")
    return Templates.of("mine", {**default.sources, **changed}, Path("mine"))


def test_templates_that_use_what_nothing_defines_and_leave_out_what_is_written(tmp_path):
    path = written(tmp_path, "text: Be kind.\ncritique: Say how.\nrevise: Do.\ncompare: Which?")
    rules = ("undefined-variable", "unused-text")
    assert said(path, *rules, templates=Templates.load("brief")) == []
    templates = sources(
        critique="{{ conversation }} {{ principle.text }} {{ principle.weight }} {{ answer }}",
        comparison=(
            "{% block shared %}{{ a }}{{ b }}{% endblock %}{% block principle %}{{ "
            "principle.text }}{% endblock %}"
        ),
        comparison_cot="{{ a }}",
    )
    assert said(path, *rules, templates=templates) == [
        "1:1: template mine/critique.j2 uses `answer`, which nothing defines",
        "1:1: template mine/critique.j2 uses `principle.weight`, which nothing defines",
        '5:5: critique of "p0" is not shown by critique.j2 of templates mine',
        '7:5: compare of "p0" is not shown by comparison.j2 and comparison_cot.j2 of templates mine',
    ]


def test_what_templates_are_rendered_with_is_what_the_readme_names():
    table = (ROOT / "prompts/templates/README.md").read_text()
    for name, known in KNOWN.items():
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{name}.j2`")]
        if "the same" not in row:
            named = set(re.findall(r"`(\w+)`", row.rpartition("|")[0].split("|")[3])) - {
                "shared",
                "best",
                "worst",
            }
            assert (
                named & {"conversation", "response", "a", "b", "rule", "critique", "letter", "asked"} <= known
            )
    for name in ("default", "brief"):
        assert said(GENERAL, "undefined-variable", "unused-text", templates=Templates.load(name)) == []


def test_a_principle_that_does_not_fit_beside_the_longest_pair(tmp_path):
    path = written(tmp_path, "text: Be kind.", f"text: {'The reply must be polite. ' * 65}")
    short, long = prompt("a"), prompt(*["question"] * 100)
    constitution, brief = Constitution.load(path), Templates.load("brief")

    def context(prompts, tokens):
        return judge_context(str(JUDGE), brief, constitution, prompts, tokens)

    assert context([short], 10).limit == 512
    assert context([short, long], 10).shared > context([short], 10).shared + 90
    assert context([short], 30).shared == context([short], 10).shared + 40
    assert said(path, "over-context", context=context([short], 10)) == []
    (found,) = said(path, "over-context", context=context([short, long], 10))
    assert re.match(r'6:5: "p1" makes a question of 5\d\d tokens with the longest prompt and two', found)
    shutil.copytree(JUDGE, tmp_path / "judge", ignore=shutil.ignore_patterns("config.json"))
    with pytest.raises(UserError, match="no max_position_embeddings"):
        judge_context(str(tmp_path / "judge"), brief, constitution, [short])


def test_gold_that_cannot_check_a_principle(tmp_path):
    path = written(tmp_path, "text: Do not insult the user.", "text: The reply must rhyme.")
    use = {"prompts": [prompt("a")], "gold": "rlaif.playground.world:score"}
    assert said(path, "no-gold", **use) == ["6:5: No gold for `p1`: the scorer cannot check this wording"]


def test_the_rules_say_what_they_are_for_and_the_page_lists_them():
    page = (ROOT / "docs/lint.md").read_text()
    for rule in RULES.values():
        assert rule.level in LEVELS
        assert rule.why
        assert rule.finds.endswith(".")
        assert f"| `{rule.name}` | {rule.level} |" in page, rule.name
    assert len(re.findall(r"^\| `[a-z][a-z-]+` \|", page, re.M)) == len(RULES)


@pytest.mark.parametrize("part", lint_recall.PARTS)
def test_planted_defects_are_found_and_nothing_else(part):
    result = lint_recall.recall(part)
    assert sum(result.planted.values()) == len(lint_recall.cases(part)) >= 24
    assert sum(result.found.values()) >= lint_recall.FOUND[part], result.missed
    assert result.beside == []


def test_the_eighty_defects_are_of_eight_kinds_and_more():
    rows = [case for part in ("first", "second") for case in lint_recall.cases(part)]
    assert len(rows) == 80
    assert len({case.rule for case in rows}) >= 8
    assert (lint_recall.FOUND["first"] + lint_recall.FOUND["second"]) / len(rows) >= 0.95


@pytest.mark.skipif("RLAIF_TEST_DATA" not in os.environ, reason="needs the data of other projects")
def test_what_is_found_in_the_principles_of_other_projects_is_what_the_page_says():
    count, found = lint_recall.found_in_others(Path(os.environ["RLAIF_TEST_DATA"]))
    page = " ".join((ROOT / "docs/lint.md").read_text().split())
    assert f"In the {count} principles of other projects" in page
    assert f"they found {sum(found.values())} things beside missing examples: {found['vague']} vague" in page


def mutations(count: int, folder: Path) -> None:
    """Every mutated file loads, or is refused with its line; never anything else."""
    rng = random.Random(11)
    seeds = [path.read_bytes() for path in sorted((ROOT / "constitutions").glob("*.yaml"))]
    refused, path = 0, folder / "c.yaml"
    for _ in range(count):
        path.write_bytes(mutated(rng.choice(seeds), rng))
        result = lint_files([path], Use())
        refused += len(result.errors)
        for finding in result.findings:
            assert re.fullmatch(rf"{re.escape(str(path))}:[1-9]\d*:[1-9]\d*", finding.place)
        for error in result.errors:
            assert all(re.match(r".*c\.yaml:[1-9]\d*: ", line) for line in error.found.split("\n"))
    assert 0 < refused < count


def test_a_byte_that_is_no_text_is_named_with_its_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\nprinciples:\n  - {id: a, text: Fran\xe7ais}\n")
    with pytest.raises(UserError, match=r"c\.yaml:3: not UTF-8 text \(byte 0xE7\)"):
        lint(path)
    path.write_text("")
    with pytest.raises(UserError, match=r"c\.yaml:1: is empty"):
        lint(path)


def test_mutated_files_are_refused_with_their_line_or_linted(tmp_path):
    mutations(40, tmp_path)


@pytest.mark.slow
def test_a_thousand_mutated_files(tmp_path):
    mutations(1000, tmp_path)


def test_a_long_text_is_linted_in_no_time_to_speak_of(tmp_path):
    words = "the reply must be kind and never be " * 2000
    path = written(tmp_path, f"text: {words}short", f"text: {words}shorter")
    assert "many-demands" in {f.rule for f in lint(path)}


# ---------------------------------------------------------------- the command


def test_the_schema_and_the_models_agree():
    schema, yaml = json_schema(), YAML(typ="safe", pure=True)
    for model, described in (
        (Constitution, schema),
        (Principle, schema["$defs"]["Principle"]),
        (Example, schema["$defs"]["Example"]),
    ):
        assert set(described["properties"]) == set(model.model_fields)
        required = {name for name, field in model.model_fields.items() if field.is_required()}
        assert set(described["required"]) == required
        assert described["additionalProperties"] is False
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for path in sorted((ROOT / "constitutions").glob("*.yaml")):
        validator.validate(yaml.load(path.read_text()))
    wrong = yaml.load(GENERAL.read_text())
    for change in (
        {"wieght": 1},
        {"weight": -1},
        {"id": "be kind"},
        {"tags": "x"},
        {"examples": [{"prompt": "x"}]},
    ):
        broken = {**wrong, "principles": [{**wrong["principles"][0], **change}]}
        assert list(validator.iter_errors(broken)), change


def test_the_general_constitution_and_the_starter_prompts_lint_clean():
    assert lint(GENERAL, load_prompts(ROOT / "prompts/starter.jsonl")) == []
