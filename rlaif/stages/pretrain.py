"""pretrain: train the policy to predict the next token of raw text, from random weights or from the policy so
far.

Texts are put in an order drawn by the seed, joined with an end after each, and cut into blocks of equal
length (packing); attention crosses the ends of texts within a block. The last blocks measure and do not
train.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.errors import UserError
from rlaif.options.pretrain import PretrainOptions
from rlaif.rl.checkpoints import train_once
from rlaif.runs.folder import Stage

SHARED = True  # several processes can do it together
SHARDED = True  # and each can hold a share of the model


def run(stage: Stage[PretrainOptions]) -> None:
    """Write policy/ (a model folder) and metrics.jsonl (the learning curve)."""
    from rlaif.training.loop import curve_summary, fit_rows
    from rlaif.training.raw_text import num_heldout_blocks

    source = stage.input("policy")
    model, tokenizer = _open(stage, source)
    blocks = _blocks(stage, tokenizer, model)
    held = num_heldout_blocks(blocks, stage.options.heldout)
    rows = [{"input_ids": block, "labels": block} for block in blocks]
    like = None if stage.options.architecture else source
    train_once(
        stage,
        "policy",
        lambda: fit_rows(stage, model, tokenizer, rows[:-held], rows[-held:], like, MEASURED),
    )
    stage.metrics = curve_summary(stage) | {
        "parameters": model.num_parameters(),
        "tokens": sum(map(len, blocks[:-held])),
        "n_heldout": held,
    }


MEASURED = {"eval_strategy": "steps", "eval_steps": 0.1}  # an epoch may be the whole training


def _open(stage: Stage[PretrainOptions], source: Path) -> tuple[Any, Any]:
    """(model, tokenizer): of random weights drawn by the stage's seed where the options give sizes, or the
    policy so far."""
    import torch

    from rlaif.engines.loading import load_causal_lm, load_tokenizer, resolve_device
    from rlaif.training.raw_text import new_model

    config, sizes = stage.config.policy, stage.options.architecture
    tokenizer = load_tokenizer(source, config.chat_template_kwargs, alone=sizes is not None)
    if sizes is None:
        return load_causal_lm(source, config.device, dtype="float32"), tokenizer
    torch.manual_seed(stage.seed)
    return new_model(tokenizer, **sizes.model_dump()).to(resolve_device(config.device)), tokenizer


def _blocks(stage: Stage[PretrainOptions], tokenizer: Any, model: Any) -> list[list[int]]:
    """The text in blocks, empty texts dropped and counted."""
    from rlaif.engines.loading import context_length
    from rlaif.training.raw_text import KINDS, blocks_of, read_texts

    length = stage.options.block_size
    if length > context_length(model):
        raise UserError(
            f"{stage.dir.name}: block_size {length} is more than the model's context of "
            f"{context_length(model)}.",
            "blocks that the model can read",
            f"-s pretrain.block_size={context_length(model)}",
        )
    texts = [text for file in stage.options.files for text in read_texts(Path(file), "pretrain.text")]
    full = [text for text in texts if text.strip()]
    stage.dropped["empty text"] += len(texts) - len(full)
    stage.save("running", **{"in": len(texts), "kept": len(full)})
    with stage.progress(len(full), "texts read") as tick:
        blocks = blocks_of(stage.shuffled(full, "texts"), tokenizer, length, tick)
    if len(blocks) < 2:
        raise UserError(
            f"{stage.dir.name}: {', '.join(stage.options.files)}: {len(blocks)} blocks of {length} tokens.",
            f"at least two: one to train on and one to measure; {KINDS}",
            "name more text, or lower pretrain.block_size",
        )
    stage.note_example(tokenizer.decode(blocks[0]), "")
    return blocks
