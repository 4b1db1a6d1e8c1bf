"""Between the tokens of responses and their text, the way the engines read it."""

from __future__ import annotations

from typing import Any

from rlaif.prompts import HUMAN_STOP, has_chat_template
from rlaif.rl.episodes import Episodes
from rlaif.rl.rollout import Stops


def texts_of(tokenizer: Any, episodes: Episodes) -> list[str]:
    """Each response as text; where there is no chat template, up to the next Human turn."""
    plain = not has_chat_template(tokenizer)
    texts = [_decode(tokenizer, ids) for ids in episodes.responses()]
    return [(text.split(HUMAN_STOP)[0] if plain else text).strip() for text in texts]


def turn_end(tokenizer: Any) -> Stops | None:
    """What finds the end of a turn that no token ends: the first tokens that spell the next Human turn."""
    if has_chat_template(tokenizer):
        return None

    def stops(ids: list[int]) -> int | None:
        if HUMAN_STOP not in _decode(tokenizer, ids):
            return None
        return next(n for n in range(1, len(ids) + 1) if HUMAN_STOP in _decode(tokenizer, ids[:n]))

    return stops


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
