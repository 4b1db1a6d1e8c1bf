"""Every figure of `rlaif compare --json` and of its page, computed again from both runs' rows."""

import math
import re
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy import stats

from rlaif.report import compare as comparing
from rlaif.report.comparison_text import in_words
from tests.oracle import equations
from tests.oracle.figures import Labels, Policies, asked, mean
from tests.oracle.leaves import check, check_words
from tests.oracle.rows import Rows, Table, over_orders
from tests.oracle.scripts import RULES
from tests.oracle.test_show import FORWARD, reward_of

FIGURES = ("kl", "length", "truncated", "refusal_rate", "over_refusal", "under_refusal")
NO_FIGURES = {
    "runs/*/cost/seconds": "time, which no row tells",
    "runs/*/cost/shares": "None: no fork",
    "runs/*/seed": "the config's",
    "differs/**": "what differs between the configs: tests/test_compare.py",
    "same_config": "says that nothing but the seed differs: tests/test_compare.py",
    "?verdict/winner": "the letter of an arm, None where none is ahead: tests/test_compare.py",
    "?win_rate/length_controlled/reason": "None where there is a figure",
}
UNEVALUATED = {
    "verdict/measure": "None: nothing was measured",
    "runs/*/policy": "None: no policy was evaluated",
    "win_rate/judge": "None: nobody was asked",
    "win_rate/taught": "None: likewise",
}
LAST = "ppo"


