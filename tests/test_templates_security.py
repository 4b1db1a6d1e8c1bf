"""What a template can reach: plain values of plain types, whatever attribute or method it asks for."""

import inspect
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2.sandbox
import pytest
from jinja2 import Template, Undefined

from rlaif.config import ASSETS
from rlaif.constitution import Constitution, Example, Principle
from rlaif.errors import UserError
from rlaif.prompting import chat_templates
from rlaif.prompting.chat import render_chat
from rlaif.prompting.chat_templates import Bounded
from rlaif.prompting.templates import Templates, user

SETS = sorted(p.name for p in (ASSETS / "prompts" / "templates").iterdir() if p.is_dir())
PLAIN = (str, int, float, bool, bytes, type(None), tuple, list, dict, set, frozenset, complex)
PRINCIPLE = Principle(
    id="kind",
    text="Be kind.",
    critique="Say where it is unkind.",
    revise="Make it kind.",
    compare="Prefer the kinder one.",
    paraphrases=("Never be unkind.",),
    tags=("tone",),
    applies_to=("risky",),
    weight=2.0,
    examples=(Example(prompt="hi", better="Hello!", worse="Go.", critique="It is rude."),),
)
CONSTITUTION = Constitution(name="c", principles=(PRINCIPLE,))
TALK = [user("first")]
ASK = {
    "critique": lambda t: t.critique(TALK, "r", PRINCIPLE, few_shot=1),
    "revision": lambda t: t.revision(TALK, "r", PRINCIPLE, "c", few_shot=1),
    "comparison": lambda t: (t.comparison(TALK, "a", "b"), t.comparison_suffix(PRINCIPLE)),
    "comparison_cot": lambda t: (
        t.comparison(TALK, "a", "b", cot=True),
        t.comparison_suffix(PRINCIPLE, cot=True),
        t.verdict(),
    ),
    "shots": lambda t: t.comparison_shots(CONSTITUTION, 1),
    "compliance": lambda t: (t.compliance(TALK, "r"), t.compliance_suffix(PRINCIPLE)),
    "score": lambda t: (t.score(TALK, "r"), t.score_suffix(PRINCIPLE), t.score_values),
    "best": lambda t: (t.best(TALK, {"A": "a", "B": "b"}), t.best_suffix(PRINCIPLE, "best")),
}


class Recorder:
    """Stands in for a compiled template and keeps the values it is rendered with."""

    def __init__(self, template: Any, kept: list[dict[str, Any]]) -> None:
        self.template, self.kept, self.blocks = template, kept, template.blocks

    def render(self, **values: Any) -> str:
        self.kept.append(values)
        return self.template.render(**values)

    def new_context(self, values: dict[str, Any]) -> Any:
        self.kept.append(dict(values))
        return self.template.new_context(values)


def values_of(name: str) -> list[dict[str, Any]]:
    """Every mapping of values that the templates of a set are rendered with."""
    kept: list[dict[str, Any]] = []
    templates = Templates.load(name)
    recorded = {part: Recorder(template, kept) for part, template in templates.compiled.items()}
    spied = Templates(templates.name, templates.sources, recorded, templates.lines)  # type: ignore[arg-type]
    for ask in ASK.values():
        ask(spied)
    return kept


def reachable(value: Any, depth: int = 3) -> Iterator[Any]:
    """A value, and all that the sandbox lets a template read from it: attributes, items and what these
    hold."""
    yield value
    if depth == 0:
        return
    environment = Bounded()
    for attribute in dir(value):
        found = environment.getattr(value, attribute)
        if not isinstance(found, Undefined):
            yield from reachable(found, depth - 1)
    held = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for item in held:
        yield from reachable(item, depth)


def is_harmless(value: Any) -> bool:
    """Whether a value is plain data, or a method of plain data: built in, or as the sandbox wraps
    `str.format`."""
    if inspect.isfunction(value):
        wrappers = (jinja2.sandbox.__file__, chat_templates.__file__)
        return value.__code__.co_filename in wrappers and value.__name__ in ("format", "format_map", "run")
    if inspect.isbuiltin(value) or inspect.ismethodwrapper(value):
        return isinstance(value.__self__, PLAIN) or value.__self__ in PLAIN
    return type(value) in PLAIN


@pytest.mark.parametrize("name", SETS)
def test_templates_reach_no_callable_of_ours(name: str):
    kept = values_of(name)
    assert {
        "principle",
        "rule",
        "conversation",
        "fence",
        "reply",
        "a",
        "b",
        "critique",
        "letter",
        "asked",
    } <= {key for values in kept for key in values}
    found = [value for values in kept for item in values.values() for value in reachable(item)]
    assert not [value for value in found if not is_harmless(value)]


def test_the_walk_finds_a_model_object():
    assert not all(map(is_harmless, reachable(PRINCIPLE)))


def test_the_sandboxs_own_functions_lead_nowhere():
    found = Bounded().globals
    assert set(found) == {"range", "namespace", "dict", "raise_exception", "strftime_now"}
    for function in found.values():
        assert list(reachable(function)) == [function]


def test_chat_templates_get_plain_messages(monkeypatch: pytest.MonkeyPatch):
    kept: list[Any] = []
    monkeypatch.setattr(Template, "render", lambda self, **values: kept.append(values) or "")
    render_chat(type("Tokenizer", (), {"chat_template": "{{ messages }}"})(), TALK)
    assert kept
    assert all(is_harmless(value) for item in kept for value in reachable(item))


@pytest.mark.parametrize(
    "expression",
    [
        'principle.parse_raw("x", proto="pickle", allow_pickle=True)',
        "principle.model_dump()",
        "principle.__class__",
        "lipsum.__globals__",
        "cycler",
        "self.__init__.__globals__",
        "namespace(__class__=1)",
        "raise_exception.__globals__",
        "1 // 0",
        "'a' * 10 ** 10",
        "'%0999999999d' % 1",
        "('a' * 9999).replace('a', 'a' * 9999)",
        "principle.text + 1",
        "principle.nothing",
    ],
)
def test_a_template_that_goes_further_is_refused(tmp_path: Path, expression: str):
    folder = Path(shutil.copytree(ASSETS / "prompts" / "templates" / "brief", tmp_path / "mine"))
    (folder / "critique.j2").write_text("{{ " + expression + " }}", encoding="utf-8")
    with pytest.raises(UserError, match=r"critique\.j2"):
        Templates.load(str(folder)).critique(TALK, "r", PRINCIPLE)


def test_a_template_that_loops_is_stopped(tmp_path: Path):
    folder = Path(shutil.copytree(ASSETS / "prompts" / "templates" / "brief", tmp_path / "mine"))
    loop = (
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% "
        "endfor %}{% endfor %}"
    )
    (folder / "comparison.j2").write_text(
        f"{{% block shared %}}{loop}{{% endblock %}}{{% block principle %}}{{% endblock %}}"
    )
    with pytest.raises(UserError, match=r"comparison\.j2: .*computes more"):
        Templates.load(str(folder)).comparison(TALK, "a", "b")


def test_a_template_that_is_not_text_is_refused(tmp_path: Path):
    folder = Path(shutil.copytree(ASSETS / "prompts" / "templates" / "brief", tmp_path / "mine"))
    (folder / "critique.j2").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"critique\.j2: cannot be read"):
        Templates.load(str(folder))
