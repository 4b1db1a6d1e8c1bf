"""The options of every stage: its fields in a config, the artefacts
it needs and makes, and the model calls it costs.

Every module of this package is imported here, so that a stage's options are known by standing in one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from importlib import import_module
from operator import or_
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, get_args

from pydantic import Field

from rlaif.options.base import Options, StageOptions
from rlaif.options.evaluate import EvaluateOptions
from rlaif.options.label import HumanOptions, JudgeCardOptions, LabelOptions
from rlaif.options.ppo import LoraOptions, PpoOptions, PtxOptions
from rlaif.options.preferences import DpoOptions, PreferenceOptions, RewardOptions
from rlaif.options.pretrain import ArchitectureOptions, PretrainOptions
from rlaif.options.responses import CritiqueOptions, PairOptions, SampleOptions, SftOptions
from rlaif.options.rewarded import (
    BestOfNOptions,
    GroupOptions,
    GrpoOptions,
    OnlineOptions,
    RejectionOptions,
    RewardedOptions,
    RewardSourceOptions,
    RlooOptions,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def _stages(kind: type[StageOptions]) -> Iterator[tuple[str, type[StageOptions]]]:
    """(name, options) of every stage whose options are of this kind; what several stages share has no
    name."""
    for name in get_args(kind.model_fields["stage"].annotation):
        yield name, kind
    for narrower in kind.__subclasses__():
        yield from _stages(narrower)


STAGES: dict[str, type[StageOptions]] = dict(_stages(StageOptions))
if TYPE_CHECKING:
    AnyStage = StageOptions
else:
    AnyStage = Annotated[reduce(or_, STAGES.values()), Field(discriminator="stage")]

__all__ = [
    "STAGES",
    "AnyStage",
    "ArchitectureOptions",
    "BestOfNOptions",
    "CritiqueOptions",
    "DpoOptions",
    "EvaluateOptions",
    "GroupOptions",
    "GrpoOptions",
    "HumanOptions",
    "JudgeCardOptions",
    "LabelOptions",
    "LoraOptions",
    "OnlineOptions",
    "Options",
    "PairOptions",
    "PpoOptions",
    "PreferenceOptions",
    "PretrainOptions",
    "PtxOptions",
    "RejectionOptions",
    "RewardOptions",
    "RewardSourceOptions",
    "RewardedOptions",
    "RlooOptions",
    "SampleOptions",
    "SftOptions",
    "StageOptions",
]
