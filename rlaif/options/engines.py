"""The engines, as far as they must be known before one is opened: a row of ENGINES each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True)
class EngineKind:
    """What an engine is given and what it can do."""

    opens: str  # module:name of what is called with the `ModelConfig` and gives the engine
    folder: bool = False  # its `model` is a folder on this machine or a hub id
    served: bool = False  # it sends texts to the endpoints of `base_url`, and writes its verdicts
    runs_code: bool = False  # its `model` is module:function, which is called
    shares_prefixes: bool = False  # it reads what several questions have in common once
    gives_states: bool = False  # its hidden states can be read
    takes_adapters: bool = False  # an adapter can be trained on its model, and put on it
    cached: bool = True  # its fingerprint covers all that its responses depend on, so they may be kept


ENGINES = {
    "transformers": EngineKind(
        "rlaif.engines.transformers:TransformersEngine",
        folder=True,
        shares_prefixes=True,
        gives_states=True,
        takes_adapters=True,
    ),
    "vllm": EngineKind("rlaif.engines.vllm:VllmEngine", folder=True, shares_prefixes=True),
    "openai": EngineKind("rlaif.engines.openai:OpenAIEngine", served=True),
    "scripted": EngineKind("rlaif.engines:scripted", runs_code=True, cached=False),
}
if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[tuple(ENGINES)]