def test_every_figure_of_two_runs(
    runs: SimpleNamespace, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: dict[str, Any] = {}
    monkeypatch.setattr(comparing, "write_page", lambda path, template, **values: caught.update(values))
    printed = comparing.compare([runs.first, runs.second], out=tmp_path / "page.html")
    other = Rows(runs.second)
    oracles = {**facts(rows, other), **judged(rows, other), **measured(rows, other), **labelled(rows, other)}
    oracles |= turned(rows, other)
    assert check(printed, oracles, NO_FIGURES) > 150
    check_words([line for pair in (printed,) for line in in_words(pair)], printed)
    page(caught, printed, rows, other)


def test_every_figure_of_labels_alone(runs: SimpleNamespace, rows: Rows) -> None:
    """A run that stopped after its labels: nothing is printed of policies, and no number stands for
    nothing."""
    printed = comparing.compare([runs.first, runs.labels])
    other = Rows(runs.labels, human_weight=0.5)
    nothing = {"n": 0, "groups": 0, "different": False, "value": None, "ci": None}
    oracles = {
        **facts(rows, other),
        **labelled(rows, other),
        **turned(rows, other),
        "detectable": lambda: None,
        "win_rate/*": lambda name: 0 if name == "n" else None,
        **{f"{name}/{side}": lambda side=side: None for name in FIGURES for side in "AB"},
        **{f"{name}/delta/*": lambda name: nothing[name] for name in FIGURES},
        "prompts": lambda: 0,
    }
    assert check(printed, without(oracles, "win_rate/judge"), {**NO_FIGURES, **UNEVALUATED}) > 40
    check_words(in_words(printed), printed)


def without(oracles: dict[str, Any], *names: str) -> dict[str, Any]:
    """The oracle of a family of figures, spelt out where one of the family is no figure."""
    spelt = {
        f"win_rate/{name}": lambda name=name: 0 if name == "n" else None
        for name in ("value", "ci", "ties", "ties_ci", "invalid", "invalid_ci", "n")
    }
    return {key: value for key, value in {**oracles, **spelt}.items() if key not in ("win_rate/*", *names)}


def facts(a: Rows, b: Rows) -> dict[str, Any]:
    sides = {"A": a, "B": b}

    def of(side: str, name: str) -> float:
        rows = sides[side]
        return mean(Policies(rows).values(LAST, name).values()) if rows.policy_responses else math.nan

    return {
        "runs/*/prompts": lambda s: len(sides[s].policy_responses.get(LAST, ())),
        "runs/*/comparisons": lambda s: len(sides[s].comparisons),
        "runs/*/sources/*": lambda s, kind: sum(row["annotator"]["kind"] == kind for row in sides[s].labels),
        "runs/*/label_agreement_with_gold": lambda s: Labels(sides[s]).agreement(),
        "runs/*/label_agreement_with_gold_ci": lambda s: Labels(sides[s]).agreement_ci(),
        "runs/*/order_flip_rate": lambda s: Labels(sides[s]).flip_rate(),
        "runs/*/order_flip_rate_ci": lambda s: Labels(sides[s]).flip_ci(),
        "runs/*/reward_model_accuracy": lambda s: accuracy(sides[s]),
        "runs/*/reward_model_accuracy_ci": lambda s: accuracy_ci(sides[s]),
        "runs/*/cost/people": lambda s: sum(row["annotator"]["kind"] == "human" for row in sides[s].labels),
        "runs/*/cost/simulated": lambda s: 0,
        "runs/*/cost/ai_labels": lambda s: sum(row["annotator"]["kind"] == "ai" for row in sides[s].labels),
        "runs/*/cost/people_hours": lambda s: None,  # people's time was not measured
        "runs/*/cost/money": lambda s: None,  # there are no prices
        "runs/*/cost/cached": lambda s: 0,
        **{
            f"runs/*/cost/{key}": lambda s, key=key: spent(sides[s], key)
            for key in ("calls", "tokens", "prompt_tokens")
        },
        "runs/*/kl": (lambda s: of(s, "kl"), FORWARD),
        "runs/*/kl_left_out": lambda s: 0,
        "runs/*/length": lambda s: of(s, "length"),
        "runs/*/refusal_rate": lambda s: of(s, "refusal_rate"),
        "runs/*/over_refusal": lambda s: of(s, "over_refusal"),
        "runs/*/under_refusal": lambda s: math.nan,  # no prompt is tagged as one to refuse
        "runs/*/truncated": lambda s: of(s, "truncated"),
    }


def spent(rows: Rows, key: str) -> int:
    """Calls or tokens of all stages, by the rows that came of them."""
    return sum(stage[key] for stage in asked(rows))


def accuracy(rows: Rows) -> float:
    if not rows.policy_responses:
        return math.nan
    reward = reward_of(rows)
    return mean(reward.right(reward.margins))


def accuracy_ci(rows: Rows) -> tuple[float, float]:
    return reward_of(rows).accuracy_ci() if rows.policy_responses else equations.NOTHING


def judged(a: Rows, b: Rows) -> dict[str, Any]:
    """A's last policy against B's, by the judge in both orders, all prompts of both."""
    mine, theirs = a.policy_responses[LAST], b.policy_responses[LAST]
    prompts = [p for p in sorted(mine) if p in theirs]
    pairs = [(p, mine[p]["text"], theirs[p]["text"]) for p in prompts]
    chances, keys = [a.p_win(*pair) for pair in pairs], a.keys(prompts)
    longer = [len(a.turn(mine[p])) - len(b.turn(theirs[p])) for p in prompts]
    read = [
        (equations.outcome(c), d, key)
        for c, d, key in zip(chances, longer, keys, strict=True)
        if c is not None
    ]
    level = equations.at_equal_length([w for w, *_ in read], [d for _, d, _ in read], [k for *_, k in read])
    differ = [(p, x, y) for p, x, y in pairs if x != y]

    def alone(rule: str) -> dict[str, Any]:
        rows = [
            (p, 0.5 if x == y else a.by_rule(p, x, y).get(rule)) for p, x, y in pairs if rule in a.rules(p)
        ]
        return equations.win_rate([c for _, c in rows], a.keys(p for p, _ in rows))

    names = ("value", "ci", "ties", "ties_ci", "invalid", "invalid_ci", "n", "groups", "different")
    flips = a.flips(differ)
    flips_ci = equations.counted([(*a.flips([pair]), a.cluster[pair[0]]) for pair in differ])
    return {
        **{f"win_rate/{name}": lambda name=name: equations.win_rate(chances, keys)[name] for name in names},
        "win_rate/length_controlled/value": (lambda: level["value"], 1e-5),
        "win_rate/length_controlled/ci": (lambda: level["ci"], 1e-5),
        "win_rate/identical": lambda: len(pairs) - len(differ),
        "win_rate/verdicts": lambda: sum(2 * len(a.rules(p)) for p, *_ in differ),
        "win_rate/order_flip_rate": lambda: flips[0] / flips[1],
        "win_rate/order_flip_rate_ci": lambda: flips_ci,
        "win_rate/mass": lambda: 0.9,  # the script's, wherever it can be read
        "win_rate/by_principle/*/*": lambda rule, name: alone(rule)[name],
    }


def measured(a: Rows, b: Rows) -> dict[str, Any]:
    """What each side keeps by gold and by the judge, lengths, divergences, and the differences A − B."""
    sides = {"A": a, "B": b}
    prompts = [p for p in a.policy_responses[LAST] if p in b.policy_responses[LAST]]

    def table(side: str, kind: str) -> Table:
        rows = sides[side]
        found = rows.gold(LAST) if kind == "gold" else rows.opinions(LAST)
        return {rule: {p: x for p, x in values.items() if p in prompts} for rule, values in found.items()}

    def delta(kind: str, rule: str) -> dict[str, Any]:
        tests = 1 if rule == "all" else len(RULES)
        return equations.difference(table("A", kind)[rule], table("B", kind)[rule], a.cluster, tests)

    def kept(side: str) -> dict[str, float]:
        found = table(side, "gold")
        return {p: sum(found[rule].get(p, 0.0) for rule in RULES) for p in found["all"]}

    def by_gold() -> dict[str, Any]:
        mine, theirs = kept("A"), kept("B")
        wins = [0.5 + 0.5 * ((mine[p] > theirs[p]) - (mine[p] < theirs[p])) for p in mine]
        return equations.win_rate(wins, a.keys(mine))

    def ahead(side: str) -> int:
        mine, theirs = kept("A"), kept("B")
        sign = {"A": 1, "B": -1, "neither": 0}[side]
        return sum((mine[p] > theirs[p]) - (mine[p] < theirs[p]) == sign for p in mine)

    def apart(name: str) -> dict[str, Any]:
        values = [Policies(rows).values(LAST, name) for rows in (a, b)]
        bounds = (-math.inf, math.inf) if name in ("length", "kl") else ()
        found = equations.difference(*values, a.cluster, 1, *bounds)
        if name == "under_refusal":
            return {**found, "ci": equations.NOTHING}  # of no prompt
        # A difference in KL is too heavy-tailed for an interval, and so for being shown.
        return {**found, "ci": equations.NOTHING, "different": False} if name == "kl" else found

    oracles: dict[str, Any] = {
        "prompts": lambda: len(prompts),
        "gold_win_rate/*": lambda name: by_gold()[name],
        "gold_ahead/*": ahead,
        "detectable": lambda: shown_with_power(delta("gold", "all")["ci"]),
    }
    for kind in ("gold", "compliance"):
        oracles[f"{kind}/delta/*/*"] = lambda rule, name, kind=kind: delta(kind, rule)[name]
        for side in "AB":
            oracles[f"{kind}/{side}/*"] = lambda rule, kind=kind, side=side: paired(
                side, {of: table(of, kind)[rule] for of in "AB"}
            )
    for name in FIGURES:
        tolerance = FORWARD if name == "kl" else 0.0
        oracles[f"{name}/delta/*"] = (lambda part, name=name: apart(name)[part], tolerance)
        for side in "AB":
            values = (
                lambda name=name, side=side: paired(
                    side, {of: Policies(sides[of]).values(LAST, name) for of in "AB"}
                ),
                tolerance,
            )
            oracles[f"{name}/{side}"] = values
    return oracles


def paired(side: str, values: dict[str, dict[str, float]]) -> float:
    """A side's mean over the prompts whose value is known on both, so that two means and their difference
    agree."""
    return mean(x for p, x in values[side].items() if p in values["A"] and p in values["B"])


def labelled(a: Rows, b: Rows) -> dict[str, Any]:
    """Agreement and Cohen's kappa of verdicts, ties being one of their own, on the comparisons of both."""
    shared = [i for i in a.preferences if i in b.preferences]
    verdicts = [[equations.outcome(side.preferences[i]) for i in shared] for side in (a, b)]
    same = [x == y for x, y in zip(*verdicts, strict=True)]
    counts, n = [Counter(side) for side in verdicts], len(shared)
    chance = sum(counts[0][v] * counts[1][v] for v in (0.0, 0.5, 1.0)) / n**2 if n else math.nan
    keys = a.keys(a.comparisons[i]["prompt_id"] for i in shared)
    return {
        "labels/shared": lambda: n,
        "labels/A": lambda: len(a.preferences),
        "labels/B": lambda: len(b.preferences),
        "labels/agreement": lambda: mean(same),
        "labels/agreement_ci": lambda: equations.interval([float(x) for x in same], keys),
        "labels/kappa": lambda: (mean(same) - chance) / (1 - chance),
        "labels/kappa_ci": (lambda: equations.kappa_interval(*verdicts, keys), 1e-4),
    }


def shown_with_power(ci: tuple[float, float]) -> float:
    """The difference that exceeds a normal interval of this width in 80 of 100 samples."""
    error = (ci[1] - ci[0]) / 2 / stats.norm.ppf(0.975)
    return error * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8))


