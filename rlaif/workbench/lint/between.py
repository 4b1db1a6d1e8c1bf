"""Rules about two principles of one constitution, or two texts of one: the same twice, or opposed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from rlaif.constitution import Principle
from rlaif.similarity import PRINCIPLES
from rlaif.workbench.lint.findings import Found, Subject, rule
from rlaif.workbench.lint.language import QUALITIES, Demand, demands, one_of

SHARED = 0.8  # of the meaning words of two demands


@rule("duplicate", "warning", "the same rule then counts twice, and is paid for twice")
def duplicate(subject: Subject) -> Iterator[Found]:
    """Texts that are the same, or nearly."""
    seen: list[Principle] = []
    for loc, principle in subject.principles:
        for other in seen:
            if _plain(principle.text) == _plain(other.text):
                yield Found((*loc, "text"), f'"{principle.id}" has the same text as "{other.id}"')
            elif _alike(principle.text, other.text):
                yield Found((*loc, "text"), f'"{principle.id}" reads almost like "{other.id}"')
        seen.append(principle)


def _plain(text: str) -> str:
    return " ".join("".join(c for c in text.lower() if c.isalnum() or c.isspace()).split())


def _alike(one: str, two: str) -> bool:
    """Whether two texts say the same: nearly the same letters, or the same words in another order."""
    if _opposed(one, two):
        return False
    return PRINCIPLES.same(one, two) or _same_demands(demands(one), demands(two))


def _same_demands(one: tuple[Demand, ...], two: tuple[Demand, ...]) -> bool:
    if len(one) != 1 or len(two) != 1 or one[0].negative != two[0].negative:
        return False
    a, b = one[0], two[0]
    if a.qualities and a.qualities == b.qualities and a.condition == b.condition and _rest(a) == _rest(b):
        return True
    whole, other = a.content | a.condition, b.content | b.condition
    return bool(whole | other) and len(whole & other) / len(whole | other) >= SHARED


def _rest(demand: Demand) -> frozenset[str]:
    """What a demand says beside its qualities."""
    return demand.content - QUALITIES


@rule("opposed", "warning", "no response keeps both: their verdicts cancel out")
def opposed(subject: Subject) -> Iterator[Found]:
    """Two principles, or a principle's text and its compare, that ask for opposite things."""
    for (_, one), (later, two) in combinations(subject.principles, 2):
        if _scopes_meet(one, two):
            for a, b in _rulings(one, two):
                if words := _opposed(a, b):
                    yield Found((*later, "text"), f'"{two.id}" is opposed to "{one.id}" ({words})')
                    break
    for loc, principle in subject.principles:
        if principle.compare and (words := _opposed(principle.text, principle.compare)):
            yield Found((*loc, "compare"), f'compare of "{principle.id}" is opposed to its text ({words})')


def _scopes_meet(one: Principle, two: Principle) -> bool:
    if one.applies_to is None or two.applies_to is None:
        return True
    return bool(set(one.applies_to) & set(two.applies_to))


def _rulings(one: Principle, two: Principle) -> Iterator[tuple[str, str]]:
    for a in filter(None, (one.text, one.compare)):
        for b in filter(None, (two.text, two.compare)):
            yield a, b


def _opposed(one: str, two: str) -> str:
    """In words, what two texts contradict each other in; empty where they do not."""
    for a in demands(one):
        for b in demands(two):
            if (
                a.condition
                and b.condition
                and len(a.condition & b.condition) * 2 < len(a.condition | b.condition)
            ):
                continue
            if words := _turned(a, b):
                return words
    return ""


def _turned(a: Demand, b: Demand) -> str:
    if not (a.ordered and b.ordered):
        return ""
    for name, sign in sorted(a.qualities):
        if (name, -sign) in b.qualities and (name, sign) not in b.qualities and _about_the_same(a, b):
            return f"more and less of one thing: {name}"
    shared = a.content & b.content
    smaller = min(len(a.content), len(b.content))
    enough = smaller and len(shared) >= max(min(2, smaller), SHARED * smaller)
    if a.negative != b.negative and _counted(a, b):
        return ""  # "one thought a sentence" and "fewer thoughts a sentence" go together
    if a.negative != b.negative and enough and (smaller > 1 or len(a.content | b.content) == 1):
        return f"one asks for what the other forbids: {', '.join(sorted(shared))}"
    return ""


def _counted(a: Demand, b: Demand) -> bool:
    """Whether one sets a number and the other only asks for fewer."""
    fewer, other = (a, b) if a.negative else (b, a)
    return bool(_FEWER.search(fewer.text) and _NUMBER.search(other.text))


_FEWER = one_of(r"\b(?:fewer|less)\b")
_NUMBER = one_of(r"\b(?:one|two|three|four|five|single|only|at most|\d+)\b")


def _about_the_same(a: Demand, b: Demand) -> bool:
    """Whether two demands are about the whole response, or about the same part of it."""
    one, two = _rest(a), _rest(b)
    return max(len(one), len(two)) <= 2 or bool(one & two)
