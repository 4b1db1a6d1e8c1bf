"""A reasoning model's thinking, told apart from the response after it."""

from __future__ import annotations

import re

NAMES = r"think(?:ing)?|thought|reason(?:ing)?|analysis|reflection"
OPEN = re.compile(rf"[<\[◁](?:seed:)?(?:{NAMES})[>\]▷]|<\|channel\|>analysis(?:<\|message\|>)?", re.I)
CLOSED = re.compile(rf"[<\[◁]/(?:seed:)?(?:{NAMES})[>\]▷]|<\|channel\|>final(?:<\|message\|>)?", re.I)


def split_thinking(text: str) -> tuple[str, str]:
    """(thinking, response) of a text that begins with a block of thinking; ("", text) of any other.

    Where the block does not end, as when the tokens ran out, there is no response yet.
    """
    begun = OPEN.match(text.lstrip())
    if not begun:
        return "", text
    inside = text.lstrip()[begun.end() :]
    ended = CLOSED.search(inside)
    if not ended:
        return inside.strip(), ""
    return inside[: ended.start()].strip(), inside[ended.end() :].strip()
