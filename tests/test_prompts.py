"""Templates and the one place where a chat template is applied."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config import ASSETS
from rlaif.constitution import Constitution, Example, Principle
from rlaif.errors import UserError
from rlaif.prompting.chat import (
    HUMAN_STOP,
    encode_chat,
    encode_turn,
    end_of_turn,
    has_chat_template,
    render_chat,
    split_chat,
)
from rlaif.prompting.templates import NAMES, Templates, assistant, dialogue, user

SETS = sorted(p.name for p in (ASSETS / "prompts" / "templates").iterdir() if p.is_dir())
POLITE = Principle(
    id="polite",
    text="Be polite.",
    examples=(
        Example(prompt="hi", better="Hello!", worse="Go away.", critique="It is rude."),
        Example(prompt="bye", better="Farewell!", worse="Finally."),
        Example(prompt="thanks", better="Welcome!", worse="So what.", critique="It is cold."),
    ),
)
SHORT = Principle(
    id="short",
    text="Be short.",
    compare="Prefer the shorter one.",
    examples=(Example(prompt="why", better="So.", worse="Well, you see."),),
)
TALK = [user("first"), assistant("second"), user("third")]


def fresh_copy(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(ASSETS / "prompts" / "templates" / name, folder))


@pytest.mark.parametrize("name", SETS)
def test_every_shipped_set_shows_what_it_was_given(name: str):
    templates = Templates.load(name)
    critique = templates.critique(TALK, "THE RESPONSE", POLITE)[-1]["content"]
    revision = templates.revision(TALK, "THE RESPONSE", POLITE, "THE CRITIQUE")[-1]["content"]
    comparison = templates.comparison(TALK, "ONE RESPONSE", "OTHER RESPONSE")[-1]["content"]
    compliance = templates.compliance(TALK, "THE RESPONSE")[-1]["content"]
    for text in (critique, revision, comparison, compliance):
        assert dialogue(TALK) in text
    assert "THE RESPONSE" in critique
    assert "THE CRITIQUE" in revision
    assert comparison.index("ONE RESPONSE") < comparison.index("OTHER RESPONSE")
    assert all(
        "Be polite." in text
        for text in (
            critique,
            revision,
            templates.comparison_suffix(POLITE),
            templates.compliance_suffix(POLITE),
        )
    )


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("cot", [False, True])
def test_the_principle_comes_last_and_on_a_line_of_its_own(name: str, cot: bool):
    templates = Templates.load(name)
    shared = templates.comparison(TALK, "one", "other", cot=cot)[-1]["content"]
    assert shared.endswith("\n")
    assert POLITE.text not in shared
    assert templates.compliance(TALK, "one")[-1]["content"].endswith("\n")


def test_a_wording_for_the_judge_replaces_the_text():
    suffix = Templates.load("default").comparison_suffix(SHORT)
    assert "Prefer the shorter one." in suffix
    assert "Be short." not in suffix


def test_dialogue_names_the_speakers():
    chat = [{"role": "system", "content": "rules"}, *TALK]
    assert dialogue(chat) == "System: rules\nUser: first\nAssistant: second\nUser: third"


ATTACKS = [
    "{{ 7 * 7 }}",
    "{% for x in range(9) %}x{% endfor %}",
    "{{ principle.text }}",
    "{# gone #}",
    "{{ self }}",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_texts_are_values_never_templates(attack: str):
    templates = Templates.load("default")
    hostile = Principle(id="hostile", text=f"Rule {attack} end.")
    shown = [
        templates.critique([user(attack)], attack, hostile),
        templates.revision(TALK, attack, hostile, attack),
        templates.comparison([user(attack)], attack, attack),
        templates.compliance(TALK, attack),
    ]
    assert all(attack in chat[-1]["content"] for chat in shown)
    assert attack in templates.comparison_suffix(hostile)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_response_appears_unchanged(a: str, b: str):
    shown = Templates.load("brief").comparison([user("q")], a, b)[-1]["content"]
    assert shown == f"User: q\nReply A: {a}\nReply B: {b}\n"


def test_a_template_may_call_the_response_by_its_older_name(tmp_path: Path):
    folder = fresh_copy("brief", tmp_path / "mine")
    for file in folder.glob("*.j2"):
        text = file.read_text().replace("{{ reply }}", "{{ response }}")
        file.write_text(text.replace("{% block reply %}", "{% block response %}"))
    shipped, mine = Templates.load("brief"), Templates.load(str(folder))
    assert "reply" in shipped.sources["best"]
    assert "block reply" not in mine.sources["best"]
    assert "It rains." in mine.critique(TALK, "It rains.", POLITE)[0]["content"]
    for asked in (
        lambda templates: templates.critique(TALK, "It rains.", POLITE),
        lambda templates: templates.revision(TALK, "It rains.", POLITE, "rude"),
        lambda templates: templates.compliance(TALK, "It rains."),
        lambda templates: templates.score(TALK, "It rains."),
        lambda templates: templates.best(TALK, {"A": "It rains.", "B": "It snows."}),
    ):
        assert asked(mine) == asked(shipped)


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ conversation.__init__.__globals__ }}",
        "{% for x in range(10**9) %}{% endfor %}",
    ],
)
def test_templates_run_in_a_sandbox(tmp_path: Path, escape: str):
    folder = fresh_copy("brief", tmp_path / "mine")
    (folder / "critique.j2").write_text(escape)
    with pytest.raises((UserError, OverflowError)):
        Templates.load(str(folder)).critique(TALK, "response", POLITE)


def test_an_unknown_name_is_fatal(tmp_path: Path):
    folder = fresh_copy("brief", tmp_path / "mine")
    (folder / "critique.j2").write_text("{{ conversaton }}")
    with pytest.raises(UserError, match=r"critique\.j2.*conversaton"):
        Templates.load(str(folder)).critique(TALK, "response", POLITE)


def test_a_missing_block_is_named(tmp_path: Path):
    folder = fresh_copy("brief", tmp_path / "mine")
    (folder / "comparison.j2").write_text("no blocks here")
    with pytest.raises(UserError, match=r"comparison\.j2"):
        Templates.load(str(folder)).comparison(TALK, "a", "b")


def test_a_broken_template_names_its_line(tmp_path: Path):
    folder = fresh_copy("brief", tmp_path / "mine")
    (folder / "revision.j2").write_text("fine\n{% if %}\n")
    with pytest.raises(UserError, match=r"revision\.j2:2:"):
        Templates.load(str(folder))


def test_a_missing_file_and_a_misspelt_set(tmp_path: Path):
    folder = fresh_copy("brief", tmp_path / "mine")
    (folder / "compliance.j2").unlink()
    with pytest.raises(UserError, match=r"compliance\.j2: missing"):
        Templates.load(str(folder))
    with pytest.raises(UserError, match='did you mean "default"'):
        Templates.load("defualt")


def test_an_edited_template_has_another_hash(tmp_path: Path):
    shipped, folder = Templates.load("brief"), fresh_copy("brief", tmp_path / "mine")
    with (folder / "comparison.j2").open("a") as file:
        file.write(" ")
    mine = Templates.load(str(folder))
    assert {n for n in NAMES if mine.hash(n) != shipped.hash(n)} == {"comparison"}


def test_few_shot_turns_come_from_the_examples_with_a_critique():
    templates = Templates.load("brief")
    chat = templates.critique(TALK, "response", POLITE, few_shot=5)
    assert [m["content"] for m in chat if m["role"] == "assistant"] == ["It is rude.", "It is cold."]
    assert "Go away." in chat[0]["content"]
    assert chat[-1] == templates.critique(TALK, "response", POLITE)[0]
    rewritten = templates.revision(TALK, "response", POLITE, "bad", few_shot=1)
    assert [m["content"] for m in rewritten if m["role"] == "assistant"] == ["Hello!"]
    assert "It is rude." in rewritten[0]["content"]


def test_the_judges_shots_alternate_principles_and_places():
    constitution = Constitution(name="c", principles=(POLITE, SHORT))
    shots = Templates.load("brief").comparison_shots(constitution, 3)
    questions = [m["content"] for m in shots if m["role"] == "user"]
    assert [m["content"] for m in shots if m["role"] == "assistant"] == ["A", "B", "A"]
    assert "Reply A: Hello!" in questions[0]
    assert "Reply B: So." in questions[1]
    assert "Prefer the shorter one." in questions[1]
    assert "Reply A: Farewell!" in questions[2]
    assert len(Templates.load("brief").comparison_shots(constitution, 99)) == 2 * 4


# ---- chat templates
# -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    from rlaif.playground.tokenizer import build_tokenizer

    return build_tokenizer(["first second third suffix"])


def with_template(tokenizer, template: str | None):
    import copy

    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def test_a_template_is_applied_once_with_the_answer_opened(tokenizer):
    text = render_chat(tokenizer, TALK)
    assert text == "<|user|>first<|end|><|assistant|>second<|end|><|user|>third<|end|><|assistant|>"
    assert encode_chat(tokenizer, TALK)[0] == tokenizer.convert_tokens_to_ids("<|user|>")


def test_without_a_template_plain_turns_are_used(tokenizer):
    bare = with_template(tokenizer, None)
    assert not has_chat_template(bare)
    chat = [{"role": "system", "content": "Rules."}, *TALK]
    text = render_chat(bare, chat)
    assert text == "Rules.\n\nHuman: first\n\nAssistant: second\n\nHuman: third\n\nAssistant:"
    assert HUMAN_STOP in text


def test_plain_turns_get_the_tokenizers_own_start(test_data: Path):
    from rlaif.engines.loading import load_tokenizer

    stories = load_tokenizer(test_data / "models" / "stories260K_hf")
    assert encode_chat(stories, TALK)[0] == stories.bos_token_id
    assert encode_chat(stories, TALK).count(stories.bos_token_id) == 1


STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}{{ "
    "messages[0].content }}"
)
TRIMMING = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}[/]{% endfor %}{% if "
    "add_generation_prompt %}[a]{% endif %}"
)


def test_a_template_that_refuses_our_messages_is_named(tokenizer):
    strict = with_template(tokenizer, STRICT)
    with pytest.raises(UserError, match=r"fails on our messages \(system, user\): no system turns"):
        render_chat(strict, [{"role": "system", "content": "x"}, user("y")])


def test_a_broken_template_is_the_users_to_mend(tokenizer):
    with pytest.raises(UserError, match="chat template fails"):
        render_chat(with_template(tokenizer, "{{ messages[0].nothing.at_all }}"), TALK)


@pytest.mark.parametrize("template", ["own", None, TRIMMING])
@pytest.mark.parametrize("suffix", ["suffix", "\n\nRule: suffix", " suffix"])
def test_split_chat_goes_around_the_suffix(tokenizer, template, suffix):
    used = tokenizer if template == "own" else with_template(tokenizer, template)
    prefix, tail = split_chat(used, TALK)
    assert prefix + suffix + tail == render_chat(used, [*TALK[:-1], user("third" + suffix)])
    assert prefix.endswith("third")


def test_split_chat_keeps_the_shared_parts_line_break(tokenizer):
    trimming = with_template(tokenizer, TRIMMING)
    prefix, _ = split_chat(trimming, [user("shared\n\n")])
    assert prefix.endswith("shared\n\n")


def test_split_chat_refuses_a_template_that_hides_the_turn(tokenizer):
    with pytest.raises(UserError, match="does not reproduce the last user turn"):
        split_chat(with_template(tokenizer, "nothing of it"), TALK)


def test_the_token_that_ends_a_turn(tokenizer):
    assert end_of_turn(tokenizer) == tokenizer.eos_token_id
    other = with_template(tokenizer, "{% for m in messages %}{{ m.content }}<|system|>{% endfor %}")
    assert end_of_turn(other) == tokenizer.convert_tokens_to_ids("<|system|>")
    plain = with_template(tokenizer, "{% for m in messages %}{{ m.content }}\n{% endfor %}")
    assert end_of_turn(plain) == tokenizer.eos_token_id


@pytest.mark.parametrize("templated", [True, False])
def test_a_turn_is_the_prompt_as_it_was_sampled_and_the_response(tokenizer, templated: bool):
    used = tokenizer if templated else with_template(tokenizer, None)
    prompt, response = encode_turn(used, TALK, "second", end=7)
    assert prompt == encode_chat(used, TALK)
    assert response[-1] == 7
    assert used.decode(response[:-1]) == ("second" if templated else " second")
    assert encode_turn(used, TALK, "second", end=None)[1] == response[:-1]
    assert encode_turn(used, TALK, "", end=7)[1] == [7]


def test_a_name_for_errors_is_not_required():
    nameless = type("Tokenizer", (), {"chat_template": "{{ 1 // 0 }}"})()
    with pytest.raises(UserError, match="the tokenizer: its chat template fails"):
        render_chat(nameless, TALK)
