"""What each rule does to the preferences, computed again from a run's rows by plain code."""

import math
from collections import defaultdict
from itertools import combinations
from typing import Any

from tests.oracle import equations
from tests.oracle.figures import mean
from tests.oracle.rows import WEIGHTS, Rows, logit, over_orders, over_rules
from tests.oracle.scripts import RULES

Hits = list[tuple[float, str]]  # value, cluster of its prompt


def rated(hits: Hits) -> dict[str, Any]:
    values, keys = [float(hit) for hit, _ in hits], [key for _, key in hits]
    if not hits:
        return {"value": None, "ci": None, "n": 0, "groups": 0}
    edges = equations.interval(values, keys)
    return {"value": mean(values), "ci": edges, "n": len(values), "groups": len(set(keys))}


def side(p: float | None) -> int:
    return 0 if p is None or abs(p - 0.5) <= 0.1 else 1 if p > 0.5 else -1


class Principles:
    """The labelled comparisons, one after the other."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.ids = rows, list(RULES)
        by_pair = defaultdict(list)
        for row in rows.labels:
            by_pair[row["comparison_id"]].append(row)
        self.labels = by_pair
        self.pairs = [i for i in rows.comparisons if by_pair[i]]

    def prompt(self, pair: str) -> str:
        return self.rows.comparisons[pair]["prompt_id"]

    def key(self, pair: str) -> str:
        return self.rows.cluster[self.prompt(pair)]

    def asked(self, pair: str, rule: str) -> list[dict[str, Any]]:
        return [row for row in self.labels[pair] if row.get("principle_id") == rule]

    def verdict(self, pair: str, rule: str) -> float | None:
        """The one judge's opinion under a rule, over both orders."""
        read = [row["p_a"] for row in self.asked(pair, rule) if row.get("p_a") is not None]
        return over_orders(read) if read else None

    def opinion(self, pair: str, left_out: str = "") -> float | None:
        """What all annotators together say of a pair, without one rule; None where nothing is said."""
        said = {r: p for r in self.ids if r != left_out and (p := self.verdict(pair, r)) is not None}
        votes = [row["p_a"] for row in self.labels[pair] if "principle_id" not in row and "p_a" in row]
        total, weight = (over_rules(said), 1.0) if said else (0.0, 0.0)
        if votes:
            n = self.rows.human_weight * len(votes)
            total, weight = total + n * (sum(votes) + 1 / 8) / (len(votes) + 1 / 4), weight + n
        return total / weight if weight else None

    def takes_part(self, pair: str, rule: str) -> bool:
        return self.verdict(pair, rule) is not None

    def rest(self, pair: str, rule: str) -> float | None:
        return self.opinion(pair, rule)

    def state(self, name: str, rule: str) -> dict[str, Any]:
        rows = [pair for pair in self.pairs if self.asked(pair, rule)]
        verdicts = [(self.verdict(pair, rule), self.key(pair)) for pair in rows]
        says = {
            "decides": lambda p: side(p) != 0,
            "ties": lambda p: p is not None and side(p) == 0,
            "abstains": lambda p: False,
            "unread": lambda p: p is None,
        }[name]
        return rated([(says(p), key) for p, key in verdicts])

    def agreement(self, rule: str, of_rest: bool) -> dict[str, Any]:
        hits: Hits = []
        for pair in self.pairs:
            own = side(self.verdict(pair, rule))
            other = side(self.opinion(pair, rule if of_rest else ""))
            if own and other:
                hits.append((own == other, self.key(pair)))
        return rated(hits)

    def deciding(self, rule: str) -> dict[str, Any]:
        return rated([(self.pusher(pair) == rule, self.key(pair)) for pair in self.preferred])

    def pusher(self, pair: str) -> str | None:
        p = self.opinion(pair)
        assert p is not None
        said = {r: x for r in self.ids if (x := self.verdict(pair, r)) is not None}
        towards = {r: math.copysign(1, p - 0.5) * WEIGHTS[r] * logit(x, 4.0) for r, x in said.items()}
        best = max(towards, key=lambda r: towards[r], default=None)
        return best if best and abs(p - 0.5) > 1e-9 and towards[best] > 0 else None

    @property
    def preferred(self) -> list[str]:
        return [pair for pair in self.pairs if self.opinion(pair) is not None]

    def without(self, rule: str, what: str) -> Any:
        both = [(self.opinion(pair), self.rest(pair, rule), self.key(pair)) for pair in self.preferred]
        if what == "gone":
            return sum(q is None for _, q, _ in both)
        hit = {
            "turned": lambda p, q: side(p) * side(q) < 0,
            "undecided": lambda p, q: side(p) != 0 and side(q) == 0,
            "decided": lambda p, q: side(p) == 0 and side(q) != 0,
            "moved": lambda p, q: abs(p - q),
        }[what]
        return rated([(hit(p, q), key) for p, q, key in both if q is not None])

    def pair(self, number: int, what: str) -> dict[str, Any]:
        one, other = list(combinations(self.ids, 2))[number]
        hits: Hits = []
        for pair in self.pairs:
            p, q = self.verdict(pair, one), self.verdict(pair, other)
            if p is not None and q is not None and (side(p) or side(q)):
                hits.append((side(p) * side(q) == (1 if what == "same" else -1), self.key(pair)))
        return rated(hits)

    def undecided(self) -> dict[str, Any]:
        decided: dict[str, bool] = {}
        for pair in self.pairs:
            hit = any(side(self.verdict(pair, rule)) for rule in self.ids)
            decided[self.prompt(pair)] = decided.get(self.prompt(pair), False) or hit
        found = rated([(not hit, self.rows.cluster[prompt]) for prompt, hit in decided.items()])
        self.open = {prompt for prompt, hit in decided.items() if not hit}
        return {**found, "count": len(self.open), "no_principle": 0}

    def by_tag(self, tag: str, what: str) -> int:
        self.undecided()
        prompts = {self.prompt(pair) for pair in self.pairs}
        tagged = {prompt for prompt in prompts if tag in self.rows.prompts[prompt]["tags"]}
        return len(tagged if what == "n" else tagged & self.open)


