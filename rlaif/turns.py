"""A response's tokens and its text, one from the other, the same way for engines, training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlaif.prompts import HUMAN_STOP, has_chat_template


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of tokens, special ones left out and nothing tidied up."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """What a response of these tokens says; where there is no chat template, up to the next Human turn."""
    text = decode(tokenizer, ids)
    return (text if has_chat_template(tokenizer) else text.split(HUMAN_STOP)[0]).strip()


def spelled_end(tokenizer: Any, ids: Sequence[int]) -> int | None:
    """How many tokens there are up to the end of a turn that no token ends: the first that spell a Human turn.

    None where there is no such end, or a chat template, whose turns end with a token.
    """
    if has_chat_template(tokenizer) or HUMAN_STOP not in decode(tokenizer, ids):
        return None
    return next(n for n in range(1, len(ids) + 1) if HUMAN_STOP in decode(tokenizer, ids[:n]))
