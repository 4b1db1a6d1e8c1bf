"""Where and when a benchmark ran, as its JSON and its page say it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime


def where_and_when() -> dict[str, str]:
    """Processor and date."""
    return {
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "date": datetime.now(UTC).date().isoformat(),
    }
