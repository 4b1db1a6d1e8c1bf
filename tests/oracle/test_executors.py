"""Every figure of `rlaif constitution executors`, computed again from two scripts' verdicts and people's
votes."""

import math
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from rlaif.report.run_reader import plain
from rlaif.workbench.executors import Sources, executors
from rlaif.workbench.executors_page import headline, in_words, numbers
from tests.oracle import equations
from tests.oracle.figures import mean
from tests.oracle.leaves import check, check_words
from tests.oracle.rows import over_orders
from tests.oracle.scripts import RULES
from tests.oracle.test_judge_compare import Read, Row, kappa, nested, project, rate, side

JUDGES = ("first", "second")
Said = dict[str, dict[str, float]]  # executor → pair → P(a is better)


def said_under(read: Read, rule: str) -> Said:
    """What each judge says of each pair under a rule, both orders together."""
    return {
        f"{name}.yaml": {
            row["id"]: over_orders(list(row["read"][rule].values()))
            for row in read.verdicts(name)
            if rule in row["read"]
        }
        for name in JUDGES
    }


def said_of_all(read: Read) -> Said:
    """Under the whole constitution; of people the share of votes under a Beta(1/8, 1/8) prior."""
    p = {"a": 1.0, "b": 0.0, "tie": 0.5}
    shares = {
        pair: (sum(p[v] for v in votes.values()) + 1 / 8) / (len(votes) + 1 / 4)
        for pair, votes in read.votes.items()
    }
    judges = {
        f"{name}.yaml": {row["id"]: row["p"] for row in read.verdicts(name) if row["p"] is not None}
        for name in JUDGES
    }
    return {"people": shares, **judges}


def fleiss(ratings: list[list[str]], keys: list[str]) -> Row:
    """Fleiss' kappa with its interval: the agreement's, its variance multiplied by what leaving out each
    cluster in turn does to kappa's beside what it does to the agreement's."""
    rows = [(r, key) for r, key in zip(ratings, keys, strict=True) if len(r) > 1]
    agreed = [mean(float(x == y) for x, y in combinations(r, 2)) for r, _ in rows]
    of = [key for _, key in rows]

    def chance(kept: Iterable[int]) -> float:
        held = list(kept)
        shares = {v: mean(rows[i][0].count(v) / len(rows[i][0]) for i in held) for v in ("a", "b", "tie")}
        return sum(x * x for x in shares.values())

    def value(kept: Iterable[int]) -> float:
        held = list(kept)
        by_chance = chance(held)
        return 1 - (1 - mean(agreed[i] for i in held)) / (1 - by_chance)

    n, groups, whole = len(rows), list(dict.fromkeys(of)), range(len(rows))
    found, by_chance = value(whole), chance(whole)
    without = [value(i for i in whole if of[i] != key) for key in groups]
    scale = (1 - by_chance) * n * (len(groups) - 1) / len(groups)
    theirs = sum(((x - mean(without)) * scale) ** 2 for x in without)
    own = sum(sum(agreed[i] - mean(agreed) for i in whole if of[i] == key) ** 2 for key in groups)
    spread, degrees = equations.dispersion(agreed, of, 0.0, 1.0)
    k = equations.two_sided(min(degrees, len(groups) - 1), 0.95) ** 2 * spread / n * theirs / own
    m = mean(agreed)

    def beyond(p: float) -> float:
        return (m - p) ** 2 - k * p * (1 - p)

    low, high = (equations.edge(beyond, m, end) for end in (0.0, 1.0))
    return {
        "value": found,
        "ci": (max(-1.0, 1 - (1 - low) / (1 - by_chance)), 1 - (1 - high) / (1 - by_chance)),
        "n": n,
        "groups": len(groups),
    }


Two = tuple[str, str, str]  # cluster, verdicts of two executors


def two_by_two(said: Said, keys: dict[str, str], names: Iterable[tuple[str, str]]) -> list[Two]:
    return [
        (keys[pair], side(said[x][pair]), side(said[y][pair]))
        for x, y in names
        for pair in said[x]
        if pair in said[y]
    ]