def oracles(rows: Rows) -> dict[str, Any]:
    """The oracle of each figure of the report's `coverage`."""
    p = Principles(rows)
    at = "coverage/figures/principles/*"

    def applies(n: str, part: str) -> Any:
        rule = p.ids[int(n)]
        return rated([(rule in rows.rules(p.prompt(pair)), p.key(pair)) for pair in p.pairs])[part]

    found: dict[str, Any] = {
        "coverage/figures/comparisons": lambda: len(p.pairs),
        "coverage/figures/unlabelled": lambda: len(rows.comparisons) - len(p.pairs),
        "coverage/figures/preferences": lambda: len(p.preferred),
        f"{at}/weight": lambda n: WEIGHTS[p.ids[int(n)]],
        f"{at}/labels": lambda n: sum(row.get("principle_id") == p.ids[int(n)] for row in rows.labels),
        f"{at}/applies/*": applies,
        f"{at}/agreement/*": lambda n, part: p.agreement(p.ids[int(n)], False)[part],
        f"{at}/agreement_with_rest/*": lambda n, part: p.agreement(p.ids[int(n)], True)[part],
        f"{at}/deciding/*": lambda n, part: p.deciding(p.ids[int(n)])[part],
        f"{at}/without/gone": lambda n: p.without(p.ids[int(n)], "gone"),
        f"{at}/without/*/*": lambda n, what, part: p.without(p.ids[int(n)], what)[part],
        "coverage/figures/pairs/*/*/*": lambda n, what, part: p.pair(int(n), what)[part],
        "coverage/figures/undecided/*": lambda part: p.undecided()[part],
        "coverage/figures/undecided/by_tag/*/*": p.by_tag,
    }
    for name in ("decides", "ties", "abstains", "unread"):
        found[f"{at}/{name}/*"] = lambda n, part, name=name: p.state(name, p.ids[int(n)])[part]
    return found
