"""Printed figures as (path, value) leaves, each matched with exactly one oracle or one reason why it is no
figure."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

Oracle = Callable[..., Any]  # the parts of the path that its pattern captures → the figure, computed again
NO_FIGURE = object()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dictionaries and lists that is no text, by its dotted path; intervals are one
    leaf."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}" if path else str(key))
    elif isinstance(value, list | tuple) and not is_interval(value):
        for at, item in enumerate(value):
            yield from leaves(item, f"{path}/{at}")
    elif not isinstance(value, str):
        yield path, value


def is_interval(value: Any) -> bool:
    numbers = all(x is None or isinstance(x, float) for x in value)
    return len(value) == 2 and numbers


def close(printed: Any, computed: Any, tolerance: float) -> bool:
    """Whether a printed figure is the computed one; None, nan and an edge that is open are all printed as
    None."""
    if isinstance(printed, list | tuple) or isinstance(computed, list | tuple):
        both = (list(printed or [None, None]), list(computed or [None, None]))
        return len(both[0]) == len(both[1]) and all(
            close(p, c, tolerance) for p, c in zip(*both, strict=True)
        )
    if isinstance(printed, bool) or isinstance(computed, bool):
        return printed == computed
    missing = [x is None or not math.isfinite(x) for x in (printed, computed)]
    if any(missing):
        return all(missing)
    return math.isclose(printed, computed, rel_tol=max(tolerance, 2e-5), abs_tol=max(tolerance, 1e-7))


def check(printed: Any, oracles: dict[str, Any], no_figures: dict[str, str]) -> int:
    """Assert that every leaf has one oracle, or a reason to have none, and that the oracles agree; → their
    number.

    `oracles` maps a pattern of a path (`*` stands for one part of it and is passed on) to a function, or to a
    function and its tolerance. Every pattern of both tables must be met, unless it begins with `?`.
    """
    tables = [(pattern, regex(pattern.removeprefix("?")), entry) for pattern, entry in oracles.items()]
    tables += [(pattern, regex(pattern.removeprefix("?")), NO_FIGURE) for pattern in no_figures]
    met, wrong, without, counted = set[str](), list[str](), list[str](), 0
    for path, value in leaves(printed):
        found = [(pattern, m, entry) for pattern, form, entry in tables if (m := form.fullmatch(path))]
        if len(found) != 1:
            without.append(f"{path} = {value!r}: {[pattern for pattern, *_ in found]}")
            continue
        pattern, parts, entry = found[0]
        met.add(pattern)
        if entry is not NO_FIGURE:
            oracle, tolerance = entry if isinstance(entry, tuple) else (entry, 0.0)
            computed = oracle(*parts.groups())
            counted += 1
            if not close(value, computed, tolerance):
                wrong.append(f"{path}: printed {value!r}, computed {computed!r}")
    assert not without, "figures without an oracle, or with several:\n" + "\n".join(without)
    assert not wrong, "figures that differ from their oracle:\n" + "\n".join(wrong)
    unmet = [pattern for pattern, *_ in tables if pattern not in met and pattern[0] != "?"]
    assert not unmet, f"patterns that no figure meets: {unmet}"
    return counted


def regex(pattern: str) -> re.Pattern[str]:
    """`*` stands for one part of a path, `**` for the rest of it; parts that `*` stands for are captured."""
    parts = (
        ".+" if part == "**" else "([^/]+)" if part == "*" else re.escape(part) for part in pattern.split("/")
    )
    return re.compile("/".join(parts))


def check_words(lines: list[str], printed: dict[str, Any]) -> None:
    """Assert that every number with a point in the lines is a printed figure, rounded as it is in words."""
    numbers = [
        x for _, value in leaves(printed) for x in (value if isinstance(value, list | tuple) else [value])
    ]
    known = {f"{abs(x) + 0.0:.{digits}f}" for x in numbers if isinstance(x, float) for digits in (1, 2, 3)}
    strange = [(word, line) for line in lines for word in re.findall(r"\d+\.\d+", line) if word not in known]
    assert not strange, f"numbers in words that are no printed figure: {strange}"
