"""ppo: the policy against the reward model; the algorithm is in `rlaif.rl.ppo`, this is what stands around it.

Prompts by a seeded cursor, the scores' scale from samples of the policy it starts with, metrics.jsonl and
samples.jsonl, checkpoints, and what to say when a number is not finite. An update depends on the weights and its
number alone, so on one thread a continued run writes what an uninterrupted one would have.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.errors import UserError
from rlaif.gold import load_gold, with_all
from rlaif.prompts import encode_chat, has_chat_template
from rlaif.runfolder import Run, Stage, read_json, write_json
from rlaif.seeds import derive_seed, in_rounds
from rlaif.stats import mean

if TYPE_CHECKING:
    from rlaif.rl.ppo import PPO, Experience, NotFinite, PromptTokens
    from rlaif.rl.reward import ModelReward, Scale

REFERENCE_SAMPLES = 256  # responses of the starting policy that fix the scores' scale
SHOWN = 4  # responses of an update kept in samples.jsonl
ENDS = 5  # updates whose mean is "start" and "end"


@dataclass
class Parts:
    """What a run of the stage works with."""

    ppo: PPO
    tokenizer: Any
    prompts: list[PromptTokens]


class Journal:
    """A JSONL file of rows with an `update` number, which a continued run takes back to its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """Every whole row."""
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        return [json.loads(line) for line in lines]

    def rewind(self, update: int) -> None:
        """Drop what was written after `update`, and a line cut short by a kill."""
        kept = [row for row in self.rows() if row["update"] <= update]
        partial = self.path.with_suffix(".partial")
        partial.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8"
        )
        os.replace(partial, self.path)

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Write rows and flush them."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def run(stage: Stage) -> None:
    """Write policy/, metrics.jsonl (one row an update) and samples.jsonl."""
    metrics, samples = Journal(stage.dir / "metrics.jsonl"), Journal(stage.dir / "samples.jsonl")
    parts = _open(stage)
    if not (stage.dir / "policy").exists():
        _train(stage, parts, metrics, samples)
        _publish(stage, parts)
    stage.metrics = summary(metrics.rows())
    _note_doubts(stage, metrics.rows())
    last = samples.rows()[-1]
    stage.note_example(last["prompt"], f"{last['response']} (score {last['score']:.2f})")


def _open(stage: Stage) -> Parts:
    """Models, prompts and reward, as they are before the first update."""
    from rlaif.engines.loading import (
        context_length,
        eos_ids,
        load_causal_lm,
        load_reward_model,
        load_tokenizer,
        resolve_dtype,
    )
    from rlaif.rl import reward as rewards
    from rlaif.rl.ppo import PPO

    config, start, judge = stage.config.policy, stage.input("policy"), stage.input("reward_model")
    tokenizer, judge_tokenizer = load_tokenizer(start), load_tokenizer(judge)
    policy, reference = (load_causal_lm(start, config.device, "float32") for _ in range(2))
    reward_model = load_reward_model(judge, config.device, config.dtype)
    same = rewards.same_tokens(tokenizer, judge_tokenizer, stage.run.prompts("train")[:64])
    contexts = [context_length(policy), *([context_length(reward_model)] if same else [])]
    prompts = _prompts(stage, tokenizer, min(contexts))
    reward = rewards.ModelReward(
        reward_model, judge_tokenizer, context_length(reward_model), stage.options.micro_batch,
        policy_tokenizer=None if same else tokenizer,
    )  # fmt: skip
    reward.scale = _scale(stage, policy, tokenizer, reward, prompts)
    if same:
        value = rewards.rebase_head(load_reward_model(judge, config.device, "float32"), reward.scale)
    else:
        value = rewards.zero_head(load_reward_model(start, config.device, "float32", new_head=True))
        stage.notes.append("the reward model has a tokenizer of its own: it reads responses as text, encoded anew, "
                           "and the value model starts from the policy with a new head")  # fmt: skip
    precision = resolve_dtype(config.dtype, policy.device, policy.num_parameters())
    ppo = PPO(policy, reference.requires_grad_(False), value, reward, stage.options, eos_ids(policy, tokenizer),
              tokenizer.pad_token_id, stage.seed, autocast=precision != policy.dtype)  # fmt: skip
    return Parts(ppo, tokenizer, prompts)


