"""What a policy can be rewarded by (`rewards` of a stage): a class each, in the order in which a config's
word is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

LookUp = Callable[[str], str]


class SourceKind:
    """A kind of reward source: what a config calls it, what it needs, and what opens it."""

    name: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()  # artefacts of earlier stages
    asks_judge: ClassVar[bool] = False
    opens: ClassVar[str]  # module:function of (stage, option, tokenizer, judge) that gives the score

    @classmethod
    def takes(cls, source: str) -> bool:
        """Whether a config's `source` is of this kind."""
        return source == cls.name

    @classmethod
    def resolved(cls, source: str, model: LookUp, function: LookUp) -> str:
        """The source as the run folder keeps it, checked; `model` and `function` look up what it may name."""
        return source


class RewardModelSource(SourceKind):
    """The run's own reward model."""

    name, needs, opens = "reward_model", ("reward_model",), "rlaif.training.rewards:model_score"


class JudgeSource(SourceKind):
    """The feedback model, asked about single responses."""

    name, asks_judge, opens = "judge", True, "rlaif.training.rewards:judge_score"


class FunctionSource(SourceKind):
    """A function of prompts and responses, module:function."""

    opens = "rlaif.training.rewards:function_score"

    @classmethod
    def takes(cls, source: str) -> bool:
        """Whether it names a function, and no file."""
        return ":" in source and not Path(source).exists()

    @classmethod
    def resolved(cls, source: str, model: LookUp, function: LookUp) -> str:
        """The function, which must be there."""
        return function(source)


class FolderSource(SourceKind):
    """A reward model's folder, or a hub id."""

    opens = "rlaif.training.rewards:model_score"

    @classmethod
    def takes(cls, source: str) -> bool:
        """Any source that is of no other kind."""
        return True

    @classmethod
    def resolved(cls, source: str, model: LookUp, function: LookUp) -> str:
        """The folder with its whole path."""
        return model(source)


SOURCES: tuple[type[SourceKind], ...] = (RewardModelSource, JudgeSource, FunctionSource, FolderSource)


def source_kind(source: str) -> type[SourceKind]:
    """The kind of a config's `source`."""
    return next(kind for kind in SOURCES if kind.takes(source))
