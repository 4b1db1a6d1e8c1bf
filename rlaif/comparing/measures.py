"""Numbers per held-out prompt, so that everything stays paired: gold, compliance, their differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

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


def delta(after: Values, before: Values, tests: int = 1) -> Delta:
    """Paired difference after − before with a 95 % bootstrap interval over prompts.

    `different` says that the interval excludes 0 at a level corrected for `tests` looked at together (Bonferroni),
    and that there are at least 20 prompts: below that a bootstrap is too sure of itself.
    """
    shared = [prompt_id for prompt_id in after if prompt_id in before]
    gaps = [after[prompt_id] - before[prompt_id] for prompt_id in shared]
    ci = bootstrap_mean(gaps)
    low, high = ci if tests == 1 else bootstrap_mean(gaps, level=1 - 0.05 / tests)
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
    return "the luck of a seed: nothing else differs" if same else "not shown after correction"


def deltas(after: Table, before: Table) -> dict[str, Delta]:
    """`delta` of every entry both tables have: "all" on its own, the principles corrected for their number."""
    shared = [name for name in after if name in before]
    principles = len([name for name in shared if name != "all"])
    return {
        name: delta(after[name], before[name], 1 if name == "all" else max(1, principles)) for name in shared
    }
