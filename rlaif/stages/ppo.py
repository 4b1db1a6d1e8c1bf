"""ppo: train the policy on its rewards; the algorithm is in `rlaif.rl.ppo`, this is the stage around it.

Prompts by a seeded cursor, the scores' scale from samples of the policy it starts with, metrics.jsonl and
samples.jsonl, looks at held-out prompts, alarms, checkpoints, and the message when a number is not finite. An
update depends on the weights and its number alone, so on one thread a continued run writes what an
uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.errors import UserError
from rlaif.options import PpoOptions
from rlaif.rl.checkpoints import publish, train_once, write_model
from rlaif.runs.commands import command_with_lower_rate
from rlaif.runs.folder import Stage
from rlaif.runs.rows import JsonlLog
from rlaif.runs.seeds import derive_seed, in_rounds
from rlaif.runs.spending import BudgetReached
from rlaif.runs.storage import folder_hash
from rlaif.stats import mean
from rlaif.training.monitoring import Sampled, SampleMonitor, note_warnings, summary
from rlaif.training.rewards import Opened, fitting_prompts, fix_scales, open_rewards, reference_samples
from rlaif.training.tracking import open_tracker

if TYPE_CHECKING:
    from rlaif.rl.episodes import PromptTokens
    from rlaif.rl.numerics import UpdateNotFinite
    from rlaif.rl.ppo import PPO, Experience
    from rlaif.rl.pretraining import Pretraining
    from rlaif.rl.ranks import Ranks
    from rlaif.rl.vllm_rollout import VllmSampler

SHARED = True  # several processes can do it together
SHARDED = True  # and each can hold a share of the models


@dataclass
class Parts:
    """What a run of the stage works with; `adapter` is the peft model around the policy, where there is
    one."""

    ppo: PPO
    tokenizer: Any
    prompts: list[PromptTokens]
    heldout: list[PromptTokens]
    opened: Opened
    adapter: Any
    sampler: VllmSampler | None


def run(stage: Stage[PpoOptions]) -> None:
    """Write policy/, metrics.jsonl (one row an update) and samples.jsonl; with LoRA adapter/ too."""
    metrics, samples = (JsonlLog(stage.dir / f"{name}.jsonl", "update") for name in ("metrics", "samples"))
    parts = _open(stage)

    def train() -> None:
        try:
            _train(stage, parts, metrics, samples)
        finally:
            if parts.sampler:
                parts.sampler.close()
        _publish(stage, parts)

    train_once(stage, "policy", train)
    rows = metrics.rows()
    stage.metrics = {**summary(rows), "seconds_per_update": mean([row["seconds"] for row in rows])}
    _note_warnings(stage, rows)
    last = samples.rows()[-1]
    stage.note_example(last["prompt"], f"{last['response']} (score {last['score']:.2f})")


def _open(stage: Stage[PpoOptions]) -> Parts:
    """Models, prompts and rewards, as they are before the first update."""
    from rlaif.engines.loading import context_length, eos_ids, load_causal_lm, load_tokenizer, resolve_dtype
    from rlaif.rl import llama
    from rlaif.rl.ppo import PPO
    from rlaif.rl.ranks import Ranks
    from rlaif.rl.sharding import shard
    from rlaif.rl.texts import turn_end

    o, config, start, ranks = stage.options, stage.config.policy, stage.input("policy"), Ranks.current()
    _check_launch(stage, ranks)
    tokenizer = load_tokenizer(start, stage.config.policy.chat_template_kwargs)
    # Adapters leave the weights alone, so those need not be in fp32.
    policy = load_causal_lm(o.model or start, config.device, config.dtype if o.lora else "float32")
    if llama.has_known_layers(policy) and llama.difference(policy):
        stage.notes.append(
            "the policy is read by transformers' own forward pass, which is slower here: "
            f"{llama.difference(policy)}"
        )
    opened = open_rewards(stage, tokenizer)
    room = min(context_length(policy), opened.context) - o.max_tokens
    prompts, heldout = fitting_prompts(stage, tokenizer, room, opened.rewards)
    eos, stops = eos_ids(policy, tokenizer), turn_end(tokenizer)
    precision = resolve_dtype(config.dtype, policy.device, policy.num_parameters())
    longest = max(len(p.ids) for p in [*prompts, *heldout]) + o.max_tokens
    sampler = _sampler(stage, ranks, eos, tokenizer.pad_token_id, stops, precision, longest)
    autocast = precision != policy.dtype
    if not fix_scales(stage, opened.rewards, None):
        sampled = _reference(stage, policy)
        made = reference_samples(stage, sampled, tokenizer, prompts, eos, autocast)
        fix_scales(stage, opened.rewards, made)
    policy = shard(policy, ranks)  # one after the other, so that one is whole at a time
    value = shard(_value_model(stage, opened, policy), ranks)
    adapter, reference = _adapters(stage, policy, value), None
    if adapter is None:
        reference = shard(load_causal_lm(start, config.device, "float32").requires_grad_(False), ranks)
    ppo = PPO(
        policy,
        reference,
        value,
        opened.rewards,
        o,
        eos,
        tokenizer.pad_token_id,
        stage.seed,
        autocast=autocast,
        stops=stops,
        pretraining=_pretraining(stage, tokenizer, room),
        ranks=ranks,
        sampler=sampler,
    )
    return Parts(ppo, tokenizer, prompts, heldout, opened, adapter, sampler)


def _reference(stage: Stage[PpoOptions], policy: Any) -> Any:
    """The model whose samples fix the scores' scale: the reference, wherever the weights start, so that
    kl_coef means the same. Raises UserError where the two are not of one shape."""
    if stage.options.model is None:
        return policy
    from rlaif.engines.loading import load_causal_lm

    start = stage.input("policy")
    reference = load_causal_lm(start, stage.config.policy.device, "float32")
    shapes = [[tuple(weight.shape) for weight in model.parameters()] for model in (policy, reference)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"{stage.dir.name}: model: {stage.options.model} is not of the shape of the policy {start}.",
            "weights of the same architecture and tokenizer",
            "leave ppo.model out",
        )
    return reference


def _check_launch(stage: Stage[PpoOptions], ranks: Ranks) -> None:
    """Refuse options that do not go with this launch or with training in this precision."""
    if ranks.sharded and (stage.options.lora or stage.options.shared_trunk_vf_coef):
        raise UserError(
            f"{stage.dir.name}: this launch asks for FSDP, which "
            f"ppo.{'lora' if stage.options.lora else 'shared_trunk_vf_coef'} does not go with.",
            "a policy and a value model that are trained whole",
            "accelerate launch --config_file configs/accelerate/ddp.yaml …",
        )
    if stage.config.policy.dtype == "float16":
        raise UserError(
            f"{stage.dir.name}: policy.dtype: float16, in which ppo does not train: small gradients vanish.",
            "bfloat16, float32 or auto",
            "-s policy.dtype=auto",
        )


def _sampler(
    stage: Stage[PpoOptions],
    ranks: Ranks,
    eos: tuple[int, ...],
    pad: int,
    stops: Any,
    dtype: Any,
    longest: int,
) -> VllmSampler | None:
    """vLLM in place of the decode loop, where the options ask for it; see VllmSampler."""
    if stage.options.rollouts != "vllm":
        return None
    from rlaif.engines.loading import model_folder
    from rlaif.rl.vllm_rollout import VllmSampler

    if ranks.count > 1:
        raise UserError(
            f"{stage.dir.name}: rollouts: vllm on {ranks.count} processes.",
            "one process: vLLM samples for it alone",
            "start the run by itself (rlaif run …), or leave ppo.rollouts out",
        )
    folder = str(model_folder(stage.input("policy")))
    return VllmSampler(folder, stage.options, eos, pad, stops, dtype, longest)


def _value_model(stage: Stage[PpoOptions], opened: Opened, policy: Any) -> Any:
    """The policy's own trunk with a head where that is asked for; the first reward model that reads the
    policy's tokens, or else the policy with a head that gives 0."""
    from rlaif.engines.loading import load_reward_model
    from rlaif.rl import reward as rewards
    from rlaif.rl.forward import has_score

    if stage.options.shared_trunk_vf_coef:
        from rlaif.rl.trunk import SharedTrunk

        stage.notes.append("the value head shares the policy's trunk: its loss moves the policy too")
        return SharedTrunk(policy)
    config, dtype = stage.config.policy, stage.config.policy.dtype if stage.options.lora else "float32"
    for source in opened.rewards.sources:
        if source.name in opened.own_tokens:
            model = load_reward_model(opened.own_tokens[source.name], config.device, dtype)
            if has_score(model):
                return rewards.rebase_head(model, source.scale, source.weight)
    stage.notes.append(
        "no reward model is a decoder that reads the policy's own tokens: the value model starts from "
        "the policy with a new head"
    )
    return rewards.zero_head(load_reward_model(stage.input("policy"), config.device, dtype, new_head=True))


