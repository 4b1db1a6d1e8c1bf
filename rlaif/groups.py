"""What RLOO and GRPO share: several responses a prompt, rewarded against each other by trl's trainers.

An update samples `batch_size` responses to batch_size / group prompts and takes epochs × minibatches optimiser steps
on them. Prompts, tokens, rewards and their scale are ours and the same as PPO's; sampling, advantages and loss are
trl's. The order of prompts is written out beforehand and checkpoints fall between updates, so that on one thread a
continued training ends as an uninterrupted one would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from rlaif.engines.loading import context_length, eos_ids, load_causal_lm, load_tokenizer
from rlaif.errors import UserError
from rlaif.gold import load_gold, with_all
from rlaif.prompts import encode_chat, has_chat_template
from rlaif.records import Prompt
from rlaif.rewards import Opened, fix_scales, open_rewards, reference_samples
from rlaif.rl.episodes import join
from rlaif.rl.ppo import PromptTokens
from rlaif.rl.texts import texts_of
from rlaif.runfolder import Journal, Stage
from rlaif.seeds import in_rounds
from rlaif.stats import mean
from rlaif.training import Plain, Watch, arguments, fit, publish, without_dropout, write_model

if TYPE_CHECKING:
    from rlaif.options.rewarded import Grouped

ENDS = 5  # updates whose mean is "start" and "end"


class Scorer:
    """trl's reward function: our rewards less the penalty for a missing end; `seen` describes the last batch."""

    __name__ = "reward"

    def __init__(self, stage: Stage, opened: Opened, tokenizer: Any, prompts: Sequence[PromptTokens], eos: Sequence[int]) -> None:  # fmt: skip
        self.opened, self.tokenizer, self.eos = opened, tokenizer, set(eos)
        self.known = {p.source.id: p for p in prompts}
        self.penalty, self.device = stage.options.missing_eos_penalty, stage.config.policy.device
        self.gold = load_gold(stage.config.gold, stage.constitution)
        self.seen: dict[str, float] = {}

    def __call__(self, prompts: Sequence[str], completion_ids: Sequence[list[int]], **_: Any) -> list[float]:
        """The reward of each completion of the prompts with these ids."""
        asked = [self.known[i] for i in prompts]
        ended = torch.tensor([ids[-1] in self.eos for ids in completion_ids])
        episodes = join([p.ids for p in asked], completion_ids, ended, self.tokenizer.pad_token_id)
        scores = self.opened.rewards(episodes, [p.source for p in asked])
        rewards = scores - self.penalty * (~ended).to(scores)
        self.seen = {
            "score": float(scores.mean()), "reward": float(rewards.mean()), "truncated": float((~ended).float().mean()),
            "length": mean([len(ids) for ids in completion_ids]), **self.opened.rewards.seen,
        }  # fmt: skip
        if self.gold:
            texts = texts_of(self.tokenizer, episodes)
            kept = [with_all(self.gold(p.source, text))["all"] for p, text in zip(asked, texts, strict=True)]
            self.seen["gold"] = mean(kept)
        return rewards.tolist()


class InGroups(Plain):
    """Mixin of trl's RLOO and GRPO trainers: our prompt tokens, and a rate that stays after its warm-up."""

    prompt_ids: dict[str, list[int]]
    warmup = 0

    def _tokenize_prompts(self, prompts: list[str]) -> Any:
        return [self.prompt_ids[i] for i in prompts], None, {}

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up over `warmup` steps, then constant, as in PPO."""
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer,  # type: ignore[attr-defined]
            lambda step: min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0,
        )
        self.lr_scheduler, self._created_lr_scheduler = rate, True
        return rate


class Updates(Watch):
    """One row an update in metrics.jsonl; checkpoints only where an update ends."""

    def __init__(self, stage: Stage, curve: Journal, tick: Callable[[int], None], scorer: Scorer) -> None:
        super().__init__(stage, curve, tick)
        self.scorer, self.steps = scorer, stage.options.epochs * stage.options.minibatches

    def row(self, step: int, logs: dict[str, float]) -> dict[str, Any]:
        """What PPO's rows hold, as far as trl tells: KL as a mean over tokens times the mean length."""
        if "reward" not in logs or (step - 1) % self.steps:
            return {}
        update, seen = (step - 1) // self.steps + 1, self.scorer.seen
        kl = {"kl": logs["kl"] * seen["length"]} if logs.get("kl") is not None else {}
        own = {key: logs[key] for key in ("loss", "grad_norm", "entropy", "learning_rate") if key in logs}
        return {"update": update, "episodes": update * self.stage.options.batch_size, **seen, **kl, **own}

    def due(self, step: int) -> bool:
        """Whether a checkpoint may be written after this step."""
        return step % self.steps == 0


