"""Every figure of `rlaif judge compare`, computed again from scripts' verdicts and three people's votes."""

import json
import math
from collections import Counter
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest

from rlaif.audit.page import in_words as in_words_of_card
from rlaif.engines import Scripted
from rlaif.preflight.opening import audited
from rlaif.records import Annotator, Comparison, Label, Prompt, Response
from rlaif.report.run_reader import plain
from rlaif.workbench.judge_comparison import JudgesAsked, compare_judges
from rlaif.workbench.judge_comparison_page import in_words, write_judge_comparison
from rlaif.workbench.people_truth import card_on_labels
from tests.oracle import equations
from tests.oracle.figures import mean
from tests.oracle.leaves import check, check_words
from tests.oracle.rows import answered, logit, over_orders, over_rules
from tests.oracle.scripts import RULES, chance, keeps, prefers

PEOPLE = ("ann", "ben", "cleo")
WORDS = ("no", "yes", "7", "fine.", "rain", "cold", "- it", "now")
BAR = 0.6
Row = dict[str, Any]
NO_FIGURES = {
    "judges/*/cost/*": "what the engine counts: tests/test_budget.py",
    "judges/*/asked/*": "how the judge is asked",
    "constitution/principles": "the constitution's",
    "?disagreements/*/people": "a side, else nothing",
    "?left_out/*": "none here: tests/test_judge_compare.py",
}


def steadier(rule: str, first: str, second: str) -> list[float]:
    """Another judge: nearer to the rules, with a lean to the longer response."""
    luck = chance("steadier", rule, first, second)
    lead = 0.25 * (keeps(rule, first) - keeps(rule, second)) + 0.3 * (luck - 0.5)
    lead += 0.1 * ((len(first) > len(second)) - (len(first) < len(second)))
    return [0.5 + max(-0.49, min(0.49, lead)), 0.5 - max(-0.49, min(0.49, lead))]


def second() -> Scripted:
    def score(messages: list[dict[str, str]], suffix: str, choices: tuple[str, ...]) -> list[float]:
        text = messages[-1]["content"]
        rule = suffix.split("Rule: ")[-1].split("\n")[0]
        a, b = (text.split(f"Reply {side}: ")[-1].split("\nReply")[0].strip() for side in "AB")
        return steadier(rule, a, b)

    return Scripted(on_score=score, name="second")


def said_of(rule: str, name: str, text: str, other: str) -> list[float]:
    return (prefers if name == "first" else steadier)(rule, text, other)


def project(folder: Path) -> Path:
    """People's labels on pairs of random texts, some prompts of one group, and two judges' configs."""
    texts = {name: text for name, (text, _) in RULES.items()}
    rules = [{"id": name, "text": text, "weight": 1.0 + (name == "even")} for name, text in texts.items()]
    (folder / "c.json").write_text(json.dumps({"name": "counts", "principles": rules}))
    (folder / "p.jsonl").write_text('{"prompt": "x"}\n')
    for name, script in (("first", "scripts:feedback"), ("second", "test_judge_compare:second")):
        model = {"engine": "scripted", "model": f"tests.oracle.{script}"}
        config = {"name": name, "constitution": "c.json", "prompts": "p.jsonl", "templates": "brief"}
        config |= {"policy": model, "feedback": model, "stages": [{"stage": "sample"}]}
        (folder / f"{name}.yaml").write_text(json.dumps(config))
    rows: dict[str, list[Any]] = {"prompts": [], "responses": [], "comparisons": [], "labels": []}
    for n in range(120):
        message = {"role": "user", "content": f"tell me about number {n}"}
        group = f"question {n // 3}" if n < 60 else ""
        prompt = Prompt.model_validate({"messages": [message], "group": group})
        a, b = (
            Response(prompt_id=prompt.id, text=written(n, side), model="m", index=side) for side in range(2)
        )
        pair = Comparison(prompt_id=prompt.id, a=a.id, b=b.id)
        rows["prompts"].append(prompt)
        rows["responses"] += [a, b]
        rows["comparisons"].append(pair)
        rows["labels"] += [label(pair, who, vote(who, a.text, b.text)) for who in PEOPLE if voted(who, n)]
    for name, made in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(row.to_json() + "\n" for row in made))
    return folder / "labels.jsonl"


