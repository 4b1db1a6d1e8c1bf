"""What policies are rewarded and responses graded by, opened: the config's sources as scores of episodes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.constitution import Constitution
from rlaif.engines import open_engine
from rlaif.errors import UserError
from rlaif.feedback.judge import Judge
from rlaif.feedback.preferences import weighted_mean
from rlaif.options.rewarded import REFERENCE_SAMPLES, RewardSourceOptions
from rlaif.options.sources import source_kind
from rlaif.plugin import load_function, own
from rlaif.prompting.chat import TemplateRefused, encode_chat, has_chat_template
from rlaif.prompting.turns import turn_of
from rlaif.records import Grade, Prompt, Response
from rlaif.runs.folder import Stage
from rlaif.runs.seeds import derive_seed, in_rounds
from rlaif.runs.storage import read_json, write_json
from rlaif.stats import mean, std

if TYPE_CHECKING:
    from rlaif.rl.ensemble import Ensemble
    from rlaif.rl.episodes import Episodes, PromptTokens
    from rlaif.rl.reward import FunctionReward, ModelReward, Rewards, Scorer

Turn = tuple[list[int], list[int]]  # a prompt's tokens and a response's
GRADED = 128  # responses between two writes


@dataclass
class Opened:
    """The reward function; of the sources that read the policy's own tokens, the folders and the shortest
    context.

    `judge` where a source or the stage's own look asks it.
    """

    rewards: Rewards
    own_tokens: dict[str, Path]
    context: int
    judge: Judge | None = None


def open_rewards(stage: Stage, tokenizer: Any) -> Opened:
    """The sources of the stage's `rewards` for a policy with this tokenizer; their scales are still to be
    measured."""
    from rlaif.rl.ensemble import Ensemble
    from rlaif.rl.reward import ModelReward, Rewards, Source

    asked = any(o.kind.asks_judge for o in stage.options.rewards) or getattr(
        stage.options, "judge_watched_prompts", False
    )
    judge = open_judge(stage) if asked else None
    scores = {option.source: _score(stage, option, tokenizer, judge) for option in stage.options.rewards}
    models = {name: score for name, score in scores.items() if isinstance(score, ModelReward | Ensemble)}
    own = {name: folder(stage, name) for name, score in models.items() if score.own_tokens}
    rewards = Rewards([Source(o.source, o.weight, scores[o.source]) for o in stage.options.rewards])
    return Opened(rewards, own, min([models[name].context for name in own], default=1 << 30), judge)


def open_judge(stage: Stage) -> Judge:
    """The feedback model in the role of the judge, once for all that ask it."""
    engine = open_engine(stage.config.feedback, stage.run.cache, stage.account)
    return Judge(engine, stage.templates)


def _score(
    stage: Stage, option: RewardSourceOptions, tokenizer: Any, judge: Judge | None
) -> ModelReward | Ensemble | FunctionReward:
    from rlaif.rl.ensemble import Ensemble

    score = own(option.kind.opens)(stage, option, tokenizer, judge)
    if option.pool != "mean" and not isinstance(score, Ensemble):
        raise UserError(
            f"{stage.dir.name}: rewards: {option.source} has one opinion, and pool: {option.pool} is "
            "about several.",
            "an ensemble of reward models",
            "train one with reward.members, or leave pool out",
        )
    return score


def judge_score(stage: Stage, option: RewardSourceOptions, tokenizer: Any, judge: Judge) -> FunctionReward:
    """The feedback model's opinion of single responses."""
    from rlaif.rl.reward import FunctionReward

    return FunctionReward(option.source, pointwise(judge, stage.constitution), tokenizer)


def function_score(
    stage: Stage, option: RewardSourceOptions, tokenizer: Any, judge: Judge | None
) -> FunctionReward:
    """A function of prompts and responses."""
    from rlaif.rl.reward import FunctionReward

    function = load_function(option.source, "rewards")

    def scorer(prompts: Sequence[Prompt], texts: Sequence[str]) -> Sequence[float | None]:
        return function([prompt.chat for prompt in prompts], list(texts))

    return FunctionReward(option.source, scorer, tokenizer)


