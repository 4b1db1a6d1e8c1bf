"""Figures of a run as `rlaif show` and its report print them, computed again from `Rows`."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
from scipy import optimize

from tests.oracle import equations
from tests.oracle.rows import Rows, over_orders

NAN = math.nan


def mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values) if values else NAN


def share(part: float, whole: float) -> float:
    return part / whole if whole else NAN


class Policies:
    """The evaluated policies."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def values(self, policy: str, name: str) -> dict[str, float]:
        """prompt → KL, length, whether the limit cut it, whether it refuses (no response of this vocabulary
        does)."""
        policy_responses = self.rows.policy_responses[policy]
        return {
            "kl": self.rows.kl[policy],
            "length": {p: float(len(self.rows.turn(r))) for p, r in policy_responses.items()},
            "truncated": {
                p: float(self.rows.turn(r)[-1] != self.rows.tokenizer.eos_token_id)
                for p, r in policy_responses.items()
            },
            "refusal_rate": dict.fromkeys(policy_responses, 0.0),
            "over_refusal": {p: 0.0 for p in policy_responses if "fact" in self.rows.prompts[p]["tags"]},
            "under_refusal": {},  # no prompt is tagged as one to refuse
        }[name]

    def rate(
        self, values: dict[str, float], high: float = 1.0, low: float = 0.0
    ) -> tuple[float, tuple[float, float]]:
        listed = list(values.values())
        if not listed:
            return NAN, equations.NOTHING
        return mean(listed), equations.interval(listed, self.rows.keys(values), low, high)

    def figure(self, policy: str, name: str) -> tuple[float, tuple[float, float]]:
        """Only log-ratios, which stand for the KL of chosen responses, may be negative."""
        low = -math.inf if name == "kl" and policy == "best_of_n" else 0.0
        return self.rate(self.values(policy, name), math.inf if name in ("kl", "length") else 1.0, low)

    def wins(self, policy: str) -> dict[str, Any]:
        p = self.rows.against_base(policy)
        return equations.win_rate(list(p.values()), self.rows.keys(p))

    def unread(self, policy: str) -> tuple[int, int]:
        """(opinions of single responses that could not be read, those that were asked for)."""
        asked = {p: r for p, r in self.rows.policy_responses[policy].items() if p in self.rows.judged}
        read = sum(len(self.rows.compliance(p, r["text"])) for p, r in asked.items())
        total = sum(len(self.rows.rules(p)) for p in asked)
        return total - read, total

    def unread_ci(self, policy: str) -> tuple[float, float]:
        """The interval of the share of opinions that could not be read."""
        counts = []
        for prompt, response in self.rows.policy_responses[policy].items():
            if prompt in self.rows.judged:
                of = len(self.rows.rules(prompt))
                read = len(self.rows.compliance(prompt, response["text"]))
                counts.append((of - read, of, self.rows.cluster[prompt]))
        return equations.counted(counts)


