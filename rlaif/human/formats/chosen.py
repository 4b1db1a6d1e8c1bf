"""Formats of a better and a worse response, or of single ones that are good or bad.

TRL, ShareGPT, RewardBench, NeMo RL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, get_args

from rlaif.human.formats.base import (
    NO_KIND,
    NO_P,
    NO_WINNER,
    NOT_HELD,
    ONE_TURN,
    Format,
    ImportedRow,
    Pair,
    Ranks,
    Vote,
    annotator,
    as_messages,
    has,
    kinds_behind,
    number_from,
    of_kinds,
    one_user_turn,
    text_of,
    truth_from,
    unread,
    whole_from,
)
from rlaif.human.formats.dialogues import is_dialogue
from rlaif.prompting.conversations import Turn, Unusable, asked, shared_turns, turns_of
from rlaif.records import Annotator, AnnotatorKind

GOOD = "label"  # the name of the score that says whether a response is good
OTHER_NAMES = ("question", "instruction", "input", "query")  # of a prompt, in rows that lack one
SEVERAL_TURNS = Unusable("a response of several turns")


def answer(value: Any, before: Sequence[Turn] = ()) -> str | Unusable:
    """A response given as text, as a turn, or as a conversation that may repeat the prompt."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        text = text_of(value)
        return Unusable("a response is not text") if text is None else text
    turns = turns_of(value)
    if isinstance(turns, Unusable):
        return turns
    role, text = turns[-1]
    without_system = [turn for turn in before if turn[0] != "system"]  # which a row may have apart
    if turns[:-1] and list(turns[:-1]) not in (list(before), without_system):
        return SEVERAL_TURNS
    return text if role == "assistant" else Unusable("a response is not the assistant's turn")


def question(value: Any, system: Any = None) -> tuple[Turn, ...] | Unusable:
    """What is responded to: turns that end with the user's, after the system's where a row has it apart."""
    turns = turns_of(value)
    if isinstance(turns, Unusable):
        return turns
    if isinstance(system, str) and system.strip() and turns[0][0] != "system":
        turns = (("system", system), *turns)
    found = asked(turns)
    if isinstance(found, Unusable):
        return found
    return Unusable("the prompt ends with a response") if found[1] else found[0]


def two(messages: Sequence[Turn], chosen: Any, rejected: Any, **fields: Any) -> ImportedRow | Unusable:
    """The row of a better and a worse response."""
    better, worse = answer(chosen, messages), answer(rejected, messages)
    for name, text in (("chosen", better), ("rejected", worse)):
        if isinstance(text, Unusable):
            return text
        if not text.strip():
            return Unusable(f"empty {name} response")
    return ImportedRow(tuple(messages), (better, worse), **fields)


def trl_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One row of TRL's preference format, the prompt explicit or what both conversations begin with.

    `p_chosen` and `source` are those that rlaif exports, `sources` that of `Run.preferences`. A preference of
    people and of others together is no person's.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if row.get("prompt") is not None:
        messages = question(row["prompt"], row.get("system"))
    elif isinstance(chosen, str) and (names := [name for name in OTHER_NAMES if row.get(name)]):
        return Unusable(f"no prompt, but a column {names[0]}: rename it to prompt")
    else:
        messages, chosen, rejected = _implicit(chosen, rejected, row.get("system"))
    if isinstance(messages, Unusable):
        return messages
    who, p = _annotator(row), number_from(row.get("p_chosen"))
    if isinstance(who, Unusable):
        return who
    vote = Vote(who, "a", p_first=p if p is not None and 0.5 < p <= 1 else None)
    lost = unread((row.get("p_chosen"), vote.p_first, NO_P))
    several = who is not None and "+" in who.id
    lost += (f"which of {who.id} labelled what: counts as {who.kind}",) if who and several else ()
    return two(messages, chosen, rejected, votes=(vote,), lost=lost)


def _annotator(row: dict[str, Any]) -> Annotator | Unusable | None:
    """Who labelled by `source` or `sources`; None where these name no kind of annotator, as they often say
    where the prompt is from."""
    for said in (row.get("source"), row.get("sources")):
        names = said.split("+") if isinstance(said, str) else said if isinstance(said, list | tuple) else []
        kinds = {str(name).strip().lower() for name in names}
        if kinds & set(get_args(AnnotatorKind)):
            who = of_kinds(kinds)
            return NO_KIND if who is None else who if len(kinds) > 1 else annotator(who.kind, "trl")
    return None


