"""What the benchmarks share: models of stated sizes with random weights, interleaved timing, medians with
their spread."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import torch
from transformers import LlamaConfig

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SIZES: dict[str, dict[str, Any]] = {
    "7M": {"hidden_size": 160, "intermediate_size": 448, "num_hidden_layers": 6, "num_attention_heads": 5},
    "36M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8},
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "7B": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
}


def llama(size: str, **changes: Any) -> LlamaConfig:
    """A Llama architecture of a stated size, vocabulary 32,000 unless it says otherwise; no token ends a
    text."""
    common = {
        "vocab_size": 32000,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return LlamaConfig(**{**common, **SIZES[size], **changes})


def interleaved(
    sides: Mapping[str, Callable[[], Any]], repetitions: int, clock: str = "wall"
) -> dict[str, list[float]]:
    """Seconds of every repetition of every side: one warm-up of each, then turn and turn about."""
    now, seconds = CLOCKS[clock], {name: [] for name in sides}
    for turn in range(-1, repetitions):
        for name, work in sides.items():
            start = now()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 0:
                seconds[name].append(now() - start)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def paired_ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """How many times longer one side took, repetition by repetition: median, least and greatest."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def matmul_limit(device: str, dtype: torch.dtype, clock: str = "wall", size: int = 1024) -> float:
    """FLOP/s of a square matrix product: what the machine can do at best. The least of some repetitions
    counts."""
    repetitions, size = 20, size if device == "cpu" else 8 * size
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = interleaved({"product": lambda: a @ b}, repetitions, clock)["product"]
    return 2 * size**3 / min(seconds)


def machine(device: str) -> dict[str, Any]:
    """Where and when: device, threads, versions."""
    import transformers

    name = platform.machine() if device == "cpu" else torch.cuda.get_device_name()
    return {
        "device": f"{os.cpu_count()} CPU cores ({name})" if device == "cpu" else name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
