"""Figures of what the awkward run lacks: RLOO, GRPO, DPO and rejection, ensembles, named held-out sets,
held-out wordings, arms of several seeds; computed again from made-up rows, without training.

Every leaf of what the functions return that write `stage.json` must have an oracle; a stage that no oracle is
named for fails the first test.
"""

import json
import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import optimize

from rlaif.constitution import Constitution, Principle
from rlaif.feedback.judge import JudgeQuestion
from rlaif.options import STAGES
from rlaif.records import Annotator, Comparison, Evaluation, Label, Prompt, Response, verdict_of
from rlaif.report.measures import arm_deltas
from rlaif.report.win_rates import _by_principle, gold_win_rate
from rlaif.stages import reward
from rlaif.stages.evaluate import by_split
from rlaif.stages.rejection import best
from rlaif.training.loop import curve_summary
from rlaif.training.monitoring import summary
from tests.oracle import equations
from tests.oracle.figures import mean
from tests.oracle.leaves import check

RUN = "tests/oracle/test_show.py: the awkward run"
CURVE, ONLINE = "test_losses", "test_summaries_of_online_training"
ORACLES = {
    **dict.fromkeys(("sample", "critique", "pair", "label", "reward", "best_of_n", "evaluate"), RUN),
    "ppo": f"{RUN}; {ONLINE}",
    **dict.fromkeys(("rloo", "grpo"), ONLINE),
    **dict.fromkeys(("sft", "dpo", "rejection", "pretrain"), CURVE),
}


def test_every_stage_has_an_oracle_of_its_figures() -> None:
    assert ORACLES.keys() == STAGES.keys()


