"""What the options of all stages have in common, and the options of a whole run."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

# Marks an option that changes how a run is executed or watched, and its results by rounding at most: two runs that
# differ in such options alone are the same experiment.
NO_EFFECT: dict[str, Any] = {"affects_results": False}


class Options(BaseModel):
    """Base of everything in a config: unknown keys are refused, and so are numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StageOptions(Options):
    """Base of the stages' options."""

    needs: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()
    stage: str

    @property
    def wants(self) -> tuple[str, ...]:
        """Artefacts that must exist before this stage, given its options."""
        return self.needs


class Price(Options):
    """What a model costs: money for a million tokens, in whatever currency, and time."""

    prompt: float = Field(default=0.0, ge=0, description="a million prompt tokens")
    cached: float | None = Field(
        default=None, ge=0, description="a million of them served from a shared prefix; omitted = as prompt"
    )
    completion: float = Field(default=0.0, ge=0, description="a million written tokens")
    seconds: float | None = Field(
        default=None, ge=0, description="for 1,000 tokens, shared ones apart; for estimates only"
    )


class Budget(Options):
    """Caps on what a run asks of its models, over all its starts; at the first one reached it stops cleanly."""

    money: float | None = Field(default=None, ge=0, description="by the prices")
    calls: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0, description="prompt and written tokens together")
