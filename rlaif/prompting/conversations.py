"""Conversations as other projects write them: text, role and content, from and value, HH-RLHF dialogues."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from math import isnan
from typing import Any

Turn = tuple[str, str]  # role, content
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")


class Unusable(str):
    """Why a row of the input cannot be used."""


ZERO_BYTE = Unusable("a zero byte in its text")


def holds_zero_byte(turns: Iterable[Turn]) -> bool:
    """Whether a turn holds a zero byte, which no file of text may hold either: it is left of another
    encoding, or of damage."""
    return any("\0" in content for _, content in turns)


def group_of(value: Any) -> str:
    """The group in a cell, as text; none where the cell is empty, which data frames write as NaN."""
    return "" if value is None or (isinstance(value, float) and isnan(value)) else str(value)


def turns_of(value: Any) -> tuple[Turn, ...] | Unusable:
    """A conversation: a text is one user's turn, a list holds `{"role", "content"}` or `{"from",
    "value"}`."""
    if isinstance(value, str):
        return (("user", value),) if value.strip() else Unusable("an empty text")
    if not isinstance(value, list) or not value:
        return Unusable("neither a text nor a list of turns")
    turns: list[Turn] = []
    for item in value:
        if not isinstance(item, dict):
            return Unusable("a turn without role and content")
        role = item["role"] if item.get("role") is not None else item.get("from")
        content = _text(item["content"] if item.get("content") is not None else item.get("value"))
        if not isinstance(role, str) or role.lower() not in _ROLES:
            return Unusable("a turn of neither system, user nor assistant")
        if content is None:
            return Unusable("a turn that is not text")
        turns.append((_ROLES[role.lower()], content))
    return tuple(turns)


def _text(content: Any) -> str | None:
    """The text of a turn's content, which may come in parts; None where a part is no text."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        return "".join(map(str, parts)) if parts and all(isinstance(p, str) for p in parts) else None
    return content if isinstance(content, str) else None


def asked(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]] | Unusable:
    """(what the policy must respond to, the responses that the conversation ends with), or why nobody can
    respond to it."""
    end = len(turns)
    while end and turns[end - 1][0] == "assistant":
        end -= 1
    if not end:
        return Unusable("no user's turn to respond to")
    if turns[end - 1][0] != "user":
        return Unusable(f"the conversation ends with the {turns[end - 1][0]}'s turn")
    if any(role == "user" and not content.strip() for role, content in turns):
        return Unusable("a user's turn is empty")
    return tuple(turns[:end]), tuple(turns[end:])


def shared_turns(chosen: Any, rejected: Any) -> tuple[Turn, ...] | Unusable:
    """The turns that two conversations begin with: the prompt of a pair of TRL's or HH-RLHF's without one of
    its own."""
    both: list[tuple[Turn, ...]] = []
    for value in (chosen, rejected):
        if isinstance(value, str):
            turns = parse_dialogue(value.rpartition("\n\nAssistant:")[0])
            if turns is None:
                return Unusable("turns do not begin and end with Human")
        else:
            turns = turns_of(value)
            if isinstance(turns, Unusable):
                return turns
        both.append(turns)
    same = [a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(*both, strict=False))]
    return tuple(same) or Unusable("no shared prefix")


def parse_dialogue(text: str) -> tuple[Turn, ...] | None:
    """A dialogue with "Human:" and "Assistant:" markers as alternating turns; None where no human turn ends
    it.

    A marker that does not change the speaker stays in the text: roles always alternate, and nothing is lost.
    """
    before, *parts = _HH_TURN.split(text if text.startswith("\n\n") else "\n\n" + text)
    turns: list[Turn] = []
    for speaker, content in zip(parts[::2], parts[1::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1][0] == role:
            turns[-1] = (role, f"{turns[-1][1]}\n\n{speaker}:{content}")
        else:
            turns.append((role, without_leading_space(content)))
    asks = len(turns) % 2 == 1 and turns[0][0] == "user" and turns[-1][1].strip()
    return tuple(turns) if asks and not before.strip() else None


def without_leading_space(content: str) -> str:
    """A turn without the one blank that belongs to its marker."""
    return content.removeprefix(" ")
