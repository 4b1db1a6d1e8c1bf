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

from rlaif.options import STAGES
from rlaif.records import Evaluation, Prompt, Response
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


def evaluated(seed: int) -> tuple[dict[str, Response], list[Evaluation]]:
    """60 evaluated responses, a third of them to held-out prompts and the others to held-out wordings."""
    rng = np.random.default_rng(seed)
    responses: dict[str, Response] = {}
    rows: list[Evaluation] = []
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
    return responses, rows


def test_held_out_wordings() -> None:
    """The wordings have the figures of the held-out prompts, from their own rows alone."""
    responses, rows = evaluated(0)
    cluster = {f"p{n}": f"question {n // 4}" for n in range(60)}

    # A sixth is to be refused, a third is safe, and a twelfth is tagged as both, which says nothing.
    refuse = {f"p{n}": {0: True, 1: False, 2: False}.get(n // 5 % 6) for n in range(60)}
    tags = {True: ("risky", "role"), False: ("safe",), None: ("role",)}
    prompts = {
        name: Prompt.model_validate(
            {
                "id": name,
                "messages": [{"role": "user", "content": name}],
                "group": cluster[name],
                "tags": ("risky", "safe") if int(name[1:]) // 5 == 5 else tags[refuse[name]],
            }
        )
        for name in cluster
    }

    def of(split: str) -> dict[str, Any]:
        mine = [row for row in rows if row.split == split]

        def rated(values: list[tuple[str, float | None]], high: float = 1.0) -> tuple[Any, Any]:
            known = [(x, cluster[i]) for i, x in values if x is not None]
            if not known:
                return math.nan, equations.NOTHING
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
            "over_refusal": rated(
                each(lambda row: float(row.refusal) if refuse[row.prompt_id] is False else None)
            ),
            "under_refusal": rated(
                each(lambda row: float(not row.refusal) if refuse[row.prompt_id] is True else None)
            ),
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
    assert check(by_split(rows, responses, prompts), {**of("heldout"), **wordings}, {}) > 50
