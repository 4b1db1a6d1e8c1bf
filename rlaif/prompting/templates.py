"""What models are asked: critique, revision, comparison and compliance templates, and the one chat-template
call.

A template is a Jinja file in `prompts/templates/<set>/`, rendered in a sandbox with undefined names fatal.
Its values are strings and mappings of strings, never objects of ours: what a method of theirs can do, a
template could do. Texts from models and data are values, never templates, so nothing inside them is executed
or substituted again; what keeps them from posing as the template or as a turn is in `defences`. The judge's
templates have two blocks: `shared` (conversation and responses) and `principle`, which comes last so that one
pass over the shared text can serve every principle.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template
from jinja2.meta import find_undeclared_variables

from rlaif.config import ASSETS, find
from rlaif.constitution import Constitution, Example, Principle
from rlaif.errors import UserError, first_line, nearest, reason_of
from rlaif.prompting import defences
from rlaif.prompting.chat_templates import Bounded, metered
from rlaif.records import content_hash

Chat = list[dict[str, str]]
NAMES = ("critique", "revision", "comparison", "comparison_cot", "compliance")
OPTIONAL = ("score", "best")  # asked for by few runs: a set of one's own may do without
SPEAKER = {"system": "System", "user": "User", "assistant": "Assistant"}
_TURNS = defences.own_lines("")


def user(content: str) -> dict[str, str]:
    """A user turn."""
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    """An assistant turn."""
    return {"role": "assistant", "content": content}


def principle_values(principle: Principle) -> dict[str, Any]:
    """What a template sees of a principle: a plain mapping of the fields that prompts/templates/README.md
    names."""
    return {
        "id": principle.id,
        "text": principle.text,
        "why": principle.why,
        "critique": principle.critique,
        "revise": principle.revise,
        "compare": principle.compare,
        "tags": principle.tags,
    }


def dialogue(messages: Sequence[dict[str, str]]) -> str:
    """A conversation as plain text, one turn a line, the way critics and judges read it."""
    return "\n".join(f"{SPEAKER[m['role']]}: {m['content']}" for m in messages)


@dataclass(frozen=True)
class Templates:
    """One set of templates, each compiled once."""

    name: str
    sources: dict[str, str]
    compiled: dict[str, Template]
    lines: dict[str, re.Pattern[str] | None]  # how its own lines begin; None where texts are fenced

    @classmethod
    def load(cls, name: str, base: Path | None = None) -> Templates:
        """The set `name` among the shipped ones, or a folder given by path; raises UserError on bad
        templates."""
        folder = _folder(name, base, NAMES)
        parts = (*NAMES, *(name for name in OPTIONAL if (folder / f"{name}.j2").exists()))
        return cls.of(name, {part: _read(folder, part, NAMES) for part in parts}, folder)

    @classmethod
    def load_part(cls, name: str, part: str, base: Path | None = None) -> Templates:
        """One template of a set, which no stage of a run asks by."""
        folder = _folder(name, base, (part,))
        return cls.of(name, {part: _read(folder, part, (part,))}, folder)

    @classmethod
    def of(cls, name: str, sources: dict[str, str], folder: Path) -> Templates:
        """Texts of templates, compiled; raises UserError on bad ones, as if they stood in `folder`."""
        environment = Bounded(undefined=StrictUndefined)
        compiled, lines = {}, {}
        for part, source in sources.items():
            try:
                compiled[part] = environment.from_string(source)
                fenced = "fence" in find_undeclared_variables(environment.parse(source))
                lines[part] = None if fenced else defences.own_lines(source)
            except Exception as error:  # TemplateError, or what the compiler makes of endless nesting
                line = getattr(error, "lineno", 1)
                raise UserError(f"{folder / part}.j2:{line}: {error}.", "a valid Jinja template") from None
        return cls(name, sources, compiled, lines)

    def hash(self, name: str) -> str:
        """Content hash of one template: part of what identifies a label's judge."""
        return content_hash(self._source(name))

    def _source(self, name: str) -> str:
        """A template's text; raises UserError where the set does without it."""
        if name not in self.sources:
            raise UserError(
                f"templates {self.name}: no {name}.j2.",
                f"a template {name}.j2 in the set",
                "take the one in prompts/templates/default as a pattern",
            )
        return self.sources[name]

    def _asked(
        self,
        name: str,
        block: str | None = None,
        *,
        conversation: Chat | None = None,
        principle: Principle | None = None,
        **texts: str,
    ) -> str:
        """A template around untrusted texts, all of them fenced by one fence or kept from posing as its
        lines."""
        self._source(name)
        conversation = conversation or []
        lines = self.lines[name]
        turns = lines or _TURNS  # no fence keeps one turn from posing as several
        conversation = [{**m, "content": defences.joined(m["content"], turns)} for m in conversation]
        if lines:
            texts = {key: defences.joined(text, lines) for key, text in texts.items()}
        texts["conversation"] = dialogue(conversation)
        if "response" in texts:
            texts["reply"] = texts["response"]  # the older name, which the shipped sets use
        return self._render(name, block, principle, fence=defences.fence(*texts.values()), **texts)

    def _render(
        self, name: str, block: str | None = None, principle: Principle | None = None, **values: Any
    ) -> str:
        self._source(name)
        template = self.compiled[name]
        shown = {**values, "principle": principle_values(principle)} if principle else values
        try:
            with metered():
                if block is None:
                    return template.render(**shown).strip()
                return "".join(template.blocks[block](template.new_context(shown)))
        except KeyError as error:
            raise UserError(
                f"template {self.name}/{name}.j2: has no block {error}.",
                "the blocks named in prompts/templates/README.md",
            ) from None
        except Exception as error:  # a template is a program: it may divide by zero or add text to numbers
            raise UserError(
                f"template {self.name}/{name}.j2: cannot be rendered ({reason_of(error)}).",
                "only the names documented in prompts/templates/README.md",
                f"fix {name}.j2 in the template set",
            ) from None

    def critique(self, conversation: Chat, response: str, principle: Principle, few_shot: int = 0) -> Chat:
        """Messages that ask the critic what in `response` breaks the principle."""
        shots: Chat = []
        for example in [e for e in principle.examples if e.critique][:few_shot]:
            shots += [
                self._critique_turn([user(example.prompt)], example.worse, principle),
                assistant(example.critique or ""),
            ]
        return [*shots, self._critique_turn(conversation, response, principle)]

    def _critique_turn(self, conversation: Chat, response: str, principle: Principle) -> dict[str, str]:
        return user(
            self._asked("critique", conversation=conversation, principle=principle, response=response)
        )

    def revision(
        self, conversation: Chat, response: str, principle: Principle, critique: str, few_shot: int = 0
    ) -> Chat:
        """Messages that ask for the whole response again with the criticised fault corrected.

        Without a critique they ask for it by the rule alone, in the examples too.
        """
        shots: Chat = []
        for example in [e for e in principle.examples if e.critique][:few_shot]:
            turn = self._revision_turn(
                [user(example.prompt)], example.worse, principle, (critique and example.critique) or ""
            )
            shots += [turn, assistant(example.better)]
        return [*shots, self._revision_turn(conversation, response, principle, critique)]

    def _revision_turn(
        self, conversation: Chat, response: str, principle: Principle, critique: str
    ) -> dict[str, str]:
        return user(
            self._asked(
                "revision",
                conversation=conversation,
                principle=principle,
                response=response,
                critique=critique,
            )
        )

    def comparison(
        self, conversation: Chat, a: str, b: str, shots: Chat | None = None, cot: bool = False
    ) -> Chat:
        """The shared part of a pairwise question; append `comparison_suffix` to the last turn."""
        name = "comparison_cot" if cot else "comparison"
        shared = self._asked(name, "shared", conversation=conversation, a=a, b=b)
        return [*(shots or []), user(shared)]

    def comparison_suffix(self, principle: Principle, cot: bool = False) -> str:
        """The principle's part of a pairwise question."""
        name = "comparison_cot" if cot else "comparison"
        return self._render(name, "principle", principle, rule=principle.compare or principle.text)

    def verdict(self) -> str:
        """The question that follows the judge's reasoning."""
        return self._render("comparison_cot", "verdict")

    def comparison_shots(self, constitution: Constitution, count: int) -> Chat:
        """Few-shot turns for the judge, the same for every question so that the shared part stays shared.

        Examples are taken in turn from the principles that have some; the better response alternates its
        place.
        """
        pools: list[list[tuple[Principle, Example]]] = [
            [(p, e) for e in p.examples] for p in constitution.principles
        ]
        depth = max((len(pool) for pool in pools), default=0)
        ordered = [pool[i] for i in range(depth) for pool in pools if i < len(pool)]
        shots: Chat = []
        for index, (principle, example) in enumerate(ordered[:count]):
            first, second = (
                (example.better, example.worse) if index % 2 == 0 else (example.worse, example.better)
            )
            shared = self.comparison([user(example.prompt)], first, second)[0]["content"]
            shots += [user(shared + self.comparison_suffix(principle)), assistant("AB"[index % 2])]
        return shots

    def compliance(self, conversation: Chat, response: str) -> Chat:
        """The shared part of the question whether one response keeps a principle."""
        return [user(self._asked("compliance", "shared", conversation=conversation, response=response))]

    def compliance_suffix(self, principle: Principle) -> str:
        """The principle's part of the compliance question, answered Yes or No."""
        return self._render("compliance", "principle", principle, rule=principle.compare or principle.text)

    def score(self, conversation: Chat, response: str) -> Chat:
        """The shared part of the question what one response is worth; its answers are `score_values`."""
        return [user(self._asked("score", "shared", conversation=conversation, response=response))]

    def score_suffix(self, principle: Principle) -> str:
        """The principle's part of the question what a response is worth."""
        return self._render("score", "principle", principle, rule=principle.compare or principle.text)

    @property
    def score_values(self) -> dict[str, float]:
        """The answers of `score.j2` and what each is worth: "answer=value" in its block `values`."""
        self._source("score")
        pairs = [word.partition("=") for word in self._render("score", "values").split()]
        try:
            values = {answer: float(value) for answer, _, value in pairs}
        except ValueError:
            values = {}
        if len(values) < 2:
            raise UserError(
                f"template {self.name}/score.j2: its block `values` reads "
                f"{self._render('score', 'values')!r}.",
                "two answers or more with their values, such as Yes=1 No=0",
            ) from None
        return values

    def proposal(self, conversation: Chat, better: str, worse: str) -> Chat:
        """Messages that ask for the rule by which one response was preferred to another."""
        return [user(self._asked("proposal", conversation=conversation, better=better, worse=worse))]

    def best(self, conversation: Chat, responses: dict[str, str]) -> Chat:
        """The shared part of the question which of several responses, by letter, is the best (or the
        worst)."""
        self._source("best")
        block = "response" if "response" in self.compiled["best"].blocks else "reply"  # the older name
        shown = "".join(self._asked("best", block, letter=k, response=text) for k, text in responses.items())
        return [user(self._asked("best", "shared", conversation=conversation) + shown)]

    def best_suffix(self, principle: Principle, asked: str) -> str:
        """The principle's part of the question for the `asked` ("best" or "worst") response."""
        rule = principle.compare or principle.text
        return self._render("best", "principle", principle, rule=rule, asked=asked)

    def prompt(self, principle: Principle, kind: str, subject: str, other: Principle | None = None) -> Chat:
        """Messages that ask for a prompt of a kind, made for a principle, or for two of them."""
        second = principle_values(other) if other else None
        return [user(self._render("prompts", None, principle, kind=kind, subject=subject, other=second))]


def _folder(name: str, base: Path | None, needed: Sequence[str]) -> Path:
    """The folder of a shipped set, or one given by path; raises UserError where there is none."""
    sets = ASSETS / "prompts" / "templates"
    shipped = sorted(path.name for path in sets.iterdir() if path.is_dir())
    if name in shipped:
        return sets / name
    wanted = f"a shipped set ({', '.join(shipped)}) or a folder with {', '.join(n + '.j2' for n in needed)}"
    try:
        folder = find(name, base)
    except UserError:
        if Path(name).name != name:
            raise UserError(f"templates: {name}: no such folder.", wanted) from None
        raise UserError(f'templates: no set "{name}" — {nearest(name, shipped)}', wanted) from None
    if not folder.is_dir():
        raise UserError(f"templates: {name}: a file.", wanted)
    return folder


def _read(folder: Path, part: str, needed: Sequence[str]) -> str:
    """The text of one template; raises UserError where it cannot be read."""
    path = folder / f"{part}.j2"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: missing.", f"all of {', '.join(needed)} in {folder}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({first_line(error)}).",
            f"all of {', '.join(needed)} in {folder}, as UTF-8 text",
        ) from None