def written(n: int, side: int) -> str:
    count = 1 + int(5 * chance("count", n, side))
    return " ".join(WORDS[int(8 * chance("word", n, side, at))] for at in range(count))


def voted(who: str, n: int) -> bool:
    return chance("voted", who, n) < 0.9


def vote(who: str, a: str, b: str) -> str:
    """Which keeps more rules, by the person's luck."""
    lead = sum(keeps(text, a) - keeps(text, b) for text, _ in RULES.values()) + 4 * (chance(who, a, b) - 0.5)
    return "tie" if abs(lead) < 0.5 else "a" if lead > 0 else "b"


def label(pair: Comparison, who: str, verdict: Any) -> Label:
    p = {"a": 1.0, "b": 0.0, "tie": 0.5}[verdict]
    return Label(comparison_id=pair.id, annotator=Annotator(kind="human", id=who), verdict=verdict, p_a=p)


def side(p: float | None) -> str:
    return "invalid" if p is None else "tie" if abs(p - 0.5) <= 0.1 else "a" if p > 0.5 else "b"


class Read:
    """The pairs with people's majority, and each judge's verdicts on them."""

    def __init__(self, folder: Path) -> None:
        def jsonl(name: str) -> list[Row]:
            return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]

        prompts = {row["id"]: row for row in jsonl("prompts")}
        texts = {row["id"]: row["text"] for row in jsonl("responses")}
        votes: dict[str, dict[str, str]] = {}
        for row in jsonl("labels"):
            votes.setdefault(row["comparison_id"], {})[row["annotator"]["id"]] = row["verdict"]
        self.labels, self.votes = len(jsonl("labels")), votes
        self.pairs = []
        for row in jsonl("comparisons"):
            if row["id"] in votes:
                prompt = prompts[row["prompt_id"]]
                key = prompt.get("group") or prompt["id"]
                a, b = texts[row["a"]], texts[row["b"]]
                self.pairs.append(
                    {
                        "id": row["id"],
                        "a": a,
                        "b": b,
                        "key": key,
                        "truth": most(list(votes[row["id"]].values())),
                    }
                )

    def verdicts(self, name: str) -> list[Row]:
        """By pair p under the whole constitution, and what was read by rule and order."""
        found = []
        for pair in self.pairs:
            read: dict[str, dict[str, float]] = {}
            masses = []
            for rule, (text, _) in RULES.items():
                for order, texts in (("ab", (pair["a"], pair["b"])), ("ba", (pair["b"], pair["a"]))):
                    raw = said_of(text, name, *texts)
                    p = answered(raw)
                    if p is not None and not math.isnan(p):
                        read.setdefault(rule, {})[order] = p if order == "ab" else 1 - p
                        masses.append(sum(raw))
            whole = over_rules({rule: over_orders(list(by.values())) for rule, by in read.items()})
            p = whole if read else None
            found.append({**pair, "read": read, "mass": masses, "p": p, "said": side(p)})
        return found


def most(votes: list[str]) -> str | None:
    counts = Counter(votes).most_common()
    return counts[0][0] if len(counts) == 1 or counts[0][1] > counts[1][1] else None


def rate(hits: list[tuple[float, str]]) -> Row:
    values, keys = [float(x) for x, _ in hits], [key for _, key in hits]
    edges = equations.interval(values, keys) if values else (0.0, 1.0)
    return {"value": mean(values), "ci": edges, "n": len(values), "groups": len(set(keys))}


def longer(row: Row) -> str:
    a, b = len(row["a"]), len(row["b"])
    return "tie" if a == b else "a" if a > b else "b"


def is_right(row: Row) -> bool:
    return row["p"] is not None and row["p"] != 0.5 and (row["p"] > 0.5) == (row["truth"] == "a")


