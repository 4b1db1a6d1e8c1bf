"""Numbers per held-out prompt, so that everything stays paired: gold, compliance, their differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from rlaif.feedback.gold import with_all
from rlaif.intervals import (
    GAP,
    NAN,
    UNIT,
    Interval,
    clip_interval,
    count,
    mean_interval,
    seed_chance,
    shown,
    with_seed_variance,
)
from rlaif.records import Evaluation
from rlaif.stats import mean

Values = dict[str, float]  # prompt id → number in [0, 1]
Table = dict[str, Values]  # principle id, or "all" → Values
Clusters = Mapping[
    str, str
]  # prompt id → what intervals take as independent: its group of prompts, or itself


class Delta(TypedDict):
    """A paired difference of means over the prompts that both sides have."""

    value: float
    ci: Interval
    n: int
    groups: int
    different: bool


def table(rows: Iterable[tuple[str, Mapping[str, float]]]) -> Table:
    """(prompt id, principle → value) rows transposed; a principle holds only the prompts it applies to."""
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
    """The judge's probabilities that each rule is kept; "all" is 1 where it believes so of every rule.

    A row of which a rule could not be read has no "all".
    """
    return table((row.prompt_id, {**_every(row), **row.compliance}) for row in rows if row.compliance)


def _every(row: Evaluation) -> dict[str, float]:
    return {} if row.unread else {"all": float(all(p > 0.5 for p in row.compliance.values()))}


def rate(values: Mapping[str, float], clusters: Clusters, bounds: Interval = UNIT) -> tuple[float, Interval]:
    """A mean of values within bounds, by default those of a rate, with its interval."""
    listed = list(values.values())
    return mean(listed), mean_interval(listed, bounds, clusters_of(values, clusters))


def clusters_of(prompts: Iterable[str], clusters: Clusters) -> list[str]:
    """Each prompt's cluster; itself where it is not known."""
    return [clusters.get(prompt, prompt) for prompt in prompts]


def mean_over_seeds(seeds: Sequence[Values]) -> Values:
    """The mean over several seeds of each prompt's value, for the prompts that all of them have."""
    shared = set.intersection(*(set(values) for values in seeds)) if seeds else set()
    return {prompt: mean([values[prompt] for values in seeds]) for prompt in seeds[0] if prompt in shared}


def paired_means(after: Sequence[Values], before: Sequence[Values]) -> tuple[float, float]:
    """The means that `arm_delta` is the difference of: over the prompts that all seeds of both sides have.

    Where there are none, each side's own mean: nothing is compared.
    """
    mine, theirs = mean_over_seeds(after), mean_over_seeds(before)
    both = [prompt for prompt in mine if prompt in theirs]
    return mean([mine[i] for i in both or mine]), mean([theirs[i] for i in both or theirs])


def arm_delta(
    after: Sequence[Values],
    before: Sequence[Values],
    clusters: Clusters,
    tests: int = 1,
    bounds: Interval | None = GAP,
) -> Delta:
    """Paired difference after − before, each given as one `Values` a seed, over the prompts that all seeds
    have.

    Its 95 % interval is over clusters of prompts, and over seeds where a side has several. `bounds` are what
    the differences cannot go beyond: by default those of two rates; None where nothing can be told of them.

    `different` says that it is shown not to be 0 (see `intervals.shown`), at a level corrected for `tests`
    looked at together (Bonferroni).
    """
    mine, theirs = mean_over_seeds(after), mean_over_seeds(before)
    both = [prompt_id for prompt_id in mine if prompt_id in theirs]
    gaps, of = [mine[prompt_id] - theirs[prompt_id] for prompt_id in both], clusters_of(both, clusters)
    tables = [[[values[prompt_id] for prompt_id in both] for values in arm] for arm in (after, before)]
    chance = seed_chance(*tables, clusters=of)
    seeds = [[mean(values) for values in arm] for arm in tables]
    ci, strict = (
        with_seed_variance(
            mean(gaps),
            mean_interval(gaps, bounds, of, level) if bounds else (NAN, NAN),
            *seeds,
            chance=chance,
            groups=count(len(gaps), of),
            level=level,
        )
        for level in (0.95, 1 - 0.05 / tests)
    )
    return {
        "value": mean(gaps),
        "ci": clip_interval(ci, bounds) if bounds else ci,
        "n": len(gaps),
        "groups": count(len(gaps), of),
        "different": shown(gaps, strict, of, 0.05 / tests),
    }


def arm_deltas(after: Sequence[Table], before: Sequence[Table], clusters: Clusters) -> dict[str, Delta]:
    """`arm_delta` of every entry that all tables (one a seed) have: "all" on its own, the principles
    corrected for their number.
    """
    shared = [name for name in after[0] if all(name in table for table in (*after, *before))]
    principles = len([name for name in shared if name != "all"])
    return {
        name: arm_delta(
            [table[name] for table in after],
            [table[name] for table in before],
            clusters,
            1 if name == "all" else max(1, principles),
        )
        for name in shared
    }


def deltas(after: Table, before: Table, clusters: Clusters) -> dict[str, Delta]:
    """`arm_deltas` of two policies of one run."""
    return arm_deltas([after], [before], clusters)
