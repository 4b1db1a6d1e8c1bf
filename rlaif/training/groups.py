"""What RLOO and GRPO share: several responses a prompt, rewarded against each other by trl's trainers.

An update samples `batch_size` responses to batch_size / group prompts and takes epochs × minibatches
optimiser steps on them. Prompts, tokens, rewards, their scale and the monitoring are the same as PPO's;
sampling, advantages and loss are trl's. The order of prompts is written out beforehand, an update has random
numbers of its own and checkpoints fall between updates, so that on one thread a continued training ends as an
uninterrupted one would have. Of several processes each samples and scores its share of the batch; what is
logged is of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from rlaif.engines.loading import context_length, eos_ids, load_causal_lm, load_tokenizer
from rlaif.options.rewarded import LrSchedule
from rlaif.rl.checkpoints import publish, train_once, write_model
from rlaif.rl.episodes import Episodes, PromptTokens, join
from rlaif.rl.forward import compare_responses
from rlaif.rl.numerics import rate_share
from rlaif.rl.ranks import SINGLE_PROCESS, Ranks, gather_episodes
from rlaif.rl.rollout import Stops, rollout
from rlaif.rl.texts import texts_of, turn_end
from rlaif.runs.folder import Stage
from rlaif.runs.rows import JsonlLog
from rlaif.runs.seeds import derive_seed, in_rounds
from rlaif.stats import mean
from rlaif.training.loop import (
    WATCHED,
    CurveCallback,
    arguments,
    disable_dropout,
    even_part,
    fit,
    trains_in_bf16,
)
from rlaif.training.monitoring import Sampled, SampleMonitor, note_warnings, summary
from rlaif.training.rewards import Opened, fitting_prompts, fix_scales, open_rewards, reference_samples
from rlaif.training.tracking import Track, open_tracker
from rlaif.training.trainers import QuietTrainer

if TYPE_CHECKING:
    from rlaif.options.rewarded import GroupOptions


class Actor:
    """The policy under training beside the one it started from, for what trl does not do with them."""

    def __init__(self, stage: Stage, policy: Any, tokenizer: Any, eos: Sequence[int]) -> None:
        self.policy, self.tokenizer, self.eos, self.options = policy, tokenizer, eos, stage.options
        self.seed, self.reference, self.stops = stage.seed, policy, turn_end(tokenizer)
        self.precision: Callable[[], Any] = nullcontext

    def ends(self, ids: list[int]) -> bool:
        """Whether a response has ended, and was not cut."""
        return ids[-1] in self.eos or (self.stops is not None and self.stops(ids) is not None)

    def respond(self, prompts: Sequence[PromptTokens], number: int) -> list[str]:
        """Responses to held-out prompts, with the same random numbers at every call; see
        `monitoring.Respond`."""
        o, ids = self.options, [p.ids for p in prompts]
        ranks = Ranks.current() if len(ids) >= Ranks.current().count else SINGLE_PROCESS
        generator = torch.Generator(self.policy.device).manual_seed(derive_seed(self.seed, "watch", number))
        pad = self.tokenizer.pad_token_id
        self.policy.eval()
        with self.precision():
            mine = rollout(
                self.policy, ids, o.max_tokens, o.temperature, self.eos, pad, generator, self.stops, ranks
            )
        self.policy.train()
        return texts_of(self.tokenizer, gather_episodes(ranks, ids, mine, pad))

    def compare(self, episodes: Episodes) -> dict[str, list[float]]:
        """Of each response its log-probability, and how far that and the whole distribution are from the
        start's."""
        o = self.options
        with self.precision():
            found = compare_responses(self.policy, self.reference, episodes, o.temperature, o.micro_batch)
        kl_B = found["log_prob"] - found["reference"]
        return {
            "log_prob": found["log_prob"].tolist(),
            "kl": kl_B.tolist(),
            "exact_kl": found["exact_kl"].tolist(),
        }


