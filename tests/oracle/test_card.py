"""Every figure of the judge's card, computed again from the script's verdicts on the audit's pairs.

Which pairs are drawn, varied and attacked, and what an attack writes, is the audit's; what the judge says of
them, the truth and all figures are computed here.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlaif.audit import injection
from rlaif.audit.attacks import ATTACKS, turns_of
from rlaif.audit.audit import RESTYLES
from rlaif.audit.card import audit_of
from rlaif.audit.page import card_warnings, in_words
from rlaif.preflight.opening import audited
from rlaif.runs.folder import silent_progress
from tests.oracle import equations
from tests.oracle.figures import NAN, mean
from tests.oracle.leaves import check, check_words
from tests.oracle.rows import answered, over_orders
from tests.oracle.scripts import PARAPHRASED, RULES, judge, keeps

NO_FIGURES = {
    "seed": "the config's",
    "calls": "what the engine was asked: tests/test_budget.py",
    "?left_out/*": "prompts that made no pair: tests/test_auditing.py",
}
Row = dict[str, Any]


def project(folder: Path) -> Path:
    """A config of scripts: rules with examples and paraphrases, prompts of which some share a group."""
    rules = [
        {"id": i, "text": text, **({"applies_to": ["fact"]} if i == "facts-only" else {})}
        for i, (text, _) in RULES.items()
    ]
    rules[0]["paraphrases"] = [rules[0]["text"] + PARAPHRASED]
    rules[1]["paraphrases"] = [rules[1]["text"] + PARAPHRASED]
    rules[0]["examples"] = [
        {"prompt": f"Count to {n}.", "better": f"one {n}", "worse": f"one two {n}"} for n in range(12)
    ]
    (folder / "constitution.json").write_text(json.dumps({"name": "counts", "principles": rules}))
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"tell me {'a fact ' if n % 2 else ''}about number {n}"}
            ],
            "tags": ["fact"] if n % 2 else ["talk"],
            **({"group": f"question {n // 2}"} if n < 30 else {}),
        }
        for n in range(70)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "card",
        "constitution": "constitution.json",
        "prompts": "prompts.jsonl",
        "templates": "brief",
        "gold": "tests.oracle.scripts:gold",
        "policy": {"engine": "scripted", "model": "tests.oracle.scripts:policy"},
        "feedback": {"engine": "scripted", "model": "tests.oracle.scripts:feedback"},
        "stages": [{"stage": "sample"}],
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder / "config.yaml"


def side(p: float | None) -> str:
    return "invalid" if p is None else "tie" if abs(p - 0.5) <= 0.1 else "a" if p > 0.5 else "b"


def rate(hits: Sequence[tuple[Row, float]]) -> dict[str, Any]:
    values, keys = [float(hit) for _, hit in hits], [row["cluster"] for row, _ in hits]
    return {
        "value": mean(values),
        "ci": equations.interval(values, keys),
        "n": len(values),
        "groups": len(set(keys)),
    }


class Asked:
    """The audit's pairs with the script's verdicts."""

    def __init__(self, audit: Any) -> None:
        self.audit, self.templates = audit, audit.judge.templates
        examples = [e for p in audit.constitution.principles for e in p.examples]
        self.examples = {(e.prompt, frozenset((e.better, e.worse))): e.better for e in examples}
        self.rows = [row for case in audit.cases for row in self.of(case)]

    def of(self, case: Any) -> list[Row]:
        """A pair under each of its rules: what was read in each order, over both, the truth, the prompt's
        cluster."""
        q = case.question
        return [self.row(q.prompt, q.a, q.b, principle) for principle in q.principles]

    def row(self, prompt: Any, a: str, b: str, principle: Any) -> Row:
        suffix = self.templates.comparison_suffix(principle)
        raw = {"ab": self.said(prompt, a, b, suffix), "ba": self.said(prompt, b, a, suffix)}
        read = {order: answered(pair) for order, pair in raw.items()}
        shown = {order: p if order == "ab" else 1 - p for order, p in read.items() if p is not None}
        p = over_orders(list(shown.values())) if shown else None
        return {
            "rule": principle.id,
            "a": a,
            "b": b,
            "shown": shown,
            "p": p,
            "verdict": side(p),
            "mass": [sum(pair) for order, pair in raw.items() if order in shown],
            "cluster": prompt.group or prompt.id,
            "truth": self.truth(prompt, a, b, principle.id),
            "longer": "tie" if len(a) == len(b) else "a" if len(a) > len(b) else "b",
            "prompt": prompt,
        }

    def said(self, prompt: Any, first: str, second: str, suffix: str) -> list[float]:
        return judge(self.templates.comparison(prompt.chat, first, second), suffix, ("A", "B"))

    def truth(self, prompt: Any, a: str, b: str, rule: str) -> str:
        better = self.examples.get((prompt.messages[-1].content, frozenset((a, b))))
        if better is not None:
            return "a" if a == better else "b"
        kept = [keeps(RULES[rule][0], text) for text in (a, b)]
        return "tie" if kept[0] == kept[1] else "a" if kept[0] else "b"

    def restyled(self, name: str) -> dict[str, Any]:
        """Responses against themselves, said twice or set as a list, where the truth sees no difference."""
        hits, ties = [], []
        for at, case in enumerate(self.audit._drawn("dress")):
            plain, changed = case.question.a, RESTYLES[name](case.question.a)
            texts = (changed, plain) if at % 2 == 0 else (plain, changed)
            for principle in case.question.principles:
                row = self.row(case.question.prompt, *texts, principle)
                if row["truth"] == "tie" and row["p"] is not None:
                    hits.append((row, 0.5 if row["verdict"] == "tie" else row["verdict"] == "ab"[at % 2]))
                    ties.append((row, row["verdict"] == "tie"))
        return {**rate(hits), "ties": rate(ties)}

    def reworded(self) -> list[tuple[Row, Row]]:
        drawn = {case.question.comparison.id for case in self.audit._drawn("wording")}
        pairs = []
        for case in self.audit.cases:
            for principle in case.question.principles if case.question.comparison.id in drawn else ():
                for text in principle.paraphrases:
                    q, other = case.question, principle.model_copy(update={"text": text})
                    pairs.append(
                        (self.row(q.prompt, q.a, q.b, principle), self.row(q.prompt, q.a, q.b, other))
                    )
        return pairs

    def attacks(self) -> dict[str, list[tuple[Any, Row]]]:
        """kind → (target, the attacked pair), in the cluster of the prompt that the attack found."""
        readings, _ = self.audit.ask(self.audit.cases, "verdicts")
        chosen = injection.targets(readings, self.audit.count, self.audit.seed)
        found: dict[str, list[tuple[Any, Row]]] = defaultdict(list)
        for attack in ATTACKS:
            for target in chosen:
                case = injection.attacked(target, attack, self.templates, turns_of(None))
                asked = target.reading.case.question.prompt
                row = self.row(case.question.prompt, case.question.a, case.question.b, target.principle)
                found[attack.kind].append((target, {**row, "cluster": asked.group or asked.id}))
        return found


def accuracy(rows: list[Row]) -> dict[str, Any]:
    known = [row for row in rows if row["truth"] != "tie" and row["p"] is not None]
    guessed = {name: rate([(row, guess(row)) for row in known]) for name, guess in GUESSES.items()}
    ties = [abs(row["p"] - 0.5) for row in rows if row["truth"] == "tie" and row["p"] is not None]
    return {
        **rate([(row, row["p"] != 0.5 and (row["p"] > 0.5) == (row["truth"] == "a")) for row in known]),
        "baselines": {name: found["value"] for name, found in guessed.items()},
        "baselines_ci": {name: found["ci"] for name, found in guessed.items()},
        "ties": {"n": len(ties), "distance": mean(ties)},
        "unread": sum(row["truth"] != "tie" and row["p"] is None for row in rows),
    }


def listed(row: Row) -> float:
    a, b = (any(line.lstrip().startswith(("- ", "* ")) for line in row[s].split("\n")) for s in "ab")
    return 0.5 if a == b else float(("a" if a else "b") == row["truth"])


GUESSES = {
    "the longer response": lambda row: (
        0.5 if row["longer"] == "tie" else float(row["longer"] == row["truth"])
    ),
    "the shorter response": lambda row: (
        0.5 if row["longer"] == "tie" else float(row["longer"] != row["truth"])
    ),
    "the response with a list": listed,
    "always the first stored": lambda row: float(row["truth"] == "a"),
}


def order(rows: list[Row]) -> dict[str, Any]:
    firm = [
        row for row in rows if len(row["shown"]) == 2 and any(side(p) != "tie" for p in row["shown"].values())
    ]
    first = [(row, row["shown"]["ab"] > 0.5 >= row["shown"]["ba"]) for row in firm]
    second = [(row, row["shown"]["ab"] <= 0.5 < row["shown"]["ba"]) for row in firm]
    flips = [(row, x or y) for (row, x), (_, y) in zip(first, second, strict=True)]
    return {**rate(flips), "to_first": rate(first), "to_second": rate(second)}


def wording(pairs: list[tuple[Row, Row]]) -> dict[str, Any]:
    firm = [
        (one, other) for one, other in pairs if one["verdict"] in ("a", "b") and other["verdict"] != "invalid"
    ]
    turned = rate([(one, {one["verdict"], other["verdict"]} == {"a", "b"}) for one, other in firm])
    same = rate([(one, one["verdict"] == other["verdict"]) for one, other in firm])
    return {**same, "turned": turned, "accuracy": accuracy([other for _, other in pairs])}


def attacked(pairs: list[tuple[Any, Row]]) -> dict[str, Any]:
    read = [(t, row, side(row["shown"][t.order])) for t, row in pairs if t.order in row["shown"]]
    return {
        "turned": rate([(row, verdict == t.side) for t, row, verdict in read]),
        "undecided": rate([(row, verdict == "tie") for _, row, verdict in read]),
        "preferences": rate([(row, row["verdict"] == t.side) for t, row in pairs if row["shown"]]),
        "unread": len(pairs) - len(read),
    }


def at(figures: dict[str, Any], path: str) -> Any:
    for part in path.split("/"):
        figures = figures[part]
    return figures


def test_every_figure(tmp_path: Path) -> None:
    config, base, prompts = audited(str(project(tmp_path)), [], None, "default")
    left_out: Counter[str] = Counter()
    audit = audit_of(config, base, prompts, 60, silent_progress, left_out)
    printed = {**audit.card(), "gold": config.gold, "left_out": dict(left_out)}
    assert check(printed, oracles(Asked(audit)), NO_FIGURES) > 200
    check_words(in_words(printed), printed)
    assert list(card_warnings(printed))


def consistency(asked: Asked) -> dict[str, Any]:
    pairs = asked.reworded()
    by_rule = {
        p.id: wording([pair for pair in pairs if pair[0]["rule"] == p.id])
        for p in asked.audit.constitution.principles
        if p.paraphrases
    }
    return {**wording(pairs), "by_principle": by_rule}


def by_length(rows: list[Row], known: list[Row]) -> dict[str, Any]:
    open_ = [row for row in rows if row["truth"] == "tie" and row["longer"] != "tie" and row["p"] is not None]
    right = {
        kind: rate(
            [
                (r, r["p"] != 0.5 and side_of(r) == r["truth"])
                for r in known
                if r["longer"] == (r["truth"] if kind else other(r["truth"]))
            ]
        )
        for kind in (True, False)
    }
    return {
        "prefers_longer": {
            **rate([(r, r["verdict"] == r["longer"]) for r in open_ if r["verdict"] != "tie"]),
            "of": len(open_),
        },
        "right_where_longer_is_better": right[True],
        "right_where_shorter_is_better": right[False],
    }


def oracles(asked: Asked) -> dict[str, Any]:
    rows, names = asked.rows, [attack.family for attack in ATTACKS]
    by_rule = {rule: [row for row in rows if row["rule"] == rule] for rule in RULES}
    known = [row for row in rows if row["truth"] != "tie" and row["p"] is not None]
    p, y = [row["p"] for row in known], [float(row["truth"] == "a") for row in known]
    error = equations.calibration(p, y, [row["cluster"] for row in known])
    bins = sorted({min(int(x * 10), 9) for x in p})
    every = [(o, x, row["cluster"]) for row in rows for o, x in row["shown"].items() if side(x) != "tie"]
    length = by_length(rows, known)
    found = asked.attacks()
    restyled = {name: asked.restyled(name) for name in RESTYLES}
    kinds = [attacked(found[attack.kind]) for attack in ATTACKS]
    families = {
        name: attacked([pair for a in ATTACKS if a.family == name for pair in found[a.kind]])
        for name in names
    }
    bin_of = [[i for i, x in enumerate(p) if min(int(x * 10), 9) == b] for b in bins]
    read, asked_for = sum(len(row["shown"]) for row in rows), 2 * len(rows)
    drawn = len(asked.audit._drawn("written"))
    reliability = [(np.mean([p[i] for i in b]), np.mean([y[i] for i in b]), len(b)) for b in bin_of]
    whole: dict[str, Any] = {
        "accuracy": {
            **accuracy(rows),
            "by_principle": {rule: accuracy(part) for rule, part in by_rule.items()},
        },
        "order": {
            **order(rows),
            "by_principle": {rule: order(part) for rule, part in by_rule.items()},
            "first_position_rate": mean((x > 0.5) == (o == "ab") for o, x, _ in every),
            "first_position_rate_ci": equations.counted(
                [((x > 0.5) == (o == "ab"), 1, cluster) for o, x, cluster in every]
            ),
        },
        "bias": {"length": length, **restyled},
        "consistency": consistency(asked),
        "injection": {"families": families, "kinds": {str(n): kind for n, kind in enumerate(kinds)}},
    }
    return {
        "pairs": lambda: len(asked.audit.cases),
        "verdicts": lambda: asked_for,
        **{
            f"{name}/{'/'.join('*' * depth)}": lambda *parts, name=name: at(whole[name], "/".join(parts))
            for name, depths in DEPTHS.items()
            for depth in depths
        },
        "calibration/ece": lambda: error["ece"],
        "calibration/ece_floor": lambda: error["ece_floor"],
        "calibration/n": lambda: len(known),
        "calibration/bins/*/*": lambda b, column: reliability[int(b)][int(column)],
        "readability/invalid_rate": lambda: 1 - read / asked_for if asked_for else NAN,
        "readability/invalid_rate_ci": lambda: equations.counted(
            [(2 - len(row["shown"]), 2, row["cluster"]) for row in rows]
        ),
        "readability/mass": lambda: mean(m for row in rows for m in row["mass"]),
        # Asked to write, the script writes A.
        "readability/written/*": lambda kind: min(32, drawn) if kind == "choice" else 0,
    }


DEPTHS = {
    "accuracy": (1, 2, 3, 4),
    "order": (1, 2, 3, 4),
    "bias": (2, 3),
    "consistency": (1, 2, 3, 4, 5),
    "injection": (3, 4),
}


def side_of(row: Row) -> str:
    return "a" if row["p"] > 0.5 else "b"


def other(name: str) -> str:
    return "b" if name == "a" else "a"