def test_losses(tmp_path: Path) -> None:
    rows = [
        {"step": n, "loss": 2.0 - 0.1 * n, **({"heldout_loss": 3.0 / n} if n % 2 else {})}
        for n in range(1, 8)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage: Any = SimpleNamespace(dir=tmp_path)
    losses = [row["loss"] for row in rows]
    heldout = [row["heldout_loss"] for row in rows if "heldout_loss" in row]
    oracles = {
        "steps": lambda: 7,
        "loss_start": lambda: losses[0],
        "loss_end": lambda: losses[6],
        "heldout_loss_before": lambda: heldout[0],
        "heldout_loss_after": lambda: heldout[3],
    }
    assert check(curve_summary(stage), oracles, {}) == 5


def test_what_rejection_keeps() -> None:
    """Of each prompt the best-rewarded texts that differ, of equal ones the earlier sample."""
    rng = np.random.default_rng(0)
    rows = [
        Response(prompt_id=f"p{n % 3}", text=str(int(rng.integers(4))), model="m", index=n) for n in range(24)
    ]
    rewards = {row.id: float(rng.integers(3)) for row in rows}
    kept = best(rows, rewards, 2)
    expected = []
    for prompt in ("p0", "p1", "p2"):
        by_text: dict[str, list[Response]] = defaultdict(list)
        for row in rows:
            if row.prompt_id == prompt:
                by_text[row.text].append(row)
        tops = [max(own, key=lambda row: (rewards[row.id], -row.index)) for own in by_text.values()]
        expected += sorted(tops, key=lambda row: (-rewards[row.id], row.index))[:2]
    assert sorted(row.id for row in kept) == sorted(row.id for row in expected)


@pytest.mark.parametrize("updates", [1, 5, 23])
def test_summaries_of_online_training(updates: int) -> None:
    """Of RLOO and GRPO, whose exact KL is known at looks alone; means over 5 updates at each end, or half of
    them."""
    rng = np.random.default_rng(updates)
    names = ("reward", "score", "length", "truncated", "entropy")
    rows: list[dict[str, Any]] = [
        {
            "update": n,
            "episodes": 8 * n,
            **{name: float(rng.normal()) for name in names},
            **({"exact_kl": float(rng.random())} if n % 3 == 1 else {}),
            **({"unread/judge": float(rng.random())} if n % 2 else {}),
            "alarms": [{"kind": "entropy", "found": "low", "advice": "none"}] if n == 4 else [],
        }
        for n in range(1, updates + 1)
    ]
    size = max(1, min(5, updates // 2))

    def over(part: list[dict[str, Any]], key: str) -> float:
        return mean(row[key] for row in part if key in row)

    first, last = rows[:size], rows[-size:]
    ends = {"start": first, "end": last}
    oracles = {
        "updates": lambda: updates,
        "episodes": lambda: 8 * updates,
        "kl": lambda: over(last, "exact_kl"),
        **{
            f"{key}_{end}": lambda key=key, end=end: over(ends[end], key)
            for key in ("reward", "score")
            for end in ends
        },
        **{key: lambda key=key: over(last, key) for key in ("length", "truncated", "entropy")},
        "unread/judge": lambda: sum(row.get("unread/judge", 0.0) for row in rows) / updates,
        "?alarms/0/update": lambda: 4,
    }
    assert check(summary(rows), oracles, {}) >= 11


def labelled(seed: int, n: int = 60) -> tuple[list[dict[str, Any]], list[float]]:
    """Pairs of a named held-out set with soft labels by two annotators, and margins, of which one is 0."""
    rng = np.random.default_rng(seed)
    pairs = [
        {
            "p_a": float(rng.choice([0.05, 0.3, 0.5, 0.8, 1.0])),
            "cluster": f"prompt {at // 2}",
            "sources": (("ann", "ben")[at % 3 == 0],),
            "chosen_ids": [1] * int(rng.integers(3, 7)),
            "rejected_ids": [1] * int(rng.integers(3, 7)),
        }
        for at in range(n)
    ]
    margins = [float(4 * (pair["p_a"] - 0.5) + rng.normal(0, 1.5)) for pair in pairs]
    return pairs, [0.0, *margins[1:]]


def test_a_named_held_out_set() -> None:
    pairs, margins = labelled(0)
    train, _ = labelled(1)
    y, keys = [pair["p_a"] for pair in pairs], [pair["cluster"] for pair in pairs]
    p = [1 / (1 + math.exp(-m)) for m in margins]
    decided = [at for at in range(len(y)) if abs(y[at] - 0.5) > 0.1]
    bins = [[i for i in range(len(p)) if min(int(p[i] * 10), 9) == b] for b in range(10)]
    filled = [b for b in bins if b]

    def right(values: list[float], at: list[int]) -> list[float]:
        return [0.5 if values[i] == 0 else float((values[i] > 0) == (y[i] > 0.5)) for i in at]

    def ci(values: list[float], at: list[int]) -> tuple[float, float]:
        return equations.interval(right(values, at), [keys[i] for i in at])

    def cross_entropy(t: float = 1.0) -> float:
        return mean(
            np.logaddexp(0, -m / t) * q + np.logaddexp(0, m / t) * (1 - q)
            for m, q in zip(margins, y, strict=True)
        )

    entropy = mean(-sum(q * math.log(q) for q in (x, 1 - x) if q > 0) for x in y)
    longer = [float(len(pair["chosen_ids"]) - len(pair["rejected_ids"])) for pair in pairs]
    first = sum((pair["p_a"] > 0.5) - (pair["p_a"] < 0.5) for pair in train) >= 0
    rules = {"longer": longer, "constant": [1.0 if first else -1.0] * len(pairs)}
    of = {who: [i for i in decided if pairs[i]["sources"] == (who,)] for who in ("ann", "ben")}
    error = equations.calibration(p, y, keys)
    oracles = {
        "heldout_accuracy": lambda: mean(right(margins, decided)),
        "heldout_accuracy_ci": lambda: ci(margins, decided),
        "n_decided": lambda: len(decided),
        "groups_decided": lambda: len({keys[i] for i in decided}),
        "ece": lambda: error["ece"],
        "ece_floor": lambda: error["ece_floor"],
        "reliability/*/0": lambda b: mean(p[i] for i in filled[int(b)]),
        "reliability/*/1": lambda b: mean(y[i] for i in filled[int(b)]),
        "reliability/*/2": lambda b: len(filled[int(b)]),
        "cross_entropy": cross_entropy,
        "label_entropy": lambda: entropy,
        "excess_cross_entropy": lambda: cross_entropy() - entropy,
        "temperature": (
            lambda: optimize.minimize_scalar(cross_entropy, bounds=(0.01, 100), method="bounded").x,
            1e-3,
        ),
        "by_source/*/n": lambda who: len(of[who]),
        "by_source/*/accuracy": lambda who: mean(right(margins, of[who])),
        "by_source/*/accuracy_ci": lambda who: ci(margins, of[who]),
        "baselines/*": lambda rule: mean(right(rules[rule], decided)),
        "baselines_ci/*": lambda rule: ci(rules[rule], decided),
    }
    printed = reward.calibration(margins, pairs, train)  # type: ignore[arg-type]
    assert check(printed, oracles, {}) > 30


def test_an_ensemble() -> None:
    """The members' mean margin of each pair is what is measured; they disagree where the winners differ."""
    pairs, _ = labelled(0)
    members = [labelled(seed)[1] for seed in (0, 2, 3)]
    assert reward.mean_of(members) == pytest.approx(np.mean(members, 0).tolist())
    wins = np.array(members) > 0
    differ = (wins.any(0) & ~wins.all(0)).astype(float).tolist()
    oracles = {
        "disagreement": lambda: mean(differ),
        "disagreement_ci": lambda: equations.interval(differ, [pair["cluster"] for pair in pairs]),
    }
    assert check(reward.disagreement(members, pairs), oracles, {}) == 2  # type: ignore[arg-type]


def test_held_out_wordings() -> None:
    """The wordings have the figures of the held-out prompts, from their own rows alone."""
    rng = np.random.default_rng(0)
    responses, rows = {}, []
    for n in range(60):
        text = Response(
            prompt_id=f"p{n}", text=str(n), model="m", finish_reason="length" if n % 5 == 0 else "stop"
        )
        responses[text.id] = text
        gold = {"a": bool(rng.random() < 0.7), "b": bool(rng.random() < 0.4)}
        rows.append(
            Evaluation(
                policy="ppo",
                prompt_id=f"p{n}",
                response_id=text.id,
                split="wordings" if n % 3 else "heldout",
                gold={"all": all(gold.values()), **gold},
                compliance={"a": float(rng.random())} if n % 7 else {},
                unread=() if n % 7 else ("a",),
                p_win=None if n % 7 == 0 else float(rng.random()),
                kl=None if n % 11 == 0 else float(rng.gamma(2)),
                tokens=int(rng.integers(1, 40)),
                refusal=n % 13 == 0,
            )
        )
    cluster = {f"p{n}": f"question {n // 4}" for n in range(60)}

    def of(split: str) -> dict[str, Any]:
        mine = [row for row in rows if row.split == split]

        def rated(values: list[tuple[str, float | None]], high: float = 1.0) -> tuple[Any, Any]:
            known = [(x, cluster[i]) for i, x in values if x is not None]
            return mean(x for x, _ in known), equations.interval(
                [x for x, _ in known], [key for _, key in known], 0.0, high
            )

        def each(read: Any) -> list[tuple[str, float | None]]:
            return [(row.prompt_id, read(row)) for row in mine]

        wins = equations.win_rate([row.p_win for row in mine], [cluster[row.prompt_id] for row in mine])
        unread = [(len(row.unread), 1, cluster[row.prompt_id]) for row in mine]
        figures = {
            "kl": rated(each(lambda row: row.kl), math.inf),
            "length": rated(each(lambda row: float(row.tokens)), math.inf),
            "truncated": rated(each(lambda row: float(int(row.prompt_id[1:]) % 5 == 0))),
            "refusal_rate": rated(each(lambda row: float(row.refusal))),
        }
        return {
            "n": lambda: len(mine),
            "groups": lambda: len({cluster[row.prompt_id] for row in mine}),
            "kl_left_out": lambda: sum(row.kl is None for row in mine),
            "gold/*": lambda rule: rated(each(lambda row: float(row.gold[rule])))[0],
            "gold_ci/*": lambda rule: rated(each(lambda row: float(row.gold[rule])))[1],
            "compliance/*": lambda rule: rated(each(lambda row: row.compliance.get(rule)))[0],
            "compliance_ci/*": lambda rule: rated(each(lambda row: row.compliance.get(rule)))[1],
            "compliance_unread": lambda: mean(hits for hits, *_ in unread),
            "compliance_unread_ci": lambda: equations.counted(unread),
            "win_rate/*": lambda name: wins[name],
            **{name: lambda name=name: figures[name][0] for name in figures},
            **{f"{name}_ci": lambda name=name: figures[name][1] for name in figures},
        }

    wordings = {f"wordings/{pattern}": oracle for pattern, oracle in of("wordings").items()}
    assert check(by_split(rows, responses, cluster), {**of("heldout"), **wordings}, {}) > 50


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
            "ci": edges(0.95),
            "n": n,
            "groups": len(set(keys)),
            "different": bool(apart),
        }

    printed = arm_deltas(a, b, cluster)
    assert check(printed, {"*/*": lambda rule, part: delta(rule)[part]}, {}) == 15


@pytest.mark.parametrize(("counts", "n"), [((3, 2), 80), ((2, 2), 60), ((2, 1), 40)])
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
    figures = over_matches(wins, keys)
    assert check(gold_win_rate(a, b, cluster), {"*": lambda name: figures[name]}, {}) == len(figures)


def over_matches(wins: Any, keys: list[str]) -> dict[str, Any]:
    """The win rate of several matches on the same prompts, NaN where a verdict could not be read, and its
    intervals over prompts and matches."""
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
        means = [[float(np.nanmean(row)) for row in table]]
        return joined(mean(table[~np.isnan(table)].tolist()), ci, means, chance)

    def cut(edges: tuple[float, float]) -> Any:
        return edges if few else (max(0.0, edges[0]), min(1.0, edges[1]))

    every = np.ones(len(keys), bool)
    tied = np.where(np.isnan(wins), np.nan, wins == 0.5)
    ci = over(wins, whole["ci"], read)
    return {
        **whole,
        "ci": ci,
        "ties_ci": cut(over(tied, whole["ties_ci"], read)),
        "invalid_ci": cut(over(np.isnan(wins).astype(float), whole["invalid_ci"], every)),
        "different": whole["different"] and not ci[0] <= 0.5 <= ci[1],
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
