"""The shipped constitutions and the prompts that exercise them."""

import re
from collections import Counter
from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.preflight.starting import Wanted, write_project
from rlaif.prompting.prompt_files import load_prompts
from rlaif.prompting.templates import Templates
from rlaif.workbench.lint import RULES, lint

ROOT = Path(__file__).parent.parent
BAD = "deliberately-bad"
LIBRARY = (
    "harmless-honest-helpful",
    "childrens-tutor",
    "customer-support",
    "medical-caution",
    "code-assistant",
    "plain-and-concise",
    "anti-sycophancy",
)
PAGE = (ROOT / "docs/constitutions.md").read_text()


def file_of(name: str) -> Path:
    return ROOT / "constitutions" / f"{name}.yaml"


def prompts_of(name: str):
    return load_prompts(ROOT / "prompts" / f"{name}.jsonl")


def test_every_shipped_constitution_is_of_the_library_or_known():
    names = {path.stem for path in (ROOT / "constitutions").glob("*.yaml")}
    assert names == {*LIBRARY, BAD, "general", "playground"}


@pytest.mark.parametrize("name", LIBRARY)
def test_it_lints_clean_with_its_prompts(name):
    assert lint(file_of(name), prompts_of(name)) == []


@pytest.mark.parametrize("name", LIBRARY)
def test_it_says_for_whom_it_is_and_what_it_leaves_out(name):
    constitution = Constitution.load(file_of(name))
    assert constitution.name == name
    assert constitution.description.startswith("For ")
    assert "not cover" in constitution.description or "covers style alone" in constitution.description


@pytest.mark.parametrize("name", LIBRARY)
def test_every_principle_has_examples_that_the_critic_can_use(name):
    for principle in Constitution.load(file_of(name)).principles:
        assert principle.critique
        assert principle.compare
        assert principle.examples
        assert all(example.critique for example in principle.examples), principle.id


@pytest.mark.parametrize("name", LIBRARY)
def test_every_principle_applies_to_prompts_and_every_tag_is_spoken_of(name):
    constitution, prompts = Constitution.load(file_of(name)), prompts_of(name)
    assert all(constitution.applicable(prompt.tags) for prompt in prompts)
    for principle in constitution.principles:
        assert sum(principle.applies(prompt.tags) for prompt in prompts) >= 4, principle.id
    tags = {tag for prompt in prompts for tag in prompt.tags}
    assert "over-refusal" in tags
    named = {tag for principle in constitution.principles for tag in principle.applies_to or ()}
    assert named <= tags
    comment = file_of(name).read_text().split("\nname:")[0]
    said = " ".join(line.removeprefix("#").strip() for line in comment.splitlines())
    listed = re.sub(r"\([^)]*\)", "", said.partition("Its tags: ")[2]).rstrip(". ")
    assert {tag.strip() for tag in listed.split(",")} == tags


def test_no_prompt_is_in_two_sets_or_twice_in_one():
    rows = [prompt for name in LIBRARY for prompt in prompts_of(name)]
    assert len({prompt.id for prompt in rows}) == len(rows) >= 250
    assert all(prompt.source in LIBRARY for prompt in rows)
    for name in LIBRARY:
        assert Counter(tag for prompt in prompts_of(name) for tag in prompt.tags)["over-refusal"] >= 5


def test_length_alone_does_not_tell_the_better_example():
    """A judge that prefers the longer response, or the shorter one, fails about half of them."""
    examples = [
        e for name in LIBRARY for p in Constitution.load(file_of(name)).principles for e in p.examples
    ]
    longer = sum(len(e.better.split()) > len(e.worse.split()) for e in examples) / len(examples)
    assert 0.4 <= longer <= 0.6


def test_no_example_stands_in_two_constitutions():
    names = (*LIBRARY, BAD, "general", "playground")
    examples = [e for name in names for p in Constitution.load(file_of(name)).principles for e in p.examples]
    repeated = [prompt for prompt, n in Counter(e.prompt for e in examples).items() if n > 1]
    assert not repeated


@pytest.mark.parametrize("name", LIBRARY)
def test_it_renders_in_both_sets_of_templates(name):
    for templates in (Templates.load("default"), Templates.load("brief")):
        for principle in Constitution.load(file_of(name)).principles:
            asked = templates.critique([{"role": "user", "content": "Hello"}], "Hi", principle, few_shot=1)
            assert asked[1]["content"] == principle.examples[0].critique
            assert principle.compare in templates.comparison_suffix(principle)


def test_the_bad_one_is_as_bad_as_it_says():
    """Beside each principle stand the names of the rules that find it."""
    text = file_of(BAD).read_text()
    assert "NEGATIVE CONTROL" in text.splitlines()[0]
    said = {
        name: set(re.findall(r"[a-z]+-[a-z-]+|[a-z]+", rules)) & set(RULES)
        for rules, name in re.findall(r"  # ([^\n:]*)[^\n]*\n  - id: (\S+)", text)
    }
    found: dict[str, set[str]] = {}
    for finding in lint(file_of(BAD)):
        found.setdefault(finding.principle or "", set()).add(finding.rule)
    assert set(said) == set(Constitution.load(file_of(BAD)).ids)
    for name, rules in said.items():
        assert rules, name
        assert rules <= found[name], name


@pytest.mark.parametrize("name", [*LIBRARY, BAD, "general", "playground"])
def test_the_page_lists_it_with_its_counts(name):
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| [{name}](")]
    principles = Constitution.load(file_of(name)).principles
    assert f"| {len(principles)} |" in row
    if name in LIBRARY:
        assert f"| {len(prompts_of(name))} |" in row


def test_a_project_can_begin_with_one_of_them(tmp_path):
    write_project(tmp_path / "a", Wanted(constitution="code-assistant"))
    assert (tmp_path / "a/constitution.yaml").read_text() == file_of("code-assistant").read_text()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.yaml", "constitution.yaml"]
    plan = pipeline.dry_run(tmp_path / "a/config.yaml")
    assert (plan["principles"], plan["prompt_rows"]["kept"]) == (9, len(prompts_of("code-assistant")))
    (tmp_path / "own.txt").write_text("One?\nTwo?\nThree?\nFour?\n")
    write_project(tmp_path / "b", Wanted(constitution="code-assistant", prompts=str(tmp_path / "own.txt")))
    assert "own.txt" in (tmp_path / "b/config.yaml").read_text()
    for name in ("code-assistent", "../constitutions/general"):
        with pytest.raises(UserError, match="no such file"):
            write_project(tmp_path / "c", Wanted(constitution=name))