def judge_figures(rows: list[Row], judges: int) -> Row:
    decided = [row for row in rows if row["truth"] in ("a", "b")]
    read = [row for row in decided if row["p"] is not None]
    known = [row for row in rows if row["truth"]]
    p, y = [row["p"] for row in read], [float(row["truth"] == "a") for row in read]
    keys = [row["key"] for row in read]
    bins = sorted({min(int(x * 10), 9) for x in p})
    of_bin = [[i for i, x in enumerate(p) if min(int(x * 10), 9) == b] for b in bins]
    both = [(row, by) for row in rows for by in row["read"].values() if len(by) == 2]
    firm = [(row, by) for row, by in both if any(side(x) != "tie" for x in by.values())]
    ties = [abs(row["p"] - 0.5) for row in rows if row["truth"] == "tie" and row["p"] is not None]
    asked = 2 * len(RULES) * len(rows)
    got = sum(len(by) for row in rows for by in row["read"].values())
    sided = [row for row in rows if row["said"] in ("a", "b") and longer(row) != "tie"]
    right = [(is_right(row), row["key"]) for row in decided]
    agreed = [(row["said"] == row["truth"], row["key"]) for row in known]
    return {
        "pairs": len(rows),
        "accuracy": rate(right),
        "readable": rate([(is_right(row), row["key"]) for row in read]),
        "decision": decision(right, judges),
        "people": {
            "agreement": rate(agreed),
            "kappa": kappa([row["said"] for row in known], [row["truth"] for row in known]),
            "kappa_ci": equations.kappa_interval(
                [row["said"] for row in known], [row["truth"] for row in known], [row["key"] for row in known]
            ),
        },
        "calibration": {
            **equations.calibration(p, y, keys),
            "n": len(read),
            "bins": {
                str(at): {"0": mean(p[i] for i in b), "1": mean(y[i] for i in b), "2": len(b)}
                for at, b in enumerate(of_bin)
            },
        },
        "order": {
            **rate([((by["ab"] > 0.5) != (by["ba"] > 0.5), row["key"]) for row, by in firm]),
            "to_first": rate([(by["ab"] > 0.5 >= by["ba"], row["key"]) for row, by in firm]),
            "to_second": rate([(by["ab"] <= 0.5 < by["ba"], row["key"]) for row, by in firm]),
        },
        "ties": rate([(row["said"] == "tie", row["key"]) for row in rows if row["p"] is not None]),
        "tie_distance": {"n": len(ties), "distance": mean(ties)},
        "unread": sum(row["p"] is None for row in rows),
        "prefers_longer": rate([(row["said"] == longer(row), row["key"]) for row in sided]),
        "readability": {
            "verdicts": asked,
            "invalid_rate": 1 - got / asked,
            "invalid_rate_ci": equations.counted(
                [
                    (asked // len(rows) - sum(map(len, row["read"].values())), asked // len(rows), row["key"])
                    for row in rows
                ]
            ),
            "mass": mean(x for row in rows for x in row["mass"]),
        },
    }


def decision(right: list[tuple[float, str]], judges: int) -> Row:
    level = 1 - 0.05 / judges
    values, keys = [float(x) for x, _ in right], [key for _, key in right]
    low, high = equations.interval(values, keys, level=level)
    z, value = NormalDist().inv_cdf(0.5 + level / 2), mean(values)
    error = (high - low) / 2 / z
    open_ = low < BAR <= high
    shown = error * (z + NormalDist().inv_cdf(0.8))
    effect = abs(value - BAR)
    more = (
        max(0, math.ceil(len(values) * ((shown / effect) ** 2 - 1)))
        if open_ and effect * 10 >= shown
        else None
    )
    return {
        "limit": BAR,
        "at_least": True,
        "margin": 0.05,
        "power": NormalDist().cdf(0.05 / error - z),
        "detectable": shown,
        "n": len(values),
        "more": more,
    }


def kappa(x: list[Any], y: list[Any]) -> float:
    n = len(x)
    agreed = sum(p == q for p, q in zip(x, y, strict=True)) / n
    left, right = Counter(x), Counter(y)
    by_chance = sum(left[key] * right[key] for key in left) / n / n
    return (agreed - by_chance) / (1 - by_chance)


def difference(x: list[Row], y: list[Row], tests: int) -> Row:
    rows = [(a, b) for a, b in zip(x, y, strict=True) if a["truth"] in ("a", "b")]
    gaps, keys = [float(is_right(a)) - is_right(b) for a, b in rows], [a["key"] for a, _ in rows]
    return {
        "value": mean(gaps),
        "ci": equations.interval(gaps, keys, -1.0, 1.0),
        "ci_corrected": equations.interval(gaps, keys, -1.0, 1.0, 1 - 0.05 / tests),
        "n": len(gaps),
        "groups": len(set(keys)),
        "only_first": gaps.count(1.0),
        "only_second": gaps.count(-1.0),
        "different": equations.is_shown(gaps, keys, 0.05 / tests, -1.0, 1.0),
    }


def between(x: list[Row], y: list[Row]) -> Row:
    rows = [(a, b) for a, b in zip(x, y, strict=True) if "invalid" not in (a["said"], b["said"])]
    mine, theirs, keys = (
        [a["said"] for a, _ in rows],
        [b["said"] for _, b in rows],
        [a["key"] for a, _ in rows],
    )
    return {
        "agreement": rate([(a == b, key) for a, b, key in zip(mine, theirs, keys, strict=True)]),
        "opposite": rate([({a, b} == {"a", "b"}, key) for a, b, key in zip(mine, theirs, keys, strict=True)]),
        "unread": len(x) - len(rows),
        "kappa": kappa(mine, theirs),
        "kappa_ci": equations.kappa_interval(mine, theirs, keys),
    }


def rules(rows: list[Row]) -> dict[str, Row]:
    decided = [row for row in rows if row["truth"] in ("a", "b")]

    def listed(row: Row) -> str:
        a, b = (row[s].startswith("- ") for s in "ab")
        return "tie" if a == b else "a" if a else "b"

    def by(guess: Any) -> Row:
        return rate([(0.5 if guess(r) == "tie" else guess(r) == r["truth"], r["key"]) for r in decided])

    turned = {"a": "b", "b": "a", "tie": "tie"}
    return {
        "the longer response": by(longer),
        "the shorter response": by(lambda row: turned[longer(row)]),
        "the response with a list": by(listed),
        "always the first stored": by(lambda row: "a"),
    }


def people_figures(read: Read) -> Row:
    rows = [row for row in read.pairs if row["truth"]]
    sided = [row for row in rows if row["truth"] != "tie" and longer(row) != "tie"]
    return {
        "ties": rate([(row["truth"] == "tie", row["key"]) for row in rows]),
        "prefers_longer": rate([(row["truth"] == longer(row), row["key"]) for row in sided]),
    }


def ceiling(read: Read) -> Row:
    """How often a person's vote is that of most others; of k that share the lead 1/k."""
    hits = []
    for row in read.pairs:
        votes = read.votes[row["id"]]
        for who, own in votes.items():
            others = Counter(v for name, v in votes.items() if name != who)
            if others:
                leading = [v for v, n in others.items() if n == max(others.values())]
                hits.append(((own in leading) / len(leading), row["key"]))
    return rate(hits)


def nested(name: str, figures: Any) -> dict[str, Any]:
    """An oracle for every leaf of nested figures, by its path."""
    if isinstance(figures, dict):
        return {k: v for key, value in figures.items() for k, v in nested(f"{name}/{key}", value).items()}
    return {name: lambda: figures}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Row]:
    folder = tmp_path_factory.mktemp("compare")
    names = tuple(str(folder / f"{name}.yaml") for name in ("first", "second"))
    how = JudgesAsked(names, project(folder), bar=BAR, keep=folder / "kept")
    return folder, plain(compare_judges(how))


