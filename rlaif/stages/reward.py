"""reward: reward models from soft preferences, with accuracy and calibration measured on
held-out prompts.

Bradley–Terry with the label as it is: the margin r_a − r_b learns logit(p_a) (RLAIF, arXiv 2309.00267,
section 2.2.1). A response is scored at its last token; its end of turn is there only if the model ended it
itself, as PPO will see it. Several members, alike but for the seed of head and batches, are an ensemble
(Coste et al., arXiv 2310.02743): member 1 is reward_model/, the others lie beside it as
member_2/reward_model/ …
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlaif import stats
from rlaif.forecasts import calibration_error
from rlaif.human.heldout import load_heldout
from rlaif.intervals import UNIT, mean_interval
from rlaif.options import RewardOptions
from rlaif.prompting.chat import TemplateRefused
from rlaif.rl.checkpoints import publish, train_once, write_model
from rlaif.runs.folder import Stage
from rlaif.runs.storage import read_json, write_json
from rlaif.training.pairs import TokenPair, elements, encoder, load_pairs, make_pair

SHARED = True  # several processes can do it together
SHARDED = True  # and each can hold a share of the models
DECIDED = 0.1  # accuracy counts pairs whose label is further than this from ½
Named = tuple[
    list[TokenPair], dict[str, int]
]  # a named held-out set's pairs, and what was left out of it by reason
REFERENCE = 512  # training responses whose mean and std of reward are stored for normalisation


def run(stage: Stage[RewardOptions]) -> None:
    """Write reward_model/ (a sequence-classification folder with calibration.json in it) and
    metrics.jsonl."""
    from rlaif.engines.loading import context_length, load_tokenizer
    from rlaif.rl.ranks import Ranks
    from rlaif.training.loop import heldout_prompts

    start = stage.options.model or stage.input("policy")
    tokenizer = load_tokenizer(start, stage.config.policy.chat_template_kwargs)
    members = [stage, *(stage.part(f"member_{n}") for n in range(2, stage.options.members + 1))]
    model = start_model(stage, start, tokenizer)
    context = context_length(model)
    pairs = load_pairs(stage, tokenizer, context)
    named = {
        name: _named_set(stage, name, Path(path), tokenizer, min(stage.options.max_length, context))
        for name, path in stage.options.heldout_sets.items()
    }
    held = heldout_prompts(stage, [pair["prompt_id"] for pair in pairs], stage.options.heldout)
    train, heldout = (
        [pair for pair in pairs if (pair["prompt_id"] in held) == part] for part in (False, True)
    )
    for member in members:
        train_once(member, "reward_model", partial(_train, member, tokenizer, train, heldout, start))
    stage.metrics = Ranks.current().on_rank0(lambda: _measured(stage, members, named, train, heldout))
    if not heldout:
        stage.notes.append("all preferences are of one prompt: nothing is held out, so nothing was measured")


def start_model(stage: Stage[RewardOptions], start: str | Path, tokenizer: Any) -> Any:
    """The start weights in fp32; a language model gets a head so small that the first margins are near
    zero."""
    import torch

    from rlaif.engines.loading import load_model_config, load_reward_model

    model = load_reward_model(start, stage.config.policy.device, dtype="float32", new_head=True)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    made_for = load_model_config(start).architectures or []
    if not any("ForSequenceClassification" in name for name in made_for):
        head = model.score.weight
        noise = torch.randn(head.shape, generator=torch.Generator().manual_seed(stage.seed))
        head.data.copy_(noise / (head.shape[1] + 1))
    return model


def _train(
    stage: Stage[RewardOptions],
    tokenizer: Any,
    train: list[TokenPair],
    heldout: list[TokenPair],
    start: str | Path,
) -> None:
    from datasets import Dataset
    from trl.trainer.reward_config import RewardConfig

    from rlaif.engines.loading import model_folder
    from rlaif.rl.forward import score_at_last_token
    from rlaif.training.loop import arguments, disable_dropout, fit
    from rlaif.training.trainers import ElementCollator, SoftRewardTrainer

    model = start_model(stage, start, tokenizer)
    mean_weight = sum(pair["weight"] for pair in train) / len(train)
    rows, held = (elements(part, mean_weight, stage.options.by_prompt) for part in (train, heldout))
    # Large models compute their activations again within `final_scores`, not by the trainer's own way as
    # well.
    args = arguments(RewardConfig, stage, model, len(held), gradient_checkpointing=False)
    trainer = SoftRewardTrainer(
        score_at_last_token(disable_dropout(model)),
        args,
        ElementCollator(tokenizer.pad_token_id),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(held) if held else None,
        processing_class=tokenizer,
        center=stage.options.center_coef,
        margin=stage.options.margin,
    )
    fit(stage, trainer)
    publish(stage, "reward_model", lambda folder: write_model(model, tokenizer, folder, model_folder(start)))


def _measured(
    stage: Stage[RewardOptions],
    members: Sequence[Stage],
    named: dict[str, Named],
    train: list[TokenPair],
    heldout: list[TokenPair],
) -> dict[str, Any]:
    """What calibration.json says, which is written first where it is not there yet."""
    path = stage.dir / "reward_model" / "calibration.json"
    if not path.exists():
        write_json(path, _measure(stage, members, named, train, heldout))
    return read_json(path)


def _measure(
    stage: Stage[RewardOptions],
    members: Sequence[Stage],
    named: dict[str, Named],
    train: list[TokenPair],
    heldout: list[TokenPair],
) -> dict[str, Any]:
    """Calibration of the members' mean reward, each member's scale, and the named held-out sets."""
    responses = list({tuple(pair[side]): None for pair in train for side in ("chosen_ids", "rejected_ids")})
    reference = stage.shuffled(responses, "reference")[:REFERENCE]
    sets = {"": heldout, **{name: pairs for name, (pairs, _) in named.items()}}
    margins: dict[str, list[list[float]]] = {name: [] for name in sets}
    own: list[dict[str, Any]] = []
    total = len(members) * (len(reference) + 2 * sum(map(len, sets.values())))
    with stage.progress(total, "responses scored to measure it") as tick:
        for member in members:
            scores, found = _scored(member, reference, sets, tick)
            own.append({"reward_mean": stats.mean(scores), "reward_std": stats.std(scores)})
            for name, each in found.items():
                margins[name].append(each)
            own[-1] |= {
                k: calibration(found[""], heldout, train)[k]
                for k in ("heldout_accuracy", "heldout_accuracy_ci", "ece", "ece_floor")
            }
    measured = {name: calibration(mean_of(margins[name]), pairs, train) for name, pairs in sets.items()}
    return {
        "n_train": len(train),
        "n_heldout": len(heldout),
        **own[0],
        **measured.pop(""),
        "heldout_sets": {
            name: {"n": len(sets[name]), "dropped": dropped, **measured[name]}
            for name, (_, dropped) in named.items()
        },
        **({"members": own, **disagreement(margins[""], heldout)} if len(own) > 1 else {}),
    }


def _scored(
    member: Stage, reference: Sequence[Sequence[int]], sets: dict[str, list[TokenPair]], tick: Any
) -> tuple[list[float], dict[str, list[float]]]:
    """One member's rewards of the reference, and its margins on each set's pairs."""
    from rlaif.engines.loading import load_reward_model
    from rlaif.rl.forward import score_sequences

    model = load_reward_model(member.dir / "reward_model", member.config.policy.device, "float32")
    batch = 2 * (member.options.micro_batch or member.options.batch_size)

    def score(sequences: Sequence[Sequence[int]]) -> list[float]:
        return score_sequences(model, sequences, batch, tick)

    scores, margins = score(reference), {}
    for name, pairs in sets.items():
        a, b = (score([pair[side] for pair in pairs]) for side in ("chosen_ids", "rejected_ids"))
        margins[name] = [x - y for x, y in zip(a, b, strict=True)]
    return scores, margins


def mean_of(margins: Sequence[Sequence[float]]) -> list[float]:
    """The members' mean margin of each pair, from margins [M][N]."""
    return [stats.mean(pair) for pair in zip(*margins, strict=True)]