def _implicit(chosen: Any, rejected: Any, system: Any) -> tuple[tuple[Turn, ...] | Unusable, Any, Any]:
    """The prompt of two conversations, or of two texts that begin alike, and what is left of them."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        same = sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(chosen, rejected, strict=False)))
        same = chosen.rfind(" ", 0, same) + 1 or (same if chosen[:same].endswith("\n") else 0)
        prompt = chosen[:same].rstrip(" ")
        if not prompt.strip():
            return Unusable("no shared prefix"), "", ""
        return question(prompt, system), chosen[len(prompt) :], rejected[len(prompt) :]
    shared = shared_turns(chosen, rejected)
    turns = shared if isinstance(shared, Unusable) else question(as_messages(shared), system)
    return turns, chosen, rejected


def _write_trl(pair: Pair) -> dict[str, Any] | Unusable:
    if pair.sorted is None or pair.p_first is None:
        return NO_WINNER
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in pair.sorted)
    p_chosen = max(pair.p_first, 1 - pair.p_first)
    return {
        "prompt": as_messages(pair.messages),
        "chosen": chosen,
        "rejected": rejected,
        "p_chosen": p_chosen,
        "source": "+".join(kinds_behind(vote.annotator for vote in pair.votes if vote.annotator)),
        "principle_ids": sorted({vote.principle[0] for vote in pair.votes if vote.principle}),
        **pair.extra,
    }


TRL = Format(
    "trl",
    "TRL, preference (explicit and implicit prompt)",
    lambda row: has("chosen", "rejected", without=("conversations", "subset"))(row) and not is_dialogue(row),
    trl_row,
    write=_write_trl,
    loses="ties, single labels",
)


def unpaired_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One response that is good or bad: TRL's unpaired rows, and ShareGPT's for KTO."""
    good = truth_from(row.get("kto_tag", row.get("label")))
    if good is None:
        return Unusable("a label that is neither true nor false")
    if "completion" in row:
        messages = question(row.get("prompt"), row.get("system"))
        if isinstance(messages, Unusable):
            return messages
        text = answer(row["completion"], messages)
    else:
        found = _with_answer(row)
        if isinstance(found, Unusable):
            return found
        messages, text = found
    if isinstance(text, Unusable):
        return text
    if not text.strip():
        return Unusable("empty response")
    return ImportedRow(tuple(messages), (text,), grades=({GOOD: float(good)},))


def _with_answer(row: dict[str, Any]) -> tuple[tuple[Turn, ...], str] | Unusable:
    """The prompt and the last turn of a conversation."""
    turns = turns_of(row.get("messages", row.get("conversations")))
    if isinstance(turns, Unusable):
        return turns
    if turns[-1][0] != "assistant":
        return Unusable("the conversation does not end with a response")
    messages = question(as_messages(turns[:-1]) or None, row.get("system"))
    return messages if isinstance(messages, Unusable) else (messages, turns[-1][1])


def _good(row: ImportedRow) -> bool | Unusable:
    score = row.grades[0].get(GOOD) if row.grades and len(row.responses) == 1 else None
    return bool(score) if score in (0.0, 1.0) else NOT_HELD


Graded = Callable[[Sequence[Turn], str, bool], dict[str, Any]]  # the row of a good or a bad response


def _of_graded(make: Graded) -> Callable[[ImportedRow], dict[str, Any] | Unusable]:
    """The writer of single responses that are good or bad."""

    def write(row: ImportedRow) -> dict[str, Any] | Unusable:
        good = _good(row)
        return good if isinstance(good, Unusable) else make(row.messages, row.responses[0], good)

    return write


def _of_pair(make: Graded) -> Callable[[Pair], list[dict[str, Any]] | Unusable]:
    """The writer of a pair as a good and a bad response."""

    def write(pair: Pair) -> list[dict[str, Any]] | Unusable:
        sides = zip(pair.sorted or (), (True, False), strict=False)
        return [make(pair.messages, text, good) for text, good in sides] or NO_WINNER

    return write


def _unpaired(messages: Sequence[Turn], text: str, good: bool) -> dict[str, Any]:
    said = [{"role": "assistant", "content": text}]
    return {"prompt": as_messages(messages), "completion": said, "label": good}


NO_PAIRS = "which two responses were compared, ties, how sure the preference is, who labelled"
UNPAIRED = Format(
    "trl-unpaired",
    "TRL, unpaired",
    has("prompt", "completion", "label"),
    unpaired_row,
    write=_of_pair(_unpaired),
    write_row=_of_graded(_unpaired),
    loses=NO_PAIRS,
)


