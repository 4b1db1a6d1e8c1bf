"""The linter on files, with what options or a config say of their use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlaif.config import Config, load_config, names_config
from rlaif.constitution import Constitution
from rlaif.engines.gguf import gguf_file
from rlaif.errors import UserError
from rlaif.options import LabelOptions, SampleOptions
from rlaif.preflight.opening import resolve
from rlaif.prompting.prompt_files import load_prompts
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt
from rlaif.workbench.lint import chosen, lint
from rlaif.workbench.lint.findings import LEVELS, Context, Finding, Level
from rlaif.workbench.lint.fit import judge_context

UNREADABLE = "unreadable"  # not a rule: it cannot be silenced
_WHY = "a run with this file is refused before it begins"


@dataclass(frozen=True)
class Use:
    """What constitutions will be used with; None and empty where that is not known."""

    constitution: Path | None = None
    prompts: tuple[Prompt, ...] = ()
    gold: str | None = None
    templates: Templates | None = None
    judge: str | None = None
    config: Config | None = None

    @classmethod
    def of(
        cls,
        config: Path | None = None,
        prompts: Path | None = None,
        gold: str | None = None,
        judge: str | None = None,
        templates: str | None = None,
    ) -> Use:
        """What a config says, options before it; a config that `judge` names is as good as `config`."""
        if config is None and judge and names_config(judge):
            config, judge = Path(judge), None
        if config is None:
            loaded = tuple(load_prompts(prompts)) if prompts else ()
            own_set = Templates.load(templates) if templates else None
            return cls(prompts=loaded, gold=gold, judge=judge, templates=own_set)
        own = resolve(load_config(config), config.parent)
        return cls(
            Path(own.constitution),
            tuple(load_prompts(prompts or own.prompts)),
            gold or own.gold,
            Templates.load(templates or own.templates, config.parent),
            judge or (own.feedback.model if own.feedback.kind.folder else None),
            own,
        )

    def context(self, constitution: Constitution, tell: Callable[[str], None]) -> Context | None:
        """What the judge reads of the longest question, None where its tokenizer is not at hand, which is
        told."""
        if self.judge is None or not Path(self.judge).is_dir() or gguf_file(self.judge):
            served = self.config.feedback.model if self.config else None
            if name := self.judge or served:
                tell(f"over-context: not checked, the tokenizer of {name} is not in a folder here")
            return None
        if self.config is None:
            templates = self.templates or Templates.load("default")
            return judge_context(self.judge, templates, constitution, self.prompts)
        stages = self.config.stages
        label = next((options for options in stages if isinstance(options, LabelOptions)), None)
        return judge_context(
            self.judge,
            self.templates or Templates.load("default"),
            constitution,
            self.prompts,
            max((o.max_tokens for o in stages if isinstance(o, SampleOptions)), default=None),
            label.few_shot if label else 0,
            label.max_tokens if label and label.cot else 0,
            self.config.feedback.chat_template_kwargs,
        )


@dataclass
class Linted:
    """What was found in some files; those that cannot be loaded are in `errors`, and findings too."""

    findings: list[Finding] = field(default_factory=list)
    loaded: dict[Path, Constitution] = field(default_factory=dict)
    errors: list[UserError] = field(default_factory=list)

    def at_least(self, level: Level) -> list[Finding]:
        """The findings as grave as that, or graver."""
        grave = LEVELS[: LEVELS.index(level) + 1]
        return [finding for finding in self.findings if finding.level in grave]


def lint_files(
    paths: Sequence[Path],
    use: Use,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> Linted:
    """The findings in every file, file by file; raises UserError for an unknown rule or a use that does not
    fit."""
    rules, result = chosen(select, ignore), Linted()
    for path in paths:
        try:
            constitution = Constitution.load(path)
        except UserError as error:
            result.errors.append(error)
            result.findings += unreadable(path, error)
            continue
        result.loaded[path] = constitution
        result.findings += lint(
            path,
            use.prompts,
            rules=rules,
            templates=use.templates,
            context=use.context(constitution, tell) if "over-context" in rules else None,
            gold=use.gold,
        )
    return result


def unreadable(path: Path, error: UserError) -> Iterator[Finding]:
    """Why a file cannot be loaded, as findings: one for each line that the error names."""
    for text in error.found.split("\n"):
        named = re.match(rf"{re.escape(str(path))}:(\d+): (.*)", text)
        line, message = (int(named[1]), named[2]) if named else (1, text.removeprefix(f"{path}: "))
        yield Finding(path, line, 1, UNREADABLE, "error", message, _WHY)
