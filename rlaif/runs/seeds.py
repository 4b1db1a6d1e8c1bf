"""Seeds derived from what they are for, so that a continued run draws what the uninterrupted one would
have."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from rlaif.records import content_hash

T = TypeVar("T")


def derive_seed(*parts: Any) -> int:
    """A 31-bit seed determined by its parts alone."""
    return int(content_hash(*parts)[:8], 16) >> 1


def in_rounds(items: Sequence[T], number: int, size: int, seed: int) -> list[T]:
    """The `number`-th batch (from 1) of a cursor over `items`: each once a round, in a new order every
    round."""
    places = range((number - 1) * size, number * size)
    count = len(items)
    rounds = range(places.start // count, (places.stop - 1) // count + 1)
    orders = {r: random.Random(derive_seed(seed, "round", r)).sample(range(count), count) for r in rounds}
    return [items[orders[place // count][place % count]] for place in places]
