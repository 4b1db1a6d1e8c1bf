"""Numbers per held-out prompt, so that everything stays paired: gold, compliance, their differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from rlaif.gold import with_all
from rlaif.records import Evaluation
from rlaif.stats import Interval, bootstrap_mean, mean, wilson

Values = dict[str, float]  # prompt id → number in [0, 1]
Table = dict[str, Values]  # principle id, or "all" → Values


class Delta(TypedDict):
    """A paired difference of means over the prompts that both sides have."""

    value: float
    ci: Interval
    n: int
    different: bool


def table(rows: Iterable[tuple[str, Mapping[str, float]]]) -> Table:
    """(prompt id, principle → value) rows turned round; a principle holds only the prompts it applies to."""
    found: Table = {}
    for prompt_id, values in rows:
        for name, value in values.items():
            found.setdefault(name, {})[prompt_id] = float(value)
    return found


def gold(rows: Iterable[Evaluation]) -> Table:
    """The gold verdicts of one policy; "all" is every principle at once.

    Empty without a gold scorer and where it knows none of the principles.
    """
    truths = [(row.prompt_id, row.gold) for row in rows if row.gold and set(row.gold) != {"all"}]
    return table((prompt_id, with_all(truth)) for prompt_id, truth in truths)


def compliance(rows: Iterable[Evaluation]) -> Table:
    """The judge's probabilities that each rule is kept; "all" is 1 where it believes so of every rule."""
    return table(
        (row.prompt_id, {"all": all(p > 0.5 for p in row.compliance.values()), **row.compliance})
        for row in rows
        if row.compliance
    )


def rate(values: Values) -> tuple[float, Interval]:
    """A mean of values in [0, 1] with its Wilson interval (wider than needed for values that are not 0 or 1)."""
    return mean(list(values.values())), wilson(sum(values.values()), len(values))


def averaged(seeds: Sequence[Values]) -> Values:
    """The mean over several seeds of each prompt's value, for the prompts that all of them have."""
    shared = set.intersection(*(set(values) for values in seeds)) if seeds else set()
    return {prompt: mean([values[prompt] for values in seeds]) for prompt in seeds[0] if prompt in shared}


def with_seed_variance(value: float, ci: Interval, *arms: Sequence[float], level: float = 0.95) -> Interval:
    """An interval over prompts widened by what other seeds would change; unchanged where no arm has two seeds.

    `arms` holds each arm's figures, one a seed, all with one variance (pooled), of which `value` is the mean or the
    difference of means. The half-widths over prompts and over seeds are joined as independent errors are: by the
    root of the sum of their squares (the MOVER method, Zou and Donner, Statistics in Medicine 27, 2008).
    """
    from scipy.stats import t

    freedom = sum(len(seeds) - 1 for seeds in arms)
    if freedom == 0 or not all(map(math.isfinite, (value, *ci))):
        return ci
    pooled = sum(float(np.var(seeds)) * len(seeds) for seeds in arms) / freedom
    half = float(t.ppf(0.5 + level / 2, freedom)) * math.sqrt(pooled * sum(1 / len(seeds) for seeds in arms))
    low, high = ci
    return value - math.hypot(value - low, half), value + math.hypot(high - value, half)


def delta(after: Values, before: Values, tests: int = 1, seeds: Sequence[Sequence[float]] = ()) -> Delta:
    """Paired difference after − before with a 95 % bootstrap interval over prompts.

    `seeds` are each side's means, one a seed, where a side is several seeds: the interval then covers these too.

    `different` says that the interval excludes 0 at a level corrected for `tests` looked at together (Bonferroni),
    and that there are at least 20 prompts: below that a bootstrap is too sure of itself.
    """
    shared = [prompt_id for prompt_id in after if prompt_id in before]
    gaps = [after[prompt_id] - before[prompt_id] for prompt_id in shared]
    level = 1 - 0.05 / tests
    ci = with_seed_variance(mean(gaps), bootstrap_mean(gaps), *seeds)
    low, high = with_seed_variance(mean(gaps), bootstrap_mean(gaps, level=level), *seeds, level=level)
    return {
        "value": mean(gaps),
        "ci": ci,
        "n": len(gaps),
        "different": len(gaps) >= 20 and (low > 0 or high < 0),
    }


def standing(change: Mapping[str, Any], a: str, b: str, same: bool) -> str:
    """What a difference a − b amounts to, in words; `same` says that nothing but the seed was chosen differently."""
    low, high = change["ci"] if change["ci"][0] is not None else (0.0, 0.0)
    if change["different"]:
        return f"{a if change['value'] > 0 else b} is ahead"
    if low <= 0 <= high:
        return "no difference shown"
    return "within seed noise: nothing else differs" if same else "not shown after correction"


def arm_delta(after: Sequence[Values], before: Sequence[Values], tests: int = 1) -> Delta:
    """`delta` between two arms, each given as one `Values` a seed."""
    means = [[mean(list(values.values())) for values in arm] for arm in (after, before)]
    return delta(averaged(after), averaged(before), tests, means)


def arm_deltas(after: Sequence[Table], before: Sequence[Table]) -> dict[str, Delta]:
    """`arm_delta` of every entry that all tables (one a seed) have: "all" on its own, the principles corrected for
    their number."""
    shared = [name for name in after[0] if all(name in table for table in (*after, *before))]
    principles = len([name for name in shared if name != "all"])
    return {
        name: arm_delta([table[name] for table in after], [table[name] for table in before],
                        1 if name == "all" else max(1, principles))
        for name in shared
    }  # fmt: skip


def deltas(after: Table, before: Table) -> dict[str, Delta]:
    """`arm_deltas` of two policies of one run."""
    return arm_deltas([after], [before])
