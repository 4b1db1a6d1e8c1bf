"""A server's response: its parts checked, the model it names, the verdict in its tokens.

Everything here comes from outside. A part of the wrong shape raises any exception; the engine then counts the
response as half of one and asks again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from rlaif.errors import replace_surrogates
from rlaif.prompting.thinking import OPEN

# What a question may cost: tries at its log-probabilities, then the tokens of a written verdict.
READS, VERDICT_TOKENS = 3, 16
_NEVER = -30.0  # log-probability of what cannot be any less likely
# A date, its month and day, its year and month, or a number like 001: not the size of another model.
_RELEASE = r"(\d{4}-?\d\d-?\d\d|(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])|2\d(0[1-9]|1[0-2])|0\d\d)"
_LATEST = re.compile(r"[-:]latest$")
_CUT = ("length", "max_tokens", "model_length")
_FILTERED = ("content_filter", "safety", "prohibited_content")
_BROKEN_OFF = ("error", "abort", "cancelled")


class Answer(NamedTuple):
    """One chat completion; `top` holds the likeliest first tokens with their log-probabilities, if it gives
    any.

    `finish_reason` is "stop", "length" or "content_filter", whatever the server calls it. `thinks` says that
    it begins with the model's thinking, `thinking` is what a server took out of the text, `replaced` how many
    lone surrogates became U+FFFD.
    """

    text: str
    finish_reason: str
    top: list[tuple[str, float]]
    model: str
    prompt_tokens: int
    tokens: int
    shared_tokens: int
    thinks: bool = False
    thinking: str = ""
    replaced: int = 0

    @property
    def used(self) -> tuple[int, int]:
        """Tokens of the prompt and of what was written."""
        return self.prompt_tokens, self.tokens


def parse_response(body: Any) -> Answer | None:
    """The parts of a chat completion's first choice, None where it has no choice.

    Raises any exception where they are not what the protocol says.
    """
    if not isinstance(body, dict):
        raise TypeError("no object")
    if not body.get("choices"):
        return None
    choice, used = body["choices"][0], body.get("usage")
    message = choice["message"]
    text, replaced = replace_surrogates(_content(message))
    hidden = message.get("reasoning_content") or message.get("reasoning")
    thinking = replace_surrogates(hidden)[0] if isinstance(hidden, str) else ""
    return Answer(
        text,
        _finish(_text(choice.get("finish_reason"))),
        _likeliest(choice.get("logprobs")),
        _text(body.get("model")),
        _count(used, "prompt_tokens"),
        _count(used, "completion_tokens"),
        _count((used or {}).get("prompt_tokens_details"), "cached_tokens"),
        thinks=bool(OPEN.match(text.lstrip()) or (hidden and not text.strip())),
        thinking=thinking,
        replaced=replaced,
    )


def _content(message: Any) -> str:
    """The text of a message: as it is, as the text parts of a list, or as the refusal that takes its
    place."""
    content = message.get("content")
    if isinstance(content, list):
        # Parts of other types (thinking, images) are no text of the response.
        content = "".join(
            _text(part["text"]) for part in content if part.get("type", "text") in ("text", "output_text")
        )
    return _text(content) or _text(message.get("refusal"))


def _finish(reason: str) -> str:
    """Why a text ended, in our words: what a server says is not kept, since it can say anything."""
    reason = reason.lower()
    if reason in _BROKEN_OFF:
        raise ValueError("broken off")
    return "length" if reason in _CUT else "content_filter" if reason in _FILTERED else "stop"


def _text(part: Any) -> str:
    if not isinstance(part, str | None):
        raise TypeError(f"no text: {type(part).__name__}")
    return part or ""


def _count(part: Any, name: str) -> int:
    number = part.get(name) if isinstance(part, dict) else None
    return number if isinstance(number, int) and 0 <= number < 2**53 else 0


def _likeliest(logprobs: Any) -> list[tuple[str, float]]:
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = content[0].get("top_logprobs") if content else None
    top = [(replace_surrogates(_text(token["token"]))[0], token["logprob"]) for token in first or ()]
    if not all(logprob <= 0.01 for _, logprob in top):  # which is false of NaN too
        raise ValueError("no log-probability")
    return top


def same_model(asked: str, answered: str) -> bool:
    """Whether a response's model name is the one asked for: with or without its path, tag, or date of
    release."""
    one, other = (name.rstrip("/").rsplit("/", 1)[-1].lower() for name in (asked, answered))
    bare, told = (_LATEST.sub("", name) for name in (one, other))
    released = re.fullmatch(re.escape(bare) + "[-@:]" + _RELEASE, told)
    return bare == told or released is not None or one.startswith(other + ":")


def sum_variants(top: Sequence[tuple[str, float]], choices: Sequence[str]) -> tuple[float, ...]:
    """Each choice's log-probability from the likeliest tokens: spellings summed; () where no choice is among
    them.

    A token counts for the one choice it equals, or else begins, leading and trailing blanks apart. One that
    may be either ("1" where "10" is a choice too and not among the tokens) counts for none, and where such
    tokens weigh more than all others nothing can be told. A choice that is not among the tokens gets the most
    it can have: no more than the last of them, nor than all that is left.
    """
    mass, unclear = dict.fromkeys(choices, 0.0), 0.0
    words = {token.strip() for token, _ in top}
    for token, logprob in top:
        word = token.strip()
        meant = [c for c in choices if word and c.startswith(word) and (c == word or c not in words)]
        if len(meant) == 1:
            mass[meant[0]] += math.exp(logprob)
        elif meant:
            unclear += math.exp(logprob)
    if not any(mass.values()) or unclear > sum(mass.values()):
        return ()
    left = 1.0 - sum(math.exp(logprob) for _, logprob in top)
    most = max(min(left, min(math.exp(logprob) for _, logprob in top)), math.exp(_NEVER))
    return tuple(math.log(mass[c] or most) for c in choices)
