"""What sft and reward share: trl's trainers made quiet, exact to resume, and strict about numbers that blow up.

A training is continued from its last whole checkpoint: same order of rows, same optimiser and random state, so that on
one thread the curve is the one an uninterrupted run writes. trl's surprising defaults are set aside here (bf16 on a
CPU, gradient checkpointing for small models, telemetry, model cards in checkpoints).
"""

from __future__ import annotations

import math
import os
import shutil
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.utils import logging
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.reward_trainer import RewardTrainer
from trl.trainer.sft_trainer import SFTTrainer

from rlaif.engines.loading import eos_ids, load_config
from rlaif.errors import UserError
from rlaif.prompts import end_of_turn
from rlaif.rl.forward import is_large
from rlaif.rl.ranks import Ranks
from rlaif.rl.sharding import collected, cut, is_cut, own_state, whole_state
from rlaif.runfolder import Journal, Stage
from rlaif.seeds import derive_seed

logging.disable_progress_bar()
WHOLE = "whole"  # marks a checkpoint that was written to its end
GROUP = 32  # replies of like length that go through the reward model together
SAVE_SECONDS = 5.0
SAVE_SHARE = 0.05  # of the time may go into checkpoints
IGNORED = -100  # a label without a loss
WATCHED = ("loss", "grad_norm", "eval_loss")


def soft_preference_loss(
    rewards: torch.Tensor, p_a: torch.Tensor, weight: torch.Tensor, center: float = 0.0, margin: float = 0.0
) -> torch.Tensor:
    """Mean weighted cross-entropy of sigmoid(r_a − r_b) against p_a (RLAIF, arXiv 2309.00267, section 2.2.1).

    rewards [2P]: the first replies of P pairs, then the second ones; p_a, weight [P]. `center` weighs (r_a + r_b)²,
    which keeps rewards near zero (arXiv 2312.09244, equation 2). `margin` is the lead asked of a certain winner, less
    the less certain it is (Llama 2, arXiv 2307.09288, equation 2): the difference learned is logit p_a + margin·(2p_a − 1).
    """
    a, b = rewards.chunk(2)
    lead = a - b - margin * (2 * p_a - 1)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(lead, p_a, weight=weight)
    return loss + center * (weight * (a + b) ** 2).mean() if center else loss


class Plain:
    """Mixin: no telemetry, no model cards, and a rate that is never zero."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up over a twentieth of the steps, then linear decay; the usual one wastes its first step."""
        warm, steps = num_training_steps / 20, num_training_steps
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer,  # type: ignore[attr-defined]
            lambda step: min((step + 1) / (warm + 1), (steps - step) / steps),
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Do nothing; a run's report is its card."""


class Shares(Plain):
    """Mixin: where the launch asks for FSDP the model is cut up when training begins; what is saved is whole.

    Accelerate would do it on GPUs alone; the same code on any device can be tested without one.
    """

    model: Any
    ref_model: Any = None

    def create_accelerator_and_postprocess(self) -> None:
        """With an accelerator that does not know of FSDP."""
        asked = os.environ.pop("ACCELERATE_USE_FSDP", None)
        try:
            super().create_accelerator_and_postprocess()  # type: ignore[misc]
        finally:
            os.environ.update({"ACCELERATE_USE_FSDP": asked} if asked else {})

    def create_optimizer(self, model: Any = None) -> Any:
        """The optimiser of this process's share; a checkpoint's weights are in the model already."""
        ranks = Ranks.here()
        if ranks.sharded:
            for whole in filter(None, (self.model, self.ref_model)):
                cut(whole, ranks, divisor=ranks.count)
            self.accelerator.prepare_model(self.model, device_placement=False, evaluation_mode=True)  # type: ignore[attr-defined]
            self.model._is_accelerate_prepared = True  # or it would become DDP's
        return super().create_optimizer(model)  # type: ignore[misc]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if is_cut(self.model):
            state_dict = collected(self.model.state_dict(keep_vars=True), Ranks.here())
        super()._save(output_dir, state_dict)  # type: ignore[misc]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_cut(self.model):
            return super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        ranks = Ranks.here()
        states = whole_state(self.optimizer, ranks), self.lr_scheduler.state_dict()  # type: ignore[attr-defined]
        if ranks.rank == 0:
            for state, name in zip(states, (OPTIMIZER_NAME, SCHEDULER_NAME), strict=True):
                torch.save(state, Path(output_dir) / name)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not is_cut(self.model) or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        optimizer, schedule = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        self.optimizer.load_state_dict(own_state(optimizer, self.optimizer))  # type: ignore[attr-defined]
        self.lr_scheduler.load_state_dict(schedule)


