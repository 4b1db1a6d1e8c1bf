"""TRL 1.12's PPO as one arm of benchmarks/arms.py: trains by FOLDER/options.json, leaves policy/ and
metrics.jsonl.

Its own loop, losses and defaults; ours are the weights, the prompts, the scale of the reward, and the sizes.
Gold is only watched.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from rlaif.engines.loading import load_causal_lm, load_reward_model, load_tokenizer
from rlaif.feedback.gold import load_gold, with_all
from rlaif.prompting.chat import encode_chat
from rlaif.rl.reward import Scale, rebase_head
from rlaif.runs.folder import Run, read_json
from rlaif.stats import mean


def arguments(o: dict[str, Any], folder: Path, make: Any) -> Any:
    """TRL's config for the options of our ppo stage; what is not named here is its default."""
    return make(
        output_dir=str(folder / "trl"),
        seed=o["seed"],
        learning_rate=o["learning_rate"],
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=o["warmup"],
        adam_epsilon=1e-5,
        per_device_train_batch_size=o["batch_size"],
        gradient_accumulation_steps=1,
        num_mini_batches=o["minibatches"],
        num_ppo_epochs=o["epochs"],
        total_episodes=o["updates"] * o["batch_size"],
        local_rollout_forward_batch_size=o["batch_size"],
        response_length=o["max_tokens"],
        temperature=1.0,
        stop_token="eos",
        missing_eos_penalty=1.0,
        kl_coef=o["kl_coef"],
        gamma=1.0,
        lam=0.95,
        vf_coef=0.1,
        num_sample_generations=0,
        save_strategy="no",
        report_to=[],
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        max_grad_norm=1.0,
    )


class Log:
    """metrics.jsonl with an update a row: TRL's figures, and the gold of the responses it had rewarded."""

    def __init__(self, path: Path, run: Run, tokenizer: Any, reward: Any) -> None:
        self.path, self.tokenizer, self.reward = path, tokenizer, reward
        self.score = load_gold(run.config.gold, run.constitution)
        self.known = {tuple(encode_chat(tokenizer, p.chat)): p for p in run.prompts("train")}
        self.gold: list[float] = []

    def watch(self, get_reward: Any) -> Any:
        """TRL's `get_reward` with an eye on what the reward model reads."""

        def watched(model: Any, ids: torch.Tensor, pad: int, context: int) -> Any:
            if model is self.reward and self.score:
                for row in ids.tolist():
                    prompt = self.known[tuple(i for i in row[:context] if i != pad)]
                    text = self.tokenizer.decode(row[context:], skip_special_tokens=True).strip()
                    self.gold.append(with_all(self.score(prompt, text))["all"])
            return get_reward(model, ids, pad, context)

        return watched

    def write(self, logs: dict[str, float]) -> None:
        """One update's row."""
        row = {
            "episodes": logs["episode"],
            "kl": logs["objective/kl"],
            "score": logs["objective/scores"],
            "gold": mean(self.gold),
        }
        self.gold.clear()
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Train and save."""
    import trl
    from trl.experimental.ppo import PPOConfig, PPOTrainer  # pyright: ignore[reportMissingImports]

    if trl.__version__ != "1.12.0":
        raise SystemExit(f"trl {trl.__version__} on the path, not 1.12.0")
    folder = Path(sys.argv[1])
    o, scale = read_json(folder / "options.json"), Scale(**read_json(folder / "options.json")["scale"])
    run, tokenizer = Run.load(Path(o["start"])), load_tokenizer(o["policy"])
    device = run.config.policy.device
    policy, reference = (load_causal_lm(o["policy"], device, "float32") for _ in range(2))
    reward, value = (rebase_head(load_reward_model(o["reward"], device, "float32"), scale) for _ in range(2))
    log = Log(folder / "metrics.jsonl", run, tokenizer, reward)
    from datasets import Dataset

    room = policy.config.max_position_embeddings - o["max_tokens"]
    data = Dataset.from_dict({"input_ids": [list(ids) for ids in log.known if len(ids) <= room]})
    trainer = PPOTrainer(
        arguments(o, folder, PPOConfig), tokenizer, policy, reference, reward, data, value, eval_dataset=data
    )
    scope = trainer.train.__globals__
    scope["get_reward"] = log.watch(scope["get_reward"])
    trainer.log = lambda logs, *_: log.write(logs)
    trainer.train()
    trained = trainer.accelerator.unwrap_model(trainer.model).policy
    trained.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")


if __name__ == "__main__":
    main()
