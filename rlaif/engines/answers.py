"""What a server's answer says: its parts checked, the model it names, the verdict in its tokens or its words.

Everything here comes from outside. A part of the wrong shape raises (whatever it trips over), and the engine counts
the answer as half of one and asks again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

# What a question may cost: tries at its log-probabilities, then the tokens of a written verdict.
READS, VERDICT_TOKENS = 3, 16
_NEVER = -30.0  # log-probability of what cannot be any less likely
# A date, its month and day, its year and month, or a number like 001: not the size of another model.
_RELEASE = r"(\d{4}-?\d\d-?\d\d|(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])|2\d(0[1-9]|1[0-2])|0\d\d)"
_LATEST = re.compile(r"[-:]latest$")


class Answer(NamedTuple):
    """One chat completion; `top` holds the likeliest first tokens with their log-probabilities, if it gives any."""

    text: str
    finish: str
    top: list[tuple[str, float]]
    model: str
    prompt_tokens: int
    tokens: int
    shared_tokens: int


def answer_of(completion: Any) -> Answer:
    """The parts of a chat completion's first choice; raises where they are not what the protocol says."""
    choice, used = completion.choices[0], completion.usage
    details = getattr(used, "prompt_tokens_details", None)
    return Answer(
        _text(choice.message.content), _text(choice.finish_reason) or "stop", _likeliest(choice.logprobs),
        _text(completion.model), _count(used, "prompt_tokens"), _count(used, "completion_tokens"),
        _count(details, "cached_tokens"),
    )  # fmt: skip


def _text(part: Any) -> str:
    if not isinstance(part, str | None):
        raise TypeError(f"no text: {type(part).__name__}")
    return part or ""


def _count(part: Any, name: str) -> int:
    number = getattr(part, name, 0)
    return number if isinstance(number, int) else 0


def _likeliest(logprobs: Any) -> list[tuple[str, float]]:
    content = getattr(logprobs, "content", None)
    first = getattr(content[0], "top_logprobs", None) if content else None
    top = [(_text(token.token), token.logprob) for token in first or ()]
    if not all(logprob <= 0.01 for _, logprob in top):  # which is false of NaN too
        raise ValueError("no log-probability")
    return top


def same_model(asked: str, answered: str) -> bool:
    """Whether an answer's model name is the one asked for: with or without its path, tag, or date of release."""
    one, other = (name.rstrip("/").rsplit("/", 1)[-1].lower() for name in (asked, answered))
    bare, told = (_LATEST.sub("", name) for name in (one, other))
    released = re.fullmatch(re.escape(bare) + "[-@:]" + _RELEASE, told)
    return bare == told or released is not None or one.startswith(other + ":")


def sum_variants(top: Sequence[tuple[str, float]], choices: Sequence[str]) -> tuple[float, ...]:
    """Each choice's log-probability from the likeliest tokens: spellings summed; () where no choice is among them.

    A token counts for the one choice it equals, or else begins, leading and trailing blanks apart. A choice that is
    not among them gets the most it can have: no more than the last of them, nor than all that is left.
    """
    mass = dict.fromkeys(choices, 0.0)
    for token, logprob in top:
        word = token.strip()
        meant = [c for c in choices if c == word] or [c for c in choices if word and c.startswith(word)]
        if len(meant) == 1:
            mass[meant[0]] += math.exp(logprob)
    if not any(mass.values()):
        return ()
    left = 1.0 - sum(math.exp(logprob) for _, logprob in top)
    most = max(min(left, min(math.exp(logprob) for _, logprob in top)), math.exp(_NEVER))
    return tuple(math.log(mass[c] or most) for c in choices)


_NOUN = r"(?i:reply|response|option|candidate|choice)"
_SAYS = rf"(?:{_NOUN}|(?i:answer|verdict|judge?ment|choose|chosen|pick|select|prefer|boxed|winner|better|best|is))"
_MARKS = r"[\s:=*_\"'`(\[{<>]*"  # what may stand between such a word and the choice
_WORSE = r"\b(?i:than|over|not)\b"  # what stands before a choice that is not the one
_SEVERAL = r"(?:\b(?i:or|nor|and|neither|either|both|between|versus|vs)\b\.?|[/&])"
# What follows a choice that stands for itself: the end, punctuation, or a word that no noun phrase goes on with.
_ALONE = r"(?=\W*$|[^\w\s'’-]|\s*\n|\s+[-–—]\s|\s+(?:is|was|because|since|as|wins)\b(?! not\b))"
_DENIED = r"(?!\s+__|\s+(?:is|was|does)(?:\s+not|n['’]t)\b)"


def parse_choice(text: str, choices: Sequence[str]) -> str | None:
    """The one choice a written answer gives; None where it gives none or several.

    A choice counts as the whole answer, at its start or end, or after a word that announces one ("Reply A is better",
    "the answer is **B**"), not as any word of a sentence ("A safer topic"), nor as what it is compared with ("than B").
    """
    one = rf"(?<![\w'’])({'|'.join(map(re.escape, sorted(choices, key=len, reverse=True)))})(?![\w'’])"
    for before, instead in ((_WORSE, ""), (_SEVERAL, " __ ")):
        text = re.sub(rf"{before}\W*(?:(?:the )?{_NOUN}\W*)?{one}", instead, text.strip())
    places = (
        rf"^\W*{one}{_ALONE}", rf"{one}\W*$", rf"{one}\W*:",
        rf"\b{_SAYS}\b{_MARKS}{one}{_ALONE}", rf"\b{_NOUN}\s\W*{one}{_DENIED}",
    )  # fmt: skip
    named = {found for place in places for found in re.findall(place, text)}
    return named.pop() if len(named) == 1 else None