def disagreement(margins: Sequence[Sequence[float]], pairs: Sequence[TokenPair]) -> dict[str, Any]:
    """Share of pairs [N] on whose winner the members' margins [M][N] differ, with its interval over prompts'
    clusters."""
    differ = [len({m > 0 for m in pair}) > 1 for pair in zip(*margins, strict=True)]
    edges = mean_interval(differ, UNIT, [pair["cluster"] for pair in pairs]) if differ else None
    return {"disagreement": stats.mean(differ), "disagreement_ci": edges}


def _named_set(stage: Stage[RewardOptions], name: str, path: Path, tokenizer: Any, limit: int) -> Named:
    """The pairs of a held-out set as tokens, none of more than `limit`, and what was left out by reason."""
    found = load_heldout(
        path, stage.dir / "heldout" / name, lambda what, total: stage.progress(total or 0, what)
    )
    encode = encoder(tokenizer, found.prompts)
    made: list[TokenPair] = []
    with stage.progress(len(found.pairs), f"pairs of {name} tokenised") as tick:
        for row in found.pairs:
            tick(1)
            try:
                pair = make_pair(row.a, row.b, row.p_a, encode)
            except TemplateRefused as refused:
                found.dropped[refused.reason] += 1
                continue
            cluster = found.prompts[row.a.prompt_id].cluster
            made.append(pair | {"sources": (row.annotator,), "cluster": cluster})
    kept = [pair for pair in made if max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) <= limit]
    found.dropped[f"longer than {limit} tokens"] += len(made) - len(kept)
    return kept, dict(+found.dropped)


