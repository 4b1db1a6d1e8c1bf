"""Texts that are nearly the same: MinHash in bands (Broder 1997), candidates checked by their Jaccard index.

Two texts are near duplicates by `TEXTS` of rlaif.similarity. Memory grows with the number of texts by a few
hundred bytes each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, TypeVar
from zlib import crc32

import numpy as np

from rlaif.similarity import TEXTS, phrases, plain

K = TypeVar("K", bound=Hashable)
_BANDS, _ROWS = 16, 4  # a pair at 0.8 is found with probability 1 − (1 − 0.8⁴)¹⁶ = 0.9998, at 0.5 with 0.64
_AT_MOST = 50  # texts after it in a band that each is compared with: many equal bands stay linear
_PRIME = np.uint64((1 << 31) - 1)


def near_duplicates(texts: Mapping[K, str]) -> Iterator[tuple[K, K]]:
    """Pairs of keys whose texts are near duplicates; of equal texts each with the first of them."""
    first: dict[str, K] = {}
    sequences: dict[K, frozenset[str]] = {}
    for key, text in texts.items():
        words = plain(text)
        if words in first:
            yield first[words], key
        elif words:
            first[words] = key
            sequences[key] = phrases(words)
    for a, b in _candidates(sequences):
        if TEXTS.alike(sequences[a], sequences[b]):
            yield a, b


def _candidates(sequences: Mapping[K, frozenset[str]]) -> Iterator[tuple[K, K]]:
    """Pairs that agree in a band of their signatures, once each."""
    rng = np.random.default_rng(0)
    factors, shifts = (rng.integers(1, int(_PRIME), (_BANDS * _ROWS, 1), np.uint64) for _ in range(2))
    bands: defaultdict[tuple[int, bytes], list[K]] = defaultdict(list)
    for key, own in sequences.items():
        hashes = np.fromiter((crc32(text.encode()) for text in own), np.uint64, len(own)) % _PRIME
        signature: Any = ((factors * hashes + shifts) % _PRIME).min(axis=1).astype(np.uint32)
        for band in range(_BANDS):
            bands[band, signature[band * _ROWS : (band + 1) * _ROWS].tobytes()].append(key)
    told: set[tuple[int, int]] = set()
    place = {key: number for number, key in enumerate(sequences)}
    for keys in bands.values():
        for n, a in enumerate(keys):
            for b in keys[n + 1 : n + 1 + _AT_MOST]:
                pair = place[a], place[b]
                if pair not in told:
                    told.add(pair)
                    yield a, b