def agreement(rows: list[Two]) -> Row:
    """Agreement of executors two by two, raw and beyond chance, and how they differ."""
    both = [(a != b, key) for key, a, b in rows if "tie" not in (a, b)]
    some = [("tie" in (a, b), key) for key, a, b in rows if (a, b) != ("tie", "tie")]
    mine, theirs, of = ([row[at] for row in rows] for at in (1, 2, 0))
    return {
        "agreement": rate([(a == b, key) for key, a, b in rows]),
        "kappa": {
            "value": kappa(mine, theirs),
            "ci": equations.kappa_interval(mine, theirs, of),
            "n": len(rows),
        },
        "opposite": rate(both),
        "one_sided": rate(some),
    }


def figures(said: Said, keys: dict[str, str], flips: dict[str, Row]) -> Row:
    """One principle's figures; no executor of these is silent."""
    pairs = list(dict.fromkeys(pair for by in said.values() for pair in by))
    ratings = [[side(by[pair]) for by in said.values() if pair in by] for pair in pairs]
    return {
        "executors": {
            who: {
                "n": len(by),
                "decides": rate([(side(p) != "tie", keys[pair]) for pair, p in by.items()]),
                **flips.get(who, {"flip_rate": None, "flip_rate_ci": None, "flips_n": 0}),
                "kappa": agreement(two_by_two(said, keys, [(who, o) for o in said if o != who]))["kappa"],
            }
            for who, by in said.items()
        },
        **agreement(two_by_two(said, keys, combinations(said, 2))),
        "kappa": fleiss(ratings, [keys[pair] for pair in pairs]),
        "two": {f"{x} · {y}": agreement(two_by_two(said, keys, [(x, y)])) for x, y in combinations(said, 2)},
    }


def flips_under(read: Read, rule: str) -> dict[str, Row]:
    found = {}
    for name in JUDGES:
        asked = [(row["read"].get(rule, {}), row["key"]) for row in read.verdicts(name)]
        both = [(by, key) for by, key in asked if len(by) == 2]
        firm = [
            ((by["ab"] > 0.5) != (by["ba"] > 0.5), key)
            for by, key in both
            if any(side(p) != "tie" for p in by.values())
        ]
        share = rate(firm)
        found[f"{name}.yaml"] = {
            "flip_rate": share["value"],
            "flip_rate_ci": share["ci"],
            "flips_n": share["n"],
        }
    return found


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Row]:
    folder = tmp_path_factory.mktemp("executors")
    labels = project(folder)
    judges = tuple(str(folder / f"{name}.yaml") for name in JUDGES)
    return folder, plain(executors(folder / "c.json", Sources(judges, labels=labels, pairs=0)))


def test_every_figure(printed: tuple[Path, Row]) -> None:
    folder, found = printed
    read = Read(folder)
    keys = {row["id"]: row["key"] for row in read.pairs}
    by_rule = {rule: said_under(read, rule) for rule in RULES}
    rows = {rule: figures(said, keys, flips_under(read, rule)) for rule, said in by_rule.items()}
    order = [row["id"] for row in found["principles"]]
    assert order == sorted(rows, key=lambda rule: rows[rule]["kappa"]["value"])
    whole = figures(said_of_all(read), keys, {})
    pooled = [
        row for rule in order for row in two_by_two(by_rule[rule], keys, combinations(by_rule[rule], 2))
    ]
    oracles: dict[str, Any] = {
        "comparisons": lambda: len(read.pairs),
        **{k: v for at, rule in enumerate(order) for k, v in nested(f"principles/{at}", rows[rule]).items()},
        **nested("whole", whole),
        **nested("together", agreement(pooled)),
        "principles/*/examples/*/p_a/*": lambda at, n, who: by_rule[order[int(at)]][who][
            found["principles"][int(at)]["examples"][int(n)]["comparison_id"]
        ],
        "whole/examples/*/p_a/*": lambda n, who: said_of_all(read)[who][
            found["whole"]["examples"][int(n)]["comparison_id"]
        ],
    }
    assert check(found, oracles, {}) > 250
    check_words([headline(found), *in_words(found)], found)
    assert all(math.isfinite(row["kappa"]["value"]) for row in found["principles"])
    assert numbers(found["principles"][0]).startswith("the same verdict in ")
