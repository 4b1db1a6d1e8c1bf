"""What each part of PPO's own forward pass gains: updates with a part switched off beside updates with
everything on.

    python benchmarks/ablation.py --size 36M --threads 1 --repetitions 5 --json out.json

All sides take turns in one process on the same prompts. A ratio is the time of an update without the part
over the time of the one with everything that was timed in the same round: 1.10 says that the part saves 10 %
of that. The clock is CPU time unless --clock says otherwise, for machines that are shared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measuring import interleaved, llama, machine, paired_ratio
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from rlaif.options import PpoOptions
from rlaif.rl import cpu, heads
from rlaif.rl import llama as decoder
from rlaif.rl.episodes import PromptTokens
from rlaif.rl.ppo import PPO


def plain_token_log_probs(final: Any, tokens_N: Tensor, temperature: float = 1.0) -> Tensor:
    """`token_log_probs` by autograd alone, without blocks."""
    logits_NV = final.logits(slice(None))
    return heads.gather_log_probs(heads.block_log_probs(logits_NV, temperature), tokens_N)


# Part → what is patched to switch it off.
PARTS: dict[str, list[Any]] = {
    "llama.py, all of it": [patch.dict("os.environ", RLAIF_PLAIN_FORWARD="1")],
    "llama.py: weights packed while decoding": [
        patch.object(decoder, "PackedLayers", lambda: lambda layer, x: layer(x))
    ],
    "cpu.py: oneDNN in place of F.linear": [patch.object(cpu, "WIDE", 1 << 30)],
    "cpu.py: products of the head by oneDNN": [patch.object(heads, "product", torch.nn.functional.linear)],
    "heads.py: pieces that fit the cache": [patch.object(heads, "PIECE_BYTES", 1 << 40)],
    "heads.py: log-probabilities as one function": [
        patch("rlaif.rl.ppo.token_log_probs", plain_token_log_probs)
    ],
}


@contextmanager
def without(part: str) -> Iterator[None]:
    """With a part switched off; "" names none."""
    with ExitStack() as stack:
        for off in PARTS.get(part, ()):
            stack.enter_context(off)
        yield


def trainer(options: argparse.Namespace) -> PPO:
    """A PPO of random models; the reward is the number of distinct tokens, which costs nothing."""
    torch.manual_seed(0)
    config = llama(options.size)
    policy, reference = (LlamaForCausalLM(config).eval() for _ in range(2))
    reference.load_state_dict(policy.state_dict())
    config.num_labels = 1
    value = LlamaForSequenceClassification(config).eval()
    settings = PpoOptions(
        stage="ppo",
        batch_size=options.batch,
        max_tokens=options.response,
        micro_batch=options.micro_batch,
        epochs=options.epochs,
        warmup=0,
        learning_rate=3e-6,
        missing_eos_penalty=0.0,
    )

    def reward(episodes: Any, prompts: Any) -> Tensor:
        return torch.tensor([float(len(set(ids))) for ids in episodes.responses()])

    return PPO(policy, reference.requires_grad_(False), value, reward, settings, (), 0, autocast=options.bf16)


def main() -> None:
    """Print the ratio of every part, and write them to --json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="36M")
    parser.add_argument("--bf16", action="store_true", help="forward passes in bf16")
    for name, default in (("batch", 16), ("prompt", 64), ("response", 48), ("micro-batch", 8), ("epochs", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS), metavar="PART")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ppo = trainer(options)
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 32000, (options.batch, options.prompt), generator=draw).tolist()
    prompts = [PromptTokens(row) for row in ids]

    def update(part: str) -> Callable[[], None]:
        def work() -> None:
            with without(part):
                ppo.update(1, prompts)

        return work

    seconds = interleaved(
        {part: update(part) for part in ("", *options.parts)}, options.repetitions, options.clock
    )
    found = {part: paired_ratio(seconds[part], seconds[""]) for part in options.parts}
    for part, ratio in found.items():
        print(f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f}) without {part}")
    if options.json:
        record = {
            "options": {key: str(value) for key, value in vars(options).items()},
            "machine": machine("cpu"),
        }
        options.json.write_text(json.dumps({**record, "seconds": seconds, "ratios": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