class Scorer:
    """trl's reward function: the stage's rewards less the penalty for a missing end.

    Of the last batch, all processes' shares together: `sampled` its responses, `seen` what they are on
    average.
    """

    __name__ = "reward"

    def __init__(self, stage: Stage, opened: Opened, prompts: Sequence[PromptTokens], actor: Actor) -> None:
        self.rewards, self.actor, self.options = opened.rewards, actor, stage.options
        self.known = {p.source.id: p for p in prompts}
        self.steps = steps_of(stage.options)
        self.sampled: list[Sampled] = []
        self.seen: dict[str, float] = {}

    def __call__(
        self, prompts: Sequence[str], completion_ids: Sequence[list[int]], trainer_state: Any, **_: Any
    ) -> list[float]:
        """The reward of each completion of the prompts with these ids."""
        tokenizer, asked = self.actor.tokenizer, [self.known[i] for i in prompts]
        ended_B = torch.tensor(
            [self.actor.ends(ids) for ids in completion_ids], device=self.actor.policy.device
        )
        episodes = join([p.ids for p in asked], completion_ids, ended_B, tokenizer.pad_token_id)
        scores_B = self.rewards(episodes, [p.source for p in asked])
        looks = self.options.monitors(trainer_state.global_step // self.steps + 1)
        columns = {
            "score": scores_B.tolist(),
            **(self.actor.compare(episodes) if looks else {}),
            "tokens": episodes.response_B.tolist(),
            "ended": ended_B.tolist(),
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        self._keep(list(zip(prompts, texts_of(tokenizer, episodes), rows, strict=True)))
        return (scores_B - self.options.missing_eos_penalty * (~ended_B).to(scores_B)).tolist()

    def _keep(self, share: list[tuple[str, str, dict[str, Any]]]) -> None:
        """Gather what every process has sampled: equal shares, in trl's order one after the other."""
        ranks = Ranks.current()
        whole = [row for part in ranks.gather([share]) for row in part]
        self.sampled = [Sampled(self.known[i].source, text, numbers) for i, text, numbers in whole]
        rows = [s.numbers for s in self.sampled]
        score, cut = mean([row["score"] for row in rows]), mean([not row["ended"] for row in rows])
        self.seen = {
            "score": score,
            "reward": score - self.options.missing_eos_penalty * cut,
            "truncated": cut,
            "length": mean([row["tokens"] for row in rows]),
            **({"exact_kl": mean([row["exact_kl"] for row in rows])} if "exact_kl" in rows[0] else {}),
            **self.rewards.gather_seen(ranks),
        }


class GroupTrainer(QuietTrainer):
    """Mixin of trl's RLOO and GRPO trainers: prompts as tokens, and PPO's learning rates."""

    prompt_ids: dict[str, list[int]]
    stops: Stops | None = None
    warmup = 0
    lr_schedule: LrSchedule = "constant"

    def _tokenize_prompts(self, prompts: list[str]) -> Any:
        return [self.prompt_ids[i] for i in prompts], None, {}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """A base model's response ends where it writes the next Human turn, as PPO's does."""
        made = super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]
        if self.stops is None:
            return made
        if isinstance(made, tuple):
            return [ids[: self.stops(ids)] for ids in made[0]], *made[1:]
        return [ids[: self.stops(ids)] for ids in made]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """With random numbers seeded by the update and the process, so that no generator's state need be
        kept."""
        made: Any = self
        torch.manual_seed(derive_seed(made.args.seed, "update", made.state.global_step, Ranks.current().rank))
        return super()._generate_and_score_completions(inputs)  # type: ignore[misc]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up over `warmup` steps, then `lr_schedule`, as in PPO."""
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer,  # type: ignore[attr-defined]
            lambda step: rate_share(step + 1, num_training_steps, self.warmup, self.lr_schedule),
        )
        self.lr_scheduler, self._created_lr_scheduler = rate, True
        return rate


