"""dpo: the policy straight from soft preferences, without a reward model and without sampling.

DPO (arXiv 2305.18290): the reward is β·log π/π_ref of a response, and its margins learn logit(p_a) as a
reward model's do. Labels stay soft, so a doubtful pair asks for a small margin (the conservative form, cDPO)
and a tie for none. The reference is the policy that the stage starts from. trl's trainer does the rest.
"""

from __future__ import annotations

from typing import Any

from rlaif import stats
from rlaif.options import DpoOptions
from rlaif.rl.checkpoints import publish, train_once, write_model
from rlaif.runs.folder import Stage
from rlaif.training.pairs import TokenPair, elements, load_pairs

SHARED = True  # several processes can do it together
SHARDED = True  # and each can hold a share of the models


def run(stage: Stage[DpoOptions]) -> None:
    """Write policy/ (a model folder) and metrics.jsonl (the learning curve)."""
    from rlaif.engines.loading import context_length, load_causal_lm, load_tokenizer
    from rlaif.training.loop import curve_summary, heldout_prompts

    source = stage.input("policy")
    tokenizer = load_tokenizer(source, stage.config.policy.chat_template_kwargs)
    model = load_causal_lm(source, stage.config.policy.device, dtype="float32")
    pairs = load_pairs(stage, tokenizer, context_length(model))
    held = heldout_prompts(stage, [pair["prompt_id"] for pair in pairs], stage.options.heldout)
    train_once(stage, "policy", lambda: _train(stage, model, tokenizer, pairs, held))
    stage.metrics = {**curve_summary(stage), "n_heldout": sum(pair["prompt_id"] in held for pair in pairs)}


def _train(
    stage: Stage[DpoOptions], model: Any, tokenizer: Any, pairs: list[TokenPair], held: set[str]
) -> None:
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig

    from rlaif.engines.loading import load_causal_lm
    from rlaif.training.loop import arguments, disable_dropout, fit
    from rlaif.training.trainers import ElementCollator, SoftDpoTrainer

    source = stage.input("policy")
    train, heldout = ([p for p in pairs if (p["prompt_id"] in held) == part] for part in (False, True))
    mean_weight = stats.mean([pair["weight"] for pair in train])
    rows, watched = (
        Dataset.from_list(elements(part, mean_weight, stage.options.by_prompt)) for part in (train, heldout)
    )
    args = arguments(DPOConfig, stage, model, len(watched), beta=stage.options.beta, disable_dropout=False)
    trainer = SoftDpoTrainer(
        disable_dropout(model),
        load_causal_lm(source, stage.config.policy.device, "float32").requires_grad_(False),
        args,
        ElementCollator(tokenizer.pad_token_id),
        train_dataset=rows,
        eval_dataset=watched if len(watched) else None,
        processing_class=tokenizer,
        margin=stage.options.margin,
    )
    fit(stage, trainer)
    publish(stage, "policy", lambda folder: write_model(model, tokenizer, folder, source))