class ReplyTrainer(Shares, SFTTrainer):
    """trl's SFT on rows of `input_ids` and `labels`."""


def rewards_of(model: Any, ids: torch.Tensor, mask: torch.Tensor, group: int) -> torch.Tensor:
    """Rewards [N] of right-padded sequences ids, mask [N, T].

    Sequences of like length go through the model together, `group` at a time, each group cut to its longest: the same
    numbers as one padded batch, for less work.
    """
    lengths = mask.sum(1)
    order = lengths.argsort(stable=True)
    found = []
    for part in order.split(group):
        width = int(lengths[part].max())
        found.append(model(ids[part, :width], attention_mask=mask[part, :width], use_cache=False).logits)
    return torch.cat(found).squeeze(-1).float()[order.argsort()]


class ElementCollator:
    """Elements of `rlaif.pairs.elements` as one batch: their S sequences right-padded, their P pairs counted through."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """{input_ids, attention_mask, labels [S, T] (−100 but for the replies), pairs [2, P], p_a, weight [P]}.

        Weights are such that their mean over pairs is a mean over elements.
        """
        ids = [torch.tensor(sequence) for row in rows for sequence in row["sequences"]]
        starts = [start for row in rows for start in row["starts"]]
        labels = [
            own.clone().index_fill_(0, torch.arange(start), IGNORED)
            for own, start in zip(ids, starts, strict=True)
        ]
        offsets = [0, *accumulate(len(row["sequences"]) for row in rows)]
        pairs = [
            [at + offset for row, offset in zip(rows, offsets, strict=False) for at in row[side]]
            for side in ("first", "second")
        ]
        flat = {key: torch.tensor([x for row in rows for x in row[key]]) for key in ("p_a", "weight")}
        flat["weight"] *= len(flat["weight"]) / len(rows)
        return {
            "input_ids": pad_sequence(ids, True, self.pad), "labels": pad_sequence(labels, True, IGNORED),
            "attention_mask": pad_sequence([torch.ones_like(own) for own in ids], True), "pairs": torch.tensor(pairs), **flat,
        }  # fmt: skip


class OnPairs(Shares):
    """Mixin of trl's trainers on preferences: our elements in, our loss; `rewards` says what a sequence is worth."""

    def __init__(self, *args: Any, center: float = 0.0, margin: float = 0.0, **kwargs: Any) -> None:
        self.center, self.margin = center, margin
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["sequences", "starts", "first", "second", "p_a", "weight"]

    def rewards(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The reward of each sequence [S]."""
        raise NotImplementedError

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """`soft_preference_loss` of a batch's pairs."""
        rewards = self.rewards(model, inputs)
        pairs = rewards[inputs["pairs"].flatten()]
        loss = soft_preference_loss(pairs, inputs["p_a"], inputs["weight"], self.center, self.margin)
        return (loss, {"rewards": rewards}) if return_outputs else loss


class SoftRewardTrainer(OnPairs, RewardTrainer):
    """trl's reward trainer with soft labels and any number of pairs an element."""

    def rewards(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the head says at each sequence's last token."""
        ids = inputs["input_ids"]
        group = len(ids) if is_cut(self.model) else GROUP  # all processes have to make as many passes
        return rewards_of(model, ids, inputs["attention_mask"], group)


class SoftDpoTrainer(OnPairs, DPOTrainer):
    """trl's DPO with soft labels: the reward model's loss, the reward being β·log π/π_ref of the reply.

    (DPO, arXiv 2305.18290, equation 7; with 0 < p < 1 it is its conservative form, cDPO.)
    """

    def rewards(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """β times the log-ratio of policy to reference, summed over each reply's tokens."""
        read = {key: inputs[key] for key in ("input_ids", "attention_mask", "labels")}
        own = model(**read, use_cache=False, fused_lm_head=True).log_probs.sum(1)
        frozen: Any = self.ref_model
        with torch.no_grad():
            reference = frozen(**read, use_cache=False, fused_lm_head=True).log_probs.sum(1)
        return self.beta * (own - reference)


class Watch(TrainerCallback):
    """Writes the curve, moves the progress bar, times the checkpoints, and stops on numbers that are not finite."""

    def __init__(self, stage: Stage, curve: Journal, tick: Callable[[int], None]) -> None:
        self.stage, self.curve, self.tick = stage, curve, tick
        self.saved = self.begun = time.monotonic()
        self.cost = 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Log before anything is saved, so that a checkpoint never holds weights that gave NaN."""
        row = self.row(state.global_step, logs)
        if row:
            self.curve.append({"step": state.global_step, "epoch": round(state.epoch or 0.0, 4), **row})
        bad = {key: logs[key] for key in WATCHED if key in logs and not math.isfinite(logs[key])}
        if bad:
            raise diverged(self.stage, state.global_step, state.max_steps, bad)

    def row(self, step: int, logs: dict[str, float]) -> dict[str, Any]:
        """What the curve says of a step; nothing where it is empty."""
        row = {key: logs[key] for key in ("loss", "learning_rate", "grad_norm") if key in logs}
        return row | ({"heldout_loss": logs["eval_loss"]} if "eval_loss" in logs else {})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint, after an epoch's last step not before the epoch has been measured."""
        self.tick(1)
        if state.epoch % 1:
            self._ask(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint."""
        self._ask(state, control)

    def _ask(self, state: Any, control: Any) -> None:
        """Ask for one every few seconds, less often where writing one takes long."""
        now = time.monotonic()
        due = now - self.saved > max(SAVE_SECONDS, self.cost / SAVE_SHARE) and self.due(state.global_step)
        if Ranks.here().gather([due])[0]:  # the first process's clock counts
            control.should_save, self.begun = True, now

    def due(self, step: int) -> bool:
        """Whether a checkpoint may be written after this step."""
        return True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as whole."""
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()
        self.saved = time.monotonic()
        self.cost = self.saved - self.begun


def diverged(stage: Stage, step: int, steps: int, bad: dict[str, float]) -> UserError:
    """What to say when training gives NaN or infinity."""
    numbers = ", ".join(f"{key} {value}" for key, value in bad.items())
    where = f"at step {step} of {steps}" if step else "before the first step: the weights it starts from"
    last = last_checkpoint(stage)
    kept = f"; the last good checkpoint is kept in {last}" if last else ""
    rate = stage.options.learning_rate
    return UserError(f"{stage.dir.name}: not finite {where} ({numbers}).", "finite numbers in training",
                     f"lower {stage.name}.learning_rate (now {rate:g}) and start anew in another folder: "
                     f"-s {stage.name}.learning_rate={rate / 10:g} --out …{kept}")  # fmt: skip


def last_checkpoint(stage: Stage) -> Path | None:
    """The stage's last checkpoint that was written to its end."""
    found = [path.parent for path in (stage.dir / "checkpoints").glob(f"checkpoint-*/{WHOLE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def arguments(kind: Any, stage: Stage, model: Any, heldout: int, **extra: Any) -> Any:
    """trl's config `kind` for a stage's options, on the device of its model; `heldout` counts rows to evaluate."""
    options, on_gpu = stage.options, model.device.type == "cuda"
    processes = Ranks.here().count
    micro = min(options.micro_batch or options.batch_size, math.ceil(options.batch_size / processes))
    settings: dict[str, Any] = {
        "output_dir": str(stage.dir / "checkpoints"), "seed": stage.seed, "data_seed": stage.seed,
        "num_train_epochs": options.epochs, "learning_rate": options.learning_rate, "weight_decay": 0.0, "max_grad_norm": 1.0,
        "per_device_train_batch_size": micro, "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": math.ceil(options.batch_size / micro / processes),
        "ddp_find_unused_parameters": False,
        "use_cpu": model.device.type == "cpu", "bf16": on_gpu and torch.cuda.is_bf16_supported(),
        "gradient_checkpointing": is_large(model), "dataloader_pin_memory": on_gpu,
        "eval_strategy": "epoch" if heldout else "no", "eval_on_start": bool(heldout) and not last_checkpoint(stage),
        "logging_steps": 1, "logging_nan_inf_filter": False, "save_strategy": "no", "save_total_limit": 2,
        "report_to": "none", "disable_tqdm": True,
        **({"max_length": None} if "max_length" in kind.__dataclass_fields__ else {}),
    }  # fmt: skip
    with warnings.catch_warnings():  # gradient_checkpointing has a new name in the latest transformers only
        warnings.simplefilter("ignore", FutureWarning)
        args = kind(**(settings | extra))
    args._n_gpu = min(args.n_gpu, 1)  # one process trains on one GPU, however many there are
    return args


def without_dropout(model: Any) -> Any:
    """The model with every dropout set to zero, modules and attention rates alike."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if name.endswith("dropout") and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def fit(stage: Stage, trainer: Any, watch: Callable[..., Watch] = Watch) -> None:
    """Train to the end, from the last whole checkpoint where there is one; raises UserError on NaN."""
    checkpoints, last = stage.dir / "checkpoints", last_checkpoint(stage)
    for torn in checkpoints.glob("checkpoint-*"):
        if not (torn / WHOLE).exists():
            shutil.rmtree(torn)
    done = int(last.name.rpartition("-")[2]) if last else 0
    curve = Journal(stage.dir / "metrics.jsonl", "step")
    curve.rewind(done if last else -1)
    args = trainer.args
    batches = math.ceil(
        len(trainer.train_dataset)
        / args.per_device_train_batch_size
        / args.gradient_accumulation_steps
        / Ranks.here().count
    )
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * batches)
    trainer.remove_callback(PrinterCallback)
    with stage.progress(steps, "steps", done) as tick:
        trainer.add_callback(watch(stage, curve, tick))
        trainer.train(resume_from_checkpoint=str(last) if last else None)


def fit_replies(stage: Stage, model: Any, tokenizer: Any, rows: list[dict[str, Any]], held: set[str]) -> None:
    """Fine-tune on rows of `prompt_id`, `input_ids` and `start` (tokens of the prompt), loss on the reply alone → policy/.

    Rows of `held` prompts measure and do not train.
    """
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig

    parts = ([row for row in rows if (row["prompt_id"] in held) == part] for part in (False, True))
    train, heldout = (Dataset.from_list([with_labels(row) for row in part]) for part in parts)
    _stop_at(model, tokenizer, end_of_turn(tokenizer))
    prepared = {"skip_prepare_dataset": True}  # rows are tokens already: the chat template is applied once
    trainer = ReplyTrainer(
        without_dropout(model), arguments(SFTConfig, stage, model, len(heldout), dataset_kwargs=prepared),
        train_dataset=train, eval_dataset=heldout if len(heldout) else None, processing_class=tokenizer,
    )  # fmt: skip
    fit(stage, trainer)
    source = stage.input("policy")
    publish(stage, "policy", lambda folder: write_model(model, tokenizer, folder, source))


def with_labels(row: dict[str, Any]) -> dict[str, list[int]]:
    """The row's `input_ids`, and `labels` that are theirs on the reply alone."""
    ids, start = row["input_ids"], row["start"]
    return {"input_ids": ids, "labels": [IGNORED] * start + ids[start:]}


def _stop_at(model: Any, tokenizer: Any, end: int | None) -> None:
    """Let generation stop at the token that the replies are taught to end with."""
    generation = model.generation_config
    generation.eos_token_id = list(
        dict.fromkeys([*eos_ids(model, tokenizer), *([end] if end is not None else [])])
    )
    if not generation.do_sample:  # sampling settings without sampling cannot be saved
        generation.temperature = generation.top_p = generation.top_k = None


def publish(stage: Stage, name: str, write: Callable[[Path], None]) -> None:
    """Make the stage's folder `name` whole at once, then remove the checkpoints that led to it."""
    partial = stage.dir / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write(partial)
    os.replace(partial, stage.dir / name)
    shutil.rmtree(stage.dir / "checkpoints", ignore_errors=True)


def write_model(model: Any, tokenizer: Any, folder: Path, like: str | Path) -> None:
    """Save model and tokenizer in the dtype the weights came in (training itself is in fp32); the first process does."""
    stored = getattr(load_config(like), "dtype", None)
    ranks = Ranks.here()
    weights = collected(model.to(stored or torch.float32).state_dict(keep_vars=True), ranks)
    if ranks.rank == 0:
        model.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)


def heldout_prompts(stage: Stage, prompt_ids: Iterable[str], share: float) -> set[str]:
    """About `share` of the prompts, by whole groups drawn by the stage's seed: at least one group, never all.

    None of a single group.
    """
    known, clusters = stage.prompts_by_id(), defaultdict[str, list[str]](list)
    for prompt_id in sorted(set(prompt_ids)):
        clusters[known[prompt_id].cluster if prompt_id in known else prompt_id].append(prompt_id)
    wanted, held = max(1, round(share * sum(map(len, clusters.values())))), set[str]()
    for cluster in sorted(clusters, key=lambda name: derive_seed(stage.seed, "heldout", name))[:-1]:
        if len(held) < wanted:
            held.update(clusters[cluster])
    return held


@torch.no_grad()
def score_sequences(model: Any, sequences: Sequence[Sequence[int]], batch: int) -> list[float]:
    """The reward of each token sequence [N], read at its last token."""
    if not sequences:
        return []
    model.eval()
    pad = model.config.get_text_config().pad_token_id
    rows = [torch.tensor(sequence) for sequence in sequences]
    ids = pad_sequence(rows, True, pad)
    mask = pad_sequence([torch.ones_like(row) for row in rows], True)
    return rewards_of(model, ids.to(model.device), mask.to(model.device), batch).tolist()
