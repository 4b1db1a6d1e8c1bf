"""Options of the stages that train: what trl's trainers are given, and what PPO's update does with them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlaif.engines.loading import load_causal_lm, load_tokenizer
from rlaif.options import LoraOptions
from rlaif.options.rewarded import RewardSourceOptions
from rlaif.records import Comparison, Grade, Preference
from rlaif.rl import lora, numerics
from rlaif.rl.weights import trainable_weights
from rlaif.runs.processes import module
from rlaif.runs.storage import write_json
from rlaif.stages import ppo as ppo_stage
from rlaif.training import groups, rewards
from rlaif.training import loop as training
from rlaif.training.rewards import open_rewards, totals
from rlaif.training.trainers import soft_preference_loss
from tests.observed.rows import Row
from tests.test_arms import run_of
from tests.test_ppo import prompts, trainer, weights
from tests.test_ppo_stage import tiny_reward_model
from tests.tiny_models import hand_made_run, prompts_of, response, revision

SOURCE = {"source": "tests.test_arms:likes_good"}
SMALL = {
    **{name: {"batch_size": 4} for name in ("sft", "reward", "dpo")},
    "pretrain": {"batch_size": 4, "block_size": 8},
    "rejection": {"batch_size": 4, "rewards": [SOURCE]},
    "best_of_n": {"n": 2, "num_prompts": 1, "max_tokens": 3, "rewards": [SOURCE]},
    **{
        name: {"updates": 2, "batch_size": 8, "group_size": 2, "max_tokens": 4, "rewards": [SOURCE]}
        for name in ("rloo", "grpo")
    },
}
LONG = "good good " + "now " * 20  # longer than other responses, and what the reward likes best
TEXT = "the weather today is good and warm " * 40
SIZES = {"layers": 1, "width": 8, "inner": 8, "heads": 1}
MODELS: dict[str, Path] = {}  # "policy" and "other", made once by the test


class CaughtError(Exception):
    """The trainer as it is when it is to begin."""

    def __init__(self, made: Any, *more: Any) -> None:
        self.made, self.more = made, more


class Training:
    """A stage with the option at a value: its trainer, caught before the first step, and what it dropped."""

    def __init__(self, folder: Path, option: str, row: Row) -> None:
        self.value = row.value
        name, _, key = option.partition(".")
        options = {
            "stage": name,
            **SMALL[name],
            **dict(also.split("=") for also in row.also),
            **nested(key, self.value),
        }
        if name == "pretrain":
            (folder / "text.txt").write_text(TEXT)
            options["text"] = str(folder / options.get("text", "text.txt"))
        if name == "reward" and key == "model":
            options["model"] = str(MODELS["other"])
        if name in ("rloo", "grpo", "best_of_n", "pretrain"):
            self.stage = run_of(folder / "run", MODELS["policy"], options).stages[0]
        else:
            self.stage = hand_made_run(folder / "run", MODELS["policy"], options)
            self._write(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "fit", lambda _, made, *more: _raise(CaughtError(made, *more)))
            patch.setattr(groups, "_train", lambda _, made, *more: _raise(CaughtError(made, *more)))
            patch.setattr(rewards, "REFERENCE_SAMPLES", 8)
            try:
                module(self.stage).run(self.stage)
            except CaughtError as caught:
                self.made, self.more, self.args = caught.made, caught.more, caught.made.args

    def _write(self, name: str) -> None:
        """Of each prompt three responses, with revisions or with preferences where the stage reads them."""
        for n, prompt in enumerate(prompts_of(self.stage)):
            texts = ("it is good", f"rude {n % 3}", LONG if n == 0 else "fine and warm")
            a, b, c = (response(self.stage, prompt, text, at) for at, text in enumerate(texts))
            if name == "sft":
                revision(self.stage, b, c)
                revision(self.stage, c, a, round=2)
            elif name in ("reward", "dpo"):
                for x, y, p, who in ((a, b, 0.9, "ai"), (a, c, 0.7, "human"), (b, c, 0.2, "ai")):
                    pair = Comparison(prompt_id=prompt.id, a=x.id, b=y.id)
                    self.stage.run.stages[2].rows("comparisons", Comparison).append([pair])
                    row = Preference(comparison_id=pair.id, p_a=p, sources=(who,))
                    self.stage.run.stages[3].rows("preferences", Preference).append([row])

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [*self.made.train_dataset, *(self.made.eval_dataset or ())]

    @property
    def batch(self) -> int:
        """Rows of an optimiser step."""
        return self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps

    @property
    def held(self) -> float:
        return round(len(self.made.eval_dataset) / len(self.rows), 2)

    def loss(self, name: str) -> bool:
        """Whether the loss of a batch is the formula's with this term, and not the one without it."""
        made = self.made
        batch = made.data_collator([made.train_dataset[n] for n in range(3)])
        made.model.eval()
        made.args.past_index = -1
        with torch.no_grad():
            loss, found = made.compute_loss(made.model, batch, return_outputs=True)
        pairs = found["rewards"][batch["pairs"].flatten()], batch["p_a"], batch["weight"]
        terms = {"center": 0.0, "margin": 0.0}
        whole, without = (soft_preference_loss(*pairs, **{**terms, name: term}) for term in (self.value, 0.0))
        assert not torch.isclose(whole, without, rtol=1e-6, atol=1e-9)
        return abs(float(loss - whole)) < 1e-6


