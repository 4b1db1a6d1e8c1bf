"""Options that do not go together, said before anything runs: an error where they can mean nothing, a warning
where they are probably a mistake. What is wrong within one stage whatever the rest is (a batch that its
minibatches do not divide) the options refuse themselves.

ALONE is about the options of one stage or model, ACROSS about stages, rows and the constitution. `rlaif
options` names the rows of ALONE at every option that they are about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import comb
from typing import Any

from rlaif.config import Config, ModelConfig
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.options import (
    CritiqueOptions,
    EvaluateOptions,
    GroupOptions,
    HumanOptions,
    LabelOptions,
    LoraOptions,
    OnlineOptions,
    PairOptions,
    PpoOptions,
    PreferenceOptions,
    RejectionOptions,
    RewardedOptions,
    RewardOptions,
    RewardSourceOptions,
    SampleOptions,
    SftOptions,
    StageOptions,
)
from rlaif.options.base import Options
from rlaif.options.engines import ENGINES


@dataclass(frozen=True)
class Alone:
    """A combination of options of one group: which, how it is found, and what is said of it."""

    of: type[Options]
    about: tuple[str, ...]
    found: Callable[[Any], bool]
    says: str
    refused: bool = False


def given(*names: str) -> Callable[[Any], bool]:
    """Whether a config names all of these options itself."""
    return lambda o: set(names) <= o.model_fields_set


def unused(of: type[Options], name: str, without: str, used: Callable[[Any], bool], says: str) -> Alone:
    """An option that a config names, but that nothing reads, given another one."""
    return Alone(of, (name, without), lambda o: given(name)(o) and not used(o), f"{name} does nothing {says}")


def _given(options: LabelOptions) -> set[str]:
    """What the config says of its own accord of who labels."""
    return options.model_fields_set | (options.human.model_fields_set if options.human else set())


ALONE: tuple[Alone, ...] = (
    Alone(
        SampleOptions,
        ("temperature", "k"),
        lambda o: not o.temperature and o.k > 1,
        "with temperature 0 all k responses to a prompt are the same",
    ),
    Alone(
        SampleOptions,
        ("temperature", "top_p"),
        lambda o: not o.temperature and o.top_p < 1,
        "top_p does nothing with temperature 0, which takes the likeliest token",
    ),
    Alone(
        SftOptions,
        ("micro_batch", "batch_size"),
        lambda o: (o.micro_batch or 0) > o.batch_size,
        "a micro_batch larger than the batch_size: the whole batch is one forward",
    ),
    unused(
        PairOptions,
        "per_prompt",
        "samples",
        lambda o: o.samples,
        "without samples: it counts pairs of samples",
    ),
    unused(
        LabelOptions, "max_tokens", "cot", lambda o: o.cot, "without cot: it is the length of the reasoning"
    ),
    unused(
        LabelOptions, "labels_from", "ai", lambda o: o.ai, "with ai: false: the feedback model labels nothing"
    ),
    Alone(
        LabelOptions,
        ("ai", "human"),
        lambda o: o.ai is True and o.human and not {"ai", "weight"} & _given(o),
        "the judge labels every comparison, too, and is mixed with people by human.weight; ai: rest asks it "
        "only where people say nothing (what this config meant in earlier versions), ai: false not at all",
    ),
    unused(
        HumanOptions,
        "options",
        "annotator",
        lambda o: o.annotator,
        "with a file: they are the annotator's arguments",
    ),
    Alone(
        HumanOptions,
        ("route", "share", "num_pairs"),
        lambda o: o.route != "random" and o.share == 1 and not o.num_pairs,
        "route does nothing without share or num_pairs: people get every comparison",
    ),
    Alone(
        PreferenceOptions,
        ("human_ratio", "source_weights"),
        lambda o: o.human_ratio is not None and bool(o.source_weights),
        "human_ratio and source_weights both weigh people against the judge: set one of them",
        refused=True,
    ),
    Alone(
        PreferenceOptions,
        ("micro_batch", "batch_size"),
        lambda o: (o.micro_batch or 0) > o.batch_size,
        "a micro_batch larger than the batch_size: the whole batch is one forward",
    ),
    Alone(
        PreferenceOptions,
        ("source_weights",),
        lambda o: len(o.source_weights) == 3 and not any(o.source_weights.values()),
        "every weight of source_weights is 0: no preference would count",
        refused=True,
    ),
    unused(
        RewardSourceOptions,
        "pool_k",
        "pool",
        lambda o: o.pool == "mean_minus_std",
        "without pool: mean_minus_std",
    ),
    Alone(
        RewardedOptions,
        ("rewards",),
        lambda o: not any(source.weight for source in o.rewards),
        "every weight of rewards is 0: nothing would be rewarded",
        refused=True,
    ),
    Alone(
        OnlineOptions,
        ("judge_watched_prompts", "num_watched_prompts"),
        lambda o: o.judge_watched_prompts and not o.num_watched_prompts,
        "judge_watched_prompts does nothing with num_watched_prompts: 0: there is no response to read",
    ),
    Alone(
        OnlineOptions,
        ("warmup", "updates"),
        lambda o: o.warmup >= o.updates > 1,
        "the warm-up is as long as the training: the learning rate never reaches its full value; "
        "lower warmup, or raise updates",
    ),
    Alone(
        GroupOptions,
        ("clip", "minibatches", "epochs"),
        lambda o: given("clip")(o) and o.minibatches == o.epochs == 1,
        "clip does nothing with one optimiser step an update, whose ratios are all 1",
    ),
    Alone(
        PpoOptions,
        ("clip", "minibatches", "epochs"),
        lambda o: given("clip")(o) and o.minibatches == o.epochs == 1,
        "clip does nothing with one optimiser step an update, whose ratios are all 1",
    ),
    unused(
        PpoOptions,
        "dual_clip",
        "minibatches",
        lambda o: o.minibatches * o.epochs > 1,
        "with one optimiser step an update, whose ratios are all 1",
    ),
    unused(
        PpoOptions,
        "max_update_kl",
        "minibatches",
        lambda o: o.minibatches * o.epochs > 1,
        "with one optimiser step an update: there is none left to leave out",
    ),
    unused(
        PpoOptions,
        "kl_horizon",
        "kl_target",
        lambda o: o.kl_target,
        "without kl_target: kl_coef stays as it is",
    ),
    unused(PpoOptions, "kl_in", "kl_coef", lambda o: o.kl_coef, "with kl_coef 0: the KL costs nothing"),
    unused(
        PpoOptions, "kl_estimator", "kl_coef", lambda o: o.kl_coef, "with kl_coef 0: the KL costs nothing"
    ),
    unused(
        PpoOptions, "rollout_memory", "rollouts", lambda o: o.rollouts == "vllm", "without rollouts: vllm"
    ),
    unused(
        PpoOptions,
        "missing_eos_penalty",
        "missing_eos",
        lambda o: o.missing_eos == "penalty",
        "with missing_eos: bootstrap, which takes no penalty off",
    ),
    Alone(
        PpoOptions,
        ("checkpoint_every", "updates"),
        lambda o: o.checkpoint_every > o.updates > 1,
        "no checkpoint before the end: a kill costs the whole training",
    ),
    unused(LoraOptions, "rank", "adapter", lambda o: not o.adapter, "with an adapter, which has its own"),
    unused(LoraOptions, "alpha", "adapter", lambda o: not o.adapter, "with an adapter, which has its own"),
    Alone(
        EvaluateOptions,
        ("num_judged_prompts", "num_prompts"),
        lambda o: o.num_judged_prompts and o.num_prompts and o.num_judged_prompts > o.num_prompts,
        "more prompts for the judge than are evaluated: it sees those that are",
    ),
)


def combinations(config: Config, constitution: Constitution, plan: dict[str, Any]) -> list[str]:
    """What a config says that is hardly meant; `plan` is its estimate, with the rows of every stage.

    Raises UserError for what can mean nothing.
    """
    found = [*_alone(config), *_across(config, constitution, plan)]
    if refused := [said for said, stops in found if stops]:
        raise UserError("\n".join(refused), "options that go together", "change one of those named")
    return list(dict.fromkeys(said for said, _ in found))


Said = Iterator[tuple[str, bool]]  # (what is said, whether it stops the run)


def _alone(config: Config) -> Said:
    for place, options in _groups(config):
        for one in ALONE:
            if isinstance(options, one.of) and one.found(options):
                yield f"{place}: {one.says}", one.refused
        if isinstance(options, ModelConfig):
            for name in sorted(options.model_fields_set):
                engine = engine_of(name)
                if engine and engine != options.engine:
                    yield f"{place}: {name} is for engine: {engine}, and this is {options.engine}", False


def engine_of(name: str) -> str:
    """The engine that a model's option is for alone, "" where it is for all: its description begins with
    it."""
    before, colon, _ = (ModelConfig.model_fields[name].description or "").partition(":")
    return before if colon and before in ENGINES else ""


def _groups(config: Config) -> Iterator[tuple[str, Options]]:
    """Every group of options that a config has, and how it is named."""
    for key in ("policy", "feedback"):
        yield key, getattr(config, key)
    names = [options.stage for options in config.stages]
    for at, options in enumerate(config.stages):
        number = f"[{names[:at].count(options.stage)}]" if names.count(options.stage) > 1 else ""
        yield from _nested(f"{options.stage}{number}", options)


def _nested(place: str, options: Options) -> Iterator[tuple[str, Options]]:
    yield place, options
    for name in type(options).model_fields:
        value = getattr(options, name)
        for at, one in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(one, Options):
                number = f"[{at}]" if isinstance(value, tuple) else ""
                yield from _nested(f"{place}.{name}{number}", one)


@dataclass
class _Rows:
    """What the stages so far have left, counted as the estimate does."""

    k: int = 1
    responses: int = 0
    revisions: int = 0
    comparisons: int = 0
    members: int = 1


def _across(config: Config, constitution: Constitution, plan: dict[str, Any]) -> Said:
    examples = sum(len(principle.examples) for principle in constitution.principles)
    prompts, rows = plan["prompts"], _Rows()
    names = [options.stage for options in config.stages]
    for place, options in _groups(config):
        few = getattr(options, "few_shot", 0) if "few_shot" in options.model_fields_set else 0
        if few and not examples:
            yield f"{place}: few_shot {few}, but no principle of {constitution.name} has an example", True
        elif isinstance(options, LabelOptions) and few > examples:
            yield (
                f"{place}: few_shot {few}, but the constitution has {examples} examples: all are shown",
                False,
            )
    for at, options in enumerate(config.stages):
        number = f"[{names[:at].count(options.stage)}]" if names.count(options.stage) > 1 else ""
        made = plan["stages"][at]["rows"]
        for said, stops in _of_stage(options, config, rows, prompts):
            yield f"{options.stage}{number}: {said}", stops
        _count(options, rows, made)
    yield from _of_run(config)


def _count(options: StageOptions, rows: _Rows, made: int) -> None:
    """Add what a stage makes."""
    if isinstance(options, SampleOptions):
        rows.k, rows.responses = options.k, made
    elif isinstance(options, CritiqueOptions):
        rows.revisions = made
    elif isinstance(options, PairOptions):
        rows.comparisons = made
    elif isinstance(options, RewardOptions):
        rows.members = options.members


def _of_stage(options: StageOptions, config: Config, rows: _Rows, prompts: dict[str, int]) -> Said:
    """What is said of a stage, given what was made before it."""
    if options.opens_policy and config.policy.kind.served:
        yield f"it opens the policy's model folder, which engine: {config.policy.engine} does not have", True
    if isinstance(options, SampleOptions) and (options.num_prompts or 0) > prompts["train"]:
        yield (
            f"num_prompts {options.num_prompts}, but {prompts['train']} are there for training: all are used",
            False,
        )
    if (
        isinstance(options, PairOptions)
        and options.samples
        and (options.per_prompt or 0) > (most := comb(rows.k, 2))
    ):
        yield f"per_prompt {options.per_prompt}, but {rows.k} responses make {most} pairs a prompt", False
    if isinstance(options, LabelOptions) and options.mode == "best and worst" and rows.k == 2:
        yield "mode: best and worst asks twice about 2 responses, of which the worst is the other one", False
    if isinstance(options, RejectionOptions) and options.keep >= rows.k:
        yield f"keep {options.keep} of {rows.k} responses a prompt: nothing is rejected", False
    for name, there in _batches(options, rows):
        size = getattr(options, "batch_size", 0)
        if 0 < there < size:
            yield f"batch_size {size}, but at most {there} {name}: one optimiser step an epoch", False
    if isinstance(options, RewardedOptions):
        yield from _pools(options, rows)
    if not prompts["train"] and isinstance(options, SampleOptions | OnlineOptions):
        yield "every prompt is held out: there is none to train on; lower heldout, or add prompts", True
    if not prompts["heldout"] + prompts["wordings"] and {"evaluation", "best"} & {*options.makes}:
        found = "no prompt is held out: there is nothing to evaluate on; raise heldout, or add prompts"
        yield found, "best" in options.makes
    if isinstance(options, EvaluateOptions) and options.num_judged_prompts == 0 and config.gold is None:
        yield (
            "num_judged_prompts: 0 and no gold: policies are told apart by length, KL and refusals alone",
            False,
        )


def _batches(options: StageOptions, rows: _Rows) -> Iterator[tuple[str, int]]:
    """What a training stage's batches are filled with, and how many there are at most."""
    if isinstance(options, SftOptions) and options.demonstrations is None:
        yield "revisions", rows.revisions
    elif isinstance(options, RejectionOptions):
        yield "responses are kept", min(rows.responses, rows.responses // max(rows.k, 1) * options.keep)
    elif isinstance(options, PreferenceOptions) and not options.by_prompt:
        yield "comparisons", rows.comparisons


def _pools(options: RewardedOptions, rows: _Rows) -> Said:
    for source in options.rewards:
        alone = source.source == "reward_model" and rows.members == 1
        if alone and source.pool != "mean":
            yield f"pool: {source.pool} of one reward model: reward.members makes several", True


def _of_run(config: Config) -> Said:
    """What is said of the run as a whole."""
    trains = any("policy" in options.makes for options in config.stages)
    if config.rounds > 1 and not trains:
        yield f"rounds {config.rounds}, but no stage trains the policy: every round is the same", False
    labels = [options for options in config.stages if isinstance(options, LabelOptions)]
    if config.judge_card and not any(label.ai for label in labels):
        yield "judge_card: no stage asks the judge to label, so that nothing is examined", False
    humans = [label.human for label in labels if label.human]
    sources = {"ai": any(label.ai for label in labels), "simulated": any(h.annotator for h in humans)}
    for options in config.stages:
        if getattr(options, "human_ratio", None) is not None and not humans:
            yield f"{options.stage}: human_ratio, but no label stage has people's labels (label.human)", True
    for options in config.stages if labels else ():
        for name in sorted(getattr(options, "source_weights", {})):
            if not sources.get(name, True):
                yield f"{options.stage}: source_weights: {name}, but no label stage has such labels", False
