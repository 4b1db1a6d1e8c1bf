"""What sft, reward and dpo share around their `trainers`: exact to resume, and an error on numbers
that are not finite.

A training is continued from its last complete checkpoint: same order of rows, same optimiser and random
state, so that on one thread the curve is the one an uninterrupted run writes. trl's surprising defaults are
overridden here (bf16 on a CPU, gradient checkpointing for small models).
"""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging

from rlaif.engines.loading import eos_ids
from rlaif.errors import UserError
from rlaif.prompting.chat import end_of_turn
from rlaif.records import Prompt
from rlaif.rl.checkpoints import WHOLE, last_checkpoint, publish, remove_damaged, seal_checkpoint, write_model
from rlaif.rl.forward import is_large
from rlaif.rl.ranks import Ranks
from rlaif.runs.commands import command_with_lower_rate
from rlaif.runs.folder import Stage
from rlaif.runs.rows import JsonlLog
from rlaif.runs.seeds import derive_seed
from rlaif.runs.storage import write_json
from rlaif.training.monitoring import headline
from rlaif.training.trainers import IGNORED, ResponseTrainer

logging.disable_progress_bar()
SAVE_SECONDS = 5.0
SAVE_SHARE = 0.05  # of the time may go into checkpoints
WATCHED = ("loss", "grad_norm", "eval_loss")


