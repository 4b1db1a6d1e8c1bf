"""The judge that `--judge MODEL|CONFIG` names, opened once for any number of constitutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlaif.audit.card import JudgeSetting
from rlaif.config import Config
from rlaif.preflight.opening import audited
from rlaif.records import Prompt


@dataclass(frozen=True)
class Named:
    """What `--judge` names: its config, the folder that names in it are looked up beside, its prompts."""

    config: Config
    base: Path
    prompts: list[Prompt]

    @classmethod
    def of(cls, what: str, overrides: Sequence[str], constitution: Path, templates: str) -> Named:
        """A config file, or a model, which has no prompts of its own; raises UserError where it is
        neither."""
        return cls(*audited(what, list(overrides), constitution, templates))

    def open(self, few_shot: int | None = None) -> JudgeSetting:
        """The judge as a run of the config would ask it, `few_shot` apart where that is given."""
        setting = JudgeSetting.of(self.config, self.base)
        return setting if few_shot is None else replace(setting, few_shot=few_shot)
