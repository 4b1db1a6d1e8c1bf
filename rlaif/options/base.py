"""What the options of all stages have in common, and the options of a whole run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from rlaif.options.plan import Asked, Plan, Work

# Marks an option that changes how a run is executed or watched, and its results by rounding at most: two runs
# that differ in such options alone are the same experiment, and a run that has begun may go on with others.
NO_EFFECT: dict[str, Any] = {"affects_results": False}
# Mark an option that names something on this machine, looked up beside the config and made absolute when a
# run begins: a file or folder, one that may be written later, a run folder, a model's folder (where it is no
# hub id), what names a reward.
FILE: dict[str, Any] = {"path": "file"}
LATER_FILE: dict[str, Any] = {"path": "later"}
RUN: dict[str, Any] = {"path": "run"}
MODEL: dict[str, Any] = {"path": "model"}
REWARD: dict[str, Any] = {"path": "reward"}
GOLD: dict[str, Any] = {"path": "gold"}
ANNOTATOR: dict[str, Any] = {"path": "annotator"}
NO_JUDGE = ("constitution", "templates", "feedback", "gold")  # what stages that ask no judge ignore


def marked(field: FieldInfo, mark: str, otherwise: Any = None) -> Any:
    """What an option is marked with: "affects_results" or "path"."""
    extra = field.json_schema_extra
    return extra.get(mark, otherwise) if isinstance(extra, dict) else otherwise


class Options(BaseModel):
    """Base of everything in a config: unknown keys are refused, and so are numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def with_paths(self, look_up: Mapping[str, Callable[[str], str]]) -> Self:
        """The same with every option marked with a "path" looked up by the function for its kind of path."""
        now = {
            name: _looked_up(getattr(self, name), look_up, marked(field, "path"))
            for name, field in type(self).model_fields.items()
        }
        # Only what changes: what a config has not named stays so in `model_fields_set`.
        return self.model_copy(
            update={name: value for name, value in now.items() if value != getattr(self, name)}
        )


def _looked_up(value: Any, look_up: Mapping[str, Callable[[str], str]], kind: str | None) -> Any:
    if isinstance(value, Options):
        return value.with_paths(look_up)
    if isinstance(value, tuple):
        return tuple(_looked_up(item, look_up, kind) for item in value)
    if isinstance(value, dict):
        return {key: _looked_up(item, look_up, kind) for key, item in value.items()}
    return look_up[kind](value) if kind and isinstance(value, str) else value


class StageOptions(Options):
    """Base of the stages' options: what a stage needs and makes, what it asks of models, and where it is
    shown.

    What a stage shares among processes stands in its own file (SHARED, SHARDED).
    """

    needs: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()
    # Keys of the config, beside the stages, that do not reach what it makes: they may change once it is done.
    ignores: ClassVar[tuple[str, ...]] = ()
    shown_as: ClassVar[str] = (
        ""  # `rlaif show` prints the stage's figures under this; "" = under the stage's name
    )
    stage: Any  # its name: a Literal, by which a config finds the class

    def estimate(self, plan: Plan) -> tuple[int, list[Asked]]:
        """(rows it makes at most, what it asks of models); `plan` then holds what later stages count on."""
        raise NotImplementedError(
            f"{type(self).__name__}: say what the stage asks of models, or (0, []) for nothing"
        )

    def work(self, plan: Plan) -> Work | None:
        """What it computes itself, asked after `estimate`; None where that is next to nothing."""
        return None

    @property
    def makes_base(self) -> bool:
        """Whether it makes the run's base policy, from random weights."""
        return False

    @property
    def opens_policy(self) -> bool:
        """Whether it opens the policy's model folder, which one behind an endpoint does not have here."""
        return "policy" in self.makes

    @property
    def required_artefacts(self) -> tuple[str, ...]:
        """Artefacts that must exist before this stage, given its options."""
        return self.needs


class PriceOptions(Options):
    """What a model costs: money for a million tokens, in any currency, and time."""

    prompt: float = Field(default=0.0, ge=0, description="a million prompt tokens")
    cached: float | None = Field(
        default=None, ge=0, description="a million of them served from a shared prefix; omitted = as prompt"
    )
    completion: float = Field(default=0.0, ge=0, description="a million written tokens")
    seconds: float | None = Field(
        default=None, ge=0, description="for 1,000 tokens, shared ones apart; for estimates only"
    )


class BudgetOptions(Options):
    """Caps on what a run asks of its models, over all its starts; at the first one reached it stops
    cleanly."""

    money: float | None = Field(default=None, ge=0, description="by the prices")
    calls: int | None = Field(default=None, ge=0, description="questions asked, cached ones not counted")
    tokens: int | None = Field(default=None, ge=0, description="prompt and written tokens together")