def test_every_figure(compared: tuple[Path, Row]) -> None:
    folder, printed = compared
    read = Read(folder)
    names = [row["name"].removesuffix(".yaml") for row in printed["judges"]]
    rows = {name: read.verdicts(name) for name in names}
    figures = [judge_figures(rows[name], 2) for name in names]
    assert figures[0]["accuracy"]["value"] > figures[1]["accuracy"]["value"]  # the best first
    truths = [row["truth"] for row in read.pairs]
    oracles = {
        "pairs": lambda: len(read.pairs),
        "clusters": lambda: len({row["key"] for row in read.pairs}),
        "bar": lambda: BAR,
        "people_labels/annotators": lambda: 3,
        "people_labels/labels": lambda: read.labels,
        "people_labels/simulated": lambda: False,
        "people_labels/decided": lambda: truths.count("a") + truths.count("b"),
        "people_labels/ties": lambda: truths.count("tie"),
        "people_labels/no_majority": lambda: truths.count(None),
        **nested("people_labels/ceiling", ceiling(read)),
        **nested("people", people_figures(read)),
        **{k: v for at_, row in enumerate(figures) for k, v in nested(f"judges/{at_}", row).items()},
        **{
            f"judges/*/readability/{reason}": lambda n, why=reason: unreadable(read, names[int(n)])[why]
            for reason in ("refused", "too_long", "not_numbers")
        },
        **nested("rules", rules(read.pairs)),
        **nested("differences/0", difference(*rows.values(), 1)),
        **nested("between/0", between(*rows.values())),
        "disagreements/*/p_a/*": lambda n, name: by_pair(rows, name)[printed["disagreements"][int(n)]["id"]],
    }
    assert check(printed, oracles, NO_FIGURES) > 150
    check_words(list(in_words(printed)), printed)
    assert write_judge_comparison(folder / "page.html", printed).stat().st_size > 10_000