def nested(key: str, value: Any) -> dict[str, Any]:
    """An option as a config writes it: a size of `pretrain.architecture` among the others."""
    part, _, size = key.partition(".")
    return {part: SIZES | {size: value}} if size else {part: value}


def _raise(error: Exception) -> None:
    raise error


def arg(name: str) -> Any:
    """An argument of trl's config."""
    return lambda t: getattr(t.args, name)


def dropped(t: Training) -> list[str]:
    return [reason for reason in t.stage.dropped if reason.startswith("longer")]


def weighed(t: Training) -> float:
    """How much more a preference of the AI weighs than one of a person."""
    of_p = {round(p, 6): w for row in t.rows for p, w in zip(row["p_a"], row["weight"], strict=True)}
    return round(of_p[0.9] / of_p[0.7], 3)


def weight_of_people(t: Training) -> float:
    """The share of the whole weight that preferences of people have, held-out ones included."""
    weights = [(p, w) for row in t.rows for p, w in zip(row["p_a"], row["weight"], strict=True)]
    theirs = sum(w for p, w in weights if round(p, 6) == 0.7)
    return round(theirs / sum(w for _, w in weights), 6)


def penalty(t: Training) -> float:
    """What a response that was cut pays."""
    scorer = t.more[0]
    (name,) = list(scorer.known)[:1]
    (earned,) = scorer(prompts=[name], completion_ids=[[5, 6]], trainer_state=SimpleNamespace(global_step=0))
    return round(scorer.sampled[0].numbers["score"] - earned, 5)


def warm(t: Training) -> float:
    """The share of the rate at which the first step learns."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    return t.made.create_scheduler(10, optimizer).get_last_lr()[0]


def last_rate(t: Training) -> float:
    """The share of the rate at which the last of 1,000 steps learns."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    share = t.made.create_scheduler(1000, optimizer).lr_lambdas[0]
    return round(share(999), 3)


def shared(name: str) -> dict[str, Row]:
    """What sft, reward models, DPO and rejection have in common."""
    return {
        f"{name}.epochs": Row(3.0, arg("num_train_epochs"), 3.0),
        f"{name}.learning_rate": Row(0.0123, arg("learning_rate"), 0.0123),
        f"{name}.batch_size": Row(3, lambda t: t.batch, 3),
        f"{name}.micro_batch": Row(2, lambda t: (t.args.per_device_train_batch_size, t.batch), (2, 4)),
        f"{name}.heldout": Row(0.5, lambda t: 0.45 <= t.held <= 0.55, True),
        f"{name}.max_length": Row(24, dropped, ["longer than 24 tokens"]),
    }


