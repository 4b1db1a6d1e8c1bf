"""Preferences as token sequences, the common input of reward models and of DPO; what cannot be used is
counted.

A batch element is a few sequences and the pairs among them. It holds one pair, or all pairs of a prompt
(InstructGPT, arXiv 2203.02155, section 3.5): then each of the K responses is read once and the loss is
divided by the C(K,2) pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from rlaif.errors import UserError
from rlaif.prompting.chat import TemplateRefused
from rlaif.prompting.turns import turn_of
from rlaif.records import Comparison, Preference, Prompt, Response
from rlaif.runs.folder import Stage
from rlaif.runs.rows import by_id

TIE = 1e-6

TokenPair = dict[
    str, Any
]  # prompt_id, start (tokens of the prompt), chosen_ids (response a), rejected_ids (b), p_a, weight, sources
Encode = Callable[
    [Response], tuple[list[int], int]
]  # response → its conversation and itself as ids, the prompt's length


def load_pairs(stage: Stage, tokenizer: Any, context: int) -> list[TokenPair]:
    """The stage's preferences as tokens; every one that gives no pair is dropped with its reason.

    Raises UserError where none is left.
    """
    comparisons = by_id(stage.load("comparisons", Comparison))
    preferences = stage.load("preferences", Preference)
    prompts = stage.prompts_by_id()
    encode = encoder(tokenizer, prompts)
    texts = stage.responses()
    limit = min(stage.options.max_length, context)
    pairs: list[TokenPair] = []
    with stage.progress(len(preferences), "preferences tokenised") as tick:
        for preference in preferences:
            tick(1)
            comparison = comparisons[preference.comparison_id]
            try:
                pair = make_pair(texts[comparison.a], texts[comparison.b], preference.p_a, encode)
            except TemplateRefused as refused:
                stage.dropped[refused.reason] += 1
                continue
            pair |= {"weight": _weight(stage, preference), "sources": preference.sources}
            pair["cluster"] = prompts[comparison.prompt_id].cluster
            if reason := _unusable(
                pair, texts[comparison.a], texts[comparison.b], limit, stage.options.hard_labels
            ):
                stage.dropped[reason] += 1
            else:
                pairs.append(pair | ({"p_a": float(round(pair["p_a"]))} if stage.options.hard_labels else {}))
    if pairs and stage.options.human_ratio is not None:
        pairs, before = weighed(pairs, stage.options.human_ratio, stage.dir.name), len(pairs)
        if before > len(pairs):
            stage.dropped["by the judge alone, with human_ratio: 1"] += before - len(pairs)
    stage.save("running", **{"in": len(preferences), "kept": len(pairs)})
    if not pairs:
        raise UserError(
            f"{stage.dir.name}: none of {len(preferences)} preferences can be trained on "
            f"({dict(stage.dropped)}).",
            "at least one usable preference",
            "look at the pair and label stages: `rlaif show` prints what they dropped",
        )
    stage.note_example(
        tokenizer.decode(pairs[0]["chosen_ids"]), f"p(better than the other) = {pairs[0]['p_a']:.3f}"
    )
    return pairs


def make_pair(a: Response, b: Response, p_a: float, encode: Encode) -> TokenPair:
    """Two responses to one prompt as tokens, of weight 1."""
    (chosen, start), (rejected, _) = encode(a), encode(b)
    return {
        "prompt_id": a.prompt_id,
        "start": start,
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "p_a": p_a,
        "weight": 1.0,
        "sources": (),
    }


def weighed(pairs: Sequence[TokenPair], ratio: float, where: str) -> list[TokenPair]:
    """The pairs so weighed that those with people's labels have `ratio` of the whole weight, which stays as
    it was; without those that then weigh nothing. Raises UserError where all pairs are of one kind."""
    people = [any(source != "ai" for source in pair["sources"]) for pair in pairs]
    theirs = sum(pair["weight"] for pair, human in zip(pairs, people, strict=True) if human)
    whole = sum(pair["weight"] for pair in pairs)
    if not theirs or (theirs == whole and ratio < 1):
        raise UserError(
            f"{where}: human_ratio: {ratio:g}, but {'none' if not theirs else 'each'} of {len(pairs)} "
            "preferences has people's labels.",
            "preferences by people and preferences by the judge alone",
            "leave human_ratio out, or look at label.human: `rlaif show` says who labelled how many",
        )
    by_people, by_judge = (
        part * whole / own if own else 0.0 for part, own in ((ratio, theirs), (1 - ratio, whole - theirs))
    )
    found = [
        pair | {"weight": pair["weight"] * (by_people if human else by_judge)}
        for pair, human in zip(pairs, people, strict=True)
    ]
    return [pair for pair in found if pair["weight"]]


def _weight(stage: Stage, preference: Preference) -> float:
    """The preference's weight times that of its sources; where people and judge are mixed, the mean of
    theirs."""
    known = stage.options.source_weights
    said = [known.get(source, 1.0) for source in preference.sources] or [1.0]
    return preference.weight * sum(said) / len(said)


def _unusable(pair: TokenPair, a: Response, b: Response, limit: int, hard: bool) -> str | None:
    if a.text == b.text:
        return "both responses have the same text"
    if max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) > limit:
        return f"longer than {limit} tokens"
    if not pair["weight"]:
        return "weight 0"
    return "a tie has no hard label" if hard and abs(pair["p_a"] - 0.5) < TIE else None


def encoder(tokenizer: Any, prompts: dict[str, Prompt]) -> Encode:
    """A function that encodes responses to these prompts, each once; a response is closed where the model
    ended it."""
    known: dict[str, tuple[list[int], int]] = {}

    def encode(response: Response) -> tuple[list[int], int]:
        if response.id not in known:
            prompt_ids, response_ids = turn_of(tokenizer, prompts[response.prompt_id].chat, response)
            known[response.id] = prompt_ids + response_ids, len(prompt_ids)
        return known[response.id]

    return encode


def elements(pairs: Sequence[TokenPair], mean_weight: float, by_prompt: bool) -> list[dict[str, Any]]:
    """Batch elements: `sequences` and their `starts`, `first` and `second` (places in `sequences`), `p_a`,
    `weight`.

    An element's weights add up to 1 where all pairs weigh `mean_weight`: neither their scale nor the number
    of pairs acts as a learning rate.
    """
    groups: dict[Any, list[TokenPair]] = defaultdict(list)
    for at, pair in enumerate(pairs):
        groups[pair["prompt_id"] if by_prompt else at].append(pair)
    return [_element(group, mean_weight) for group in groups.values()]


def _element(pairs: Sequence[TokenPair], mean_weight: float) -> dict[str, Any]:
    starts: dict[tuple[int, ...], int] = {}
    for pair in pairs:
        starts |= {tuple(pair[side]): pair["start"] for side in ("chosen_ids", "rejected_ids")}
    place = {sequence: at for at, sequence in enumerate(starts)}
    return {
        "sequences": [list(sequence) for sequence in starts],
        "starts": list(starts.values()),
        "first": [place[tuple(pair["chosen_ids"])] for pair in pairs],
        "second": [place[tuple(pair["rejected_ids"])] for pair in pairs],
        "p_a": [pair["p_a"] for pair in pairs],
        "weight": [pair["weight"] / mean_weight / len(pairs) for pair in pairs],
    }
