"""Several arms on one scale and the picture of all runs, computed again: strengths by scipy, curves from the
rows."""

import html
import json
import math
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import optimize

from rlaif.report.arms import arms_of
from rlaif.report.bradley_terry import strengths
from rlaif.report.compared_pictures import pictures
from rlaif.report.win_rates import gold_outcomes, gold_win_rate
from tests.fake_run import fake_run
from tests.oracle import equations
from tests.oracle.figures import mean
from tests.oracle.leaves import check
from tests.oracle.test_seeds import interaction, joined, over_matches, seed_reuse_factor, tables

PAIRS = list(combinations(range(3), 2))


def strongest(wins: dict[Any, float], games: dict[Any, float]) -> Any:
    """The likeliest strengths that add up to 0, with a tie added to each pair."""

    def loss(free: Any) -> float:
        theta = [*free, -sum(free)]
        total = 0.0
        for (i, j), won in wins.items():
            gap, w, n = theta[i] - theta[j], won + 0.5, games[i, j] + 1
            total += w * np.logaddexp(0, -gap) + (n - w) * np.logaddexp(0, gap)
        return total

    free = optimize.minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-10}).x
    return np.array([*free, -sum(free)])


def played(leads: dict[Any, Any], match: int | None = None) -> tuple[dict[Any, float], dict[Any, float]]:
    """(wins, games) of each pair, of all matches or one."""
    rows = {pair: lead if match is None else lead[match : match + 1] for pair, lead in leads.items()}
    return {p: float(lead.sum()) for p, lead in rows.items()}, {
        p: float(lead.size) for p, lead in rows.items()
    }


@pytest.mark.parametrize(("counts", "n"), [((1, 1, 1), 60), ((3, 2, 1), 80)])
def test_strengths_and_the_win_rates_of_all_pairs(counts: tuple[int, int, int], n: int) -> None:
    made = [tables(s, c, rate, n) for s, (c, rate) in enumerate(zip(counts, (0.9, 0.75, 0.6), strict=True))]
    cluster = {f"p{i}": f"question {i // 2}" if n == 80 else f"p{i}" for i in range(n)}
    keys, matches = list(cluster.values()), max(counts)
    kept = [
        np.array([[t[r][p] for r in "ab"] for t in arm for p in cluster]).sum(1).reshape(-1, n)
        for arm in made
    ]
    leads = {
        (i, j): np.array(
            [
                0.5 + 0.5 * np.sign(kept[i][m % own % counts[i]] - kept[j][m % own % counts[j]])
                for m in range(matches)
            ]
        )
        for i, j in PAIRS
        for own in [max(counts[i], counts[j])]
    }
    theta = strongest(*played(leads))
    each = [strongest(*played(leads, m)) for m in range(matches)]

    def chance(i: int, j: int) -> float:
        return 1 / (1 + math.exp(theta[j] - theta[i]))

    information = np.zeros((3, 3))
    for (i, j), lead in leads.items():
        weight = (lead.size + 1) * chance(i, j) * chance(j, i)
        for x, y, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            information[x, y] += sign * weight
    inverse = np.linalg.inv(information + 1 / 3) - 1 / 3  # of what is orthogonal to (1, 1, 1)
    scores = np.zeros((matches, n, 3))
    for (i, j), lead in leads.items():
        scores[:, :, i] += lead - chance(i, j)
        scores[:, :, j] -= lead - chance(i, j)
    influence = scores @ inverse

    def edges(k: int) -> Any:
        sums = [
            sum(x for x, key in zip(influence[:, :, k].sum(0), keys, strict=True) if key == name)
            for name in dict.fromkeys(keys)
        ]
        groups = len(sums)
        error = math.sqrt(sum(s * s for s in sums) * groups / (groups - 1))
        half = equations.two_sided(equations.freedom(sums, [1.0] * groups), 0.95) * error
        ci = (theta[k] - half, theta[k] + half)
        if matches == 1:
            return ci
        table = theta[k] + influence[:, :, k] * influence[:, :, k].size
        more = seed_reuse_factor(counts, [2 / 3 if i == k else -1 / 3 for i in range(3)])
        share = min(1.0, more * interaction([table], keys, table.mean(0)))
        own = np.array([one[k] for one in each])
        return joined(theta[k], ci, [(own.mean() + math.sqrt(more) * (own - own.mean())).tolist()], share)

    def rate(i: int, j: int) -> dict[str, Any]:
        wins = leads[i, j][: max(counts[i], counts[j])]
        several = len(wins) > 1
        found = (
            over_matches(wins, keys, (counts[i], counts[j]))
            if several
            else equations.win_rate(wins[0].tolist(), keys)
        )
        level = 1 - 0.05 / 3
        strict = equations.interval(wins.ravel().tolist(), keys * len(wins), 0.0, 1.0, level)
        if several:
            more, own = seed_reuse_factor((counts[i], counts[j])), wins.mean(1)
            share = min(1.0, more * interaction([wins], keys, wins.mean(0)))
            wider = (own.mean() + math.sqrt(more) * (own - own.mean())).tolist()
            strict = joined(float(wins.mean()), strict, [wider], share, level)
        gaps = (wins - 0.5).ravel().tolist()
        apart = equations.is_shown(gaps, keys * len(wins), 0.05 / 3, -0.5, 0.5)
        return {**found, "different": bool(apart and (strict[0] > 0.5 or strict[1] < 0.5))}

    outcomes = {(i, j): gold_outcomes(made[i], made[j]) for i, j in PAIRS}
    printed = {
        "strengths": strengths(outcomes, counts, cluster),
        "pairs": {f"{i}–{j}": gold_win_rate(made[i], made[j], cluster, 3) for i, j in PAIRS},
    }
    oracles = {
        "strengths/*/value": lambda k: theta[int(k)],
        "strengths/*/ci": lambda k: edges(int(k)),
        "strengths/*/expected": lambda k: mean(chance(int(k), j) for j in range(3) if j != int(k)),
        "pairs/*/*": lambda pair, name: rate(*map(int, pair.split("–")))[name],
    }
    tight = {key: (oracle, 1e-5) for key, oracle in oracles.items()}
    assert check(printed, tight, {}) == 9 + 3 * 9


