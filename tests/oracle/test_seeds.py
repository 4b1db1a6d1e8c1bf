"""Figures of arms of several seeds, computed again from made-up rows."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rlaif.constitution import Constitution, Principle
from rlaif.feedback.judge import JudgeQuestion
from rlaif.records import Annotator, Comparison, Label, Prompt, verdict_of
from rlaif.report.measures import arm_deltas
from rlaif.report.win_rates import _by_principle, gold_win_rate
from tests.oracle import equations
from tests.oracle.figures import mean
from tests.oracle.leaves import check


def tables(seed: int, seeds: int, rate: float, n: int) -> list[dict[str, dict[str, float]]]:
    """Gold of two rules and of both at once on n prompts, of several seeds that share the prompts'
    hardness."""
    hard, found = np.random.default_rng(99).normal(0, 0.25, n), []
    rng = np.random.default_rng(seed)
    for _ in range(seeds):
        kept = {rule: rng.random(n) < np.clip(rate + hard + rng.normal(0, 0.03), 0, 1) for rule in "ab"}
        kept["all"] = kept["a"] & kept["b"]
        found.append({rule: {f"p{i}": float(x) for i, x in enumerate(row)} for rule, row in kept.items()})
    return found


def interaction(arms: list[Any], keys: list[str], means: Any) -> float:
    """The mean square of seeds with prompts over that of the prompts' `means`, summed over clusters."""

    def squares(row: Any) -> float:
        sums: dict[str, float] = defaultdict(float)
        for key, x in zip(keys, row, strict=True):
            sums[key] += x
        return sum(s * s for s in sums.values())

    freedom = sum(len(arm) - 1 for arm in arms)
    left = sum(
        squares([arm[s, i] - arm[:, i].mean() - arm[s].mean() + arm.mean() for i in range(arm.shape[1])])
        for arm in arms
        for s in range(len(arm))
    )
    return min(1.0, left / freedom * sum(1 / len(arm) for arm in arms) / squares(means - means.mean()))


def joined(value: float, ci: Any, arms: list[list[float]], chance: float, level: float = 0.95) -> Any:
    """An interval over prompts, less the chance that it shares with seeds, beside Student's t over seeds."""
    freedom = sum(len(arm) - 1 for arm in arms)
    pooled = sum((len(arm) - 1) * float(np.var(arm, ddof=1)) for arm in arms if len(arm) > 1) / freedom
    half = equations.two_sided(freedom, level) * math.sqrt(pooled * sum(1 / len(arm) for arm in arms))
    return tuple(
        value + side * math.sqrt((1 - chance) * (edge - value) ** 2 + half**2)
        for side, edge in zip((-1, 1), ci, strict=True)
    )


@pytest.mark.parametrize(("counts", "n"), [((3, 2), 80), ((2, 1), 60), ((2, 1), 40), ((1, 1), 40)])
def test_arms_of_several_seeds(counts: tuple[int, int], n: int) -> None:
    a, b = tables(1, counts[0], 0.9, n), tables(2, counts[1], 0.7, n)
    cluster = {f"p{i}": f"question {i // 2}" if n == 80 else f"p{i}" for i in range(n)}
    keys, several = list(cluster.values()), counts != (1, 1)
    few = sum(counts) == 3 and len(set(keys)) < 50

    def delta(rule: str) -> dict[str, Any]:
        arms = [np.array([list(table[rule].values()) for table in arm]) for arm in (a, b)]
        gaps = arms[0].mean(0) - arms[1].mean(0)
        chance = interaction(arms, keys, gaps) if several else 0.0
        seeds = [arm.mean(1).tolist() for arm in arms]
        alpha = 0.05 / (1 if rule == "all" else 2)

        def edges(level: float) -> Any:
            ci = equations.interval(gaps.tolist(), keys, -1.0, 1.0, level)
            if few:
                return equations.NOTHING
            return joined(float(gaps.mean()), ci, seeds, chance, level) if several else ci

        low, high = edges(1 - alpha)
        # Shown by its own interval, and by that over prompts and the test of signs, which are narrower.
        apart = (low > 0 or high < 0) and equations.is_shown(gaps.tolist(), keys, alpha, -1.0, 1.0)
        return {
            "value": gaps.mean(),
            "ci": edges(0.95) if few else np.clip(edges(0.95), -1.0, 1.0).tolist(),
            "n": n,
            "groups": len(set(keys)),
            "different": bool(apart),
        }

    printed = arm_deltas(a, b, cluster)
    assert check(printed, {"*/*": lambda rule, part: delta(rule)[part]}, {}) == 15


@pytest.mark.parametrize(
    ("counts", "n"), [((3, 2), 80), ((2, 2), 60), ((2, 1), 40), ((2, 1), 60), ((1, 4), 60)]
)
def test_win_rates_of_several_seeds(counts: tuple[int, int], n: int) -> None:
    """Matches in order, the shorter arm's seeds taken again; their wins together, and their spread beside
    it."""
    a, b = tables(1, counts[0], 0.9, n), tables(2, counts[1], 0.7, n)
    cluster = {f"p{i}": f"question {i // 2}" if n == 80 else f"p{i}" for i in range(n)}
    keys, matches = list(cluster.values()), max(counts)
    kept = [
        np.array([[t[r][p] for r in "ab"] for t in arm for p in cluster]).sum(1).reshape(-1, n)
        for arm in (a, b)
    ]
    lead = np.array([kept[0][m % counts[0]] - kept[1][m % counts[1]] for m in range(matches)])
    wins = 0.5 + 0.5 * np.sign(lead)
    figures = over_matches(wins, keys, counts)
    assert check(gold_win_rate(a, b, cluster), {"*": lambda name: figures[name]}, {}) == len(figures)


