"""Rules about what a principle meets: the templates that show it, and the judge that reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, nodes
from jinja2.meta import find_undeclared_variables

from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.prompting.templates import Templates, principle_values
from rlaif.records import Prompt
from rlaif.workbench.lint.findings import Context, Found, Subject, rule

# What each template is rendered with, as prompts/templates/README.md says.
_TEXTS = {"conversation", "fence"}
_ONE = _TEXTS | {"response", "reply", "principle"}
_PAIR = _TEXTS | {"a", "b", "principle", "rule"}
KNOWN = {
    "critique": _ONE,
    "revision": _ONE | {"critique"},
    "comparison": _PAIR,
    "comparison_cot": _PAIR,
    "compliance": _ONE | {"rule"},
    "score": _ONE | {"rule"},
    "best": _ONE | {"rule", "letter", "asked"},
}
_SHOWN_IN = {"critique": ("critique",), "revise": ("revision",), "compare": ("comparison", "comparison_cot")}


@rule("undefined-variable", "error", "rendering stops at a name that nothing defines", ("templates",))
def undefined_variable(subject: Subject) -> Iterator[Found]:
    """Names in the templates that they are not rendered with; needs a config or templates."""
    if subject.templates is None:
        return
    fields = set(principle_values(subject.constitution.principles[0]))
    for name, source in subject.templates.sources.items():
        tree = Environment(autoescape=True).parse(source)
        unknown = find_undeclared_variables(tree) - KNOWN.get(name, set())
        unknown |= {f"principle.{field}" for field in _attributes(tree) - fields}
        for variable in sorted(unknown):
            yield Found(
                (), f"template {subject.templates.name}/{name}.j2 uses `{variable}`, which nothing defines"
            )


def _attributes(tree: nodes.Template) -> set[str]:
    """The fields of `principle` that a template names."""
    found = tree.find_all(nodes.Getattr)
    return {
        node.attr for node in found if isinstance(node.node, nodes.Name) and node.node.name == "principle"
    }


@rule("unused-text", "warning", "it is written for a model, and no model reads it", ("templates",))
def unused_text(subject: Subject) -> Iterator[Found]:
    """Fields of principles that no template shows; needs a config or templates."""
    if subject.templates is None:
        return
    for field, names in _SHOWN_IN.items():
        sources = [subject.templates.sources.get(name, "") for name in names]
        trees = [Environment(autoescape=True).parse(source) for source in sources]
        rules = field == "compare" and any("rule" in find_undeclared_variables(tree) for tree in trees)
        if rules or any(field in _attributes(tree) for tree in trees):
            continue
        for loc, principle, _ in subject.texts(field):
            shown = " and ".join(f"{name}.j2" for name in names)
            yield Found(
                loc,
                f'{field} of "{principle.id}" is not shown by {shown} of templates {subject.templates.name}',
            )


@rule("over-context", "error", "the judge cannot read such a question: its labels are missing", ("context",))
def over_context(subject: Subject) -> Iterator[Found]:
    """Principles too long for the judge beside the longest pair; needs a judge and prompts, or a config."""
    context = subject.context
    for loc, principle in subject.principles if context else ():
        assert context
        tokens = context.shared + context.count(principle)
        if tokens > context.limit:
            yield Found(
                (*loc, "compare" if principle.compare else "text"),
                f'"{principle.id}" makes a question of {tokens} tokens with {context.longest}; '
                f"{context.judge} reads {context.limit}",
            )


def judge_context(
    judge: str,
    templates: Templates,
    constitution: Constitution,
    prompts: Sequence[Prompt],
    response_tokens: int | None = None,
    few_shot: int = 0,
    reasoning: int = 0,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> Context:
    """What a judge in a local folder reads besides the principle when the longest pair is shown.

    Only its tokenizer and its config are opened. A response is `response_tokens` long, or as long as the
    longest example's. Raises UserError where the folder lacks a tokenizer or a length.
    """
    from rlaif.engines.loading import load_tokenizer
    from rlaif.prompting.chat import encode_chat, token_ids

    tokenizer = load_tokenizer(judge, chat_template_kwargs, alone=True)
    shots = templates.comparison_shots(constitution, few_shot)
    chats = [prompt.chat for prompt in prompts] or [[]]
    cot = reasoning > 0
    asked = max(
        len(encode_chat(tokenizer, templates.comparison(chat, "", "", shots, cot=cot))) for chat in chats
    )
    texts = [text for p in constitution.principles for e in p.examples for text in (e.better, e.worse)]
    longest = max((len(token_ids(tokenizer, text)) for text in texts), default=0)
    of = "the examples" if response_tokens is None else "the config"
    each = longest if response_tokens is None else response_tokens
    return Context(
        judge,
        _limit(Path(judge)),
        asked + 2 * each + reasoning,
        f"the longest prompt and two responses of {each} tokens ({of})",
        lambda principle: len(token_ids(tokenizer, templates.comparison_suffix(principle, cot=cot))),
    )


def _limit(folder: Path) -> int:
    """The most tokens that a model reads, by its config.json."""
    import json

    path = folder.expanduser() / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        return int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: no max_position_embeddings ({type(error).__name__}).",
            "the folder of a model, with config.json and tokenizer.json",
        ) from None