def test_the_picture_of_all_runs(tmp_path: Path) -> None:
    """Every point of the three charts, from the updates' rows and the evaluations."""
    runs = [
        fake_run(tmp_path / "a", keep={"base": 0.5, "ppo": 0.9}, prompts=80),
        fake_run(tmp_path / "b", keep={"base": 0.5, "ppo": 0.7}, prompts=80, human=True),
    ]
    expected: list[set[str]] = [set(), set(), set()]
    for number, run in enumerate(runs):
        path = next(run.glob("*_ppo")) / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for at, row in enumerate(rows):
            row["gold"] = (at % 5 + number) / 7
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        size = math.ceil(len(rows) / 12)
        groups = [rows[at : at + size] for at in range(0, len(rows), size)]
        means = [{k: mean(r[k] for r in g) for k in ("exact_kl", "score", "gold")} for g in groups]
        evaluated = [
            json.loads(line) for line in (run / "09_evaluate" / "evaluation.jsonl").read_text().splitlines()
        ]
        policies = [[r for r in evaluated if r["policy"] == name] for name in ("base", "ppo")]
        points = (
            [(m["exact_kl"], m["score"]) for m in means],
            [(m["score"], m["gold"]) for m in means],
            [(mean(r["kl"] for r in rs), mean(r["gold"]["all"] for r in rs)) for rs in policies],
        )
        for chart, own in zip(expected, points, strict=True):
            named = [f"{run.name}: {y:.4g} at {x:.4g}" for x, y in own]
            chart |= {*named, named[-1].replace(":", ", last:", 1)}
    drawn = pictures(arms_of(runs))
    assert len(drawn) == 3
    for chart, points in zip(drawn, expected, strict=True):
        assert set(map(html.unescape, re.findall(r"<title>(.*?)</title>", str(chart)))) == points
