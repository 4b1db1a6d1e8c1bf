"""The linter of constitutions: what is allowed in the file, but probably not meant.

`RULES` is the table of all rules; each is a function in one of this folder's modules. A finding can be
silenced in the file: `# lint: ignore=rule` behind its line, or behind the first line of its principle.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from rlaif.constitution import Constitution
from rlaif.errors import UserError, nearest
from rlaif.feedback.gold import load_gold, ungraded
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt

# Each of these registers its rules.
from rlaif.workbench.lint import between, examples, fit, leaks, scope, wording  # noqa: F401
from rlaif.workbench.lint.findings import LEVELS, RULES, UNUSED, Context, Finding, Found, Level, Rule, Subject
from rlaif.workbench.lint.source import Source

__all__ = ["LEVELS", "RULES", "Finding", "Level", "Rule", "chosen", "lint"]


def lint(
    path: Path,
    prompts: Sequence[Prompt] = (),
    *,
    rules: Collection[str] | None = None,
    templates: Templates | None = None,
    context: Context | None = None,
    gold: str | None = None,
    content: bytes | None = None,
) -> list[Finding]:
    """What the rules (all, or those named) find in a constitution file, in the order of its lines.

    With `prompts`, also tags that no prompt has and prompts about which no principle speaks; with `templates`
    what they never show; with a judge's `context` principles too long for it; with `gold` (module:function)
    principles that it cannot check; `content` is read as if it stood in the file. Raises UserError where the
    file cannot be loaded at all.
    """
    constitution, lines = Constitution.load_with_lines(path, content)
    unchecked = ungraded(load_gold(gold, constitution), constitution, prompts)
    subject = Subject(constitution, Source(lines), tuple(prompts), templates, context, tuple(unchecked), gold)
    wanted = [rule for name, rule in RULES.items() if rules is None or name in rules]
    kept: set[Finding] = set()
    silenced: set[tuple[int, str]] = set()
    for rule in sorted(wanted, key=lambda rule: rule.name == UNUSED):  # last: it looks at what was silenced
        if rule.name == UNUSED:
            checked = frozenset(rule.name for rule in wanted if rule.has_all(subject))
            subject = replace(subject, silenced=frozenset(silenced), checked=checked)
        for each in rule.check(subject):
            finding, first = _finding(path, subject, rule, each)
            if rule.name in subject.source.silenced(finding.line, first):
                silenced |= {(finding.line, rule.name), (first, rule.name)}
            else:
                kept.add(finding)
    return sorted(kept, key=lambda f: (f.line, f.column, f.rule, f.message))


def _finding(path: Path, subject: Subject, rule: Rule, found: Found) -> tuple[Finding, int]:
    """What was found with its place, and the first line of its principle, where a comment silences it too."""
    line, column = subject.source.place(found.loc, found.words)
    owner, principle, first = subject.owner(found.loc), None, line
    if owner is not None:
        principle = subject.constitution.principles[owner].id
        first = subject.source.place(("principles", owner)).line
    silence = f"at the end of line {first}: # lint: ignore={rule.name}"
    if rule.name == UNUSED:
        silence = f"take the name out of the comment in line {line}"
    made = Finding(path, line, column, rule.name, rule.level, found.message, rule.why, silence, principle)
    return made, first


def chosen(select: Sequence[str], ignore: Sequence[str]) -> set[str]:
    """The names of the rules that are selected (all without any) and not ignored; raises UserError for an
    unknown one."""
    for option, names in (("--select", select), ("--ignore", ignore)):
        for name in names:
            if name not in RULES:
                raise UserError(
                    f"{option} {name}: no such rule — {nearest(name, list(RULES))}",
                    "a rule's name",
                    "rlaif constitution lint --rules lists them",
                )
    return set(select or RULES) - set(ignore)
