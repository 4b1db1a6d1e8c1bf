"""Ctrl-C and SIGTERM: the first one ends a command in order, a second one at once, and neither with a
traceback.

Every finished row is on disk already, so that nothing is lost either way; the first one also leaves the
stage's status.
"""

from __future__ import annotations

import os
import signal
from typing import Any

_received: list[int] = []
_loaded: list[bool] = []


def catch_signals() -> None:
    """Take the two signals; a launcher of several processes ends them in its own way, and a shell may ignore
    Ctrl-C."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def loaded() -> None:
    """From here on there is something to end in order."""
    _loaded.append(True)


def received() -> bool:
    """Whether the command was asked to stop."""
    return bool(_received)


def code() -> int:
    """The exit code of a command that was asked to stop: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def _stop(number: int, frame: Any) -> None:
    _received.append(number)
    if not _loaded or len(_received) > 1:
        os._exit(code())
    raise KeyboardInterrupt