def _adapters(stage: Stage[PpoOptions], policy: Any, value: Any) -> Any:
    """LoRA in policy and value model where it is asked for; → the peft model around the policy."""
    lora = stage.options.lora
    if lora is None:
        return None
    from rlaif.rl.lora import attach

    if not stage.options.shared_trunk_vf_coef:
        attach(value, lora.model_copy(update={"adapter": None}), "", derive_seed(stage.seed, "value adapter"))
    return attach(policy, lora, _base_hash(stage), derive_seed(stage.seed, "adapter"))


def _base_hash(stage: Stage[PpoOptions]) -> str:
    from rlaif.engines.loading import model_folder

    return folder_hash(model_folder(stage.input("policy")))


def _pretraining(stage: Stage[PpoOptions], tokenizer: Any, room: int) -> Pretraining | None:
    """The text to mix in, where the options name one."""
    ptx = stage.options.ptx
    if ptx is None:
        return None
    from rlaif.rl.pretraining import Pretraining
    from rlaif.training.raw_text import KINDS, blocks_of, read_texts

    texts = read_texts(Path(ptx.file), "ppo.ptx.file")
    blocks = blocks_of(texts, tokenizer, min(ptx.block_size, room + stage.options.max_tokens))
    if not blocks:
        raise UserError(f"ppo.ptx.file: {ptx.file} holds no text.", f"text to mix in: {KINDS}")
    stage.notes.append(
        f"pre-training mix: {len(blocks)} blocks of {Path(ptx.file).name}, {ptx.batch_size} a step"
    )
    return Pretraining(blocks, ptx.batch_size, ptx.coef, derive_seed(stage.seed, "ptx"))


