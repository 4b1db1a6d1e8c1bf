"""Which tests `-k` names: parts of names with `and`, `or`, `not` and brackets, as pytest has them."""

from __future__ import annotations

import re
from collections.abc import Callable

from rlaif.errors import UserError

Select = Callable[[str], bool]
_TOKEN = re.compile(r"\s*([()]|[^\s()]+)")
MOST = 200  # words and brackets


def selector(words: str) -> Select:
    """A function that says whether a name is chosen; raises UserError where the expression is none.

    A word is a part of the name, in capitals or not; `not` binds before `and`, `and` before `or`.
    """
    tokens = _TOKEN.findall(words)
    if not tokens or len(tokens) > MOST:
        raise _wrong(words)
    chosen, rest = _either(tokens, words)
    if rest:
        raise _wrong(words)
    return lambda name: chosen(name.casefold())


def _wrong(words: str) -> UserError:
    return UserError(
        f'-k "{words}": cannot be read.', "parts of names with and, or, not and brackets", '-k "a and not b"'
    )


def _either(tokens: list[str], words: str) -> tuple[Select, list[str]]:
    left, rest = _both(tokens, words)
    while rest[:1] == ["or"]:
        right, rest = _both(rest[1:], words)
        left = _or(left, right)
    return left, rest


def _both(tokens: list[str], words: str) -> tuple[Select, list[str]]:
    left, rest = _one(tokens, words)
    while rest[:1] == ["and"]:
        right, rest = _one(rest[1:], words)
        left = _and(left, right)
    return left, rest


def _one(tokens: list[str], words: str) -> tuple[Select, list[str]]:
    if not tokens or tokens[0] in ("and", "or", ")"):
        raise _wrong(words)
    head, rest = tokens[0], tokens[1:]
    if head == "not":
        inner, rest = _one(rest, words)
        return lambda name: not inner(name), rest
    if head == "(":
        inner, rest = _either(rest, words)
        if rest[:1] != [")"]:
            raise _wrong(words)
        return inner, rest[1:]
    part = head.casefold()
    return lambda name: part in name, rest


def _or(left: Select, right: Select) -> Select:
    return lambda name: left(name) or right(name)


def _and(left: Select, right: Select) -> Select:
    return lambda name: left(name) and right(name)
