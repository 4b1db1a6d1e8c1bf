"""Three or more arms on one scale: strengths by gold and by the judge, and who wins against whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlaif.pages import charts
from rlaif.pages.page import ci, signed
from rlaif.report.arms import Arm
from rlaif.report.bradley_terry import Outcomes, strengths
from rlaif.report.matches import Match
from rlaif.report.win_rates import gold_outcomes, gold_win_rate, judge_win_rate

Matches = Mapping[tuple[int, int], Match]  # by the numbers of the arms
Pairs = Mapping[str, Mapping[str, Any]]  # "A–B" → the win rate of A over B


def overall(arms: Sequence[Arm], matches: Matches) -> dict[str, Any]:
    """By "gold" and "judge" where these know every pair: `strengths` by letter, `pairs` as "A–B" with the win
    rate of the first, whose `different` is corrected for their number, and both in words."""
    tests, found = len(matches), {}
    by_gold = {at: match.gold for at, match in matches.items() if match.gold}
    if len(by_gold) == tests:
        rates = {at: gold_win_rate(*tables, matches[at].clusters, tests) for at, tables in by_gold.items()}
        found["gold"] = _table(
            "gold", arms, matches, rates, {at: gold_outcomes(*t) for at, t in by_gold.items()}
        )
    by_judge = {at: match.verdicts for at, match in matches.items() if match.verdicts}
    if len(by_judge) == tests:
        rates = {at: judge_win_rate(said, tests) for at, said in by_judge.items()}
        found["judge"] = _table(
            "judge", arms, matches, rates, {at: said.outcomes for at, said in by_judge.items()}
        )
    return found


def _table(
    kind: str,
    arms: Sequence[Arm],
    matches: Matches,
    rates: Mapping[tuple[int, int], Mapping[str, Any]],
    outcomes: Mapping[tuple[int, int], Outcomes],
) -> dict[str, Any]:
    clusters = {prompt: key for match in matches.values() for prompt, key in match.clusters.items()}
    strong = strengths(outcomes, [len(arm.sides) for arm in arms], clusters)
    letters = [arm.letter for arm in arms]
    pairs = {f"{letters[i]}–{letters[j]}": dict(rate) for (i, j), rate in rates.items()}
    table = dict(zip(letters, strong, strict=True))
    names = {arm.letter: arm.name for arm in arms}
    return {**_in_words(names, kind, table, pairs), "strengths": table, "pairs": pairs}


def _in_words(names: Mapping[str, str], kind: str, table: Mapping[str, Any], pairs: Pairs) -> dict[str, str]:
    """`text`, which arm is strongest and whether that is shown, and `more`, every strength and every pair
    that is shown to differ."""
    if not any(rate["n"] for rate in pairs.values()):
        return {"text": f"By {kind} nothing is known of the {len(names)} arms.", "more": ""}
    order = sorted(table, key=lambda letter: -table[letter]["value"])
    best, ahead = order[0], _ahead(pairs)
    beaten = [names[worse] for better, worse in ahead if better == best]
    level = [names[letter] for letter in order[1:] if (best, letter) not in ahead]
    said = [f"shown to be ahead of {' and '.join(beaten)}"] if beaten else []
    said += [f"not shown to be ahead of {' or '.join(level)}"] if level else []
    each = [f"{names[letter]} {signed(table[letter]['value'])} {ci(table[letter]['ci'])}" for letter in order]
    others = [f"{names[better]} of {names[worse]}" for better, worse in ahead if better != best]
    further = f" Also shown to be ahead: {', '.join(others)}." if others else ""
    return {
        "text": f"By {kind} the strongest of {len(order)} arms is {names[best]}, {'; '.join(said)}.",
        "more": f"Strengths in log-odds: {', '.join(each)}.{further}",
    }


def _ahead(pairs: Pairs) -> list[tuple[str, str]]:
    """(letter ahead, letter behind) of each pair whose win rate is shown not to be one half."""
    found = []
    for name, rate in pairs.items():
        if rate["different"]:
            first, second = name.split("–")
            found.append((first, second) if rate["value"] > 0.5 else (second, first))
    return found


def strength_chart(data: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """Each arm's strength with its interval, gold above judge; None where there is none to draw."""
    rows = [
        (
            f"{letter} · {name}",
            [
                charts.Dot(one["value"], tuple(one["ci"]), slot, kind)
                for kind, slot in (("gold", "last"), ("judge", "mid0"))
                if kind in data and None not in (one := data[kind]["strengths"][letter])["ci"]
            ],
        )
        for letter, name in names.items()
    ]
    edge = max((abs(x) for _, dots in rows for dot in dots for x in dot.ci), default=0.0)
    if not edge:
        return None
    return charts.dot_chart("Strength, log-odds", rows, (-max(edge, 0.2), max(edge, 0.2)))
