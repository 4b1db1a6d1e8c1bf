"""bf16 against fp32 on a real model on this CPU: its verdicts on pairs, and one PPO update.

    python benchmarks/real_model.py MODEL --pairs 24 --batch 4 --prompt 32 --response 8 --json real.json

MODEL is a folder, a GGUF file or a hub id. The pairs are a constitution's prompts with two texts each, one of
them of another prompt, judged by the templates that a run uses, in both orders; the difference is that of
P(the first is chosen). PPO is run in the two dtypes one after the other, fp32 first and last; seconds are the
process's own.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from measuring import machine

from rlaif.config import ASSETS, ModelConfig
from rlaif.constitution import Constitution
from rlaif.engines import ScoreRequest, open_engine
from rlaif.engines.loading import eos_ids, load_causal_lm, load_reward_model, load_tokenizer
from rlaif.options import PpoOptions
from rlaif.prompting.prompt_files import load_prompts
from rlaif.prompting.templates import Templates
from rlaif.rl.ppo import PPO, PromptTokens
from rlaif.rl.reward import zero_head


def verdicts(model: str, pairs: int, dtype: str) -> list[float]:
    """P(the first response is chosen) of each pair in both orders, by the first principle."""
    constitution = Constitution.load(ASSETS / "constitutions/general.yaml")
    templates, rule = Templates.load("default"), constitution.principles[0]
    prompts = load_prompts(ASSETS / "prompts/starter.jsonl")[: pairs + 1]
    texts = [prompt.messages[-1].content for prompt in prompts]
    requests = []
    for at in range(pairs):
        two = f"About this: {texts[at]}", f"About something else: {texts[at + 1]}"
        for a, b in (two, two[::-1]):
            asked = templates.comparison(prompts[at].chat, a, b)
            requests.append(ScoreRequest(asked, (templates.comparison_suffix(rule),), ("A", "B")))
    engine = open_engine(
        ModelConfig.model_validate({"model": model, "device": "cpu", "dtype": dtype, "batch_tokens": 4096})
    )
    scores = dict(engine.score_choices(requests))
    return [scores[at].probability(0)[0] for at in range(len(requests))]


def ppo_seconds(model: str, batch: int, prompt: int, response: int, dtype: str) -> float:
    """Seconds of the second update of `batch` rollouts; the first one warms up."""
    tokenizer = load_tokenizer(model)
    policy, reference = (load_causal_lm(model, "cpu", "float32") for _ in range(2))
    value = zero_head(load_reward_model(model, "cpu", "float32", new_head=True))
    options = PpoOptions.model_validate(
        {"stage": "ppo", "batch_size": batch, "max_tokens": response, "warmup": 0, "updates": 2}
    )
    ppo = PPO(
        policy,
        reference.requires_grad_(False),
        value,
        lambda episodes, stop: torch.zeros(len(episodes)),
        options,
        eos_ids(policy, tokenizer),
        tokenizer.pad_token_id,
        autocast=dtype == "bfloat16",
    )
    rows = torch.randint(5, 1000, (batch, prompt), generator=torch.Generator().manual_seed(0)).tolist()
    ppo.update(1, [PromptTokens(row) for row in rows])
    began = time.process_time()
    ppo.update(2, [PromptTokens(row) for row in rows])
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    for name, default in {"pairs": 24, "batch": 4, "prompt": 32, "response": 8, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    found: dict[str, Any] = {"machine": machine("cpu"), "options": vars(options) | {"json": None}}
    exact, rounded = (verdicts(options.model, options.pairs, dtype) for dtype in ("float32", "bfloat16"))
    gaps = [abs(p - q) for p, q in zip(exact, rounded, strict=True)]
    same = [(p > 0.5) == (q > 0.5) for p, q in zip(exact, rounded, strict=True)]
    found["verdicts"] = {
        "n": len(gaps),
        "largest_difference": max(gaps),
        "same_choice": sum(same) / len(same),
    }
    found["verdicts"]["first_chosen"] = sum(p > 0.5 for p in exact) / len(exact)
    print(json.dumps(found["verdicts"]), flush=True)
    sizes = options.batch, options.prompt, options.response
    for name, dtype in (("fp32", "float32"), ("bf16", "bfloat16"), ("fp32 again", "float32")):
        seconds = ppo_seconds(options.model, *sizes, dtype)
        found[f"ppo {name}"] = {"seconds": seconds, "samples_per_second": options.batch / seconds}
        print(name, json.dumps(found[f"ppo {name}"]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
