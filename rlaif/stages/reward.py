"""reward: a reward model from soft preferences, with what its numbers are worth measured on held-out prompts.

Bradley–Terry with the label as it is: the margin r_a − r_b learns logit(p_a) (RLAIF, arXiv 2309.00267, section 2.2.1).
A reply is scored at its last token; its end of turn is there only if the model ended it itself, as PPO will see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif import stats
from rlaif.errors import UserError
from rlaif.prompts import encode_turn, end_of_turn
from rlaif.records import Comparison, Preference, Response, by_id
from rlaif.runfolder import Stage, read_json, write_json

SHARED = True  # several processes can do it together
DECIDED = 0.1  # accuracy counts pairs whose label is further than this from ½
TIE = 1e-6
REFERENCE = 512  # training replies whose mean and spread of reward are stored for normalisation

Pair = dict[str, Any]  # prompt_id, chosen_ids (reply a), rejected_ids (reply b), p_a, weight


def run(stage: Stage) -> None:
    """Write reward_model/ (a sequence-classification folder with calibration.json in it) and metrics.jsonl."""
    from rlaif.engines.loading import load_tokenizer
    from rlaif.training import heldout_prompts

    start = stage.options.model or stage.input("policy")
    tokenizer = load_tokenizer(start)
    model = _start_model(stage, start, tokenizer)
    pairs = _pairs(stage, tokenizer, model)
    held = heldout_prompts(stage, [pair["prompt_id"] for pair in pairs], stage.options.heldout)
    train, heldout = (
        [pair for pair in pairs if (pair["prompt_id"] in held) == part] for part in (False, True)
    )
    if not (stage.dir / "reward_model").exists():
        _train(stage, model, tokenizer, train, heldout, start)
    stage.metrics = read_json(stage.dir / "reward_model" / "calibration.json")
    if not heldout:
        stage.notes.append("all preferences are of one prompt: nothing is held out, so nothing was measured")


def _start_model(stage: Stage, start: str | Path, tokenizer: Any) -> Any:
    """The start weights in fp32; a language model gets a head so small that the first margins are near zero."""
    import torch
    from transformers import AutoConfig

    from rlaif.engines.loading import load_reward_model, model_folder

    model = load_reward_model(start, stage.config.policy.device, dtype="float32", new_head=True)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    made_for = AutoConfig.from_pretrained(model_folder(start), trust_remote_code=False).architectures or []
    if not any("ForSequenceClassification" in name for name in made_for):
        head = model.score.weight
        noise = torch.randn(head.shape, generator=torch.Generator().manual_seed(stage.seed))
        head.data.copy_(noise / (head.shape[1] + 1))
    return model


def _pairs(stage: Stage, tokenizer: Any, model: Any) -> list[Pair]:
    """Tokenised pairs; every preference that gives none is dropped with its reason."""
    from rlaif.engines.loading import context_length

    comparisons = by_id(stage.load("comparisons", Comparison))
    preferences = stage.load("preferences", Preference)
    encode = _encoder(stage, tokenizer)
    texts = stage.responses()
    limit = min(stage.options.max_length, context_length(model))
    pairs: list[Pair] = []
    for preference in preferences:
        comparison = comparisons[preference.comparison_id]
        a, b = texts[comparison.a], texts[comparison.b]
        p_a, tie = preference.p_a, abs(preference.p_a - 0.5) < TIE
        if a.text == b.text:
            stage.dropped["both replies have the same text"] += 1
        elif max(len(encode(a)), len(encode(b))) > limit:
            stage.dropped[f"longer than {limit} tokens"] += 1
        elif not preference.weight:
            stage.dropped["weight 0"] += 1
        elif stage.options.hard_labels and tie:
            stage.dropped["a tie has no hard label"] += 1
        else:
            pairs.append({"prompt_id": comparison.prompt_id, "chosen_ids": encode(a), "rejected_ids": encode(b),
                          "p_a": float(round(p_a)) if stage.options.hard_labels else p_a, "weight": preference.weight})  # fmt: skip
    stage.save("running", **{"in": len(preferences), "kept": len(pairs)})
    if not pairs:
        raise UserError(f"{stage.dir.name}: none of {len(preferences)} preferences can be trained on ({dict(stage.dropped)}).",
                        "at least one usable preference", "look at the pair and label stages: `rlaif show` prints what they dropped")  # fmt: skip
    stage.note_example(
        tokenizer.decode(pairs[0]["chosen_ids"]), f"p(better than the other) = {pairs[0]['p_a']:.3f}"
    )
    return pairs


def _encoder(stage: Stage, tokenizer: Any) -> Any:
    """reply → token ids of its conversation and itself, each encoded once."""
    prompts, end = stage.prompts_by_id(), end_of_turn(tokenizer)
    known: dict[str, list[int]] = {}

    def encode(reply: Response) -> list[int]:
        if reply.id not in known:
            closing = end if reply.finish == "stop" else None
            prompt_ids, reply_ids = encode_turn(tokenizer, prompts[reply.prompt_id].chat, reply.text, closing)
            known[reply.id] = prompt_ids + reply_ids
        return known[reply.id]

    return encode


def _train(
    stage: Stage, model: Any, tokenizer: Any, train: list[Pair], heldout: list[Pair], start: str | Path
) -> None:
    from trl.trainer.reward_config import RewardConfig

    from rlaif.engines.loading import model_folder
    from rlaif.training import (
        SoftPairCollator,
        SoftRewardTrainer,
        arguments,
        fit,
        publish,
        without_dropout,
        write_model,
    )

    mean_weight = sum(pair["weight"] for pair in train) / len(train)
    datasets = [_dataset(part, mean_weight) for part in (train, heldout)]
    trainer = SoftRewardTrainer(
        without_dropout(model), arguments(RewardConfig, stage, model, len(heldout)), SoftPairCollator(tokenizer.pad_token_id),
        train_dataset=datasets[0], eval_dataset=datasets[1] if heldout else None, processing_class=tokenizer,
    )  # fmt: skip
    trainer.center = stage.options.center
    fit(stage, trainer)
    calibration = _measure(stage, model, train, heldout)

    def write(folder: Path) -> None:
        write_model(model, tokenizer, folder, model_folder(start))
        write_json(folder / "calibration.json", calibration)

    publish(stage, "reward_model", write)


def _dataset(pairs: list[Pair], mean_weight: float) -> Any:
    """Rows for the trainer; weights average 1, so their scale does not act as a learning rate."""
    from datasets import Dataset

    columns = ("chosen_ids", "rejected_ids", "p_a")
    rows = [{c: pair[c] for c in columns} | {"weight": pair["weight"] / mean_weight} for pair in pairs]
    return Dataset.from_list(rows)


def _measure(stage: Stage, model: Any, train: list[Pair], heldout: list[Pair]) -> dict[str, Any]:
    from rlaif.training import score_sequences

    batch = 2 * (stage.options.micro_batch or stage.options.batch_size)
    unique = list({tuple(pair[side]): None for pair in train for side in ("chosen_ids", "rejected_ids")})
    reference = score_sequences(model, stage.shuffled(unique, "reference")[:REFERENCE], batch)
    a, b = (
        score_sequences(model, [pair[s] for pair in heldout], batch) for s in ("chosen_ids", "rejected_ids")
    )
    margins = [x - y for x, y in zip(a, b, strict=True)]
    spread = (sum((r - stats.mean(reference)) ** 2 for r in reference) / len(reference)) ** 0.5
    return {
        "n_train": len(train), "n_heldout": len(heldout), **calibration(margins, heldout, train, stage.seed),
        "reward_mean": stats.mean(reference), "reward_std": spread,
    }  # fmt: skip


def calibration(
    margins: Sequence[float], heldout: Sequence[Pair], train: Sequence[Pair], seed: int
) -> dict[str, Any]:
    """What held-out margins r_a − r_b [N] are worth: accuracy on decided pairs, calibration, and trivial rivals."""
    from scipy.special import entr, expit

    labels = [pair["p_a"] for pair in heldout]
    decided = [i for i, p in enumerate(labels) if abs(p - 0.5) > DECIDED]
    first_wins = sum(p["p_a"] > 0.5 for p in train) >= sum(p["p_a"] < 0.5 for p in train)
    longer = [len(pair["chosen_ids"]) - len(pair["rejected_ids"]) for pair in heldout]
    right = [correct(margins[i], labels[i]) for i in decided]
    probabilities = expit(margins)
    if not heldout:
        return {"heldout_accuracy": None, "ece": None}
    return {
        "heldout_accuracy": stats.mean(right) if right else None,
        "heldout_accuracy_ci": stats.bootstrap_mean(right, seed, [heldout[i]["prompt_id"] for i in decided]) if right else None,
        "n_decided": len(decided), "ece": stats.ece(probabilities, labels),
        "reliability": stats.reliability(probabilities, labels),
        "cross_entropy": stats.cross_entropy(margins, labels),
        "label_entropy": float((entr(labels) + entr([1 - p for p in labels])).mean()),
        "temperature": stats.fit_temperature(margins, labels),
        "baselines": {
            "longer": stats.mean([correct(longer[i], labels[i]) for i in decided]),
            "constant": stats.mean([correct(1 if first_wins else -1, labels[i]) for i in decided]),
        } if decided else {},
    }  # fmt: skip


def correct(margin: float, p_a: float) -> float:
    """1 where the margin's sign agrees with the label, ½ where the margin is zero."""
    return 0.5 if margin == 0 else float((margin > 0) == (p_a > 0.5))