def _train(stage: Stage[PpoOptions], parts: Parts, metrics: JsonlLog, samples: JsonlLog) -> None:
    """Update after update, from the last checkpoint where there is one."""
    from rlaif.rl import ppo_checkpoint as checkpoint
    from rlaif.rl.numerics import UpdateNotFinite

    o, folder = stage.options, stage.dir / "checkpoints"
    done, damaged = checkpoint.resume(folder, parts.ppo)
    stage.notes += damaged
    metrics.rewind(done)
    samples.rewind(done)
    judge = parts.opened.judge
    monitor = SampleMonitor(stage, lambda *part: _respond(parts, *part), parts.heldout, judge, metrics.rows())
    with open_tracker(stage) as track, stage.progress(o.updates, "updates", done) as tick:
        for number in range(done + 1, o.updates + 1):
            batch = in_rounds(parts.prompts, number, o.batch_size, stage.seed)
            try:
                row, experience = parts.ppo.update(number, batch)
            except UpdateNotFinite as error:
                raise diverged(stage, number, error, checkpoint.latest(folder)) from None
            except BudgetReached:
                _keep(folder, parts.ppo, number - 1)
                raise
            except UserError as error:  # of a reward, before anything was learnt from it
                _keep(folder, parts.ppo, number - 1)
                raise reward_failed(stage, number, error, checkpoint.latest(folder)) from error
            row |= parts.opened.rewards.gather_seen(parts.ppo.ranks)
            sampled = _sampled(parts.tokenizer, batch, experience)
            if o.monitors(number):  # before the look, which may fail where what was learnt is kept
                samples.append(*monitor.samples(number, sampled))
            try:
                row = monitor.measured(row, sampled, o.monitors(number))
            except UpdateNotFinite as error:  # of the policy's look at held-out prompts
                raise diverged(stage, number, error, checkpoint.latest(folder)) from None
            except (BudgetReached, UserError):  # of the judge or the gold scorer: what was learnt is kept
                metrics.append(row)
                _keep(folder, parts.ppo, number)
                raise
            metrics.append(row)
            track(row)
            if number % o.checkpoint_every == 0 or number == o.updates:
                checkpoint.save(folder, parts.ppo, number)
            tick(1, monitor.headline())


