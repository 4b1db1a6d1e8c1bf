"""trl's trainers as they are used here: soft preferences, every row of a step weighing the same, any number
of processes.

trl's surprising defaults are overridden: telemetry, model cards in checkpoints, a first step at rate zero.
"""

from __future__ import annotations

import os
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.reward_trainer import RewardTrainer
from trl.trainer.sft_trainer import SFTTrainer

from rlaif.rl.forward import score_by_length
from rlaif.rl.ranks import Ranks
from rlaif.rl.sharding import full_state, gather_full, is_sharded, local_state, shard
from rlaif.stats import mean

GROUP = 32  # responses of like length that go through the reward model together
IGNORED = -100  # a label without a loss


def soft_preference_loss(
    rewards: torch.Tensor, p_a: torch.Tensor, weight: torch.Tensor, center: float = 0.0, margin: float = 0.0
) -> torch.Tensor:
    """Mean weighted cross-entropy of sigmoid(r_a − r_b) against p_a (RLAIF, arXiv 2309.00267, section 2.2.1).

    rewards [2P]: the first responses of P pairs, then the second ones; p_a, weight [P]. `center` weighs (r_a
    + r_b)², which keeps rewards near zero (arXiv 2312.09244, equation 2). `margin` is the lead asked of a
    certain winner, less the less certain it is (Llama 2, arXiv 2307.09288, equation 2): the difference
    learned is logit p_a + margin·(2p_a − 1).
    """
    a, b = rewards.chunk(2)
    lead = a - b - margin * (2 * p_a - 1)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(lead, p_a, weight=weight)
    return loss + center * (weight * (a + b) ** 2).mean() if center else loss


class QuietTrainer:
    """Mixin: no telemetry, no model cards, and a rate that is never zero."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up over a twentieth of the steps, then linear decay; the usual one wastes its first
        step."""
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


class ShardedTrainer(QuietTrainer):
    """Mixin: where the launch asks for FSDP the model is sharded when training begins; what is saved is not.

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
        ranks = Ranks.current()
        if ranks.sharded:
            for whole in filter(None, (self.model, self.ref_model)):
                shard(whole, ranks, divisor=ranks.count)
            self.accelerator.prepare_model(self.model, device_placement=False, evaluation_mode=True)  # type: ignore[attr-defined]
            self.model._is_accelerate_prepared = True  # or it would become DDP's
        return super().create_optimizer(model)  # type: ignore[misc]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if is_sharded(self.model):
            state_dict = gather_full(self.model.state_dict(keep_vars=True), Ranks.current())
        super()._save(output_dir, state_dict)  # type: ignore[misc]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.model):
            return super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        ranks = Ranks.current()
        states = full_state(self.optimizer, ranks), self.lr_scheduler.state_dict()  # type: ignore[attr-defined]
        if ranks.rank == 0:
            for state, name in zip(states, (OPTIMIZER_NAME, SCHEDULER_NAME), strict=True):
                torch.save(state, Path(output_dir) / name)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not is_sharded(self.model) or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        optimizer, schedule = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        self.optimizer.load_state_dict(local_state(optimizer, self.optimizer))  # type: ignore[attr-defined]
        self.lr_scheduler.load_state_dict(schedule)


class ResponseTrainer(ShardedTrainer, SFTTrainer):
    """trl's SFT on rows of `input_ids` and `labels`; every token weighs the same in a step and in an
    evaluation."""

    eval_dataset: Any

    @cached_property
    def mean_loss_tokens(self) -> float:
        """How many tokens of a row that measures have a loss, on average."""
        return mean([sum(label != IGNORED for label in row["labels"]) for row in self.eval_dataset])

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """trl's; an evaluation is the mean of its batches by their rows, so these have to be divided by
        rows."""
        if not model.training:  # trl multiplies by the number of processes
            rows = len(inputs["input_ids"]) * self.accelerator.num_processes
            num_items_in_batch = self.mean_loss_tokens * rows
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class ElementCollator:
    """Elements of `rlaif.training.pairs.elements` as one batch: their S sequences right-padded, their P pairs
    counted through."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """{elements [E], input_ids, attention_mask, labels [S, T] (−100 but for the responses), pairs [2, P],
        p_a, weight [P]}.

        `elements` are ones: how many there are weighs a batch, among those of a step and in the mean of an
        evaluation, where transformers counts the first tensor's rows. Weights are such that their mean over
        pairs is a mean over elements.
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
            "elements": torch.ones(len(rows)),
            "input_ids": pad_sequence(ids, True, self.pad),
            "labels": pad_sequence(labels, True, IGNORED),
            "attention_mask": pad_sequence([torch.ones_like(own) for own in ids], True),
            "pairs": torch.tensor(pairs),
            **flat,
        }


class PairTrainer(ShardedTrainer):
    """Mixin of trl's trainers on preferences: our elements in, our loss; `rewards` gives each sequence's
    reward."""

    def __init__(self, *args: Any, center: float = 0.0, margin: float = 0.0, **kwargs: Any) -> None:
        self.center, self.margin = center, margin
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["sequences", "starts", "first", "second", "p_a", "weight"]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of a step, and in `elements` how many elements a process has in it on average."""
        batches, items = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        ranks = Ranks.current()
        self.elements = sum(ranks.gather([sum(len(b["elements"]) for b in batches)])) / ranks.count
        return batches, items

    def rewards(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The reward of each sequence [S]."""
        raise NotImplementedError

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """`soft_preference_loss` of a batch's pairs, in training times the batch's share of the step's
        elements.

        The trainer divides by the number of micro-batches, as if the last one were always as large as the
        others.
        """
        rewards = self.rewards(model, inputs)
        pairs = rewards[inputs["pairs"].flatten()]
        loss = soft_preference_loss(pairs, inputs["p_a"], inputs["weight"], self.center, self.margin)
        if model.training:
            steps = self.current_gradient_accumulation_steps  # type: ignore[attr-defined]
            loss = loss * (len(inputs["elements"]) * steps / self.elements)
        return (loss, {"rewards": rewards}) if return_outputs else loss


class SoftRewardTrainer(PairTrainer, RewardTrainer):
    """trl's reward trainer with soft labels and any number of pairs an element, of a model
    `score_at_last_token`."""

    def rewards(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The head's output at each sequence's last token."""
        ids = inputs["input_ids"]
        group = len(ids) if is_sharded(self.model) else GROUP  # all processes have to make as many passes
        return score_by_length(model, ids, inputs["attention_mask"].sum(1), group)


class SoftDpoTrainer(PairTrainer, DPOTrainer):
    """trl's DPO with soft labels: the reward model's loss, the reward being β·log π/π_ref of the response.

    (DPO, arXiv 2305.18290, equation 7; with 0 < p < 1 it is its conservative form, cDPO.)
    """

    def rewards(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """β times the log-ratio of policy to reference, summed over each response's tokens."""
        read = {key: inputs[key] for key in ("input_ids", "attention_mask", "labels")}
        own = model(**read, use_cache=False, fused_lm_head=True).log_probs.sum(1)
        frozen: Any = self.ref_model
        with torch.no_grad():
            reference = frozen(**read, use_cache=False, fused_lm_head=True).log_probs.sum(1)
        return self.beta * (own - reference)