def turned(a: Rows, b: Rows) -> dict[str, Any]:
    """Which preferences and which verdicts by rule are others in B, of the comparisons of both."""
    shared = [i for i in a.preferences if i in b.preferences]
    key = {i: a.cluster[a.comparisons[i]["prompt_id"]] for i in shared}

    def by_rule(rows: Rows, pair: str) -> dict[str, float]:
        said: dict[str, list[float]] = defaultdict(list)
        for by in rows.said[pair].values():
            for rule, p in by.items():
                if rule is not None:
                    said[rule].append(over_orders(p))
        return {rule: mean(p) for rule, p in said.items()}

    verdicts = {i: (by_rule(a, i), by_rule(b, i)) for i in shared}
    moved = [(a.preferences[i], b.preferences[i], key[i]) for i in shared]

    def under(rule: str) -> list[tuple[float | None, float | None, str]]:
        rows = [(mine.get(rule), theirs.get(rule), key[i]) for i, (mine, theirs) in verdicts.items()]
        return [row for row in rows if row[:2] != (None, None)]

    best: dict[str, tuple[float, str]] = {}
    for (before, after, of), pair in zip(moved, shared, strict=True):
        change = (-round(abs(after - before), 6), pair)
        if abs(after - before) > 0.1 and change < best.get(of, (0.0, "")):
            best[of] = change
    furthest = [pair for _, pair in sorted(best.values())[:6]]
    counts = ("turned", "shifts")
    return {
        **({} if moved else {"labels/preferences": lambda: None}),
        "?labels/preferences/*": lambda name: turns(moved)[name],
        "?labels/principles/*/*": lambda rule, name: turns(under(rule))[name],
        **{
            f"?labels/preferences/{kind}/*": lambda name, kind=kind: turns(moved)[f"{kind}/{name}"]
            for kind in counts
        },
        **{
            f"?labels/principles/*/{kind}/*": lambda rule, name, kind=kind: turns(under(rule))[
                f"{kind}/{name}"
            ]
            for kind in counts
        },
        "?labels/examples/*/p_a": lambda n: [side.preferences[furthest[int(n)]] for side in (a, b)],
        "?labels/examples/*/verdicts/*": lambda n, rule: [
            said.get(rule) for said in verdicts[furthest[int(n)]]
        ],
    }


