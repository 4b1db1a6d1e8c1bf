"""Options of the stage that trains a language model on raw text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rlaif.options.base import FILE, NO_EFFECT, NO_JUDGE, Options, StageOptions
from rlaif.options.plan import Asked, Plan, Work, training


class ArchitectureOptions(Options):
    """Sizes of a Llama with tied embeddings; its vocabulary is the tokenizer's."""

    layers: int = Field(ge=1, description="transformer layers")
    width: int = Field(ge=2, description="of the hidden states")
    inner: int = Field(ge=1, description="width inside a layer's feed-forward block")
    heads: int = Field(ge=1, description="attention heads, which share the width evenly")
    context: int = Field(default=512, ge=8, description="most tokens the model can read")

    @model_validator(mode="after")
    def _even(self) -> ArchitectureOptions:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} does not give {self.heads} heads an even width each")
        return self


class PretrainOptions(StageOptions):
    """Train the policy to predict the next token of raw text, from random weights or from the policy so
    far."""

    needs, makes = ("policy",), ("policy",)
    ignores = NO_JUDGE
    stage: Literal["pretrain"]
    text: str | tuple[str, ...] = Field(
        description="a .txt file, a .jsonl file whose rows have a text, a folder written by datasets' "
        "save_to_disk with a text column, or a list of them",
        json_schema_extra=FILE,
    )
    architecture: ArchitectureOptions | None = Field(
        default=None,
        description="given = start from random weights of these sizes, with policy.model's tokenizer; "
        "omitted = go on from the policy",
    )
    block_size: int = Field(default=256, ge=2, description="tokens in a block of packed text")
    epochs: float = Field(default=1.0, gt=0, description="passes over the blocks; a fraction is allowed")
    learning_rate: float = Field(default=3e-4, gt=0, description="highest learning rate")
    batch_size: int = Field(default=32, ge=1, description="blocks an optimiser step")
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="most blocks in one forward, cut to a divisor of the batch; omitted = batch_size",
        json_schema_extra=NO_EFFECT,
    )
    heldout: float = Field(
        default=0.01, gt=0, lt=1, description="share of the blocks that measure and do not train"
    )

    @model_validator(mode="after")
    def _fits(self) -> PretrainOptions:
        if self.architecture and self.block_size > self.architecture.context:
            raise ValueError(
                f"block_size {self.block_size} is more than a context of {self.architecture.context}"
            )
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Where the text stands."""
        return (self.text,) if isinstance(self.text, str) else self.text

    @property
    def makes_base(self) -> bool:
        return self.architecture is not None

    def estimate(self, plan: Plan) -> tuple[int, list[Asked]]:
        """It asks nobody; from random weights it makes the base policy, which is counted already."""
        plan.policies -= self.makes_base
        return 0, []

    def work(self, plan: Plan) -> Work:
        """A training on all tokens of the files."""
        forward = (self.micro_batch or self.batch_size) * self.block_size
        return training(plan.config.policy.model, plan.tokens_in(*self.files), self, forward)
