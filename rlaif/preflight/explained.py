"""Every option of a config in words: type, default, range, meaning, source. `rlaif options` and
docs/config.md print what stands here; what is said of an option stands at the option itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from rlaif.config import Config
from rlaif.errors import UserError, nearest
from rlaif.options import STAGES
from rlaif.options.base import Options, marked
from rlaif.options.data import DataSourceOptions
from rlaif.preflight.combinations import ALONE

RUN = "run"  # the section of the keys that belong to no stage
_PAPER = re.compile(r"arXiv \d{4}\.\d{4,5}")
_SIGNS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}
_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "anything"}
_FILES = {
    "file": "a file or folder",
    "later": "a file that may be written later",
    "run": "a run folder",
    "model": "a model",
    "reward": "a reward source",
    "gold": "a function",
    "annotator": "a function",
}


@dataclass(frozen=True)
class Explained:
    """One option; `section` is the stage or `run`, `name` stands behind it, as in `label` and
    `human.file`."""

    section: str
    name: str
    type: str
    default: Any
    required: bool
    range: str
    meaning: str
    source: str
    names: str  # what on this machine its value names
    goes_with: tuple[str, ...]  # combinations with other options that are refused or warned of
    affects_results: bool

    @property
    def key(self) -> str:
        """How `-s` names it."""
        return self.name if self.section == RUN else f"{self.section}.{self.name}"

    @property
    def default_text(self) -> str:
        """The default as a config would say it."""
        if self.required:
            return "required"
        if self.default is None or isinstance(self.default, bool):
            return str(self.default).lower()
        return str(self.default)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"key": self.key, **asdict(self)}


@cache
def explained() -> dict[str, tuple[Explained, ...]]:
    """The options of every section: the run's own keys, then the stages'."""
    run = {RUN: tuple(_options(RUN, Config))}
    return run | {name: tuple(_options(name, STAGES[name])) for name in sorted(STAGES)}


def purpose(section: str) -> str:
    """What a section is, in a sentence."""
    return _first_sentence(Config if section == RUN else STAGES[section])


def chosen(section: str | None, option: str | None) -> list[Explained]:
    """The options that are meant: of a stage, of a key of the run (`policy`), or one of them.

    Raises UserError with the nearest name.
    """
    every = explained()
    if section is None:
        return [one for options in every.values() for one in options]
    section = re.sub(r"^(\w+)\[\d*\]", r"\1", section)  # as -s names one of several stages
    if option is None and section not in every and "." in section:
        section, _, option = section.partition(".")
    if section not in every:
        option = section if option is None else f"{section}.{option}"
        section = RUN
    inside = [
        one
        for one in every[section]
        if option in (None, one.name) or one.name.startswith((f"{option}.", f"{option}["))
    ]
    if not inside:
        raise _unknown(section, str(option), every)
    return inside


def _unknown(section: str, option: str, every: Mapping[str, Sequence[Explained]]) -> UserError:
    """What to say of a name that is none: the stages that have such an option, or the nearest name."""
    owners = [name for name, own in every.items() if any(one.name == option for one in own)]
    if owners:
        found = f"{section}: no option {option}" if section != RUN else f"{option}: no stage, but an option"
        return UserError(
            f"{found}; {', '.join(owners)} {'have' if len(owners) > 1 else 'has'} it.",
            "a stage and an option of it",
            f"rlaif options {owners[0]} {option}",
        )
    if section == RUN and option == "stages":
        return UserError("stages: the list of stages, each with options.", f"one of {', '.join(STAGES)}")
    known = [one.name for one in every[section]]
    return UserError(
        f"{section}: no option {option}." if section != RUN else f"{option}: no stage or option.",
        nearest(option, known + ([name for name in every if name != RUN] if section == RUN else [])),
        "`rlaif options` lists them",
    )


def schema() -> dict[str, Any]:
    """JSON Schema of a config file, one that extends another included."""
    found = Config.model_json_schema()
    stages = found["properties"]["stages"]
    edits = {"type": "object", "description": "with extends: options or what stands in place of stages"}
    extends = {"type": "string", "description": "another config's file, of which this one changes some keys"}
    found["properties"] |= {"extends": extends, "stages": {"anyOf": [stages, edits]}}
    required = found.pop("required")
    return found | {"if": {"required": ["extends"]}, "then": {}, "else": {"required": required}}


def _options(section: str, cls: type[Options], before: str = "") -> Iterator[Explained]:
    for name, field in cls.model_fields.items():
        if name in ("stage", "stages"):
            continue
        inner, suffix = _group(field.annotation)
        yield _explained(section, before + name, cls, name)
        if inner:
            yield from _options(section, inner, f"{before}{name}{suffix}.")


def _explained(section: str, name: str, cls: type[Options], key: str) -> Explained:
    field = cls.model_fields[key]
    required = field.is_required()
    default = None if required else field.get_default(call_default_factory=True)
    inner, _ = _group(field.annotation)
    meaning = " ".join((field.description or (_first_sentence(inner) if inner else "")).split())
    papers = ", ".join(dict.fromkeys(_PAPER.findall(meaning)))
    named = _FILES.get(marked(field, "path", ""), "")
    return Explained(
        section=section,
        name=name,
        type=_type(field.annotation),
        default=_plain(default),
        required=required,
        range=_range(field),
        meaning=meaning,
        source=papers,
        names=named,
        goes_with=tuple(one.says for one in ALONE if issubclass(cls, one.of) and key in one.about),
        affects_results=marked(field, "affects_results", True),
    )


def _first_sentence(cls: type[Options]) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _plain(value: Any) -> Any:
    """A default as JSON holds it."""
    if isinstance(value, Options):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _group(annotation: Any) -> tuple[type[Options] | None, str]:
    """(the options inside an option, what stands between its name and theirs)."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return annotation, ""
    suffix = {tuple: "[]", dict: ".<name>"}.get(get_origin(annotation) or object, "")
    for inside in get_args(annotation):
        found, behind = _group(inside)
        if found:
            return found, suffix + behind
    return None, ""


def _type(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inside[0])
    if origin is Literal:
        return " | ".join(map(str, inside))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type(one) for one in inside if one is not NoneType))
    if origin is tuple and inside[-1] is Ellipsis:
        return f"list of {_type(inside[0])}"
    if origin is tuple:
        return f"list of {len(inside)}: {', '.join(map(_type, inside))}"
    if origin is dict:
        return f"names to {_type(inside[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return "text or options" if issubclass(annotation, DataSourceOptions) else "options"
    return _WORDS.get(annotation, str(annotation))


def _range(field: FieldInfo) -> str:
    """What values a number may have."""
    found = [
        f"{sign} {getattr(m, key):g}"
        for m in field.metadata
        for kind, (key, sign) in _SIGNS.items()
        if isinstance(m, kind)
    ]
    found += [f"at least {m.min_length}" for m in field.metadata if isinstance(m, MinLen)]
    return ", ".join(found)