def turns(rows: list[tuple[float | None, float | None, str]]) -> dict[str, Any]:
    """Counts and shares of changes from one probability to another, by the path that prints them."""
    both = [(x, y, key) for x, y, key in rows if x is not None and y is not None]
    names = {0.0: "b", 0.5: "tie", 1.0: "a"}
    sides = [(names[equations.outcome(x)], names[equations.outcome(y)]) for x, y, _ in both]
    hits = {
        "changed": [x != y for x, y in sides],
        "flipped": [(x - 0.5) * (y - 0.5) < 0 and min(abs(x - 0.5), abs(y - 0.5)) > 1e-9 for x, y, _ in both],
    }
    sizes, keys = [abs(y - x) for x, y, _ in both], [key for *_, key in both]
    steps = {"≤ 0.05": (-1, 0.05), "0.05–0.25": (0.05, 0.25), "0.25–0.5": (0.25, 0.5), "> 0.5": (0.5, 2)}
    return {
        "both": len(both),
        "lost": sum(y is None for _, y, _ in rows),
        "gained": sum(x is None for x, *_ in rows),
        **{name: sum(found) for name, found in hits.items()},
        **{f"{name}_rate": mean(found) for name, found in hits.items()},
        **{
            f"{name}_ci": equations.counted([(int(h), 1, key) for h, key in zip(found, keys, strict=True)])
            for name, found in hits.items()
        },
        "groups": len(set(keys)),
        **{f"turned/{x} → {y}": n for (x, y), n in Counter(sides).items() if x != y},
        "shift": mean(sizes),
        "shift_ci": equations.interval(sizes, keys),
        **{f"shifts/{name}": sum(low < x <= high for x in sizes) for name, (low, high) in steps.items()},
    }


def page(caught: dict[str, Any], printed: dict[str, Any], a: Rows, b: Rows) -> None:
    """The page shows the same figures, and beside them a chart and the responses that differ most."""
    (pair,) = caught["pairs"]
    cases, chart = pair.pop("cases"), pair.pop("chart")
    assert caught["runs"] == printed["runs"]
    assert {key: printed[key] for key in pair} == pair
    shown = [case for kind in ("gained", "lost") for case in cases[kind]]
    assert shown
    for case in shown:
        gain = [
            mean(
                list(
                    side.truth(case.prompt_id, side.policy_responses[LAST][case.prompt_id]["text"]).values()
                )[1:]
            )
            for side in (a, b)
        ]
        assert case.gain == pytest.approx(gain[1] - gain[0])
        for response, side in zip(case.responses, (a, b), strict=True):
            truth = side.truth(case.prompt_id, side.policy_responses[LAST][case.prompt_id]["text"])
            assert {"all": truth["all"], **response.kept} == truth
    drawn = re.findall(r"<title>(.*?)</title>", str(chart))
    check_words(drawn, printed)
