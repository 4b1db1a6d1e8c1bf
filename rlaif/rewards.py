"""What PPO is rewarded by, opened: the config's sources as scores of episodes, on a scale fixed once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.constitution import Constitution
from rlaif.engines import open_engine
from rlaif.judge import Judge
from rlaif.options import RewardSource
from rlaif.plugin import load_function
from rlaif.records import Prompt
from rlaif.runfolder import Stage, read_json, write_json

if TYPE_CHECKING:
    from rlaif.rl.episodes import Episodes
    from rlaif.rl.reward import FunctionReward, ModelReward, Rewards, Scorer


@dataclass
class Opened:
    """The reward function; of the sources that read the policy's own tokens, the folders and the shortest context.

    `judge` where a source or the stage's own look asks it.
    """

    rewards: Rewards
    own_tokens: dict[str, Path]
    context: int
    judge: Judge | None = None


def open_rewards(stage: Stage, tokenizer: Any) -> Opened:
    """The sources of `ppo.rewards` for a policy with this tokenizer; their scales are still to be measured."""
    from rlaif.rl.reward import ModelReward, Rewards, Source

    asked = any(o.source == "judge" for o in stage.options.rewards) or getattr(
        stage.options, "watch_judge", False
    )
    judge = open_judge(stage) if asked else None
    scores = {option.source: _score(stage, option, tokenizer, judge) for option in stage.options.rewards}
    models = {name: score for name, score in scores.items() if isinstance(score, ModelReward)}
    own = {name: folder(stage, name) for name, score in models.items() if score.own_tokens}
    rewards = Rewards([Source(o.source, o.weight, scores[o.source]) for o in stage.options.rewards])
    return Opened(rewards, own, min([models[name].context for name in own], default=1 << 30), judge)


def open_judge(stage: Stage) -> Judge:
    """The feedback model in the role of the judge, once for all that ask it."""
    engine = open_engine(stage.config.feedback, stage.run.cache)
    stage.notes += [note for note in engine.notes if note not in stage.notes]
    return Judge(engine, stage.templates)


def _score(
    stage: Stage, option: RewardSource, tokenizer: Any, judge: Judge | None
) -> ModelReward | FunctionReward:
    from rlaif.rl.reward import FunctionReward

    if option.source == "judge" and judge:
        return FunctionReward("judge", compliance(judge, stage.constitution), tokenizer)
    if is_function(option.source):
        function = load_function(option.source, "ppo.rewards")

        def scorer(prompts: Sequence[Prompt], texts: Sequence[str]) -> Sequence[float | None]:
            return function([prompt.chat for prompt in prompts], list(texts))

        return FunctionReward(option.source, scorer, tokenizer)
    return _model(stage, option, tokenizer)


def _model(stage: Stage, option: RewardSource, tokenizer: Any) -> ModelReward:
    from rlaif.engines.loading import context_length, load_reward_model, load_tokenizer
    from rlaif.prompts import has_chat_template
    from rlaif.rl.reward import ModelReward, same_tokens

    where, config = folder(stage, option.source), stage.config.policy
    model, judge_tokenizer = load_reward_model(where, config.device, config.dtype), load_tokenizer(where)
    same = same_tokens(tokenizer, judge_tokenizer, stage.run.prompts("train")[:64])
    if not same:
        stage.notes.append(
            f"the reward {option.source} has a tokenizer of its own: it reads responses as text, encoded anew"
        )
    # What ends a base model's turn is no token of the reward model's: it reads the text before it.
    as_text = not same or not has_chat_template(tokenizer)
    return ModelReward(model, judge_tokenizer, context_length(model), stage.options.micro_batch,
                       policy_tokenizer=tokenizer if as_text else None, own_tokens=same)  # fmt: skip


def compliance(judge: Judge, constitution: Constitution) -> Scorer:
    """Scores of responses on their own: the weighted mean of P(kept) over the principles that apply, None if unread."""
    weights = {principle.id: principle.weight for principle in constitution.principles}

    def scorer(prompts: Sequence[Prompt], texts: Sequence[str]) -> Sequence[float | None]:
        items = [(p, text, constitution.applicable(p.tags)) for p, text in zip(prompts, texts, strict=True)]
        scores: list[float | None] = [None] * len(items)
        for index, kept in judge.compliance(items):
            total = sum(weights[name] for name in kept)
            if total:
                scores[index] = sum(weights[name] * p for name, p in kept.items()) / total
        return scores

    return scorer


def is_function(source: str) -> bool:
    """Whether a source names a function, `module:function`."""
    return ":" in source and not Path(source).exists()


def folder(stage: Stage, source: str) -> Path:
    """The folder of a reward model that is a source."""
    return stage.input("reward_model") if source == "reward_model" else Path(source)


def fix_scales(
    stage: Stage, rewards: Rewards, batches: Sequence[tuple[Episodes, Sequence[Prompt]]] | None
) -> bool:
    """Set the sources' scales from reward_scale.json, or from reference samples, which then writes it.

    → whether they are set; without the file, samples must be given.
    """
    from rlaif.rl.reward import Scale

    path = stage.dir / "reward_scale.json"
    if not path.exists() and batches is not None:
        rewards.measure(batches, raw=[o.source for o in stage.options.rewards if not o.scale])
        write_json(path, {source.name: asdict(source.scale) for source in rewards.sources})
    if path.exists():
        for source in rewards.sources:
            source.scale = Scale(**read_json(path)[source.name])
    return path.exists()