def on_preferences(name: str) -> dict[str, Row]:
    return {
        **shared(name),
        f"{name}.by_prompt": Row(True, lambda t: {len(row["p_a"]) for row in t.rows}, {3}),
        f"{name}.hard_labels": Row(True, lambda t: {p for row in t.rows for p in row["p_a"]}, {0.0, 1.0}),
        f"{name}.margin": Row(1.5, lambda t: t.loss("margin"), True),
        f"{name}.source_weights": Row({"ai": 3.0}, weighed, 3.0),
        f"{name}.human_ratio": Row(0.75, weight_of_people, 0.75),
    }


def grouped(name: str) -> dict[str, Row]:
    return {
        f"{name}.updates": Row(3, arg("max_steps"), 3),
        f"{name}.batch_size": Row(
            12,
            lambda t: (t.batch, t.args.steps_per_generation * t.args.per_device_train_batch_size),
            (12, 12),
        ),
        f"{name}.group_size": Row(4, arg("num_generations"), 4),
        f"{name}.minibatches": Row(2, lambda t: (t.batch, t.args.max_steps), (4, 4)),
        f"{name}.epochs": Row(3, lambda t: (t.args.num_iterations, t.args.max_steps), (3, 6)),
        f"{name}.learning_rate": Row(0.0123, arg("learning_rate"), 0.0123),
        f"{name}.warmup": Row(4, warm, 0.25),
        f"{name}.lr_schedule": Row("linear", last_rate, 0.001),
        f"{name}.max_tokens": Row(5, arg("max_completion_length"), 5),
        f"{name}.temperature": Row(0.37, arg("temperature"), 0.37),
        f"{name}.clip": Row(0.31, arg("epsilon"), 0.31),
        f"{name}.max_grad_norm": Row(0.17, arg("max_grad_norm"), 0.17),
        f"{name}.kl_coef": Row(0.23, arg("beta"), 0.23),
        f"{name}.missing_eos_penalty": Row(2.5, penalty, 2.5),
        f"{name}.micro_batch": Row(2, arg("per_device_train_batch_size"), 2),
        f"{name}.num_watched_prompts": Row(3, lambda t: len(t.more[1]), 3),
    }


def size(name: str) -> Any:
    """What the model that is to be trained says of its sizes."""
    return lambda t: getattr(t.made.model.config, name)


def best(key: str) -> Any:
    return lambda t: {row.sampling[key] for row in t.stage.rows("responses", _response())}


def _response() -> Any:
    from rlaif.records import Response

    return Response


def per_prompt(t: Training) -> set[int]:
    return set(Counter(row.prompt_id for row in t.stage.rows("responses", _response())).values())


TRAINED: dict[str, Row] = {
    **shared("sft"),
    **shared("rejection"),
    **{key: row for key, row in shared("pretrain").items() if key != "pretrain.max_length"},
    **on_preferences("reward"),
    **on_preferences("dpo"),
    **grouped("rloo"),
    **grouped("grpo"),
    "sft.train_on": Row("last", lambda t: len(t.rows), 12),
    "pretrain.text": Row("text.txt", lambda t: sum(len(row["input_ids"]) for row in t.rows) > 200, True),
    "pretrain.block_size": Row(5, lambda t: max(len(row["input_ids"]) for row in t.rows), 5),
    "pretrain.architecture.layers": Row(3, size("num_hidden_layers"), 3),
    "pretrain.architecture.width": Row(12, size("hidden_size"), 12),
    "pretrain.architecture.inner": Row(20, size("intermediate_size"), 20),
    "pretrain.architecture.heads": Row(2, size("num_attention_heads"), 2),
    "pretrain.architecture.context": Row(48, size("max_position_embeddings"), 48),
    "reward.model": Row(
        "other",
        lambda t: torch.equal(
            next(t.made.model.parameters()),
            next(load_causal_lm(MODELS["other"], "cpu", "float32").parameters()),
        ),
        True,
    ),
    "reward.center_coef": Row(0.25, lambda t: t.loss("center"), True),
    "dpo.beta": Row(0.35, lambda t: t.made.beta, 0.35),
    "rejection.keep": Row(2, lambda t: len(t.rows), 24),
    "grpo.scale_rewards": Row("none", arg("scale_rewards"), "none"),
    "best_of_n.n": Row(3, per_prompt, {3}),
    "best_of_n.num_prompts": Row(
        2, lambda t: len({row.prompt_id for row in t.stage.rows("responses", _response())}), 2
    ),
    "best_of_n.temperature": Row(0.37, best("temperature"), {0.37}),
    "best_of_n.max_tokens": Row(4, best("max_tokens"), {4}),
}