def model_score(
    stage: Stage, option: RewardSourceOptions, tokenizer: Any, judge: Judge | None
) -> ModelReward | Ensemble:
    """A reward model, the run's own or a folder's; its members together where there are several."""
    from rlaif.engines.loading import load_tokenizer
    from rlaif.rl.reward import same_tokens

    where = folder(stage, option.source)
    judge_tokenizer = load_tokenizer(where)
    same = same_tokens(tokenizer, judge_tokenizer, stage.run.prompts("train")[:64])
    if not same:
        stage.notes.append(
            f"the reward {option.source} has a tokenizer of its own: it reads responses as text, encoded anew"
        )
    made = [_member(stage, path, judge_tokenizer, tokenizer, same) for path in member_folders(where)]
    return _pooled(where, made, option) if len(made) > 1 else made[0]


def member_folders(where: Path) -> list[Path]:
    """A reward model's folder, and those of the other members where it is one of an ensemble, in their
    order."""
    others = (where.parent / f"member_{number}" / "reward_model" for number in count(2))
    return [where, *takewhile(Path.is_dir, others)]


def _member(stage: Stage, where: Path, judge_tokenizer: Any, tokenizer: Any, same: bool) -> ModelReward:
    from rlaif.engines.loading import context_length, load_reward_model
    from rlaif.rl.reward import ModelReward

    model = load_reward_model(where, stage.config.policy.device, stage.config.policy.dtype)
    # What ends a base model's turn is no token of the reward model's: it reads the text before it.
    as_text = not same or not has_chat_template(tokenizer)
    return ModelReward(
        model,
        judge_tokenizer,
        context_length(model),
        stage.options.micro_batch,
        policy_tokenizer=tokenizer if as_text else None,
        own_tokens=same,
    )


def _pooled(where: Path, members: Sequence[ModelReward], option: RewardSourceOptions) -> Ensemble:
    """The members on the scales that the reward stage measured on its training responses."""
    from rlaif.rl.ensemble import Ensemble
    from rlaif.rl.reward import Scale

    known = read_json(where / "calibration.json")["members"]
    scales = [Scale(row["reward_mean"], row["reward_std"] or 1.0) for row in known]
    return Ensemble(members, scales, option.pool, option.pool_k)


def pointwise(judge: Judge, constitution: Constitution) -> Scorer:
    """Scores of responses on their own: the weighted mean over the principles that apply, None where one is
    unread."""

    def scorer(prompts: Sequence[Prompt], texts: Sequence[str]) -> Sequence[float | None]:
        items = [(p, text, constitution.applicable(p.tags)) for p, text in zip(prompts, texts, strict=True)]
        scores: list[float | None] = [None] * len(items)
        for index, worth in judge.pointwise(items):
            scores[index] = weighted_mean(worth, items[index][2])
        return scores

    return scorer


def folder(stage: Stage, source: str) -> Path:
    """The folder of a reward model that is a source."""
    needs = source_kind(source).needs
    return stage.input(needs[0]) if needs else Path(source)


def fix_scales(
    stage: Stage, rewards: Rewards, batches: Sequence[tuple[Episodes, Sequence[Prompt]]] | None
) -> bool:
    """Set the sources' scales from reward_scale.json, or from reference samples, which then writes it.

    → whether they are set; without the file, samples must be given.
    """
    from rlaif.rl.reward import Scale

    path = stage.dir / "reward_scale.json"
    if not path.exists() and batches is not None:
        scaled = [o.source for o in stage.options.rewards if o.scale]
        total = len(scaled) * sum(len(episodes) for episodes, _ in batches)
        with stage.progress(total, "scores that fix the scale") as tick:
            rewards.measure(batches, scaled, tick)
        write_json(path, {source.name: asdict(source.scale) for source in rewards.sources})
    if path.exists():
        for source in rewards.sources:
            source.scale = Scale(**read_json(path)[source.name])
    return path.exists()


