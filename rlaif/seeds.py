"""Seeds derived from what they are for, so that a continued run draws what the uninterrupted one would have."""

from __future__ import annotations

from typing import Any

from rlaif.records import content_hash


def derive_seed(*parts: Any) -> int:
    """A 31-bit seed determined by its parts alone."""
    return int(content_hash(*parts)[:8], 16) >> 1