def _respond(parts: Parts, prompts: Sequence[PromptTokens], number: int) -> list[str]:
    """The policy's responses to held-out prompts, with the same random numbers at every call."""
    from rlaif.rl.texts import texts_of

    return texts_of(parts.tokenizer, parts.ppo.sample(prompts, "watch", number))


def _sampled(tokenizer: Any, batch: Sequence[PromptTokens], experience: Experience) -> list[Sampled]:
    """The update's responses as they are watched."""
    from rlaif.rl.texts import texts_of

    e = experience
    columns = {
        "score": e.score_B,
        "log_prob": e.log_prob.sum(1),
        "kl": (e.log_prob - e.reference).sum(1),
        "exact_kl": e.exact_kl.sum(1),
        "tokens": e.episodes.response_B,
        "ended": e.episodes.ended_B,
    }
    numbers = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        Sampled(p.source, text, dict(zip(columns, row, strict=True)))
        for p, text, row in zip(batch, texts_of(tokenizer, e.episodes), numbers, strict=True)
    ]


def _keep(folder: Path, ppo: PPO, update: int) -> None:
    """Save what one process can save alone: shares of others it cannot have where those did not fail with
    it."""
    from rlaif.rl import ppo_checkpoint as checkpoint

    if not ppo.ranks.sharded:
        checkpoint.save(folder, ppo, update)


def reward_failed(stage: Stage[PpoOptions], update: int, error: UserError, last: Path | None) -> UserError:
    """What to say when a source of reward fails in an update."""
    return UserError(
        f"{stage.dir.name}: update {update} of {stage.options.updates}: {error.found}",
        error.need,
        f"{error.next or 'fix it and run the same command again: it continues'}; what was learnt so far "
        f"is kept: {last}",
    )


def diverged(stage: Stage[PpoOptions], update: int, error: UpdateNotFinite, last: Path | None) -> UserError:
    """What to say when a number of an update is NaN or infinite."""
    kept = f"; the last good checkpoint is kept: {last}" if last else ""
    return UserError(
        f"{stage.dir.name}: update {update} of {stage.options.updates}: {error.name} is {error.value}; "
        f"ppo.learning_rate is {stage.options.learning_rate:g}.",
        f"finite numbers; the weights were not changed by this step{kept}",
        f"fork the run with a lower one: {command_with_lower_rate(stage)}",
    )


def _publish(stage: Stage[PpoOptions], parts: Parts) -> None:
    """The trained policy, or the average of its weights, as a plain folder; with LoRA the adapter beside
    it."""
    from rlaif.rl.lora import save_adapter

    parts.ppo.use_average()
    policy, start = parts.ppo.policy, stage.input("policy")
    if parts.adapter is not None:
        publish(stage, "adapter", partial(save_adapter, parts.adapter, base=_base_hash(stage)))
        policy = parts.adapter.merge_and_unload()
    publish(stage, "policy", lambda folder: write_model(policy, parts.tokenizer, folder, start))


def _note_warnings(stage: Stage[PpoOptions], rows: Sequence[dict[str, Any]]) -> None:
    first = [row["ratio_first"] for row in rows if row["ratio_first"] is not None]
    off = [ratio for ratio in first if ratio != 1]
    if off:
        stage.notes.append(
            f"the first ratio of an update should be 1 and was not in {len(off)} of {len(rows)} "
            f"updates (furthest: {max(off, key=lambda r: abs(r - 1)):.6f}): forward passes here are not "
            "repeatable"
        )
    note_warnings(stage)
    if stage.options.ema_decay:
        stage.notes.append(
            f"policy/ is the moving average of the weights (decay {stage.options.ema_decay} an update)"
        )