def train_in_groups(stage: Stage, trainer: Any, config: Any, **settings: Any) -> None:
    """Write policy/ and metrics.jsonl by trl's `trainer` and its `config`, set up by the stage's options."""
    from datasets import Dataset

    options: Grouped = stage.options
    start = stage.input("policy")
    tokenizer, model = load_tokenizer(start), load_causal_lm(start, stage.config.policy.device, "float32")
    opened = open_rewards(stage, tokenizer)
    prompts = _prompts(stage, tokenizer, opened, min(context_length(model), opened.context))
    if not (stage.dir / "policy").exists():
        eos = eos_ids(model, tokenizer)
        if not fix_scales(stage, opened.rewards, None):
            fix_scales(stage, opened.rewards, reference_samples(stage, model, tokenizer, prompts, eos))
        model.generation_config.eos_token_id = list(eos)
        order = [
            p.source.id
            for number in range(1, options.updates + 1)
            for p in in_rounds(prompts, number, options.batch_size // options.group, stage.seed)
        ]
        scorer = Scorer(stage, opened, tokenizer, prompts, eos)
        kind: Any = type(trainer.__name__, (InGroups, trainer), {})
        kind.prompt_ids = {p.source.id: p.ids for p in prompts}
        kind.warmup = options.warmup * options.epochs * options.minibatches
        made = kind(
            without_dropout(model), scorer, _arguments(stage, model, config, settings),
            train_dataset=Dataset.from_list([{"prompt": i} for i in order]), processing_class=tokenizer,
        )  # fmt: skip
        fit(stage, made, lambda stage, curve, tick: Updates(stage, curve, tick, scorer))
        publish(stage, "policy", lambda folder: write_model(model, tokenizer, folder, start))
    stage.metrics = summary(Journal(stage.dir / "metrics.jsonl", "step").rows())


def _arguments(stage: Stage, model: Any, config: Any, settings: dict[str, Any]) -> Any:
    """trl's config: an optimiser step a minibatch, a generation an update."""
    o: Grouped = stage.options
    minibatch = o.batch_size // o.minibatches
    micro = max(size for size in range(1, min(o.micro_batch, minibatch) + 1) if minibatch % size == 0)
    return arguments(
        config, stage, model, 0, num_generations=o.group, max_completion_length=o.max_tokens, temperature=o.temperature,
        per_device_train_batch_size=micro, gradient_accumulation_steps=minibatch // micro,
        steps_per_generation=o.batch_size // micro, num_iterations=o.epochs, beta=o.kl_coef, epsilon=o.clip,
        max_steps=o.updates * o.epochs * o.minibatches, max_grad_norm=o.max_grad_norm, num_train_epochs=1,
        shuffle_dataset=False, disable_dropout=False, **settings,
    )  # fmt: skip


def _prompts(stage: Stage, tokenizer: Any, opened: Opened, context: int) -> list[PromptTokens]:
    """The training prompts as tokens; those that leave no room for a response are dropped and counted."""
    every: list[Prompt] = stage.run.prompts("train")
    read = [PromptTokens(encode_chat(tokenizer, p.chat), p) for p in every]
    room = context - stage.options.max_tokens
    sources = opened.rewards.sources
    prompts = [p for p in read if len(p.ids) <= room and all(s.score.fits(p.source) for s in sources)]
    stage.dropped["prompt and response do not fit the model's context"] += len(every) - len(prompts)
    stage.save("running", **{"in": len(every), "kept": len(prompts)})
    if not prompts:
        raise UserError(f"{stage.dir.name}: none of {len(every)} prompts leaves room for {stage.options.max_tokens} new tokens.",
                        "at least one prompt that fits", f"lower {stage.name}.max_tokens")  # fmt: skip
    if not has_chat_template(tokenizer):
        stage.notes.append("the policy has no chat template: plain Human/Assistant turns are used")
    return prompts


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The stage's metrics from its rows: "start" and "end" are means over the first and last few updates."""

    def over(part: Sequence[dict[str, Any]], key: str) -> float | None:
        values = [row[key] for row in part if key in row and math.isfinite(row[key])]
        return mean(values) if values else None

    first, last = rows[:ENDS], rows[-ENDS:]
    return {
        "updates": len(rows), "episodes": rows[-1]["episodes"], "kl": over(last, "kl"),
        **{f"{key}_{end}": over(part, key) for key in ("reward", "score") for end, part in (("start", first), ("end", last))},
        **{key: over(last, key) for key in ("length", "truncated", "entropy")},
    }  # fmt: skip
