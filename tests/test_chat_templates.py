"""Chat templates: what real ones write, as transformers writes it, and that none runs for ever, fills the
memory or escapes."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from rlaif.errors import UserError
from rlaif.prompting.chat import render_chat
from rlaif.prompting.chat_templates import SECONDS, TODAY, TooMuch, render
from rlaif.prompting.templates import user
from tests import zoo

TALK = [
    {"role": "system", "content": "Be brief.  "},
    {"role": "user", "content": "What is {{ 1 + 1 }}?"},
    {"role": "assistant", "content": "<think>two</think>\n\nIt is 2."},
    {"role": "user", "content": "Sure & <certain>?\n"},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

# What templates in use are made of: turns, namespaces, macros, loop controls, slices, tools that are not
# given.
ORDINARY = {
    "turns": zoo.WITH_BOS,
    "chatml": zoo.CHATML,
    "system merged into the first turn": (
        "{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] | trim + '\n\n' -%}"
        "{%- set rest = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- "
        "endif -%}"
        "{{ bos_token }}{%- for m in rest -%}[{{ 'model' if m.role == 'assistant' else m['role'] }}] "
        "{{ (first if loop.first else '') ~ m.content.strip() }}{{ eos_token }}{%- endfor -%}"
    ),
    "a namespace, a macro, a break": (
        "{%- set ns = namespace(last=-1, query=true) %}{%- for m in messages[::-1] %}"
        "{%- if m.role == 'user' and ns.query %}{%- set ns.last = messages|length - 1 - loop.index0 "
        "%}{%- break %}{%- endif %}"
        "{%- endfor %}{%- macro turn(m, mark='#') %}{{ mark }}{{ m.role | upper }}: {{ "
        "m.content.split('</think>')[-1].lstrip('\n') }}{% endmacro %}"
        "{%- for m in messages %}{%- if loop.index0 > ns.last %}{%- continue %}{%- endif %}{{ turn(m) "
        "}}\n{%- endfor %}"
    ),
    "filters": (
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | "
        "tojson(indent=2) }}"
        "{{ messages | rejectattr('role', 'in', ['system']) | map(attribute='role') | join(', ') }}"
        "{%- if tools is not none and tools %}tools{% endif %}{{ documents is defined }}{{ {'b': 1, 'a': "
        "2} | dictsort }}"
        "{%- for k, v in {'x': 1}.items() %}{{ '%s=%d' | format(k, v) if false else k ~ v }}{% endfor "
        "%}{{ [3, 1] | sort | first }}"
    ),
    "generation marks": (
        "{%- for m in messages %}{%- if m.role == 'assistant' %}{% generation %}{{ m.content }}{% "
        "endgeneration %}"
        "{%- else %}{{ m.role }}{% endif %}{% endfor %}{{ none_such }}{{ 'a' * 3 + 'b' }}"
    ),
}


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("generation", [True, False])
def test_an_ordinary_template_writes_what_transformers_lets_it_write(name: str, generation: bool):
    theirs, _ = render_jinja_template(
        [TALK], chat_template=ORDINARY[name], add_generation_prompt=generation, **TOKENS
    )
    assert render(ORDINARY[name], TALK, generation, TOKENS) == theirs[0]


def test_a_date_is_the_same_on_every_day():
    assert (
        render(zoo.DATE, TALK, True, {})
        == TODAY.strftime("%d %B %Y")
        == render("{{ strftime_now('%d %B %Y') }}", [], False, {})
    )


def test_a_switch_reaches_the_template():
    assert render(zoo.THINKING, TALK[1:2], True, {"enable_thinking": False}).endswith("<think></think>")
    assert not render(zoo.THINKING, TALK[1:2], True, {"enable_thinking": True}).endswith("</think>")


def test_long_conversations_are_ordinary():
    long = [user("word " * 200_000), *[{"role": "assistant", "content": "x" * 1000}] * 200]
    assert len(render(zoo.TURNS, long, True, {})) > 1_200_000


GROW = "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(99) %}%s{% endfor %}"
ENDLESS = {
    "loops": zoo.ENDLESS,
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "slices": "{% set x = 'a' * 9000000 %}{% for i in range(99999) %}{% set y = x[1:] %}{% endfor %}",
    "text in loops": f"{{% for a in range(99999) %}}{{% for b in range(99999) %}}{'x' * 20000}{{% endfor "
    f"%}}{{% endfor %}}",
    "times": "{{ 'a' * 10**10 }}",
    "times twice": "{{ 'a' * 1000000 * 1000000 }}",
    "a list times": "{{ [0] * 10000000000 }}",
    "power": "{{ 10 ** 10 ** 10 }}",
    "ljust": "{{ 'a'.ljust(10000000000) }}",
    "zfill": "{{ '1'.zfill(9999999999) }}",
    "bytes": "{{ ('a' * 9000000).encode('utf-8').center(999999999) }}",
    "to_bytes": "{{ (1).to_bytes(9999999999, 'big') }}",
    "a width": "{{ '%10000000000d' % 1 }}",
    "a width given": "{{ '%*d' % (9999999999, 1) }}",
    "format": "{{ '{:>10000000000}'.format(1) }}",
    "format given": "{{ '{:>{}}'.format(1, 9999999) }}",
    "format_map": "{{ '{a:>99999999}'.format_map({'a': 1}) }}",
    "replace": "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "the filter replace": "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
    "translate": "{{ ('a' * 9000000).translate({97: 'b' * 9000000}) }}",
    "join": "{{ ('a' * 1000000).join('b' * 1000000) }}",
    "indent": "{{ ('a\n' * 100000) | indent(100000) }}",
    "tojson": "{{ [1, [2]] | tojson(indent=999999999) }}",
    "concatenation": GROW.replace("%s", "{% set ns.x = ns.x ~ ns.x %}"),
    "addition": GROW.replace("%s", "{% set ns.x = ns.x + ns.x %}"),
    "captures": GROW.replace("%s", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "lists of lists": GROW.replace("%s", "{% set ns.x = [ns.x, ns.x] %}") + "{{ ns.x }}",
    "mappings of mappings": GROW.replace("%s", "{% set ns.x = {'a': ns.x, 'b': ns.x} %}") + "{{ ns.x }}",
    "a namespace in itself": "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
    "a long template": "{{ 'a' }}" * 100_000,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_computes_too_much_is_stopped(name: str):
    import time

    begun = time.thread_time()
    with pytest.raises(TooMuch):
        render(ENDLESS[name], TALK, True, {})
    assert time.thread_time() - begun < 4 * SECONDS


def test_no_such_template_takes_a_gigabyte():
    """All of them in a process that may have one and a half."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))\n"
        "from rlaif.prompting.chat_templates import TooMuch, render; import sys, json\n"
        "for name, source in json.load(sys.stdin).items():\n"
        "    try: render(source, [], True, {})\n"
        "    except TooMuch: continue\n"
        "    raise SystemExit(name)\n"
    )
    import json

    few = {name: ENDLESS[name] for name in ENDLESS if name not in ("loops", "calls", "slices")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(few),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ range.__self__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler }}{{ joiner }}{{ lipsum }}",
        "{{ strftime_now.__globals__['time'] }}",
        "{{ ('%s' % namespace).mro }}",
    ],
)
def test_a_template_reaches_nothing(source: str):
    try:
        written = render(source, [], True, {})
    except Exception:
        return
    assert written == ""


@pytest.mark.parametrize(
    "source",
    [
        "{% set n = namespace(__class__=1) %}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{{ 1 // 0 }}",
        "{{ messages[0].nothing.at_all }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 5000,
        "{% for %}",
        "{{ 'a' | center(9) }}",
        "{{ '%d' % 'a' }}",
        "{{ raise_exception('no') }}",
        "{{ [1] < 'a' }}",
    ],
)
def test_a_template_that_fails_is_a_message(source: str):
    broken = type("Tokenizer", (), {"chat_template": source, "name_or_path": "models/odd"})()
    with pytest.raises(UserError, match="models/odd: its chat template fails on our messages"):
        render_chat(broken, [user("x")])