def test_the_card_on_peoples_labels_has_the_same_figures(compared: tuple[Path, Row]) -> None:
    """What the card says of the whole constitution is what stands beside the other judge, checked above."""
    folder, printed = compared
    config, base, _ = audited(str(folder / "first.yaml"), [], None, "default")
    card = plain(card_on_labels(config, base, folder / "labels.jsonl", 0))
    row = next(row for row in printed["judges"] if row["name"] == "first.yaml")
    for found in (card["accuracy"], card["accuracy"]["by_principle"]["all"]):
        assert {key: found[key] for key in row["readable"]} == row["readable"]
        assert found["ties"] == row["tie_distance"]
        assert found["baselines"].keys() == printed["rules"].keys()
    assert card["accuracy"]["unread"] == row["accuracy"]["n"] - row["readable"]["n"]
    assert card["calibration"] == row["calibration"]
    assert {key: card["order"][key] for key in row["order"]} == row["order"]
    assert card["readability"]["invalid_rate"] == row["readability"]["invalid_rate"]
    assert {key: card["people"][key] for key in printed["people_labels"]} == printed["people_labels"]
    check_words(in_words_of_card(card), card)


def unreadable(read: Read, name: str) -> Counter[str]:
    """Single verdicts by why they could not be read."""
    found: Counter[str] = Counter()
    for pair in read.pairs:
        for text, _ in RULES.values():
            for texts in ((pair["a"], pair["b"]), (pair["b"], pair["a"])):
                raw = said_of(text, name, *texts)
                if any(map(math.isnan, raw)):
                    found["not_numbers"] += 1
                elif answered(raw) is None:
                    found["refused"] += 1
    return found


def by_pair(rows: dict[str, list[Row]], name: str) -> dict[str, float]:
    return {row["id"]: row["p"] for row in rows[name.removesuffix(".yaml")] if row["p"] is not None}


def test_the_pairs_shown_are_the_ones_furthest_apart(compared: tuple[Path, Row]) -> None:
    folder, printed = compared
    read = Read(folder)
    rows = {name: by_pair({name: read.verdicts(name)}, name) for name in ("first", "second")}
    truth = {row["id"]: row["truth"] for row in read.pairs}
    apart = [row["id"] for row in printed["disagreements"] if row["why"] == "judges lie furthest apart"]
    gap = {
        i: abs(logit(rows["first"][i], 4.0) - logit(rows["second"][i], 4.0))
        for i in rows["first"]
        if i in rows["second"]
    }
    assert apart == sorted(gap, key=lambda i: (-gap[i], i))[: len(apart)]
    wrong = [row for row in printed["disagreements"] if row["id"] not in apart]
    assert wrong
    for row in wrong:
        assert all((p < 0.5) == (truth[row["id"]] == "a") for p in row["p_a"].values())
