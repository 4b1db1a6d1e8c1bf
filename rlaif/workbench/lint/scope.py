"""Rules about what a principle speaks of and how much it counts: tags, prompts, weights; and the comments of
the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rlaif.errors import nearest
from rlaif.workbench.lint.findings import RULES, UNUSED, Found, Subject, rule
from rlaif.workbench.lint.source import IGNORE, At
from rlaif.yamlfile import cut_texts


@rule("unknown-tag", "warning", "a principle whose tags no prompt has is never asked about", ("prompts",))
def unknown_tag(subject: Subject) -> Iterator[Found]:
    """Tags in applies_to that no prompt has; needs the prompts."""
    known = sorted({tag for prompt in subject.prompts for tag in prompt.tags})
    for loc, principle in subject.principles:
        for index, tag in enumerate(principle.applies_to or ()):
            if subject.prompts and tag not in known:
                hint = nearest(tag, known) if known else "no prompt has a tag"
                yield Found(
                    (*loc, "applies_to", index),
                    f'"{principle.id}" applies to "{tag}", which no prompt has: {hint}',
                )


@rule("empty-scope", "warning", "a principle that applies to no prompt is never asked about")
def empty_scope(subject: Subject) -> Iterator[Found]:
    """An applies_to without a tag."""
    for loc, principle in subject.principles:
        if principle.applies_to == ():
            yield Found(
                (*loc, "applies_to"), f'"{principle.id}" applies to no prompt: its applies_to is empty'
            )


@rule("uncovered-prompts", "warning", "nothing decides about responses to these prompts", ("prompts",))
def uncovered_prompts(subject: Subject) -> Iterator[Found]:
    """Prompts, and tags of prompts, about which no principle speaks; needs the prompts."""
    silent = [prompt for prompt in subject.prompts if not subject.constitution.applicable(prompt.tags)]
    tags = Counter(tag for prompt in subject.prompts for tag in prompt.tags)
    unseen = Counter(tag for prompt in silent for tag in prompt.tags)
    for tag in sorted(tags):
        if unseen[tag] == tags[tag]:
            yield Found(("principles",), f'no principle applies to the tag "{tag}" ({tags[tag]} prompts)')
    if silent:
        yield Found(
            ("principles",), f"no principle applies to {len(silent)} of {len(subject.prompts)} prompts"
        )


@rule("no-weight", "warning", "it is judged, at the full price, and decides nothing")
def no_weight(subject: Subject) -> Iterator[Found]:
    """Principles of weight 0; one finding where all are."""
    for loc, principle in subject.principles:
        if principle.weight == 0:
            yield Found((*loc, "weight"), f'"{principle.id}" has weight 0: it is judged, but decides nothing')
    if not any(principle.weight for principle in subject.constitution.principles):
        yield Found(("principles",), "every weight is 0: nothing decides a comparison")


@rule("no-gold", "note", 'gold\'s "all" is then of the other principles only', ("gold", "prompts"))
def no_gold(subject: Subject) -> Iterator[Found]:
    """Principles that the gold scorer cannot check; needs the scorer and the prompts."""
    for loc, principle in subject.principles:
        if principle.id in subject.ungraded:
            yield Found((*loc, "text"), f"No gold for `{principle.id}`: the scorer cannot check this wording")


@rule("comment-in-text", "warning", "YAML takes it for a comment, and no model reads it")
def comment_in_text(subject: Subject) -> Iterator[Found]:
    """A number sign that ends a text without quotes."""
    for line, _, comment in cut_texts(subject.source.lines.root):
        if not IGNORE.match(comment):
            at = At(line, subject.source.column(line, comment))
            yield Found(at, f'"{comment[:40]}" behind a text without quotes is a comment: no model reads it')


@rule("unknown-rule", "warning", "a misspelt name silences nothing")
def unknown_rule(subject: Subject) -> Iterator[Found]:
    """Names in `# lint: ignore=` comments that are no rule's."""
    for ignore in subject.source.ignores:
        for name, column in ignore.names:
            if name not in RULES:
                yield Found(At(ignore.line, column), f'"{name}" is no rule: {nearest(name, sorted(RULES))}')
        if not ignore.names:
            yield Found(At(ignore.line, 1), "a comment that is to silence a rule names none")


@rule(UNUSED, "note", "what it was for is no longer there, and it would hide the next one")
def unused_ignore(subject: Subject) -> Iterator[Found]:
    """Names in `# lint: ignore=` comments of rules that find nothing there."""
    for ignore in subject.source.ignores:
        for name, column in ignore.names:
            if name in subject.checked - {UNUSED} and (ignore.line, name) not in subject.silenced:
                yield Found(
                    At(ignore.line, column),
                    f'"{name}" silences nothing: the rule finds nothing in this line, nor in a '
                    "principle that begins in it",
                )
