"""Between the tokens of responses and their text, the way the engines read it."""

from __future__ import annotations

from functools import partial
from typing import Any

from rlaif.prompting.chat import has_chat_template
from rlaif.prompting.turns import text_of, written_turn_end
from rlaif.rl.episodes import Episodes
from rlaif.rl.rollout import Stops


def texts_of(tokenizer: Any, episodes: Episodes) -> list[str]:
    """Each response as text; where there is no chat template, up to the next Human turn."""
    return [text_of(tokenizer, ids) for ids in episodes.responses()]


def turn_end(tokenizer: Any) -> Stops | None:
    """What finds the end of a turn that no token ends, where there is no chat template."""
    return None if has_chat_template(tokenizer) else partial(written_turn_end, tokenizer)