class Labels:
    """The labels, by rule and together."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def of(self, rule: str | None = None) -> list[dict[str, Any]]:
        """The judge's labels under one rule, or all."""
        ai = [row for row in self.rows.labels if row["annotator"]["kind"] == "ai"]
        return [row for row in ai if rule in (None, row["principle_id"])]

    def read(self, rule: str | None = None) -> list[float]:
        return [row["p_a"] for row in self.of(rule) if row.get("p_a") is not None]

    def both(self, rule: str | None = None) -> list[dict[str, float]]:
        """p_a by order of the verdicts that were read in both, and are no tie in at least one."""
        found: dict[Any, dict[str, float]] = defaultdict(dict)
        for row in self.of(rule):
            if row.get("p_a") is not None:
                found[row["comparison_id"], row["principle_id"]][row["order"]] = row["p_a"]
        return [p for p in found.values() if len(p) == 2 and any(abs(x - 0.5) > 0.1 for x in p.values())]

    def flip_rate(self, rule: str | None = None) -> float:
        return mean((p["ab"] > 0.5) != (p["ba"] > 0.5) for p in self.both(rule))

    def flip_ci(self, rule: str | None = None) -> tuple[float, float]:
        """The interval of the flip rate over clusters of the comparisons' prompts."""
        found: dict[Any, dict[str, float]] = defaultdict(dict)
        for row in self.of(rule):
            if row.get("p_a") is not None:
                found[row["comparison_id"], row["principle_id"]][row["order"]] = row["p_a"]
        counts = [
            (int((p["ab"] > 0.5) != (p["ba"] > 0.5)), 1, self.key(pair))
            for (pair, _), p in found.items()
            if len(p) == 2 and max(abs(x - 0.5) for x in p.values()) > 0.1
        ]
        return equations.counted(counts)

    def key(self, pair: str) -> str:
        return self.rows.cluster[self.rows.comparisons[pair]["prompt_id"]]

    def invalid_ci(self) -> tuple[float, float]:
        """The interval of the share of the judge's verdicts that could not be read."""
        asked = [row for row in self.of() if row["verdict"] != "abstain"]
        return equations.counted(
            [(row.get("p_a") is None, 1, self.key(row["comparison_id"])) for row in asked]
        )

    def first_position(self) -> float:
        sided = [row for row in self.of() if abs((row.get("p_a") or 0.5) - 0.5) > 0.1]
        return mean((row["p_a"] > 0.5) == (row["order"] == "ab") for row in sided)

    def first_position_ci(self) -> tuple[float, float]:
        """The interval of the share of verdicts, ties apart, that choose the response shown first."""
        sided = [row for row in self.of() if abs((row.get("p_a") or 0.5) - 0.5) > 0.1]
        return equations.counted(
            [
                ((row["p_a"] > 0.5) == (row["order"] == "ab"), 1, self.key(row["comparison_id"]))
                for row in sided
            ]
        )

    def mass(self) -> float:
        return mean(row["answer_mass"] for row in self.of() if row.get("p_a") is not None)

    def reasons(self, reason: str) -> int:
        return sum(row.get("reason") == reason for row in self.of())

    def against_gold(self) -> list[tuple[str, str | None, float, int, str]]:
        """(annotator's kind, rule, p_a over both orders, sign of the truth, cluster of the prompt) where it
        is known."""
        found = []
        for pair, by in self.rows.said.items():
            row = self.rows.comparisons[pair]
            a, b = (self.rows.truth(row["prompt_id"], self.rows.text(row[side])) for side in "ab")
            del a["all"], b["all"]
            for (kind, _), read in by.items():
                for rule, p in read.items():
                    sides = (sum(a.values()), sum(b.values())) if rule is None else (a.get(rule), b.get(rule))
                    if None not in sides:
                        sign = int(sides[0] > sides[1]) - int(sides[0] < sides[1])
                        found.append((kind, rule, over_orders(p), sign, self.rows.cluster[row["prompt_id"]]))
        return found

    def decided(self, kind: str | None = None, rule: str | None = None) -> list[tuple[bool, str]]:
        """Of what the truth decides, whether the label agrees, with the cluster of its prompt."""
        rows = [row for row in self.against_gold() if kind in (None, row[0]) and rule in (None, row[1])]
        return [((p > 0.5) == (sign > 0) and p != 0.5, key) for *_, p, sign, key in rows if sign]

    def agreement(self, kind: str | None = None, rule: str | None = None) -> float:
        return mean(right for right, _ in self.decided(kind, rule))

    def agreement_ci(self, rule: str | None = None, kind: str | None = None) -> tuple[float, float]:
        found = self.decided(kind, rule)
        return equations.interval([float(right) for right, _ in found], [key for _, key in found])

    def gold_groups(self, rule: str | None = None) -> int:
        return len({key for _, key in self.decided(rule=rule)})

    def tie_distance(self) -> float:
        return mean(abs(p - 0.5) for _, rule, p, sign, _ in self.against_gold() if rule and not sign)