def sharegpt_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One ShareGPT pair: `conversations`, and two turns `chosen` and `rejected`."""
    messages = question(row.get("conversations", row.get("messages")), row.get("system"))
    if isinstance(messages, Unusable):
        return messages
    return two(messages, row.get("chosen"), row.get("rejected"), votes=(Vote(None, "a"),))


_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}


def _said(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"from": _SPEAKERS[role], "value": content} for role, content in turns]


def _write_sharegpt(pair: Pair) -> dict[str, Any] | Unusable:
    if pair.sorted is None:
        return NO_WINNER
    chosen, rejected = (_said([("assistant", text)])[0] for text in pair.sorted)
    return {"conversations": _said(pair.messages), "chosen": chosen, "rejected": rejected}


def _kto(messages: Sequence[Turn], text: str, good: bool) -> dict[str, Any]:
    return {"messages": as_messages([*messages, ("assistant", text)]), "label": good}


SHAREGPT = Format(
    "sharegpt",
    "ShareGPT, DPO",
    has("conversations", "chosen", "rejected"),
    sharegpt_row,
    write=_write_sharegpt,
    loses="ties, how sure the preference is, who labelled",
)
KTO = Format(
    "sharegpt-kto",
    "ShareGPT, KTO",
    lambda row: any(
        has(turns, tag)(row) for turns in ("messages", "conversations") for tag in ("label", "kto_tag")
    ),
    unpaired_row,
    write=_of_pair(_kto),
    write_row=_of_graded(_kto),
    loses=NO_PAIRS,
)


def rewardbench_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One row of RewardBench: version 1 has a response on each side, version 2 a list of them.

    Every chosen response is better than every rejected one; nothing is said of two on one side. The subset is
    the prompt's tag.
    """
    messages = question(row.get("prompt"))
    if isinstance(messages, Unusable):
        return messages
    good, bad = (_as_list(row.get(key)) for key in ("chosen", "rejected"))
    texts = [answer(value, messages) for value in (*good, *bad)]
    for text in texts:
        if isinstance(text, Unusable):
            return text
    if not good or not bad:
        return Unusable("no chosen or no rejected response")
    pairs = [(i, len(good) + j) for i in range(len(good)) for j in range(len(bad))]
    subset = row.get("subset")
    models = [*_models(row.get("chosen_model"), len(good)), *_models(row.get("rejected_model"), len(bad))]
    return ImportedRow(
        messages,
        tuple(texts),
        tuple(Vote(None, "a", pair) for pair in pairs),
        models=tuple(models) if any(models) else (),
        tags=(subset,) if isinstance(subset, str) and subset else (),
    )


def _as_list(value: Any) -> list[Any]:
    turns = isinstance(value, list) and value and isinstance(value[0], dict)
    return value if isinstance(value, list) and not turns else [value]


def _models(given: Any, count: int) -> list[str]:
    names = given if isinstance(given, list) else [given] * count
    known = [name if isinstance(name, str) else "" for name in names]
    return known if len(known) == count else [""] * count


def _write_rewardbench(pair: Pair) -> dict[str, Any] | Unusable:
    if pair.sorted is None:
        return NO_WINNER
    text = one_user_turn(pair.messages)
    if text is None:
        return ONE_TURN
    subset = pair.tags[-1] if pair.tags else ""
    return {"prompt": text, "chosen": pair.sorted[0], "rejected": pair.sorted[1], "subset": subset}


REWARDBENCH = Format(
    "rewardbench",
    "RewardBench 1 and 2",
    has("prompt", "chosen", "rejected", "subset"),
    rewardbench_row,
    write=_write_rewardbench,
    loses="earlier turns, ties, how sure the preference is, who labelled; "
    "the lists of version 2 become pairs",
)


def nemo_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One row of NeMo RL: completions with ranks, the lower the better, equal ones being ties."""
    messages = question(row.get("context"))
    if isinstance(messages, Unusable):
        return messages
    completions = row.get("completions")
    if not isinstance(completions, list) or not all(isinstance(one, dict) for one in completions):
        return Unusable("completions are no list of objects")
    texts = [answer(one.get("completion"), messages) for one in completions]
    for text in texts:
        if isinstance(text, Unusable):
            return text
    ranks = tuple(_whole(one.get("rank")) for one in completions)
    if sum(rank is not None for rank in ranks) < 2:
        return Unusable("fewer than two ranked responses")
    return ImportedRow(messages, tuple(texts), rankings=(Ranks(None, ranks),))


def _whole(rank: Any) -> int | None:
    """A rank from 0 as one from 1; None where it is none."""
    whole = whole_from(rank)
    return whole + 1 if whole is not None and whole >= 0 else None


def _write_nemo(row: ImportedRow) -> dict[str, Any] | Unusable:
    if len(row.rankings) != 1:
        return NOT_HELD
    completions = [
        {"rank": rank - 1, "completion": [{"role": "assistant", "content": text}]}
        for text, rank in zip(row.responses, row.rankings[0].ranks, strict=True)
        if rank is not None
    ]
    return {"context": as_messages(row.messages), "completions": completions}


NEMO = Format(
    "nemo-rl",
    "NeMo RL",
    has("context", "completions"),
    nemo_row,
    write_row=_write_nemo,
    loses="who ranked, seconds",
)