class UpdateCallback(CurveCallback):
    """One row an update in metrics.jsonl, at looks a few responses in samples.jsonl; checkpoints only between
    updates."""

    def __init__(
        self, stage: Stage, curve: JsonlLog, tick: Any, scorer: Scorer, monitor: SampleMonitor, track: Track
    ) -> None:
        super().__init__(stage, curve, tick)
        self.scorer, self.monitor, self.track = scorer, monitor, track
        self.samples = JsonlLog(stage.dir / "samples.jsonl", "update")
        self.logs: list[dict[str, float]] = []

    def row(self, step: int, logs: dict[str, float]) -> dict[str, Any]:
        """What PPO's rows hold, as far as trl tells, where an update ends: KL as a mean over tokens times the
        mean length.

        KL and entropy are those before the first step, loss and gradient norm means over the steps.
        """
        self.logs += [logs] if "loss" in logs else []
        if "loss" not in logs or not self.may_checkpoint(step):
            return {}
        steps, self.logs = self.logs, []
        update, seen, first = step // self.scorer.steps, self.scorer.seen, steps[0]
        row = {"update": update, "episodes": update * self.stage.options.batch_size, **seen}
        row |= {"kl": first["kl"] * seen["length"]} if first.get("kl") is not None else {}
        row |= {"entropy": first["entropy"], "learning_rate": logs["learning_rate"]}
        row |= {key: mean([own[key] for own in steps]) for key in ("loss", "grad_norm")}
        sound = all(math.isfinite(row[key]) for key in WATCHED if key in row)
        looks = sound and self.stage.options.monitors(update)
        row = self.monitor.measured(row, self.scorer.sampled, looks)
        self.track(row)
        if looks:
            self.samples.append(*self.monitor.samples(update, self.scorer.sampled))
        return row

    def told(self, row: dict[str, Any]) -> str:
        """What the progress bar says of an update."""
        return self.monitor.headline()

    def may_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint may be written after this step."""
        return step % self.scorer.steps == 0


def steps_of(options: GroupOptions) -> int:
    """Optimiser steps an update."""
    return options.epochs * options.minibatches


def train_in_groups(stage: Stage, trainer: Any, config: Any, **settings: Any) -> None:
    """Write policy/, metrics.jsonl and samples.jsonl by trl's `trainer` and its `config`, set up by the
    stage's options."""
    o: GroupOptions = stage.options
    start = stage.input("policy")
    tokenizer = load_tokenizer(start, stage.config.policy.chat_template_kwargs)
    model = load_causal_lm(start, stage.config.policy.device, "float32")
    opened = open_rewards(stage, tokenizer)
    room = min(context_length(model), opened.context) - o.max_tokens
    prompts, heldout = fitting_prompts(stage, tokenizer, room, opened.rewards)

    def train() -> None:
        eos = eos_ids(model, tokenizer)
        if not fix_scales(stage, opened.rewards, None):
            samples = reference_samples(stage, model, tokenizer, prompts, eos, trains_in_bf16(model))
            fix_scales(stage, opened.rewards, samples)
        model.generation_config.eos_token_id = list(eos)
        actor = Actor(stage, disable_dropout(model), tokenizer, eos)
        scorer = Scorer(stage, opened, prompts, actor)
        made = _trainer(stage, trainer, _arguments(stage, model, config, settings), scorer, prompts)
        actor.precision = made.accelerator.autocast
        actor.reference = made.ref_model or load_causal_lm(start, stage.config.policy.device, "float32")
        _train(stage, made, scorer, heldout, opened.judge)
        publish(stage, "policy", lambda folder: write_model(model, tokenizer, folder, start))

    train_once(stage, "policy", train)
    stage.metrics = summary(JsonlLog(stage.dir / "metrics.jsonl", "step").rows())
    note_warnings(stage)
    last = JsonlLog(stage.dir / "samples.jsonl", "update").rows()[-1]
    stage.note_example(last["prompt"], f"{last['response']} (score {last['score']:.2f})")


def _train(stage: Stage, made: Any, scorer: Scorer, heldout: Sequence[PromptTokens], judge: Any) -> None:
    """Update after update, monitored, from the last checkpoint where there is one."""

    def updates(stage: Stage, curve: JsonlLog, tick: Any) -> UpdateCallback:
        rows = curve.rows()
        monitor = SampleMonitor(stage, scorer.actor.respond, heldout, judge, rows)
        found = UpdateCallback(stage, curve, tick, scorer, monitor, track)
        found.samples.rewind(rows[-1]["update"] if rows else 0)
        return found

    with open_tracker(stage) as track:
        fit(stage, made, updates)


def _trainer(stage: Stage, trainer: Any, args: Any, scorer: Scorer, prompts: Sequence[PromptTokens]) -> Any:
    """trl's trainer over the prompts of every update, written out."""
    from datasets import Dataset

    o: GroupOptions = stage.options
    order = [
        p.source.id
        for number in range(1, o.updates + 1)
        for p in in_rounds(prompts, number, o.batch_size // o.group_size, stage.seed)
    ]
    kind: Any = type(trainer.__name__, (GroupTrainer, trainer), {})
    kind.prompt_ids = {p.source.id: p.ids for p in prompts}
    kind.warmup, kind.stops = o.warmup * steps_of(o), scorer.actor.stops
    kind.lr_schedule = o.lr_schedule
    rows = Dataset.from_list([{"prompt": i} for i in order])
    return kind(
        scorer.actor.policy, scorer, args, train_dataset=rows, processing_class=scorer.actor.tokenizer
    )


def _arguments(stage: Stage, model: Any, config: Any, settings: dict[str, Any]) -> Any:
    """trl's config: an optimiser step a minibatch, a generation an update, shared out evenly."""
    o: GroupOptions = stage.options
    count = Ranks.current().count
    share = o.minibatch // count
    micro = even_part(share, o.micro_batch)
    return arguments(
        config,
        stage,
        model,
        0,
        num_generations=o.group_size,
        max_completion_length=o.max_tokens,
        temperature=o.temperature,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        steps_per_generation=o.batch_size // count // micro,
        num_iterations=o.epochs,
        beta=o.kl_coef,
        epsilon=o.clip,
        max_steps=o.updates * steps_of(o),
        max_grad_norm=o.max_grad_norm,
        num_train_epochs=1,
        shuffle_dataset=False,
        disable_dropout=False,
        **settings,
    )
