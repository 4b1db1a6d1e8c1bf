"""Whether a frozen model may run in bf16 on this CPU: where that is faster and its verdicts are those of
fp32.

Both are measured on a model's first opening, on a few comparisons, and the decision is kept in the user's
cache folder for all models of the same shapes, so that the policies of a run are sampled in one dtype. The
time is the process's own: what others compute beside it is not counted.
"""

from __future__ import annotations

import fcntl
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlaif.engines import weights
from rlaif.engines.gguf import cache_folder
from rlaif.records import content_hash
from rlaif.runs.storage import read_json, write_json

# What bf16 must be: so many times as fast, and no P(A) further than this from fp32's, so that no verdict
# turns whose P(A) is further than this from 0.5.
FASTER, FURTHEST = 1.2, 0.05
MEMORY = 8  # bytes of free memory a parameter that measuring takes, with fp32 and bf16 held at once
QUESTIONS = tuple(
    f"Question: {question}\n\nA: {a}\n\nB: {b}\n\nWhich is better, A or B? Say the letter alone."
    for question, a, b in (
        ("What is the capital of France?", "It is Paris.", "Go and look it up yourself."),
        ("How do I boil an egg?", "Eggs come from hens.", "Put it into boiling water for eight minutes."),
        (
            "Is the moon a star?",
            "Yes, the brightest of all.",
            "No. It is a moon, which reflects the sun's light.",
        ),
        ("Suggest a name for a cat.", "Miso would suit a small cat.", "Names are a matter of taste."),
        ("What is 17 + 25?", "17 + 25 is 42.", "17 + 25 is 32."),
        ("Why is the sky blue?", "Because it reflects the sea.", "Air scatters blue light more than red."),
        ("Translate 'thank you' into German.", "Danke.", "Gracias."),
        ("Write a line about rain.", "Rain writes on the window in a hurry.", "I do not like the weather."),
    )
)


@dataclass(frozen=True)
class Agreement:
    """How verdicts of bf16 compare with fp32's: P(A) at its largest distance, the share on the same side, and
    how many times as fast it was."""

    difference: float
    same: float
    speedup: float
    questions: int

    @property
    def suits(self) -> bool:
        """Whether bf16 takes fp32's place."""
        return self.speedup >= FASTER and self.difference <= FURTHEST


def bf16_suits(folder: Path, load: Callable[[], Any], tokenizer: Any) -> bool:
    """Whether a model folder runs in bf16 on this CPU; `load` gives its model in fp32 where that is not
    known."""
    import torch

    shapes = {name: list(shape) for name, shape in weights.shapes(folder).items()}
    key = content_hash(shapes, platform.processor(), platform.machine(), _cpu(), torch.__version__)
    path = cache_folder() / "bf16" / f"{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes of one launch measure once
        if not path.exists():
            if _free_memory() < MEMORY * sum(math.prod(shape) for shape in shapes.values()):
                return False
            found = agreement(load(), tokenizer)
            write_json(path, {**asdict(found), "suits": found.suits, "model": folder.name})
        return bool(read_json(path)["suits"])


def agreement(model: Any, tokenizer: Any, questions: tuple[str, ...] = QUESTIONS) -> Agreement:
    """Compare a model in fp32 with itself in bf16 on these questions; the model is bf16 afterwards."""
    import torch

    # Imported here: the engine itself asks this module for its dtype.
    from rlaif.engines.transformers import choice_tokens
    from rlaif.prompting.chat import encode_chat

    a, b = (ids[0] for ids in choice_tokens(tokenizer, ("A", "B")))
    rows = [encode_chat(tokenizer, [{"role": "user", "content": question}]) for question in questions]

    @torch.inference_mode()
    def verdicts() -> list[float]:
        logits = [model(torch.tensor([row]), logits_to_keep=1).logits[0, -1, [a, b]].float() for row in rows]
        return [float(pair.softmax(-1)[0]) for pair in logits]

    exact, slow = _timed(verdicts)
    model.to(torch.bfloat16)
    rounded, fast = _timed(verdicts)
    sides = [(p > 0.5) == (q > 0.5) for p, q in zip(exact, rounded, strict=True)]
    return Agreement(
        max(abs(p - q) for p, q in zip(exact, rounded, strict=True)),
        sum(sides) / len(sides),
        slow / fast,
        len(questions),
    )


def _timed(verdicts: Callable[[], list[float]]) -> tuple[list[float], float]:
    """(the verdicts, seconds of the second of two passes; the first one warms up)."""
    verdicts()
    began = time.process_time()
    return verdicts(), max(time.process_time() - began, 1e-9)


def _cpu() -> str:
    """The processor's name, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _free_memory() -> float:
    """Bytes that can be had, infinite where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return math.inf
