"""What `rlaif compare` finds and does not find, on simulated arms with planted effects.

    python benchmarks/comparing.py --json comparing.json

Through the functions that make the intervals of a comparison (`arm_delta`, `length_controlled`, `strengths`),
on tables of outcomes and not on run folders. Prompts differ in hardness, which both arms share; prompts of a
group share it, too, and move together; each seed of an arm has its own shift.

* power: how often a true difference of +5 points is shown, beside the power that the intervals promise
  (`agreement.decisions.power` of each interval's width, on average);
* alarms: how often arms that differ by their seeds alone are called different, as if their configs differed;
* length: what the win rate at equal length leaves of a planted effect of length;
* strengths: how often the intervals of Bradley and Terry's strengths hold the truth.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlaif.agreement.decisions import power, standard_error
from rlaif.equal_length import length_controlled
from rlaif.report.bradley_terry import fit, strengths
from rlaif.report.measures import Values, arm_delta

Array = NDArray[np.float64]
EFFECT = 0.05
ARMS = (  # groups, prompts a group, seeds of either arm, standard deviation of a seed's shift
    (300, 1, 1, 0.0),
    (600, 1, 1, 0.0),
    (600, 1, 1, 0.02),
    (2400, 1, 1, 0.0),
    (100, 6, 1, 0.0),
    (14, 45, 1, 0.0),
    (600, 1, 3, 0.02),
    (600, 1, 5, 0.02),
    (100, 6, 3, 0.02),
    (600, 1, 2, 0.02),
)


def prompts_of(groups: int, size: int) -> tuple[list[str], dict[str, str], NDArray[np.intp]]:
    """(prompts, prompt → group, the group's number of each)."""
    names = [f"{g}.{s}" for g in range(groups) for s in range(size)]
    return names, {name: name.split(".")[0] for name in names}, np.repeat(np.arange(groups), size)


def arms(rng: np.random.Generator, setting: tuple[int, int, int, float], effect: float) -> Iterator[Any]:
    """Outcomes of both arms, one `Values` a seed, and each prompt's group."""
    groups, size, seeds, sd = setting
    names, clusters, of = prompts_of(groups, size)
    hard = 0.15 + 0.7 * rng.beta(2, 1, groups)  # share kept, of mean 0.62
    # In groups the difference itself varies from group to group.
    moved = effect + (0.1 * rng.uniform(-1, 1, groups) if size > 1 else 0.0)
    for shift in (moved, 0.0):
        tables: list[Values] = []
        for _ in range(seeds):
            p = np.clip((hard + shift)[of] + sd * rng.normal(), 0, 1)
            tables.append(dict(zip(names, (rng.random(len(names)) < p).astype(float).tolist(), strict=True)))
        yield tables
    yield clusters


def differences(draws: int, effect: float) -> list[dict[str, Any]]:
    """Of each setting: how often a difference is shown, and what the intervals promise and cover."""
    rows = []
    for setting in ARMS:
        rng = np.random.default_rng([0, *(int(1000 * x) for x in setting)])
        found = [arm_delta(a, b, c) for a, b, c in (arms(rng, setting, effect) for _ in range(draws))]
        rows.append(
            {
                "setting": list(setting),
                "draws": draws,
                "shown": np.mean([f["different"] and f["value"] > 0 for f in found]).item(),
                "called different": np.mean([f["different"] for f in found]).item(),
                "promised": np.mean([power(abs(effect), standard_error(f["ci"])) for f in found]).item(),
                "covered": np.mean([f["ci"][0] <= effect <= f["ci"][1] for f in found]).item(),
                "bias": np.mean([f["value"] for f in found]).item() - effect,
            }
        )
    return rows


LENGTHS = {
    "levels off (tanh)": np.tanh,
    "straight in the difference": lambda x: 0.6 * x,
    "whichever is longer": lambda x: 0.7 * np.sign(x),
}


def planted_lengths(draws: int, n: int = 600, ties: float = 0.2) -> list[dict[str, Any]]:
    """The win rate as it is and at equal length, where longer responses please the judge."""
    rows = []
    for name, effect in LENGTHS.items():
        for quality in (0.5, 0.6):
            for longer in (0.5, 1.0):
                rng = np.random.default_rng([1, int(10 * quality), int(10 * longer), *name.encode()])
                truth = ties / 2 + (1 - ties) * quality
                plain, level, hits = [], [], []
                for _ in range(draws):
                    gap = np.round(10 * (rng.normal(size=n) + longer))
                    logit = math.log(quality / (1 - quality)) + 1.2 * effect(gap / 10)
                    wins = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
                    wins[rng.random(n) < ties] = 0.5
                    found = length_controlled(wins, gap)
                    plain.append(wins.mean())
                    level.append(found["value"])
                    hits.append(found["ci"][0] <= truth <= found["ci"][1])
                rows.append(
                    {
                        "effect": name,
                        "longer": longer,
                        "truth": truth,
                        "plain": float(np.mean(plain)),
                        "at equal length": float(np.mean(level)),
                        "error": float(np.mean(level)) - truth,
                        "noise": float(np.std(level)) / math.sqrt(draws),
                        "covered": float(np.mean(hits)),
                        "draws": draws,
                    }
                )
    return rows


GAMES = (  # arms, groups, prompts a group, largest quality, seeds, standard deviation of a seed's shift
    (3, 10, 6, 0.3, 1, 0.0),
    (3, 14, 20, 0.3, 1, 0.0),
    (3, 30, 1, 0.3, 1, 0.0),
    (3, 100, 1, 0.3, 1, 0.0),
    (3, 100, 1, 2.0, 1, 0.0),
    (5, 50, 4, 0.8, 1, 0.0),
    (3, 100, 2, 0.3, 3, 0.15),
)
TIE = 0.5  # of the difference of two qualities, below which neither wins
ALIKE = 0.5  # standard deviation of a group's own taste, beside 1 of a response's luck


def ranked(draws: int) -> list[dict[str, Any]]:
    """How often each arm's interval holds the strength that infinitely many prompts would give."""
    rows = []
    for setting in GAMES:
        arms_, groups, size, best, seeds, sd = setting
        rng = np.random.default_rng([2, *(int(100 * x) for x in setting)])
        quality = np.linspace(best, -best, arms_)
        names, clusters, of = prompts_of(groups, size)
        pairs = list(combinations(range(arms_), 2))
        sides = np.array([[(k == i) - (k == j) for k in range(arms_)] for i, j in pairs], float)
        spread = math.sqrt(2 * (1 + ALIKE**2 * (size > 1) + sd**2))
        truth, _ = fit(_expected(sides @ quality, spread) * 1e9, np.full(len(pairs), 1e9), sides)
        hits, missing = [], 0
        for _ in range(draws):
            shape = (arms_, seeds)
            q = (
                quality[:, None, None]
                + sd * rng.normal(size=(*shape, 1))
                + rng.normal(size=(*shape, len(names)))
            )
            if size > 1:
                q = q + ALIKE * rng.normal(size=(*shape, groups))[:, :, of]
            games = {
                (i, j): [
                    dict(zip(names, (0.5 + 0.5 * (x > TIE) - 0.5 * (x < -TIE)).tolist(), strict=True))
                    for x in q[i] - q[j]
                ]
                for i, j in pairs
            }
            found = strengths(games, [size] * arms_, clusters)
            if math.isnan(found[0]["ci"][0]):
                missing += 1
                continue
            hits += [f["ci"][0] <= t <= f["ci"][1] for f, t in zip(found, truth, strict=True)]
        rows.append(
            {
                "setting": list(setting),
                "draws": draws,
                "none": missing / draws,
                "covered": float(np.mean(hits)) if hits else None,
            }
        )
    return rows


def _expected(gap: Array, spread: float) -> Array:
    """The expected outcome of a pair whose qualities are normal: ties are half a win."""
    from scipy.stats import norm

    up, down = norm.sf((TIE - gap) / spread), norm.cdf((-TIE - gap) / spread)
    return up + (1 - up - down) / 2


def setting_in_words(setting: list[float]) -> str:
    """Groups, seeds and their spread of a row."""
    groups, size, seeds, sd = setting
    prompts = f"{groups:.0f} prompts" if size == 1 else f"{groups * size:.0f} prompts in {groups:.0f} groups"
    spread = f" (sd {sd})" if sd else ""
    return f"{prompts}, {f'{seeds:.0f} seeds an arm' if seeds > 1 else 'one seed each'}{spread}"


def tables(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| arms | +5 points: shown | promised | interval holds it | bias | no difference: called one |"]
    lines.append("|---" * 6 + "|")
    for plus, none in zip(found["power"], found["alarms"], strict=True):
        lines.append(
            f"| {setting_in_words(plus['setting'])} | {plus['shown']:.3f} | {plus['promised']:.3f} | "
            f"{plus['covered']:.3f} | {plus['bias']:+.4f} | {none['called different']:.3f} |"
        )
    lines += ["", "| effect of length | A longer by | truth | as it is | at equal length | error | covered |"]
    lines.append("|---" * 7 + "|")
    lines += [
        f"| {r['effect']} | {r['longer']} sd | {r['truth']:.2f} | {r['plain']:.3f} | "
        f"{r['at equal length']:.3f} | {r['error']:+.3f} ± {1.96 * r['noise']:.3f} | {r['covered']:.3f} |"
        for r in found["length"]
    ]
    lines += ["", "| arms | prompts | best | seeds | covered | none |", "|---" * 6 + "|"]
    for row in found["strengths"]:
        arms_, groups, size, best, seeds, sd = row["setting"]
        covered = "–" if row["covered"] is None else f"{row['covered']:.3f}"
        spread = f" (sd {sd})" if seeds > 1 else ""
        where = f"{groups}" if size == 1 else f"{groups * size} in {groups} groups"
        lines.append(f"| {arms_} | {where} | {best} | {seeds}{spread} | {covered} | {row['none']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1000, help="samples of each setting; of lengths a third")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    found = {
        "power": differences(options.draws, EFFECT),
        "alarms": differences(options.draws, 0.0),
        "length": planted_lengths(max(1, options.draws // 3)),
        "strengths": ranked(max(1, options.draws // 2)),
    }
    print(tables(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
