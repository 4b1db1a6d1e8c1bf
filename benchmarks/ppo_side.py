"""One side of benchmarks/ppo.py in a process of its own: sets up, then does one update for every line it is
sent.

    python benchmarks/ppo_side.py '{"side": "ours", "size": "36M", …}'

Answers a line of JSON each: seconds, CPU seconds, seconds of each phase, the greatest resident memory of the
update.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from measuring import llama
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

VOCABULARY_START = 3  # prompts without the pad token
PEER = {
    "kl_coef": 0.05,
    "cliprange": 0.2,
    "cliprange_value": 0.2,
    "gamma": 1.0,
    "lam": 0.95,
    "learning_rate": 3e-6,
}


class Meter:
    """Time and memory of an update and of its phases."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = defaultdict(float)

    def begin(self) -> None:
        """A new update starts now; the memory's high-water mark is set back where the system can do that."""
        self.phases.clear()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.started = self.last = time.perf_counter()
        self.cpu = time.process_time()

    def phase(self, name: str) -> None:
        """What was done since the last call was this."""
        now = time.perf_counter()
        self.phases[name] += now - self.last
        self.last = now

    def end(self) -> dict[str, Any]:
        """The update's figures."""
        return {
            "seconds": time.perf_counter() - self.started,
            "cpu_seconds": time.process_time() - self.cpu,
            "phases": dict(self.phases),
            "peak_bytes": high_water(),
        }


def high_water() -> int:
    """Greatest resident memory since it was set back, in bytes; on a GPU the greatest allocation."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def build(options: dict[str, Any]) -> dict[str, Any]:
    """Policy, reference, value and reward model, the same on every side."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    length = {"max_position_embeddings": max(1024, options["prompt"] + options["response"])}
    torch.manual_seed(0)
    policy = LlamaForCausalLM(llama(options["size"], **length))
    judge = LlamaForSequenceClassification(llama(options["size"], num_labels=1, **length))
    models = {
        "policy": policy,
        "reference": LlamaForCausalLM(policy.config),
        "value": LlamaForSequenceClassification(judge.config),
        "reward": judge,
    }
    models["reference"].load_state_dict(policy.state_dict())
    models["value"].load_state_dict(judge.state_dict())
    return {name: model.to(device).eval() for name, model in models.items()}


def prompts(options: dict[str, Any]) -> torch.Tensor:
    """The batch of prompts, all of one length. → [B, P]"""
    generator = torch.Generator().manual_seed(1)
    vocabulary = llama(options["size"]).vocab_size
    shape = (options["batch"], options["prompt"])
    return torch.randint(VOCABULARY_START, vocabulary, shape, generator=generator)


def orders() -> Iterator[str]:
    """What the parent process asks for, line by line, until it is done."""
    for line in sys.stdin:
        yield line.strip()


def answer(figures: dict[str, Any]) -> None:
    """One line to the parent process."""
    print("#" + json.dumps(figures), flush=True)


def ours(options: dict[str, Any]) -> None:
    """rlaif's PPO; the plain `ModelReward` and models in the precision the stage would give them."""
    from rlaif.options import PpoOptions
    from rlaif.rl.episodes import PromptTokens
    from rlaif.rl.ppo import PPO
    from rlaif.rl.reward import ModelReward

    models, meter, bf16 = build(options), Meter(), options["dtype"] == "bfloat16"
    reference = models["reference"].requires_grad_(False)
    judge = models["reward"].to(torch.bfloat16 if bf16 else torch.float32).requires_grad_(False)
    stage = PpoOptions(
        stage="ppo",
        batch_size=options["batch"],
        max_tokens=options["response"],
        epochs=options["epochs"],
        missing_eos_penalty=0.0,
        warmup=0,
        learning_rate=PEER["learning_rate"],
        micro_batch=options["micro_batch"],
    )
    reward = ModelReward(judge, _Tokenizer(), 1 << 30, options["micro_batch"])
    ppo = PPO(models["policy"], reference, models["value"], reward, stage, (), 0, autocast=bf16)
    _watch(
        ppo,
        meter,
        {"sample": "rollout", "score": "scoring", "measure_batch": "scoring", "optimize": "update"},
    )
    batch = [PromptTokens(ids) for ids in prompts(options).tolist()]
    answer({})
    for number, _ in enumerate(orders(), 1):
        meter.begin()
        _, experience = ppo.update(number, batch)
        answer(meter.end())
        assert int(experience.episodes.response_B.min()) == options["response"]


