"""Whether two texts are nearly the same: one measure, and what it is set to in each place that asks.

Both texts are cut into units, and the share of units that they have in common is compared with a bound. Of
sets of units the share is the Jaccard index (those in both, of those in either); where their order counts it
is the ratio of Ratcliff and Obershelp (difflib): twice the units in matching blocks, of those of both texts.

The settings differ because the texts do: of a principle every letter counts, of a prompt the words and their
order, of long responses whole phrases, and of rules that a model proposes in its own words only which words
carry the meaning. What was measured with a setting (docs/lint.md, docs/data-formats.md,
docs/prompts-generate.md) holds for that setting alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

READ = 2000  # characters of a text that are compared letter by letter
SEQUENCE = 3  # words of a phrase
_WORD = re.compile(r"\w+")
# Words that say nothing of what a rule is about.
_SMALL = "a an the and or of to in is it its be by for with that this should must reply response"
EMPTY = frozenset(_SMALL.split(" "))
Units = Sequence[Hashable] | frozenset[str]


def overlap(one: Collection[Hashable], two: Collection[Hashable]) -> float:
    """The Jaccard index of two sets; 1 where both are empty."""
    one, two = frozenset(one), frozenset(two)
    return len(one & two) / len(one | two) if one or two else 1.0


@dataclass(frozen=True)
class Likeness:
    """How texts are compared: what they are cut into, from which share on they are nearly the same, and
    whether the order of the units counts."""

    units: Callable[[str], Units]
    least: float
    in_order: bool = False

    def same(self, one: str, two: str) -> bool:
        """Whether two texts are nearly the same."""
        return self.alike(self.units(one), self.units(two))

    def alike(self, one: Units, two: Units) -> bool:
        """The same of texts that are cut into units already."""
        if not self.in_order:
            return overlap(one, two) >= self.least
        matcher = SequenceMatcher(None, list(one), list(two), autojunk=False)
        bounds = matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio  # the cheapest bound first
        return all(bound() >= self.least for bound in bounds)


def plain(text: str) -> str:
    """A text without case, punctuation and spaces of its own."""
    return " ".join(_WORD.findall(text.lower()))


def letters(text: str) -> str:
    """The first characters, without case."""
    return text[:READ].lower()


def words(text: str) -> list[str]:
    """The words in their order, without case and apostrophes."""
    return _WORD.findall(text.lower().replace("’", "'").replace("'", ""))


def phrases(text: str) -> frozenset[str]:
    """The sequences of three words."""
    parts = plain(text).split(" ")
    return frozenset(" ".join(parts[i : i + SEQUENCE]) for i in range(max(1, len(parts) - SEQUENCE + 1)))


def telling_words(text: str) -> frozenset[str]:
    """The words of a rule that tell it from others."""
    return frozenset(re.findall(r"[^\W_]+", text.lower())) - EMPTY


PRINCIPLES = Likeness(letters, 0.85, in_order=True)  # `constitution lint`: two of one constitution
PROMPTS = Likeness(words, 0.85, in_order=True)  # `prompts generate`: a new one and those there are
TEXTS = Likeness(phrases, 0.8)  # `data lint`: prompts, and the responses of a pair
PROPOSALS = Likeness(telling_words, 0.5)  # `constitution induce`: rules that a model proposes
