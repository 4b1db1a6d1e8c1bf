"""When two texts are nearly the same: shares worked by hand, and the setting of each place that asks."""

import random
from difflib import SequenceMatcher

import pytest

from rlaif.similarity import PRINCIPLES, PROMPTS, PROPOSALS, TEXTS, overlap, phrases, plain, words

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


@pytest.mark.parametrize(
    ("likeness", "one", "two", "same"),
    [
        # 8 phrases each, 7 in both: 7 of 9. 10 phrases each, 9 in both: 9 of 11.
        (TEXTS, " ".join(NUMBERS[:10]), " ".join([*NUMBERS[:9], "x"]), False),
        (TEXTS, " ".join(NUMBERS), " ".join([*NUMBERS[:11], "x"]), True),
        (TEXTS, "One, two -- three!", "one TWO three", True),
        # In order: 2 × 9 of 20 words, then 2 × 8 of 20; in another order hardly any.
        (PROMPTS, " ".join(NUMBERS[:10]), " ".join([*NUMBERS[:9], "x"]), True),
        (PROMPTS, " ".join(NUMBERS[:10]), " ".join([*NUMBERS[:8], "x", "y"]), False),
        (PROMPTS, " ".join(NUMBERS), " ".join(reversed(NUMBERS)), False),
        (PROMPTS, "Don't you?", "dont YOU", True),
        # The same of letters.
        (PRINCIPLES, "abcdefghij", "abcdefghix", True),
        (PRINCIPLES, "abcdefghij", "abcdefghxy", False),
        (PRINCIPLES, "x" * 2000 + "abc", "x" * 2000 + "defghi", True),
        # 2 of 4 words that tell; 1 of 3; none of either.
        (PROPOSALS, "be kind and polite to users", "Polite, kind: people!", True),
        (PROPOSALS, "be kind to users", "be kind to people", False),
        (PROPOSALS, "the", "a reply", True),
    ],
)
def test_shares_worked_by_hand(likeness, one, two, same):
    assert likeness.same(one, two) is same
    assert likeness.same(two, one) is same


def test_the_cheap_bounds_change_nothing():
    rng = random.Random(0)
    texts = [" ".join(rng.choices(NUMBERS, k=rng.randint(5, 9))) for _ in range(60)]
    texts += [text.replace("one", "two") for text in texts]
    pairs = [(a, b) for a in texts for b in texts]
    ratios = [SequenceMatcher(None, words(a), words(b), autojunk=False).ratio() for a, b in pairs]
    assert [PROMPTS.same(a, b) for a, b in pairs] == [ratio >= 0.85 for ratio in ratios]
    assert 60 < sum(ratio >= 0.85 for ratio in ratios) < len(pairs) / 2


def test_the_overlap_of_sets():
    assert overlap({1, 2, 3}, {2, 3, 4}) == 0.5
    assert overlap((), ()) == 1.0
    assert overlap({1}, ()) == 0.0
    assert phrases("A b, c d") == {"a b c", "b c d"}
    assert phrases("A b") == {"a b"}
    assert plain(" A – b\n") == "a b"
