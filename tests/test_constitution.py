"""The constitution file: errors that name the line, hashes by what a model reads, seeded draws, the shipped
ones."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from rlaif.constitution import Constitution, Principle, json_schema
from rlaif.errors import UserError
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt
from rlaif.runs.rows import read_rows
from rlaif.yamlfile import load_yaml, parse_scalar

ROOT = Path(__file__).parent.parent
GENERAL = ROOT / "constitutions/general.yaml"
BASE = """name: x
principles:
  - id: kind
    text: Be kind.
"""


def load(tmp_path: Path, text: str | bytes) -> Constitution:
    path = tmp_path / "c.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Constitution.load(path)


def bomb(depth: int) -> str:
    levels = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, depth)]
    return "\n".join(levels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + "    wieght: 2\n", r'c\.yaml:5: unknown key "wieght" — did you mean "weight"\?'),
        (BASE.replace("name", "nmae"), r'c\.yaml:1: unknown key "nmae" — did you mean "name"\?'),
        (
            BASE + "    examples: [{prompt: p, beter: b, worse: w}]\n",
            r'c\.yaml:5: unknown key "beter" — .*"better"\?',
        ),
        (BASE.replace("Be kind.", "''"), r"c\.yaml:4: text: a principle needs a text; this one is empty"),
        (BASE.replace("Be kind.", ""), r"c\.yaml:4: text: should be text"),
        (BASE.replace("    text: Be kind.\n", ""), r'c\.yaml:3: "text" is missing'),
        (BASE.replace("name: x\n", ""), r'c\.yaml:1: "name" is missing'),
        (
            BASE + "  - id: kind\n    text: Again.\n",
            r'c\.yaml:5: the principle id "kind" stands twice \(first in line 3\)',
        ),
        (
            BASE.replace("id: kind", "id: be kind"),
            r"c\.yaml:3: id: should be letters, digits.*found: 'be kind'",
        ),
        (
            BASE.replace("id: kind", "id: 7"),
            r"c\.yaml:3: id: should be text, but YAML reads it as a number \(found: 7\)",
        ),
        (BASE + "    weight: heavy\n", r"c\.yaml:5: weight: Input should be a valid number.*found: 'heavy'"),
        (BASE + "    weight: -1\n", r"c\.yaml:5: weight: .*greater than or equal to 0 \(found: -1\)"),
        (BASE + "    weight: .inf\n", r"c\.yaml:5: weight: .*finite"),
        (BASE + "    tags: harmless\n", r"c\.yaml:5: tags: should be a list \(found: 'harmless'\)"),
        (BASE + "    text: Twice.\n", r'c\.yaml:5: found duplicate key "text"'),
        ("name: x\nprinciples:\n\t- id: a\n", r"c\.yaml:3: a tab, where YAML takes only blanks"),
        ("name: x\nprinciples: []\n", r"c\.yaml:2: principles: should have at least one item"),
        ("name: x\nprinciples: {a: b}\n", r"c\.yaml:2: principles: should be a list"),
        ("name: x\nprinciples: [be kind]\n", r"c\.yaml:2: 0: should be keys and values \(found: 'be kind'\)"),
        ("name: 'x\n", r"c\.yaml:2: found unexpected end of stream"),
        (BASE + "---\n" + BASE, r"c\.yaml:5: but found another document"),
        ("", r"c\.yaml:1: is empty"),
        ("- a\n", r"c\.yaml:1: holds a list"),
        ("kind", r"c\.yaml:1: holds text, not keys and values"),
        (BASE.replace("kind.", "\x01"), r"c\.yaml:4: the character U\+0001 is not allowed"),
        (BASE.encode("utf-16"), r"c\.yaml:1: not UTF-8 text"),
        (f"name: {'7' * 5000}\n", r"c\.yaml:1: a whole number of more than 4,300 digits\."),
        ("name: 2024-13-45\n", r"c\.yaml:1: month must be in 1\.\.12"),
        (bomb(8), r"c\.yaml:1: its anchors stand for more than 200,000 values"),
        ("name: &x {a: *x}\n", r"c\.yaml:1: "),
        ("name: " + "[" * 500 + "]" * 500, r"c\.yaml:1: nested too deeply"),
        pytest.param("[" + "{a: b}," * 200_000 + "]", r"c\.yaml: more than 1 MB", id="large"),  # took minutes
        pytest.param("[" * 50_000, r"c\.yaml:1: nested too deeply", id="brackets"),  # took minutes
        (
            "name: !!python/object/apply:os.getcwd []\nprinciples: [{id: a, text: b}]\n",
            r"c\.yaml:1: name: should be text",
        ),
        (
            "name: x\nprinciples:\n  - &p {id: a, text: b, wieght: 1}\n  - {<<: *p, id: c}\n",
            r'c\.yaml:4: unknown key "wieght"',
        ),
    ],
)
def test_mistakes_name_file_line_and_nearest_key(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, text)


def test_all_mistakes_are_told_at_once_and_none_that_merely_follows(tmp_path):
    text = (
        BASE.replace("Be kind.", "''") + "    wieght: 1\n  - id: b\n    examples: [{prompt: p, better: b}]\n"
    )
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    assert [line.split(": ")[0].split(":")[-1] for line in error.value.found.split("\n")] == [
        "4",
        "5",
        "6",
        "7",
    ]


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        Constitution.load(tmp_path / "none.yaml")


def test_what_is_fine_loads(tmp_path):
    assert load(tmp_path, BASE.encode("utf-8-sig")).ids == ["kind"]
    assert load(tmp_path, BASE.replace("\n", "\r\n").encode()).principles[0].text == "Be kind."
    assert load(tmp_path, BASE.replace("kind\n", "no\n")).ids == ["no"]
    folded = BASE.replace("Be kind.", ">-\n      Be\n      kind.\n")
    assert load(tmp_path, folded).principles[0] == load(tmp_path, BASE).principles[0]
    shared = "name: x\nprinciples:\n  - &p {id: a, text: b}\n  - {<<: *p, id: c}\n"
    assert [p.text for p in load(tmp_path, shared).principles] == ["b", "b"]


def test_scalars_are_read_as_yaml_1_2():
    values = {
        "3e-7": 3e-7,
        "no": "no",
        "true": True,
        "null": None,
        "[1, a]": [1, "a"],
        "": "",
        "007": 7,
        "'3'": "3",
    }
    assert {text: parse_scalar(text) for text in values} == values


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["a b", "", "é", "- x", "#"]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_plain_data_and_lines_of_any_tree(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("yaml") / "t.yaml"
    path.write_text(json.dumps(tree, indent=1, ensure_ascii=False))  # JSON is YAML
    data, lines = load_yaml(path)
    assert data == tree
    assert lines.at(("a", "b", 0, "c")) >= 1


@given(st.text(max_size=30) | st.text(st.sampled_from("ab:-[]{}&*!|>'\"#\n\t ,?%@`<0."), max_size=30))
def test_any_text_loads_or_is_the_users_mistake(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("yaml") / "c.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"c\.yaml"):
        Constitution.load(path)


def principle(**changes) -> Principle:
    return Principle.model_validate({"id": "p", "text": "Be kind.", **changes})


@pytest.mark.parametrize("unread", [{"weight": 3}, {"tags": ["x"]}, {"applies_to": ["risky"]}])
def test_weights_and_tags_cost_no_model_call(unread):
    assert principle(**unread).hash == principle().hash


@pytest.mark.parametrize(
    "read",
    [
        {"text": "Be kinder."},
        {"critique": "How?"},
        {"revise": "So."},
        {"compare": "Which?"},
        {"id": "q"},
        {"examples": [{"prompt": "p", "better": "b", "worse": "w"}]},
    ],
)
def test_what_a_model_reads_changes_the_hash(read):
    changed = principle(**read).hash
    assert changed == principle().hash if "id" in read else changed != principle().hash


def test_a_constitutions_hash_covers_everything():
    def hashed(**changes) -> str:
        return Constitution.model_validate(
            {"name": "c", "principles": [{"id": "p", "text": "t", **changes}]}
        ).hash

    assert len({hashed(), hashed(weight=2), hashed(tags=["x"]), hashed(text="u"), hashed(id="q")}) == 5


def drawn_from(count: int) -> Constitution:
    return Constitution.model_validate(
        {
            "name": "c",
            "principles": [
                {"id": f"p{n}", "text": "t", "applies_to": ["odd"] if n % 2 else None} for n in range(count)
            ],
        }
    )


def test_draws_are_uniform_independent_and_with_replacement():
    constitution = drawn_from(8)
    draws = [[constitution.draw(["odd"], 7, prompt, turn).id for turn in range(2)] for prompt in range(4000)]
    assert chisquare(list(Counter(first for first, _ in draws).values())).pvalue > 0.001
    assert chisquare(list(Counter(map(tuple, draws)).values())).pvalue > 0.001
    assert abs(sum(a == b for a, b in draws) / 4000 - 1 / 8) < 0.02


def test_draws_depend_on_the_seed_alone_and_only_on_what_applies():
    constitution = drawn_from(4)
    seeds = range(200)
    once = [constitution.draw(["odd"], seed, "x") for seed in seeds]
    assert once == [constitution.draw(["odd"], seed, "x") for seed in reversed(seeds)][::-1]
    assert once != [constitution.draw(["odd"], seed, "y") for seed in seeds]
    assert {constitution.draw(["even"], seed).id for seed in seeds} == {"p0", "p2"}
    only_odd = Constitution.model_validate(
        {"name": "c", "principles": [{"id": "p", "text": "t", "applies_to": ["odd"]}]}
    )
    assert only_odd.draw(["even"], 1) is None
    assert only_odd.applicable(()) == []


def test_the_schema_describes_the_file_for_editors():
    schema = json_schema()
    assert set(schema["$defs"]["Principle"]["required"]) == {"id", "text"}
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("path", sorted((ROOT / "constitutions").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_constitution_loads(path):
    assert Constitution.load(path).principles


def test_the_general_constitution_and_the_starter_prompts_fit_each_other():
    prompts = read_rows(ROOT / "prompts/starter.jsonl", Prompt)
    constitution = Constitution.load(GENERAL)
    assert len(constitution.principles) >= 16
    assert {tag for p in constitution.principles for tag in p.tags} == {"harmless", "honest", "helpful"}
    assert all(example.critique for p in constitution.principles for example in p.examples)
    assert len({p.id for p in prompts}) == len(prompts) >= 200
    assert all(p.messages[-1].role == "user" and p.source == "starter" for p in prompts)
    assert all(len({"safe", "borderline", "risky"} & set(p.tags)) == 1 for p in prompts)
    assert all(("system" in p.tags) == (p.messages[0].role == "system") for p in prompts)
    assert all(("multi-turn" in p.tags) == (sum(m.role == "user" for m in p.messages) > 1) for p in prompts)
    roles = {"user": "assistant", "assistant": "user", "system": "user"}
    assert all(
        b.role == roles[a.role] for p in prompts for a, b in zip(p.messages, p.messages[1:], strict=False)
    )


@pytest.mark.parametrize("name", ["default", "brief"])
def test_every_principle_renders_in_every_template_with_its_examples_as_turns(name):
    templates = Templates.load(name)
    for p in Constitution.load(GENERAL).principles:
        chat = [{"role": "user", "content": "Hello {{ there }}"}]
        critique = templates.critique(chat, "Hi", p, few_shot=2)
        revision = templates.revision(chat, "Hi", p, "Too short.", few_shot=2)
        assert [m["role"] for m in critique] == ["user", "assistant"] * len(p.examples) + ["user"]
        assert critique[1]["content"] == p.examples[0].critique
        assert revision[1]["content"] == p.examples[0].better
        assert "Hello {{ there }}" in critique[-1]["content"]
        assert (p.compare or p.text) in templates.comparison_suffix(p)


@pytest.mark.parametrize(
    ("cut", "line"),
    [
        ("    text: Never rank anybody #1 in the world.\n", 4),
        ("    text: Be kind.\n    critique: Look for rule #3\n", 5),
        ("    text: Be kind.\n    paraphrases:\n      - Be kind always.\n      - Be kind #always\n", 7),
        ("    text: Never rank\n      anybody #1\n", 5),
    ],
)
def test_a_number_sign_that_cuts_a_text_is_an_error_with_its_line(tmp_path: Path, cut: str, line: int):
    head = BASE.removesuffix("    text: Be kind.\n")
    with pytest.raises(
        UserError, match=rf"c\.yaml:{line}: the text ends before \"#.*which YAML reads as a comment"
    ):
        load(tmp_path, head + cut)


def test_a_comment_behind_a_text_ends_it_and_elsewhere_it_is_a_comment(tmp_path: Path):
    head = BASE.removesuffix("    text: Be kind.\n")
    quoted = (
        '    text: "Never rank anybody #1." #sure\n    weight: 2 #double\n    tags: [a b] #x\n    '
        "critique: |  # so\n      Rule #1\n"
    )
    assert load(tmp_path, head + quoted).principles[0].critique == "Rule #1\n"
    assert load(tmp_path, head + "    text: Never be rude # of them\n").principles[0].text == "Never be rude"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "name: x\nversion: 2024-05-01\n",
            "c.yaml:2: version: should be text, but YAML reads it as a date (found: 2024-05-01)",
        ),
        (
            "name: x\nversion: 1.10\n",
            "c.yaml:2: version: should be text, but YAML reads it as a number (found: 1.1)",
        ),
        ("name: 7\n", "c.yaml:1: name: should be text, but YAML reads it as a number (found: 7)"),
        ("name: x\nname: y\n", 'c.yaml:2: found duplicate key "name"'),
        ("name: x\n\tversion: 1\n", "c.yaml:2: a tab, where YAML"),
    ],
)
def test_what_yaml_reads_otherwise_than_meant_is_said_once(tmp_path: Path, text: str, said: str):
    with pytest.raises(UserError) as error:
        load(tmp_path, text + BASE.removeprefix("name: x\n"))
    assert said in str(error.value)
    assert str(error.value).count("c.yaml:") == 1
