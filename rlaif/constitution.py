"""The constitution file: principles with stable ids, loaded with file:line errors, hashed by what the judge
sees.

One principle serves critique, revision and comparison. `Principle.hash` covers only text a model reads, so a
change of weight or tags never costs a model call. Principles are drawn per revision uniformly and with
replacement (Constitutional AI, arXiv 2212.08073, section 3.1), here from a seed and among those that apply.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from rlaif.errors import UserError, nearest
from rlaif.records import content_hash
from rlaif.yamlfile import Lines, load_yaml, validate_yaml


class Example(BaseModel):
    """A prompt with a better and a worse response: the principle's test and its few-shot material."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prompt: str
    better: str
    worse: str
    critique: str | None = Field(default=None, description="what a critic should say of the worse response")


class Votes(BaseModel):
    """How a group of people voted on a principle."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    group: str
    agrees: int = Field(default=0, ge=0)
    disagrees: int = Field(default=0, ge=0)
    passes: int = Field(default=0, ge=0)


class Source(BaseModel):
    """Where a principle or a constitution comes from: for people, no model reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: str = Field(default="", description="the format it was imported from")
    link: str = Field(default="", description="the place in the file or page that it comes from")
    votes: tuple[Votes, ...] = Field(default=(), description="people's votes, by group")
    kept: dict[str, Any] = Field(
        default={}, description="what that format has beside the keys of this file, as it stood there"
    )

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value}


class Sourced(BaseModel):
    """What may say where it comes from.

    The keys in `_LATER` are left out of its plain data where they are absent: what was hashed or written by
    versions that did not know them stays what it was.
    """

    source: Source | None = Field(default=None, description="where it comes from; no model reads it")

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None or key not in _LATER}


_LATER = ("why", "source")


class Principle(Sourced):
    """One rule."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="stable; carried into every row it touches"
    )
    text: str = Field(description="the rule as every model reads it")
    why: str | None = Field(
        default=None, description="the reason for the rule; a model reads it where a template shows it"
    )
    critique: str | None = Field(
        default=None, description="instruction for the critic instead of the default one"
    )
    revise: str | None = Field(
        default=None, description="instruction for the reviser instead of the default one"
    )
    compare: str | None = Field(default=None, description="wording for the judge instead of `text`")
    paraphrases: tuple[str, ...] = Field(
        default=(), description="other wordings of the rule, on which `rlaif judge audit` tests the judge"
    )
    weight: float = Field(
        default=1.0, ge=0.0, allow_inf_nan=False, description="weight in the aggregated preference"
    )
    tags: tuple[str, ...] = ()
    applies_to: tuple[str, ...] | None = Field(
        default=None, description="prompt tags; omitted = every prompt"
    )
    examples: tuple[Example, ...] = ()

    @field_validator("text")
    @classmethod
    def _has_text(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("a principle needs a text; this one is empty")
        return " ".join(value.split())

    def __hash__(self) -> int:
        return hash(self.id)  # a key wherever labels are counted: its texts need not be read for that

    @property
    def hash(self) -> str:
        """Hash of everything a model may be shown because of this principle."""
        shown = self.model_dump(include={"text", "why", "critique", "revise", "compare", "examples"})
        return content_hash(shown)

    def applies(self, tags: Sequence[str]) -> bool:
        """Whether the principle speaks about a prompt with these tags."""
        return self.applies_to is None or bool(set(self.applies_to) & set(tags))


class Constitution(Sourced):
    """A named list of principles."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    version: int | str = 1
    description: str = ""
    principles: tuple[Principle, ...] = Field(min_length=1)

    @property
    def hash(self) -> str:
        """Hash of the whole content, weights and tags included, but for where it comes from."""
        return content_hash(self.model_dump(exclude={"source": True, "principles": {"__all__": {"source"}}}))

    @property
    def ids(self) -> list[str]:
        """Principle ids in file order."""
        return [p.id for p in self.principles]

    def applicable(self, tags: Sequence[str]) -> list[Principle]:
        """The principles that speak about a prompt with these tags."""
        return [p for p in self.principles if p.applies(tags)]

    def subset(self, names: Sequence[str]) -> list[Principle]:
        """The principles with one of these ids or tags, in file order; raises UserError for a name that is
        neither."""
        known = {*self.ids, *(tag for p in self.principles for tag in p.tags)}
        for name in names:
            if name not in known:
                raise UserError(
                    f'principles: "{name}" is no id and no tag of {self.name} — '
                    f"{nearest(name, sorted(known))}",
                    "ids or tags of the constitution's principles",
                )
        return [p for p in self.principles if {p.id, *p.tags} & set(names)]

    def draw(self, tags: Sequence[str], *seed: Any) -> Principle | None:
        """One applicable principle, uniformly, determined by the seed parts alone; None where none
        applies."""
        choices = self.applicable(tags)
        return random.Random(content_hash(*seed)).choice(choices) if choices else None

    @classmethod
    def load(cls, path: Path) -> Constitution:
        """Read and check a constitution file; raises UserError naming file, line and nearest valid key."""
        return cls.load_with_lines(path)[0]

    @classmethod
    def load_with_lines(cls, path: Path, content: bytes | None = None) -> tuple[Constitution, Lines]:
        """The same, and where in the file everything stands; of `content` as if it stood there."""
        data, lines = load_yaml(path, content)
        if isinstance(data, dict) and "principles" not in data and {"stages", "extends"} & set(data):
            named = data.get("constitution")
            raise UserError(
                f"{path}: a config, not a constitution.",
                "a constitution file, with the key principles",
                f"name the one of the config: {named}" if named else "name the config's constitution",
            )
        constitution = validate_yaml(cls, data, lines, path)
        seen: dict[str, int] = {}
        for index, principle in enumerate(constitution.principles):
            line = lines.at(("principles", index, "id"))
            if principle.id in seen:
                raise UserError(
                    f'{path}:{line}: the principle id "{principle.id}" stands twice (first in line '
                    f"{seen[principle.id]}).",
                    "one id a principle: ids are carried into every row they touch",
                    f"rename one of the two in {path}",
                )
            seen[principle.id] = line
        return constitution, lines


def json_schema() -> dict[str, Any]:
    """JSON Schema of the constitution file, for editors."""
    return Constitution.model_json_schema()