def fitting_prompts(
    stage: Stage, tokenizer: Any, room: int, rewards: Rewards
) -> tuple[list[PromptTokens], list[PromptTokens]]:
    """Training prompts, and the held-out ones that are watched, as tokens, at most `room` of them.

    Training prompts that leave no room for a response, or that the chat template or a source cannot read, are
    dropped and counted; that there is no template is noted.
    """
    from rlaif.rl.episodes import PromptTokens
    from rlaif.rl.reward import NO_ROOM

    if not has_chat_template(tokenizer):
        stage.notes.append(
            "the policy has no chat template: plain Human/Assistant turns are used, and a response ends "
            "where it writes the next Human turn"
        )

    def fitting(prompts: list[Prompt], dropped: Counter[str]) -> list[PromptTokens]:
        kept: list[PromptTokens] = []
        for prompt in prompts:
            try:
                ids = encode_chat(tokenizer, prompt.chat)
            except TemplateRefused as refused:
                dropped[refused.reason] += 1
                continue
            reason = _why_unscorable(rewards, prompt) or (NO_ROOM if len(ids) > room else None)
            if reason:
                dropped[reason] += 1
            else:
                kept.append(PromptTokens(ids, prompt))
        return kept

    every, o = stage.run.prompts("train"), stage.options
    prompts = fitting(every, stage.dropped)
    stage.save("running", **{"in": len(every), "kept": len(prompts)})
    if not prompts:
        raise UserError(
            f"{stage.dir.name}: none of {len(every)} prompts leaves room for {o.max_tokens} new tokens in "
            "a context "
            f"of {room + o.max_tokens} ({dict(stage.dropped)}).",
            "at least one prompt that fits, in roles that the chat template takes",
            f"lower {stage.name}.max_tokens, or fix the prompts or the template",
        )
    heldout = sorted(stage.run.prompts("heldout"), key=lambda p: p.id)
    return prompts, fitting(heldout, Counter())[: o.num_watched_prompts]


def _why_unscorable(rewards: Rewards, prompt: Prompt) -> str | None:
    """Why one of the sources cannot read responses to a prompt."""
    return next(filter(None, (source.score.why_unscorable(prompt) for source in rewards.sources)), None)