class Update:
    """One update of PPO on a random model with an option at a value, and what the formulas were given."""

    FORMULAS = {
        "policy_loss": 3,
        "value_loss": 3,
        "kl_estimate": 2,
        "gae": 3,
        "masked_whiten": 2,
    }  # first settings of each

    def __init__(self, option: str, row: Row) -> None:
        name = option.partition(".")[2]
        self.value, self.calls = row.value, {}
        also = {key: float(value) for key, value in (pair.split("=") for pair in row.also)}
        self.ppo = trainer(**{"max_grad_norm": 1e9, **also, name: row.value})
        # Steps that are the gradient itself, so that its length can be read off the weights.
        self.ppo.optimizer = torch.optim.SGD(trainable_weights(self.ppo.policy).values(), 1.0)
        self.ppo.value_optimizer = torch.optim.SGD(trainable_weights(self.ppo.value).values(), 1.0)
        self.ppo._set_rates = lambda number: None
        before = weights(self.ppo.policy), weights(self.ppo.value)
        with pytest.MonkeyPatch.context() as patch:
            for formula, first in self.FORMULAS.items():
                patch.setattr(numerics, formula, self._told(formula, first, getattr(numerics, formula)))
            self.metrics, self.seen = self.ppo.update(1, prompts())
        after = weights(self.ppo.policy), weights(self.ppo.value)
        self.moved = [float((a - b).norm()) for a, b in zip(after, before, strict=True)]

    def _told(self, name: str, first: int, formula: Any) -> Any:
        calls = self.calls.setdefault(name, [])

        def told(*args: Any, **options: Any) -> Any:
            calls.append((*args[first:], *options.values()))
            return formula(*args, **options)

        return told

    def settings(self, formula: str, place: int) -> set[Any]:
        return {call[place] for call in self.calls[formula]}


def rates(number: int, **changes: Any) -> tuple[float, float]:
    """The rates of policy and value model in an update."""
    made = trainer(learning_rate=0.01, **changes)
    made._set_rates(number)
    policy, value = (round(o.param_groups[0]["lr"], 6) for o in (made.optimizer, made.value_optimizer))
    return policy, value


UPDATED: dict[str, Row] = {
    "ppo.minibatches": Row(4, lambda u: u.metrics["steps"], 4),
    "ppo.epochs": Row(3, lambda u: u.metrics["steps"], 3),
    "ppo.max_tokens": Row(4, lambda u: int(u.seen.episodes.response_B.max()), 4),
    "ppo.micro_batch": Row(
        2, lambda u: max(len(rows) for batch in u.ppo._plan(u.seen.episodes, 1) for rows in batch), 2
    ),
    "ppo.batch_size": Row(24, lambda u: u.metrics["episodes"], 24),
    "ppo.gamma": Row(0.9, lambda u: u.settings("gae", 0), {0.9}),
    "ppo.lam": Row(0.7, lambda u: u.settings("gae", 1), {0.7}),
    "ppo.clip": Row(0.31, lambda u: u.settings("policy_loss", 0), {0.31}),
    "ppo.dual_clip": Row(3.5, lambda u: u.settings("policy_loss", 1), {3.5}),
    # Two epochs: the pass that gives the values learns the first step's loss, the second step its own.
    "ppo.value_clip": Row(
        0.13,
        lambda u: (len(u.calls["value_loss"]) > 2, u.settings("value_loss", 0)),
        (True, {0.13}),
        ("epochs=2",),
    ),
    "ppo.max_grad_norm": Row(1e-3, lambda u: [round(norm, 5) for norm in u.moved], [1e-3, 1e-3]),
    "ppo.kl_estimator": Row("k3", lambda u: "k3" in u.settings("kl_estimate", 0), True),
    "ppo.whiten_rewards": Row(True, lambda u: (False,) in u.calls["masked_whiten"], True),
}