class Reward:
    """The reward model on pairs of held-out prompts; which prompts these are is the project's choice."""

    def __init__(self, rows: Rows, held: set[str]) -> None:
        self.rows = rows
        kind: dict[str, set[str]] = defaultdict(set)
        for row in rows.labels:
            kind[row["comparison_id"]].add(row["annotator"]["kind"])
        self.train: list[Any] = []
        self.heldout: list[Any] = []
        for pair, p_a in rows.preferences.items():
            row = rows.comparisons[pair]
            a, b = rows.responses[row["a"]], rows.responses[row["b"]]
            if a["text"] != b["text"]:
                part = self.heldout if row["prompt_id"] in held else self.train
                part.append((row["prompt_id"], a, b, p_a, " and ".join(sorted(kind[pair]))))
        self.margins = [rows.reward(prompt, a) - rows.reward(prompt, b) for prompt, a, b, *_ in self.heldout]
        self.p = [1 / (1 + math.exp(-m)) for m in self.margins]
        self.y = [pair[3] for pair in self.heldout]
        self.keys = rows.keys(pair[0] for pair in self.heldout)
        self.decided = [at for at, p in enumerate(self.y) if abs(p - 0.5) > 0.1]
        self.calibration = equations.calibration(self.p, self.y, self.keys)

    def right(self, margins: list[float], source: str | None = None) -> list[float]:
        """Of decided pairs whether a margin's sign is right, a half where there is none."""
        at = [i for i in self.decided if source in (None, self.heldout[i][4])]
        return [0.5 if margins[i] == 0 else float((margins[i] > 0) == (self.y[i] > 0.5)) for i in at]

    def accuracy_ci(self, source: str | None = None) -> tuple[float, float]:
        at = [i for i in self.decided if source in (None, self.heldout[i][4])]
        return equations.interval(self.right(self.margins, source), [self.keys[i] for i in at])

    def rule_ci(self, margins: list[float]) -> tuple[float, float]:
        """The interval of how often a rule that gives these margins is right."""
        return equations.interval(self.right(margins), [self.keys[i] for i in self.decided])

    def longer(self) -> list[float]:
        return [
            float(len(self.rows.rewarded(a)) - len(self.rows.rewarded(b))) for _, a, b, *_ in self.heldout
        ]

    def constant(self) -> list[float]:
        first = sum((pair[3] > 0.5) - (pair[3] < 0.5) for pair in self.train)
        return [1.0 if first >= 0 else -1.0] * len(self.heldout)

    def bin(self, number: int) -> tuple[float, float, int]:
        """(mean forecast, mean outcome, n) of the number-th bin that is filled."""
        filled = sorted({min(int(p * 10), 9) for p in self.p})
        at = [i for i, p in enumerate(self.p) if min(int(p * 10), 9) == filled[number]]
        return mean(self.p[i] for i in at), mean(self.y[i] for i in at), len(at)

    def cross_entropy(self, temperature: float = 1.0) -> float:
        logs = [m / temperature for m in self.margins]
        return mean(
            np.logaddexp(0, -m) * y + np.logaddexp(0, m) * (1 - y) for m, y in zip(logs, self.y, strict=True)
        )

    def entropy(self) -> float:
        return mean(-sum(q * math.log(q) for q in (p, 1 - p) if q > 0) for p in self.y)

    def temperature(self) -> float:
        """The T in [0.01, 100] of least cross-entropy, by the sign of its slope in 1/T, which is convex."""

        def slope(log_t: float) -> float:
            t = math.exp(log_t)
            return sum(
                (1 / (1 + math.exp(-m / t)) - y) * m for m, y in zip(self.margins, self.y, strict=True)
            )

        edge = math.log(100)
        if slope(edge) > 0 or slope(-edge) < 0:
            return 100.0 if slope(edge) > 0 else 0.01
        return math.exp(optimize.brentq(slope, -edge, edge))

    def reference(self) -> list[float]:
        """Rewards of the different token sequences trained on."""
        seen = {}
        for prompt, a, b, *_ in self.train:
            for response in (a, b):
                seen[prompt, tuple(self.rows.rewarded(response))] = response
        return [self.rows.reward(prompt, response) for (prompt, _), response in seen.items()]


class Chosen:
    """Best of n by reward and by gold."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def at(self, number: int, name: str) -> tuple[float, tuple[float, float]]:
        """Mean reward or gold of the best of 1, 2 or 4, and its interval."""
        best = self.rows.best_of(2**number)
        values, keys = [b[name == "gold"] for b in best.values()], self.rows.keys(best)
        edges = (
            equations.interval(values, keys)
            if name == "gold"
            else equations.interval(values, keys, -math.inf, math.inf)
        )
        return mean(values), edges

    @staticmethod
    def kl(m: int) -> float:
        return math.log(m) - (m - 1) / m

    def gao(self) -> dict[str, float | None]:
        """gain = d(α − βd) through two points: two equations of two unknowns."""
        d = [math.sqrt(self.kl(m)) for m in (2, 4)]
        gain = [self.at(n, "gold")[0] - self.at(0, "gold")[0] for n in (1, 2)]
        alpha, beta = np.linalg.solve([[x, -x * x] for x in d], gain)
        return {"alpha": alpha, "beta": beta, "peak": alpha / (2 * beta) if beta > 0 else None, "rmse": 0.0}


class Online:
    """PPO's summary from its updates: of three, the first and the last are its start and its end."""

    def __init__(self, rows: Rows) -> None:
        self.updates = rows.of("ppo", "metrics")

    def over(self, name: str) -> float:
        key, _, end = name.partition("_")
        at = 0 if end == "start" else -1
        return self.updates[at]["exact_kl" if name == "kl" else key]