class CurveCallback(TrainerCallback):
    """Writes the curve, moves the progress bar, times the checkpoints, and stops on numbers that are not
    finite."""

    def __init__(self, stage: Stage, curve: JsonlLog, tick: Callable[[int, str], None]) -> None:
        self.stage, self.curve, self.tick = stage, curve, tick
        self.saved = self.begun = time.monotonic()
        self.cost = 0.0
        self.headline = ""  # of the last row

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Log before anything is saved, so that a checkpoint never holds weights that gave NaN."""
        row = self.row(state.global_step, logs)
        if row:
            self.headline = self.told(row)
            self.curve.append({"step": state.global_step, "epoch": round(state.epoch or 0.0, 4), **row})
        bad = {key: logs[key] for key in WATCHED if key in logs and not math.isfinite(logs[key])}
        if bad:
            raise diverged(self.stage, state.global_step, state.max_steps, bad)

    def row(self, step: int, logs: dict[str, float]) -> dict[str, Any]:
        """The curve's row of a step; empty where there is nothing to record."""
        row = {key: logs[key] for key in ("loss", "learning_rate", "grad_norm") if key in logs}
        return row | ({"heldout_loss": logs["eval_loss"]} if "eval_loss" in logs else {})

    def told(self, row: dict[str, Any]) -> str:
        """What the progress bar says of a row."""
        return headline(row)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint, after an epoch's last step not before the epoch has been measured."""
        self.tick(1, self.headline)
        if state.epoch % 1:
            self._ask(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint."""
        self._ask(state, control)

    def _ask(self, state: Any, control: Any) -> None:
        """Ask for one every few seconds, less often where writing one takes long."""
        now = time.monotonic()
        due = now - self.saved > max(SAVE_SECONDS, self.cost / SAVE_SHARE) and self.may_checkpoint(
            state.global_step
        )
        if Ranks.current().gather([due])[0]:  # the first process's clock counts
            control.should_save, self.begun = True, now

    def may_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint may be written after this step."""
        return True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as whole, once it is on disk."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_json(folder / WHOLE, seal_checkpoint(folder))
        self.saved = time.monotonic()
        self.cost = self.saved - self.begun


def diverged(stage: Stage, step: int, steps: int, bad: dict[str, float]) -> UserError:
    """What to say when training gives NaN or infinity."""
    numbers = ", ".join(f"{key} {value}" for key, value in bad.items())
    where = f"at step {step} of {steps}" if step else "before the first step: the weights it starts from"
    last = last_checkpoint(stage)
    kept = f"; the last good checkpoint is kept in {last}" if last else ""
    rate = f"{stage.name}.learning_rate is {stage.options.learning_rate:g}"
    return UserError(
        f"{stage.dir.name}: not finite {where} ({numbers}){f'; {rate}' if step else ''}.",
        f"finite numbers in training{kept}",
        f"fork the run with a lower one: {command_with_lower_rate(stage)}"
        if step
        else "name another model, or look at the stage that trained this one",
    )


def trains_in_bf16(model: Any) -> bool:
    """Whether trl's trainers run a model's forward passes in bf16 here: on a GPU that can."""
    return model.device.type == "cuda" and torch.cuda.is_bf16_supported()


def even_part(whole: int, most: int) -> int:
    """The largest number of rows, at most `most`, that cuts a batch of `whole` into equal micro-batches."""
    return max(size for size in range(1, min(most, whole) + 1) if whole % size == 0)


def arguments(kind: Any, stage: Stage, model: Any, heldout: int, **extra: Any) -> Any:
    """trl's config `kind` for a stage's options, on the device of its model; `heldout` counts rows to
    evaluate."""
    options, on_gpu = stage.options, model.device.type == "cuda"
    share = math.ceil(options.batch_size / Ranks.current().count)
    micro = even_part(share, options.micro_batch or share)
    settings: dict[str, Any] = {
        "output_dir": str(stage.dir / "checkpoints"),
        "seed": stage.seed,
        "data_seed": stage.seed,
        "num_train_epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": share // micro,
        "ddp_find_unused_parameters": False,
        "use_cpu": model.device.type == "cpu",
        "bf16": trains_in_bf16(model),
        "gradient_checkpointing": is_large(model),
        "dataloader_pin_memory": on_gpu,
        "eval_strategy": "epoch" if heldout else "no",
        "eval_on_start": bool(heldout) and not last_checkpoint(stage),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        **({"max_length": None} if "max_length" in kind.__dataclass_fields__ else {}),
    }
    with warnings.catch_warnings():  # gradient_checkpointing has a new name in the latest transformers only
        warnings.simplefilter("ignore", FutureWarning)
        args = kind(**(settings | extra))
    args._n_gpu = min(args.n_gpu, 1)  # one process trains on one GPU, however many there are
    return args


def disable_dropout(model: Any) -> Any:
    """The model with every dropout set to zero, modules and attention rates alike."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if name.endswith("dropout") and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def fit(stage: Stage, trainer: Any, callback: Callable[..., CurveCallback] = CurveCallback) -> None:
    """Train to the end, from the last whole checkpoint where there is one; raises UserError on NaN."""
    last = remove_damaged(stage)
    done = int(last.name.rpartition("-")[2]) if last else 0
    curve = JsonlLog(stage.dir / "metrics.jsonl", "step")
    curve.rewind(done if last else -1)
    args = trainer.args
    batches = math.ceil(
        len(trainer.train_dataset)
        / args.per_device_train_batch_size
        / args.gradient_accumulation_steps
        / Ranks.current().count
    )
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * batches)
    trainer.remove_callback(PrinterCallback)
    with stage.progress(steps, "steps", done) as tick:
        trainer.add_callback(callback(stage, curve, tick))
        trainer.train(resume_from_checkpoint=str(last) if last else None)


def fit_responses(
    stage: Stage, model: Any, tokenizer: Any, rows: list[dict[str, Any]], held: set[str]
) -> None:
    """Fine-tune on rows of `prompt_id`, `input_ids` and `start` (tokens of the prompt), loss on the response
    alone → policy/.

    Rows of `held` prompts measure and do not train.
    """
    parts = ([row for row in rows if (row["prompt_id"] in held) == part] for part in (False, True))
    train, heldout = ([with_labels(row) for row in part] for part in parts)
    _set_stop_token(model, tokenizer, end_of_turn(tokenizer))
    fit_rows(stage, model, tokenizer, train, heldout, stage.input("policy"))


def fit_rows(
    stage: Stage,
    model: Any,
    tokenizer: Any,
    train: list[dict[str, list[int]]],
    heldout: list[dict[str, list[int]]],
    like: Path | None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Train on rows of `input_ids` and `labels` → policy/, in the dtype of the weights `like`.

    `settings` are further ones of trl's.
    """
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig

    prepared = {"skip_prepare_dataset": True}  # rows are tokens already: the chat template is applied once
    trainer = ResponseTrainer(
        disable_dropout(model),
        arguments(SFTConfig, stage, model, len(heldout), dataset_kwargs=prepared, **settings or {}),
        train_dataset=Dataset.from_list(train),
        eval_dataset=Dataset.from_list(heldout) if heldout else None,
        processing_class=tokenizer,
    )
    fit(stage, trainer)
    publish(stage, "policy", lambda folder: write_model(model, tokenizer, folder, like))


def curve_summary(stage: Stage) -> dict[str, Any]:
    """The curve's figures: steps, losses at both ends, and the held-out loss before and after."""
    curve = JsonlLog(stage.dir / "metrics.jsonl", "step").rows()
    losses, heldout = ([row[key] for row in curve if key in row] for key in ("loss", "heldout_loss"))
    found = {"steps": len(losses), "loss_start": losses[0], "loss_end": losses[-1]}
    return found | ({"heldout_loss_before": heldout[0], "heldout_loss_after": heldout[-1]} if heldout else {})


def with_labels(row: dict[str, Any]) -> dict[str, list[int]]:
    """The row's `input_ids`, and `labels` that are theirs on the response alone."""
    ids, start = row["input_ids"], row["start"]
    return {"input_ids": ids, "labels": [IGNORED] * start + ids[start:]}


def _set_stop_token(model: Any, tokenizer: Any, end: int | None) -> None:
    """Let generation stop at the token that the responses are trained to end with."""
    generation = model.generation_config
    generation.eos_token_id = list(
        dict.fromkeys([*eos_ids(model, tokenizer), *([end] if end is not None else [])])
    )
    if not generation.do_sample:  # sampling settings without sampling cannot be saved
        generation.temperature = generation.top_p = generation.top_k = None


def heldout_prompts(
    stage: Stage, prompt_ids: Iterable[str], share: float, others: Mapping[str, Prompt] | None = None
) -> set[str]:
    """About `share` of the prompts, by whole groups drawn by the stage's seed: at least one group, never all.

    None of a single group. `others` are prompts, by id, that are not the run's.
    """
    known, clusters = {**(others or {}), **stage.prompts_by_id()}, defaultdict[str, list[str]](list)
    for prompt_id in sorted(set(prompt_ids)):
        clusters[known[prompt_id].cluster if prompt_id in known else prompt_id].append(prompt_id)
    wanted, held = max(1, round(share * sum(map(len, clusters.values())))), set[str]()
    for cluster in sorted(clusters, key=lambda name: derive_seed(stage.seed, "heldout", name))[:-1]:
        if len(held) < wanted:
            held.update(clusters[cluster])
    return held
