"""A response's tokens and its text, one from the other, the same way for engines, training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rlaif.prompting.chat import HUMAN_STOP, encode_chat, encode_turn, end_of_turn, has_chat_template
from rlaif.prompting.templates import Chat
from rlaif.prompting.thinking import split_thinking
from rlaif.records import Response, decode_tokens


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of tokens, special ones left out and nothing tidied up."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """What a response of these tokens says after its thinking; where there is no chat template, up to the
    next Human turn."""
    return split_thinking(written_text(tokenizer, ids))[1]


def written_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The same with the thinking before it."""
    text = decode(tokenizer, ids)
    return (text if has_chat_template(tokenizer) else text.split(HUMAN_STOP)[0]).strip()


def written_turn_end(tokenizer: Any, ids: Sequence[int]) -> int | None:
    """How many tokens there are up to the end of a turn that no token ends: the first that spell a Human
    turn.

    None where there is no such end, or a chat template, whose turns end with a token.
    """
    if has_chat_template(tokenizer) or HUMAN_STOP not in decode(tokenizer, ids):
        return None
    return next(n for n in range(1, len(ids) + 1) if HUMAN_STOP in decode(tokenizer, ids[:n]))


def sampled_tokens(tokenizer: Any, response: Response) -> list[int] | None:
    """The tokens that a response was sampled as, the one that ended it included.

    None where they are not known, or do not spell this text in this tokenizer: another model's, or an edited
    text.
    """
    ids = decode_tokens(response.token_ids) if response.token_ids else []
    known = bool(ids) and max(ids) < len(tokenizer)
    return ids if known and text_of(tokenizer, ids) == response.text else None


def measured_tokens(tokenizer: Any, messages: Chat, response: Response) -> list[int] | None:
    """The tokens that a response's log-probability is taken at: those it was sampled as.

    Of one from elsewhere those of its text, closed by what ends the turn; None where these do not spell it
    again.
    """
    sampled = sampled_tokens(tokenizer, response)
    if sampled is not None:
        return sampled
    end = end_of_turn(tokenizer) if response.finish_reason == "stop" else None
    ids = encode_turn(tokenizer, messages, response.text, end)[1]
    return ids if ids and text_of(tokenizer, ids) == response.text.strip() else None


@lru_cache(maxsize=32)
def _special(tokenizer: Any) -> frozenset[int]:
    return frozenset(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)


def turn_of(tokenizer: Any, messages: Chat, response: Response) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids) to train on or to be rewarded for, closed by what ends the turn if the model
    ended it.

    The tokens are those that were sampled, as PPO's are; of a response from elsewhere, and without a chat
    template, whose turns end in text, those of its text. So are those of a response in which special tokens
    were sampled before its end: nobody who judged the text has seen them, and no policy is to learn them.
    """
    end = end_of_turn(tokenizer) if response.finish_reason == "stop" else None
    sampled = sampled_tokens(tokenizer, response) if has_chat_template(tokenizer) else None
    if sampled is None or _special(tokenizer).intersection(
        sampled[:-1] if response.finish_reason == "stop" else sampled
    ):
        return encode_turn(tokenizer, messages, response.text, end)
    if response.finish_reason == "stop" and text_of(tokenizer, sampled[:-1]) == response.text:
        sampled.pop()  # a model may have several tokens to end with
    return encode_chat(tokenizer, messages), sampled + ([end] if end is not None else [])