class _Tokenizer:
    """What a reward model's tokenizer is asked for where it reads the policy's own tokens."""

    eos_token_id = pad_token_id = chat_template = None
    eos_token = ""


def _watch(owner: Any, meter: Meter, phases: dict[str, str]) -> None:
    """Time some methods of an object, each under the name of a phase."""

    def timed(work: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            meter.phase("rest")
            result = work(*args, **options)
            meter.phase(phase)
            return result

        return call

    for method, phase in phases.items():
        setattr(owner, method, timed(getattr(owner, method), phase))


def trl(options: dict[str, Any]) -> None:
    """TRL's last PPO, from the folder on PYTHONPATH; "nogc" as an order runs an update without its garbage
    collections."""
    import trl as package
    from trl.experimental.ppo import (  # pyright: ignore[reportMissingImports]
        PPOConfig,
        PPOTrainer,
        ppo_trainer,
    )

    assert package.__version__ == "1.12.0", package.__version__
    models, meter, asked = build(options), Meter(), orders()
    arguments = PPOConfig(
        output_dir=options["folder"],
        per_device_train_batch_size=options["batch"],
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=options["epochs"],
        response_length=options["response"],
        temperature=1.0,
        stop_token=None,
        missing_eos_penalty=None,
        total_episodes=options["batch"] * 1_000_000,
        local_rollout_forward_batch_size=options["batch"],
        num_sample_generations=0,
        save_strategy="no",
        report_to=[],
        bf16=options["dtype"] == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        vf_coef=0.1,
        **PEER,
        gradient_checkpointing=False,
    )
    trainer = PPOTrainer(
        arguments,
        _tokenizer(options),
        models["policy"],
        models["reference"],
        models["reward"],
        _data(options),
        models["value"],
    )
    _pause(trainer, meter, asked)
    _trl_phases(trainer, ppo_trainer, meter)
    with suppress(_Stop):
        trainer.train()


class _Stop(Exception):
    """No more updates are asked for."""


def _pause(trainer: Any, meter: Meter, asked: Iterator[str]) -> None:
    """Wait for an order before each batch, answer before the next one: an update is what the loop does
    between."""
    batches = trainer.dataloader
    collect, empty = gc.collect, trainer.train.__globals__["empty_cache"]

    class Waiting:
        def __iter__(self) -> Iterator[Any]:
            for number, batch in enumerate(iter(lambda: next(iter(batches)), None)):
                if number:
                    meter.phase("rest")
                answer(meter.end() if number else {})
                order = next(asked, None)
                if order is None:
                    raise _Stop
                off = order == "nogc"
                gc.collect = (lambda *_: 0) if off else collect
                trainer.train.__globals__["empty_cache"] = (lambda: None) if off else empty
                meter.begin()
                yield batch

    trainer.dataloader = Waiting()


def _trl_phases(trainer: Any, module: Any, meter: Meter) -> None:
    """Rollout is `batch_generation`; the update starts where gradients first accumulate and ends with the
    step."""
    generation, accumulate = module.batch_generation, trainer.accelerator.accumulate

    def rollout(*args: Any, **options: Any) -> Any:
        result = generation(*args, **options)
        meter.phase("rollout")
        return result

    @contextmanager
    def update(*models: Any) -> Iterator[None]:
        meter.phase("update" if "scoring" in meter.phases else "scoring")
        with accumulate(*models):
            yield
        meter.phase("update")

    module.batch_generation, trainer.accelerator.accumulate = rollout, update


def _tokenizer(options: dict[str, Any]) -> Any:
    """A word-level tokenizer of the models' vocabulary, which TRL wants for padding and the EOS it never
    meets."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(llama(options["size"]).vocab_size)}
    fast = Tokenizer(models.WordLevel(words, unk_token="w1"))
    return PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="w0", eos_token="w2", padding_side="left")


def _data(options: dict[str, Any]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": prompts(options).tolist()})


def main() -> None:
    """Set up one side and serve."""
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    {"ours": ours, "trl": trl}[options["side"]](options)


if __name__ == "__main__":
    main()