def calibration(
    margins: Sequence[float], heldout: Sequence[TokenPair], train: Sequence[TokenPair]
) -> dict[str, Any]:
    """What held-out margins r_a − r_b [N] are worth: accuracy on decided pairs, calibration, and trivial
    baselines.

    Intervals are over clusters of prompts.
    """
    from scipy.special import entr, expit

    if not heldout:
        return dict.fromkeys(("heldout_accuracy", "heldout_accuracy_ci", "ece", "ece_floor"))
    labels = [pair["p_a"] for pair in heldout]
    probabilities = expit(margins)
    cross_entropy = stats.cross_entropy(margins, labels)
    entropy = float((entr(labels) + entr([1 - p for p in labels])).mean())
    decided = [i for i, p in enumerate(labels) if abs(p - 0.5) > DECIDED]
    pairs, right = [heldout[i] for i in decided], [correct(margins[i], labels[i]) for i in decided]
    return {
        **_accuracy(pairs, right),
        **calibration_error(probabilities, labels, [pair["cluster"] for pair in heldout]),
        "reliability": stats.reliability(probabilities, labels),
        "cross_entropy": cross_entropy,
        "label_entropy": entropy,
        "excess_cross_entropy": cross_entropy - entropy,
        "temperature": stats.fit_temperature(margins, labels),
        "by_source": _by_source(pairs, right),
        **_baselines(pairs, train),
    }


def _accuracy(decided: Sequence[TokenPair], right: Sequence[float]) -> dict[str, Any]:
    """The share of decided pairs whose winner was found, None where no pair is decided."""
    clusters = [pair["cluster"] for pair in decided]
    return {
        "heldout_accuracy": stats.mean(right) if right else None,
        "heldout_accuracy_ci": mean_interval(right, UNIT, clusters) if right else None,
        "n_decided": len(decided),
        "groups_decided": len(set(clusters)),
    }


def _baselines(decided: Sequence[TokenPair], train: Sequence[TokenPair]) -> dict[str, dict[str, Any]]:
    """Accuracy on decided pairs of preferring the longer response, and the side that wins more often in
    training, with their intervals."""
    if not decided:
        return {"baselines": {}, "baselines_ci": {}}
    a_wins = sum(pair["p_a"] > 0.5 for pair in train) >= sum(pair["p_a"] < 0.5 for pair in train)
    longer = [len(pair["chosen_ids"]) - len(pair["rejected_ids"]) for pair in decided]
    labels = [pair["p_a"] for pair in decided]
    right = {
        "longer": [correct(lead, p_a) for lead, p_a in zip(longer, labels, strict=True)],
        "constant": [correct(1 if a_wins else -1, p_a) for p_a in labels],
    }
    clusters = [pair["cluster"] for pair in decided]
    return {
        "baselines": {rule: stats.mean(hits) for rule, hits in right.items()},
        "baselines_ci": {rule: mean_interval(hits, UNIT, clusters) for rule, hits in right.items()},
    }


def _by_source(decided: Sequence[TokenPair], right: Sequence[float]) -> dict[str, Any]:
    """Accuracy by who labelled, where there are several."""
    found: dict[str, list[tuple[float, str]]] = {}
    for pair, hit in zip(decided, right, strict=True):
        found.setdefault(" and ".join(pair.get("sources", ())), []).append((hit, pair["cluster"]))
    if len(found) < 2:
        return {}
    return {
        who: {
            "n": len(rows),
            "accuracy": stats.mean([hit for hit, _ in rows]),
            "accuracy_ci": mean_interval([hit for hit, _ in rows], UNIT, [key for _, key in rows]),
        }
        for who, rows in sorted(found.items())
    }


def correct(margin: float, p_a: float) -> float:
    """1 where the margin's sign agrees with the label, ½ where the margin is zero."""
    return 0.5 if margin == 0 else float((margin > 0) == (p_a > 0.5))