def _prompts(stage: Stage, tokenizer: Any, context: int) -> list[PromptTokens]:
    """The training prompts as tokens; those that leave no room for a response are dropped and counted."""
    from rlaif.rl.ppo import PromptTokens

    prompts = [PromptTokens(encode_chat(tokenizer, p.chat), p) for p in stage.run.prompts("train")]
    room = context - stage.options.max_tokens
    fitting = [p for p in prompts if len(p.ids) <= room]
    stage.dropped["prompt and response do not fit the model's context"] += len(prompts) - len(fitting)
    stage.save("running", **{"in": len(prompts), "kept": len(fitting)})
    if not fitting:
        raise UserError(f"{stage.dir.name}: none of {len(prompts)} prompts leaves room for {stage.options.max_tokens} new tokens "
                        f"in a context of {context}.", "at least one prompt that fits", "lower ppo.max_tokens")  # fmt: skip
    if not has_chat_template(tokenizer):
        stage.notes.append("the policy has no chat template: plain Human/Assistant turns are used")
    return fitting


def _scale(
    stage: Stage, policy: Any, tokenizer: Any, reward: ModelReward, prompts: Sequence[PromptTokens]
) -> Scale:
    """The scores' scale, measured once on responses of the policy as it starts, and kept in reward_scale.json."""
    import torch

    from rlaif.engines.loading import eos_ids
    from rlaif.rl.reward import Scale
    from rlaif.rl.rollout import rollout

    path = stage.dir / "reward_scale.json"
    if not path.exists():
        o, scores = stage.options, []
        generator = torch.Generator(policy.device).manual_seed(derive_seed(stage.seed, "scale"))
        for number in range(1, -(-REFERENCE_SAMPLES // o.batch_size) + 1):
            batch = in_rounds(prompts, number, o.batch_size, derive_seed(stage.seed, "scale prompts"))
            episodes = rollout(policy, [p.ids for p in batch], o.max_tokens, o.temperature,
                               eos_ids(policy, tokenizer), tokenizer.pad_token_id, generator)  # fmt: skip
            scores.append(reward(episodes, [p.source for p in batch]))
        write_json(path, asdict(Scale.of(torch.cat(scores))))
    return Scale(**read_json(path))


def _train(stage: Stage, parts: Parts, metrics: Journal, samples: Journal) -> None:
    """Update after update, from the last checkpoint where there is one."""
    from rlaif.rl import checkpoint
    from rlaif.rl.ppo import NotFinite

    o, folder = stage.options, stage.dir / "checkpoints"
    last = checkpoint.latest(folder)
    done = checkpoint.load(last, parts.ppo) if last else 0
    metrics.rewind(done)
    samples.rewind(done)
    look = Look(stage.run, parts)
    with stage.progress(o.updates, "updates", done) as tick:
        for number in range(done + 1, o.updates + 1):
            batch = in_rounds(parts.prompts, number, o.batch_size, stage.seed)
            try:
                row, experience = parts.ppo.update(number, batch)
            except NotFinite as error:
                raise diverged(stage, number, error, checkpoint.latest(folder)) from None
            metrics.append([{**row, **look.gold(experience, batch)}])
            if number == 1 or number % o.sample_every == 0 or number == o.updates:
                samples.append(list(look.rows(number, experience, batch)))
            if number % o.checkpoint_every == 0 or number == o.updates:
                checkpoint.save(folder, parts.ppo, number)
            tick(1)


class Look:
    """What people see of an update's responses."""

    def __init__(self, run: Run, parts: Parts) -> None:
        self.tokenizer = parts.tokenizer
        self.score = load_gold(run.config.gold, run.constitution)

    def texts(self, experience: Experience) -> list[str]:
        """The responses as text."""
        found = self.tokenizer.batch_decode(experience.episodes.responses(), skip_special_tokens=True)
        return [text.strip() for text in found]

    def gold(self, experience: Experience, batch: Sequence[PromptTokens]) -> dict[str, float]:
        """Share of responses that keep every principle by the gold scorer: watched, never trained on."""
        if self.score is None:
            return {}
        pairs = zip(batch, self.texts(experience), strict=True)
        return {"gold": mean([with_all(self.score(p.source, text))["all"] for p, text in pairs])}

    def rows(
        self, number: int, experience: Experience, batch: Sequence[PromptTokens]
    ) -> Iterator[dict[str, Any]]:
        """The first few responses with their numbers, for samples.jsonl."""
        kl_B = (experience.log_prob - experience.reference).sum(1)
        for i, text in enumerate(self.texts(experience)[:SHOWN]):
            yield {
                "update": number, "prompt_id": batch[i].source.id, "prompt": batch[i].source.messages[-1].content,
                "response": text, "score": float(experience.score_B[i]), "kl": float(kl_B[i]),
                "tokens": int(experience.episodes.response_B[i]), "ended": bool(experience.episodes.ended_B[i]),
            }  # fmt: skip


def diverged(stage: Stage, update: int, error: NotFinite, last: Path | None) -> UserError:
    """What to say when a number of an update is NaN or infinite."""
    rate = stage.options.learning_rate
    kept = f"; the last good checkpoint is kept: {last}" if last else ""
    if error.name == "score":
        cause = "look at the reward model: it gives such a score to a response"
    else:
        cause = f"lower ppo.learning_rate (now {rate:g}) and start anew: -s ppo.learning_rate={rate / 10:g} --out …"
    return UserError(f"{stage.dir.name}: update {update} of {stage.options.updates}: {error.name} is {error.value}.",
                     "finite numbers; the weights were not changed by this step", cause + kept)  # fmt: skip


def _publish(stage: Stage, parts: Parts) -> None:
    """The trained policy as a plain folder, whole at once, in the dtype its weights came in."""
    import torch
    from transformers import AutoConfig

    start = stage.input("policy")
    stored = getattr(AutoConfig.from_pretrained(start, trust_remote_code=False), "dtype", None)
    partial = stage.dir / "policy.partial"
    shutil.rmtree(partial, ignore_errors=True)
    parts.ppo.policy.to(stored or torch.float32).save_pretrained(partial)
    parts.tokenizer.save_pretrained(partial)
    os.replace(partial, stage.dir / "policy")


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The stage's metrics from its rows: "start" and "end" are means over the first and last few updates."""
    first, last = rows[:ENDS], rows[-ENDS:]

    def over(part: Sequence[dict[str, Any]], key: str) -> float:
        return mean([row[key] for row in part])

    return {
        "updates": len(rows), "episodes": rows[-1]["episodes"], "kl": over(last, "exact_kl"),
        "reward_start": over(first, "reward"), "reward_end": over(last, "reward"),
        "score_start": over(first, "score"), "score_end": over(last, "score"),
        "length": over(last, "length"), "truncated": over(last, "truncated"), "entropy": over(last, "entropy"),
        "seconds_per_update": over(rows, "seconds"),
    }  # fmt: skip


def _note_doubts(stage: Stage, rows: Sequence[dict[str, Any]]) -> None:
    first = [row["ratio_first"] for row in rows if row["ratio_first"] is not None]
    off = [ratio for ratio in first if ratio != 1]
    if off:
        stage.notes.append(f"the first ratio of an update should be 1 and was not in {len(off)} of {len(rows)} "
                           f"updates (furthest: {max(off, key=lambda r: abs(r - 1)):.6f}): forward passes here are not repeatable")  # fmt: skip
    cut = mean([row["truncated"] for row in rows[-ENDS:]])
    if cut > 0.5:
        stage.notes.append(f"{cut:.0%} of the last responses were cut at {stage.options.max_tokens} tokens: raise ppo.max_tokens")  # fmt: skip