def asked(rows: Rows) -> list[dict[str, int]]:
    """What each stage asked its models, counted from the rows that came of it: calls, tokens of questions and
    texts."""

    def written(stage: str, which: int = -1) -> dict[str, int]:
        made = rows.of(stage, "responses", which)
        return {
            "calls": len(made),
            "tokens": sum(len(rows.turn(r)) for r in made),
            "prompt_tokens": sum(len(rows.start(r["prompt_id"])) for r in made),
        }

    evaluated = written("evaluate")
    for policy, policy_responses in rows.policy_responses.items():
        for prompt, r in policy_responses.items():
            if prompt in rows.judged:
                same = policy == "base" or r["text"] == rows.policy_responses["base"][prompt]["text"]
                evaluated["calls"] += len(rows.rules(prompt)) * (1 if same else 3)
    nothing = {"calls": 0, "tokens": 0, "prompt_tokens": 0}
    revised = rows.of("critique", "revisions")
    words = sum(len(rows.text(r["to_id"]).split(" ")) + len(r["critique"].split(" ")) for r in revised)
    critique = {"calls": 2 * len(revised), "tokens": words, "prompt_tokens": 0}
    label = {**nothing, "calls": sum(row["annotator"]["kind"] == "ai" for row in rows.labels)}
    return [
        written("sample", 0),
        critique,
        nothing,
        written("sample"),
        nothing,
        label,
        nothing,
        written("best_of_n"),
        nothing,
        evaluated,
    ]


def flow(rows: Rows) -> list[dict[str, Any]]:
    """in, kept and dropped of every stage."""
    first, sampled, pairs = (
        rows.of("sample", "responses", 0),
        rows.of("sample", "responses"),
        rows.comparisons,
    )
    train = {row["prompt_id"] for row in first}
    by_prompt: dict[str, list[str]] = defaultdict(list)
    for row in sampled:
        by_prompt[row["prompt_id"]].append(row["text"])
    same = sum(a == b for texts in by_prompt.values() for at, a in enumerate(texts) for b in texts[:at])
    revisions, heldout = rows.of("critique", "revisions"), rows.policy_responses["base"]
    chains = defaultdict(list)
    for row in revisions:
        chains[row["prompt_id"]].append(row)
    revised = [chain for chain in chains.values() if any(row["status"] != "invalid" for row in chain)]
    final = {row["from_id"]: row["to_id"] for row in revisions}
    unchanged = sum(
        rows.text(chain[0]["from_id"]) == rows.text(end_of(final, chain[0]["from_id"])) for chain in revised
    )
    unconfirmed = len(rows.opinions_of_pairs) - len(rows.preferences)
    unread = pairs.keys() - rows.opinions_of_pairs.keys()
    abstained = unread & {row["comparison_id"] for row in rows.labels if row["verdict"] == "abstain"}
    empty = sum(not rows.text(row["to_id"]).strip() for row in revisions)
    prompts, kept = len(train), len(rows.preferences)
    return [
        {"in": prompts, "kept": len(first)},
        {"in": 2 * prompts, "kept": len(revisions)},
        {"in": len(revisions), "kept": len(revisions) - empty},
        {"in": 3 * prompts, "kept": len(sampled)},
        {
            "in": 3 * prompts + len(revised),
            "kept": len(pairs),
            "two samples with the same text": same,
            "revision without a change": unchanged,
        },
        {
            "in": len(pairs),
            "kept": kept,
            "revision not confirmed by the judge": unconfirmed,
            "no verdict could be read": len(unread - abstained),
            # None on some processors: who abstains depends on the responses, which differ in their last bits.
            "every verdict is an abstention": len(abstained),
        },
        {"in": kept, "kept": kept},
        {"in": 4 * len(heldout), "kept": len(rows.of("best_of_n", "responses"))},
        {"in": prompts, "kept": prompts},
        {"in": 4 * len(heldout), "kept": sum(map(len, rows.policy_responses.values()))},
    ]


def end_of(following: dict[str, str], response: str) -> str:
    while response in following and following[response] != response:
        response = following[response]
    return response
