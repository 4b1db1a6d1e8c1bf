"""What the options of all stages have in common."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Base of everything in a config: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StageOptions(Options):
    """Base of the stages' options."""

    needs: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()
    stage: str

    @property
    def wants(self) -> tuple[str, ...]:
        """Artefacts that must exist before this stage, given its options."""
        return self.needs