def ptx(folder: Path, **changes: Any) -> Any:
    """The text to mix in as the stage reads it."""
    (folder / "text.txt").write_text("the weather today is good and warm " * 9)
    options = {"file": str(folder / "text.txt"), "coef": 1.0, "batch_size": 2, "block_size": 16, **changes}
    stage = hand_made_run(
        folder / "run",
        MODELS["policy"],
        {"stage": "ppo", "rewards": [SOURCE], "max_tokens": 8, "ptx": options},
    )
    found = ppo_stage._pretraining(stage, load_tokenizer(MODELS["policy"]), 32)
    assert found is not None
    return found


def adapter(**changes: Any) -> Any:
    wrapped = lora.attach(
        load_causal_lm(MODELS["policy"], "cpu", "float32"), LoraOptions(**changes), "base", 0
    )
    return wrapped.peft_config["default"]


def total(**changes: Any) -> dict[str, float]:
    grades = [Grade(prompt_id="p", response_id=i, scores={"x": x}) for i, x in (("a", 1.0), ("b", 5.0))]
    return totals(grades, [RewardSourceOptions(source="x", **changes)])


def rate(value: float) -> float:
    made = trainer(learning_rate=value)
    made._set_rates(1)
    return made.optimizer.param_groups[0]["lr"]


def micro_batch(value: int, folder: Path) -> int:
    """How many responses a reward model reads at once."""
    tiny_reward_model(folder / "model", MODELS["policy"])
    options = {"stage": "best_of_n", "rewards": [{"source": str(folder / "model")}], "micro_batch": value}
    stage = run_of(folder / "run", MODELS["policy"], options).stages[0]
    score: Any = open_rewards(stage, load_tokenizer(MODELS["policy"])).rewards.sources[0].score
    return score.micro_batch


def pooled(value: float, folder: Path) -> float:
    """By how many standard deviations an ensemble takes its doubt off."""
    write_json(folder / "calibration.json", {"members": [{"reward_mean": 0.0, "reward_std": 1.0}]})
    member: Any = SimpleNamespace(context=9, own_tokens=True)
    return rewards._pooled(
        folder, [member], RewardSourceOptions(source="x", pool="mean_minus_std", pool_k=value)
    ).k


# Options of which a figure follows without an update; `look` gets the value and a folder.
PARTS: dict[str, Row] = {
    "ppo.learning_rate": Row(0.02, lambda v, _: rate(v), 0.02),
    "ppo.value_learning_rate": Row(0.03, lambda v, _: rates(1, value_learning_rate=v), (0.01, 0.03)),
    "ppo.warmup": Row(4, lambda v, _: rates(1, warmup=v), (0.0025, 0.0025)),
    "ppo.lr_schedule": Row(
        "linear", lambda v, _: rates(8, updates=10, warmup=4, lr_schedule=v), (0.005, 0.005)
    ),
    "ppo.ptx.file": Row("text.txt", lambda v, folder: len(ptx(folder).blocks) > 1, True),
    "ppo.ptx.coef": Row(2.5, lambda v, folder: ptx(folder, coef=v).coef, 2.5),
    "ppo.ptx.batch_size": Row(
        3,
        lambda v, folder: len(
            [r for p in ptx(folder, batch_size=v).parts(1, 1, torch.device("cpu")) for r in p.responses()]
        ),
        3,
    ),
    "ppo.ptx.block_size": Row(5, lambda v, folder: max(map(len, ptx(folder, block_size=v).blocks)), 5),
    "ppo.lora.rank": Row(3, lambda v, _: adapter(rank=v).r, 3),
    "ppo.lora.alpha": Row(5, lambda v, _: adapter(alpha=v).lora_alpha, 5),
    "best_of_n.micro_batch": Row(3, micro_batch, 3),
    "rewards.pool_k": Row(0.4, pooled, 0.4),
    "rewards.weight": Row(-2.0, lambda v, _: total(weight=v), {"a": 2.0, "b": -2.0}),
    "rewards.scale": Row(False, lambda v, _: total(scale=v), {"a": 1.0, "b": 5.0}),
}
