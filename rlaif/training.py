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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from transformers import AutoConfig, PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl.trainer.reward_trainer import DataCollatorForPreference, RewardTrainer
from trl.trainer.sft_trainer import SFTTrainer

from rlaif.errors import UserError
from rlaif.rl.ranks import Ranks
from rlaif.runfolder import Journal, Stage
from rlaif.seeds import derive_seed

logging.disable_progress_bar()
WHOLE = "whole"  # marks a checkpoint that was written to its end
GROUP = 32  # replies of like length that go through the reward model together
SAVE_SECONDS = 5.0
SAVE_SHARE = 0.05  # of the time may go into checkpoints
LARGE = 1_000_000_000  # parameters from which activations are recomputed to save memory
WATCHED = ("loss", "grad_norm", "eval_loss")


def soft_preference_loss(
    rewards: torch.Tensor, p_a: torch.Tensor, weight: torch.Tensor, center: float = 0.0
) -> torch.Tensor:
    """Mean weighted cross-entropy of sigmoid(r_a − r_b) against p_a (RLAIF, arXiv 2309.00267, section 2.2.1).

    rewards [2B]: the B first replies, then the B second ones; p_a, weight [B]. `center` weighs (r_a + r_b)², which
    keeps rewards near zero (arXiv 2312.09244, equation 2).
    """
    a, b = rewards.chunk(2)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(a - b, p_a, weight=weight)
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


class ReplyTrainer(Plain, SFTTrainer):
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


class SoftPairCollator(DataCollatorForPreference):
    """trl's pairs, right-padded, with the probability that the first is better and the pair's weight."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """{input_ids, attention_mask [2B, T], p_a, weight [B]}."""
        extra = {key: torch.tensor([row[key] for row in examples]) for key in ("p_a", "weight")}
        return {**super().torch_call(examples), **extra}


class SoftRewardTrainer(Plain, RewardTrainer):
    """trl's reward trainer with soft labels: rows of `chosen_ids` (reply a), `rejected_ids` (b), `p_a`, `weight`."""

    center = 0.0

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["chosen_ids", "rejected_ids", "p_a", "weight"]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """`soft_preference_loss` of a batch."""
        pairs = {key: inputs.pop(key) for key in ("p_a", "weight")}
        rewards = rewards_of(model, inputs["input_ids"], inputs["attention_mask"], GROUP)
        loss = soft_preference_loss(rewards, **pairs, center=self.center)
        return (loss, {"rewards": rewards}) if return_outputs else loss


class Watch(TrainerCallback):
    """Writes the curve, moves the progress bar, times the checkpoints, and stops on numbers that are not finite."""

    def __init__(self, stage: Stage, curve: Journal, tick: Callable[[int], None]) -> None:
        self.stage, self.curve, self.tick = stage, curve, tick
        self.saved = self.begun = time.monotonic()
        self.cost = 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Log before anything is saved, so that a checkpoint never holds weights that gave NaN."""
        row = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4)}
        row |= {key: logs[key] for key in ("loss", "learning_rate", "grad_norm") if key in logs}
        row |= {"heldout_loss": logs["eval_loss"]} if "eval_loss" in logs else {}
        if len(row) > 2:
            self.curve.append(row)
        bad = {key: logs[key] for key in WATCHED if key in logs and not math.isfinite(logs[key])}
        if bad:
            raise diverged(self.stage, state.global_step, state.max_steps, bad)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint every few seconds, less often where writing one takes long."""
        self.tick(1)
        now = time.monotonic()
        due = now - self.saved > max(SAVE_SECONDS, self.cost / SAVE_SHARE)
        if Ranks.here().gather([due])[0]:  # the first process's clock counts
            control.should_save, self.begun = True, now

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
    with warnings.catch_warnings():  # gradient_checkpointing has a new name in the latest transformers only
        warnings.simplefilter("ignore", FutureWarning)
        args = kind(
            output_dir=str(stage.dir / "checkpoints"), seed=stage.seed, data_seed=stage.seed,
            num_train_epochs=options.epochs, learning_rate=options.learning_rate, weight_decay=0.0, max_grad_norm=1.0,
            per_device_train_batch_size=micro, per_device_eval_batch_size=micro,
            gradient_accumulation_steps=math.ceil(options.batch_size / micro / processes),
            ddp_find_unused_parameters=False, use_cpu=model.device.type == "cpu", bf16=on_gpu and torch.cuda.is_bf16_supported(),
            gradient_checkpointing=model.num_parameters() >= LARGE, dataloader_pin_memory=on_gpu,
            eval_strategy="epoch" if heldout else "no", eval_on_start=bool(heldout) and not last_checkpoint(stage),
            logging_steps=1, logging_nan_inf_filter=False, save_strategy="no", save_total_limit=2,
            report_to="none", disable_tqdm=True, max_length=None, **extra,
        )  # fmt: skip
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


def fit(stage: Stage, trainer: Any) -> None:
    """Train to the end, from the last whole checkpoint where there is one; raises UserError on NaN."""
    checkpoints, last = stage.dir / "checkpoints", last_checkpoint(stage)
    for torn in checkpoints.glob("checkpoint-*"):
        if not (torn / WHOLE).exists():
            shutil.rmtree(torn)
    done = int(last.name.rpartition("-")[2]) if last else 0
    curve = Journal(stage.dir / "metrics.jsonl", "step")
    curve.rewind(done if last else -1)
    steps = trainer.args.num_train_epochs * math.ceil(
        len(trainer.train_dataset) / trainer.args.per_device_train_batch_size
        / trainer.args.gradient_accumulation_steps / Ranks.here().count
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    with stage.progress(math.ceil(steps), "steps", done) as tick:
        trainer.add_callback(Watch(stage, curve, tick))
        trainer.train(resume_from_checkpoint=str(last) if last else None)


def publish(stage: Stage, name: str, write: Callable[[Path], None]) -> None:
    """Make the stage's folder `name` whole at once, then remove the checkpoints that led to it."""
    partial = stage.dir / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write(partial)
    os.replace(partial, stage.dir / name)
    shutil.rmtree(stage.dir / "checkpoints", ignore_errors=True)


def write_model(model: Any, tokenizer: Any, folder: Path, like: str | Path) -> None:
    """Save model and tokenizer in the dtype the weights came in (training itself is in fp32)."""
    stored = getattr(AutoConfig.from_pretrained(like, trust_remote_code=False), "dtype", None)
    model.to(stored or torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def heldout_prompts(stage: Stage, prompt_ids: Iterable[str], share: float) -> set[str]:
    """About `share` of the prompts, drawn by the stage's seed: at least one, never all; none of a single prompt."""
    ids = sorted(set(prompt_ids), key=lambda prompt_id: derive_seed(stage.seed, "heldout", prompt_id))
    return set(ids[: min(max(1, round(share * len(ids))), len(ids) - 1)])


@torch.no_grad()
def score_sequences(model: Any, sequences: Sequence[Sequence[int]], batch: int) -> list[float]:
    """The reward of each token sequence [N], read at its last token."""
    if not sequences:
        return []
    model.eval()
    pad = model.config.get_text_config().pad_token_id
    rows = [torch.tensor(sequence) for sequence in sequences]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return rewards_of(model, ids.to(model.device), mask.to(model.device), batch).tolist()
