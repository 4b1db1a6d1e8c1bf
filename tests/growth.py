"""How the time of a function grows with the length of a text, compared within one run: no figure of a
machine."""

import time
from collections.abc import Callable


def seconds(work: Callable[[str], object], text: str, repeats: int = 3) -> float:
    """The least CPU time of some runs: what else a machine does only adds to it."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work(text)
        times.append(time.process_time() - start)
    return min(times)


def assert_linear(work: Callable[[str], object], text: str) -> None:
    """Four times the text takes about four times as long; quadratic work would take sixteen times as long."""
    quarter = max(seconds(work, text[: len(text) // 4]), 0.005)
    assert seconds(work, text) < 9 * quarter