def reference_samples(
    stage: Stage,
    policy: Any,
    tokenizer: Any,
    prompts: Sequence[PromptTokens],
    eos: Sequence[int],
    autocast: bool,
) -> list[tuple[Episodes, list[Prompt]]]:
    """Responses of the policy as it starts, that fix what a score is measured in; with `autocast` sampled in
    bf16."""
    import torch

    from rlaif.rl.forward import precision
    from rlaif.rl.rollout import rollout
    from rlaif.rl.texts import turn_end

    o, made = stage.options, []
    generator = torch.Generator(policy.device).manual_seed(derive_seed(stage.seed, "scale"))
    count = -(-REFERENCE_SAMPLES // o.batch_size)
    with stage.progress(count * o.batch_size, "responses that fix the scale") as tick:
        for number in range(1, count + 1):
            batch = in_rounds(prompts, number, o.batch_size, derive_seed(stage.seed, "scale prompts"))
            with precision(policy, autocast):
                episodes = rollout(
                    policy,
                    [p.ids for p in batch],
                    o.max_tokens,
                    o.temperature,
                    eos,
                    tokenizer.pad_token_id,
                    generator,
                    turn_end(tokenizer),
                )
            made.append((episodes, [p.source for p in batch]))
            tick(len(batch))
    return made


def grade(stage: Stage, opened: Opened, tokenizer: Any, responses: Sequence[Response]) -> dict[str, float]:
    """The reward of responses that are rows of the run, by id; raw scores are kept in grades.jsonl as they
    are made.

    Each source is brought to mean 0 and standard deviation 1 over all of them where the options say so.
    Responses that a source cannot read are left out and counted.
    """
    from rlaif.engines.loading import resolve_device

    rows, device = stage.rows("grades", Grade), resolve_device(stage.config.policy.device)
    have = {row.response_id for row in rows}
    prompts = stage.prompts_by_id()
    todo = sorted((r for r in responses if r.id not in have), key=lambda r: (r.tokens or len(r.text), r.id))
    with stage.progress(len(responses), "grades", len(have)) as tick:
        for start in range(0, len(todo), GRADED):
            part = todo[start : start + GRADED]
            rows.append(_graded(opened, tokenizer, [prompts[r.prompt_id] for r in part], part, device))
            tick(len(part))
    found = [row for row in rows if len(row.scores) == len(opened.rewards.sources)]
    graded = {row.response_id for row in found}
    for response in (r for r in responses if r.id not in graded):
        stage.dropped[_ungraded(opened, tokenizer, prompts[response.prompt_id], response)] += 1
    return totals(found, stage.options.rewards)


def _graded(
    opened: Opened, tokenizer: Any, prompts: Sequence[Prompt], responses: Sequence[Response], device: Any
) -> list[Grade]:
    """One grade a response; a response that does not fit, or that a source has no opinion of, lacks its
    score."""
    turns: dict[int, Turn] = {}
    for at, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        with suppress(TemplateRefused):
            turns[at] = turn_of(tokenizer, prompt.chat, response)
    fits = [at for at, turn in turns.items() if turn[1] and len(turn[0] + turn[1]) <= opened.context]
    fits = [at for at in fits if not _why_unscorable(opened.rewards, prompts[at])]
    scores: list[dict[str, float]] = [{} for _ in responses]
    for source in opened.rewards.sources if fits else ():
        rows = [(prompts[at], responses[at], turns[at]) for at in fits]
        for at, score in zip(fits, _scores(source.score, rows, tokenizer, device), strict=True):
            scores[at] |= {source.name: score} if score is not None and math.isfinite(score) else {}
    return [
        Grade(prompt_id=r.prompt_id, response_id=r.id, scores=s)
        for r, s in zip(responses, scores, strict=True)
    ]


def _ungraded(opened: Opened, tokenizer: Any, prompt: Prompt, response: Response) -> str:
    """Why a response has no reward, as it is counted."""
    try:
        turn_of(tokenizer, prompt.chat, response)
    except TemplateRefused as refused:
        return refused.reason
    return _why_unscorable(opened.rewards, prompt) or "no reward could be read"


def _scores(
    score: Any, rows: Sequence[tuple[Prompt, Response, Turn]], tokenizer: Any, device: Any
) -> list[float | None]:
    """What one source says of responses: a function of their texts, a reward model of their tokens."""
    import torch

    from rlaif.rl.episodes import join
    from rlaif.rl.reward import FunctionReward

    prompts = [prompt for prompt, _, _ in rows]
    if isinstance(score, FunctionReward):
        return score.ask(prompts, [response.text for _, response, _ in rows])
    ended = torch.tensor([response.finish_reason == "stop" for _, response, _ in rows], device=device)
    starts, responses = [turn[0] for *_, turn in rows], [turn[1] for *_, turn in rows]
    return score(join(starts, responses, ended, tokenizer.pad_token_id), prompts).tolist()


def totals(grades: Sequence[Grade], sources: Sequence[RewardSourceOptions]) -> dict[str, float]:
    """Weighted sums of the sources' scores by response id, each source scaled over all grades where it says
    so."""
    total = dict.fromkeys((grade.response_id for grade in grades), 0.0)
    for source in sources:
        scores = [grade.scores[source.source] for grade in grades]
        centre, width = (mean(scores), std(scores)) if source.scale else (0.0, 1.0)
        for grade, score in zip(grades, scores, strict=True):
            total[grade.response_id] += source.weight * (score - centre) / (width if width > 1e-6 else 1.0)
    return total
