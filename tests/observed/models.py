"""Options of a model and of its engine, seen in the engine that is opened."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rlaif.config import ASSETS, ModelConfig
from rlaif.engines import open_engine, vllm
from rlaif.errors import UserError
from rlaif.options import PpoOptions
from rlaif.options.base import PriceOptions
from rlaif.preflight.estimate import _seconds
from rlaif.rl.vllm_rollout import VllmSampler
from tests.observed.rows import Row

FOLDER = str(ASSETS / "rlaif/playground/weights/feedback")
URL = "http://localhost:9/v1"


def opened(**options: Any) -> Any:
    return open_engine(ModelConfig.model_validate({"model": FOLDER, "device": "cpu", **options}))


def served(**options: Any) -> Any:
    return open_engine(
        ModelConfig.model_validate({"engine": "openai", "model": "m", "base_url": URL, **options})
    )


def refused(**options: Any) -> str:
    """What is said where a model cannot be opened."""
    with pytest.raises(UserError) as error:
        open_engine(ModelConfig.model_validate({"model": FOLDER, **options}))
    return str(error.value)


def loaded(made: Any) -> dict[str, Any]:
    """What vLLM is told when the model is loaded, by a stand-in for the package."""
    told: dict[str, Any] = {}

    def llm(**settings: Any) -> Any:
        told.update(settings)
        core = SimpleNamespace(shutdown=lambda: None)
        return SimpleNamespace(llm_engine=SimpleNamespace(engine_core=core))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm, "find_spec", lambda name: object())
        engine = made()
        engine.__dict__["vllm"] = SimpleNamespace(LLM=llm)
        assert engine.llm
    return told


def by_vllm(**options: Any) -> dict[str, Any]:
    return loaded(lambda: opened(engine="vllm", **{"device": "auto", **options}))


def rollouts(**options: Any) -> dict[str, Any]:
    ppo = PpoOptions.model_validate({"stage": "ppo", "rollouts": "vllm", **options})
    return loaded(lambda: VllmSampler("folder", ppo, (1,), 0, None, "float32", 64))


def seconds(value: float) -> float:
    """The time of 1,500 prompt tokens, of which 500 are shared, and 3,000 written ones."""
    used = {"calls": 1, "prompt_tokens": 1500, "shared_tokens": 500, "tokens": 3000}
    found = _seconds([(used, PriceOptions(seconds=value))])
    assert found is not None
    return found


OPENED: dict[str, Row] = {
    "model.engine": Row("openai", lambda v: type(served(engine=v)).__name__, "OpenAIEngine"),
    "model.api_key_env": Row(
        "MY_KEY", lambda v: "MY_KEY is not set" in refused(engine="openai", api_key_env=v), True
    ),
    "model.concurrency": Row(7, lambda v: served(concurrency=v).pool.concurrency, 7),
    "model.patience": Row(9.5, lambda v: served(patience=v).pool.patience, 9.5),
    "model.device": Row("cuda:7", lambda v: "cuda:7" in refused(device=v), True),
    "model.dtype": Row("bfloat16", lambda v: str(opened(dtype=v).model.dtype), "torch.bfloat16"),
    "model.gpu_memory": Row(0.37, lambda v: by_vllm(gpu_memory=v)["gpu_memory_utilization"], 0.37),
    "model.max_model_len": Row(77, lambda v: by_vllm(max_model_len=v)["max_model_len"], 77),
    "ppo.rollout_memory": Row(0.23, lambda v: rollouts(rollout_memory=v)["gpu_memory_utilization"], 0.23),
    "prices.seconds": Row(0.25, seconds, 1.0),
}