def seed_reuse_factor(counts: Sequence[int], sides: Sequence[float] = (1, -1)) -> float:
    """The variance of the mean of matches over what their own variance says of it, where every seed has the
    same: from the seeds that each match adds and takes away."""
    rows = [
        np.concatenate([side * np.eye(n)[m % n] for n, side in zip(counts, sides, strict=True)])
        for m in range(max(counts))
    ]
    taken = np.array(rows)
    told = ((taken - taken.mean(0)) ** 2).sum() / (len(taken) - 1) / len(taken)
    return float((taken.mean(0) ** 2).sum() / told)


def over_matches(wins: Any, keys: list[str], counts: tuple[int, int] = (2, 2)) -> dict[str, Any]:
    """The win rate of several matches on the same prompts, NaN where a verdict could not be read, and its
    intervals over prompts and matches of so many seeds of either arm."""
    more = seed_reuse_factor(counts)
    values = [None if math.isnan(x) else x for x in wins.ravel().tolist()]
    whole = equations.win_rate(values, keys * len(wins))
    few = len(wins) == 2 and len(set(keys)) < 50
    read = ~np.isnan(wins).any(0)

    def over(table: Any, ci: Any, at: Any) -> tuple[float, float]:
        if few:
            return equations.NOTHING
        kept = np.nan_to_num(table[:, at])
        spread = kept.mean(0)
        own = [key for key, known in zip(keys, at, strict=True) if known]
        chance = interaction([kept], own, spread) if spread.std() > 0 else 0.0
        each = np.array([float(np.nanmean(row)) for row in table])
        means = [(each.mean() + math.sqrt(more) * (each - each.mean())).tolist()]
        return joined(mean(table[~np.isnan(table)].tolist()), ci, means, min(1.0, more * chance))

    def cut(edges: tuple[float, float]) -> Any:
        return edges if few else (max(0.0, edges[0]), min(1.0, edges[1]))

    every = np.ones(len(keys), bool)
    tied = np.where(np.isnan(wins), np.nan, wins == 0.5)
    ci = cut(over(wins, whole["ci"], read))
    return {
        **whole,
        "ci": ci,
        "ties_ci": cut(over(tied, whole["ties_ci"], read)),
        "invalid_ci": cut(over(np.isnan(wins).astype(float), whole["invalid_ci"], every)),
        "different": whole["different"] and (ci[0] > 0.5 or ci[1] < 0.5),
    }


@pytest.mark.parametrize(("matches", "n"), [(3, 60), (2, 60), (2, 40)])
def test_win_rates_of_several_seeds_by_principle(matches: int, n: int) -> None:
    """Each principle's own win rate, over the questions it was asked about; equal texts are ties, and a
    verdict of which neither order could be read is invalid."""
    rng = np.random.default_rng(matches * n)
    judge = Annotator(kind="ai", id="judge")
    rules = {name: Principle(id=name, text=f"The text must be {name}.") for name in ("short", "kind")}
    asked = {"short": np.ones(n, bool), "kind": np.arange(n) % 4 > 0}
    wins = {name: np.full((matches, n), np.nan) for name in rules}
    questions, labels = [], {}
    for match in range(matches):
        row = []
        for at in range(n):
            prompt = Prompt(messages=[{"role": "user", "content": str(at)}], group=f"question {at // 2}")
            equal = rng.random() < 0.1
            pair = Comparison(prompt_id=prompt.id, a=f"a{match}.{at}", b=f"b{match}.{at}")
            own = tuple(rule for name, rule in rules.items() if asked[name][at])
            row.append(JudgeQuestion(pair, prompt, "same", "same" if equal else "other", own))
            labels[pair.id] = []
            for rule in own:
                said = [None if rng.random() < 0.2 else float(rng.choice([0.1, 0.5, 0.8])) for _ in "ab"]
                known = [p for p in said if p is not None]
                if equal:
                    wins[rule.id][match, at] = 0.5
                    continue
                labels[pair.id] += [
                    Label(
                        comparison_id=pair.id,
                        annotator=judge,
                        principle_id=rule.id,
                        order=order,
                        p_a=p,
                        verdict="invalid" if p is None else verdict_of(p),
                    )
                    for order, p in zip(("ab", "ba"), said, strict=True)
                ]
                if known:
                    x = sum(math.log(p / (1 - p)) for p in known) / len(known)
                    wins[rule.id][match, at] = equations.outcome(1 / (1 + math.exp(-x)))
        questions.append(row)
    cluster = [f"question {at // 2}" for at in range(n)]
    figures = {
        name: over_matches(wins[name][:, own], [key for key, here in zip(cluster, own, strict=True) if here])
        for name, own in asked.items()
    }
    printed = _by_principle(questions, labels, Constitution(name="two", principles=tuple(rules.values())))
    oracles = {"*/*": lambda rule, part: figures[rule][part]}
    assert check(printed, oracles, {}) == sum(map(len, figures.values()))
