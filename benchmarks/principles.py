"""What the three readings of principles find where the answer is planted, on the playground.

    python benchmarks/principles.py [--part coverage induce executors] [--seeds 5] [--second FOLDER]
        [--pairs 100] [--json FILE]

coverage: a principle that another repeats and one that contradicts another, verdicts by the truth plus noise.
induce: three true principles among twelve, 500 labels, a tenth turned, verdicts by the truth plus noise; and
the same with the verdicts of the shipped judge.
executors: a principle that two judges read differently beside those that both read as the truth does;
`--second` is another judge, such as `rlaif playground build` trains.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from rlaif.constitution import Constitution
from rlaif.feedback.judging import Judgement, judge
from rlaif.intervals import members
from rlaif.playground import FEEDBACK, world
from rlaif.playground.grammar import EVEN, PlaygroundQuestion, sample_question, sample_response
from rlaif.playground.wordings import KINDS, SEEN
from rlaif.records import Annotator, Comparison, Label, Prompt, Response, verdict_of
from rlaif.report.principles import PrincipleReadings
from rlaif.workbench.executor_agreement import compared, read_labels
from rlaif.workbench.sparse_fit import explain

WORD = "garden"
NOUNS = ("tower", "bottle", "ladder", "tent", "spoon", "carpet")
CHECKED = [kind for kind in KINDS if kind != "no-word"]
READ = 0.9  # the share right from which a judge reads a principle
PLANTED = ("Be good.", "Always keep respect.", "Do not go on and on.", "Tell no lies.")
Pair = tuple[PlaygroundQuestion, str, str]


def pairs(rng: Random, count: int) -> list[Pair]:
    """Questions with two responses each, faults in about even shares."""
    found = []
    for _ in range(count):
        question = sample_question(rng)
        found.append((question, *(sample_response(rng, question, EVEN, WORD) for _ in range(2))))
    return found


def better(pair: Pair, kind: str, word: str = WORD) -> int:
    """The side that keeps a principle while the other does not: 1, −1, or 0."""
    question, a, b = pair
    return world.keeps(kind, question, a, word) - world.keeps(kind, question, b, word)


def rules(texts: dict[str, str]) -> Constitution:
    """A constitution of these texts by id."""
    rows = [{"id": name, "text": text} for name, text in texts.items()]
    return Constitution.model_validate({"name": "planted", "principles": rows})


def noisy(rng: Random, side: float, noise: float = 0.8) -> float:
    """P(a is better) of a judge whose logit is ±3 or 0, plus noise."""
    return 1 / (1 + math.exp(-(3 * side + rng.gauss(0, noise))))


def coverage(seed: int, count: int = 400) -> dict[str, Any]:
    """Whether the planted principles are ranked first."""
    rng = Random(f"coverage {seed}")
    again, against = rng.sample(KINDS, 2)
    texts = {kind: SEEN[kind][0].format(x=WORD) for kind in KINDS}
    held = PrincipleReadings(rules({**texts, "again": "Once more.", "against": "The opposite."}))
    for pair in pairs(rng, count):
        sides = {kind: better(pair, kind) for kind in KINDS}
        sides |= {"again": sides[again], "against": -sides[against]}
        prompt, comparison = rows(pair)
        held.add(prompt, [labelled(comparison, name, noisy(rng, side)) for name, side in sides.items()])
    found = held.figures()
    return {
        "redundant first": set(found["redundant"][0]) == {again, "again"},
        "contradictory first": set(found["conflicting"][0]) == {against, "against"},
    }


def rows(pair: Pair) -> tuple[Prompt, Comparison]:
    """The pair as records."""
    question, *texts = pair
    prompt = Prompt.model_validate({"messages": question.messages, "group": question.group})
    a, b = (Response(prompt_id=prompt.id, text=text, index=n).id for n, text in enumerate(texts))
    return prompt, Comparison(prompt_id=prompt.id, a=a, b=b)


def labelled(comparison: Comparison, principle: str, p: float) -> Label:
    """A verdict as a label."""
    who = Annotator(kind="ai", id="planted")
    return Label(
        comparison_id=comparison.id, annotator=who, principle_id=principle, p_a=p, verdict=verdict_of(p)
    )


def induce(seed: int, by_judge: bool, count: int = 500, flips: float = 0.1) -> dict[str, Any]:
    """How many of the true principles are found, how many others, and how many are missed."""
    import numpy as np

    from rlaif.feedback.preferences import BOUND, logit

    rng = Random(f"induce {seed}")
    true, drawn = set(rng.sample(CHECKED, 3)), pairs(rng, count)
    texts = {kind: SEEN[kind][0] for kind in CHECKED}
    texts |= {f"no-{noun}": SEEN["no-word"][0].format(x=noun) for noun in NOUNS}
    words = {f"no-{noun}": noun for noun in NOUNS}
    read: list[dict[str, float | None]]
    if by_judge:
        read = [made.by_principle for made in judged(drawn, rules(texts), str(FEEDBACK))]
    else:
        read = [
            {i: noisy(rng, better(pair, "no-word" if i in words else i, words.get(i, WORD))) for i in texts}
            for pair in drawn
        ]
    x = np.array([[logit(p, BOUND) if p is not None else 0.0 for p in row.values()] for row in read])
    y = []
    for pair in drawn:
        lead = sum(better(pair, kind) for kind in true)
        y.append(float((lead > 0) != (rng.random() < flips) if lead else rng.random() < 0.5))
    chosen = explain(x, np.array(y), members(count, [pair[0].group for pair in drawn]))
    names = {list(texts)[row["at"]] for row in chosen}
    return {"right": len(names & true), "wrong": len(names - true), "missed": len(true - names)}


def null(draws: int = 200, count: int = 200) -> dict[str, Any]:
    """How often any of twelve candidates is chosen for labels that a coin draws."""
    import numpy as np

    from rlaif.feedback.preferences import logit

    chosen = 0
    for draw in range(draws):
        rng = Random(f"null {draw}")
        drawn = pairs(rng, count)
        sides = [[better(pair, kind) for kind in CHECKED] for pair in drawn]
        sides = [
            [*row, *(better(pair, "no-word", noun) for noun in NOUNS)]
            for row, pair in zip(sides, drawn, strict=True)
        ]
        x = np.array([[logit(noisy(rng, side), 4.0) for side in row] for row in sides])
        y = np.array([float(rng.random() < 0.5) for _ in drawn])
        chosen += bool(explain(x, y, members(count, [pair[0].group for pair in drawn])))
    return {"any chosen": chosen, "draws": draws}


def judged(drawn: list[Pair], constitution: Constitution, model: str) -> list[Judgement]:
    """A model's verdicts on pairs."""
    return judge([(q.messages, a, b) for q, a, b in drawn], constitution, model, templates="brief")


def executors(seed: int, second: str, count: int) -> Iterator[dict[str, Any]]:
    """For each planted principle its place among those that both judges read, and all kappas."""
    rng = Random(f"executors {seed}")
    drawn = pairs(rng, count)
    texts = {kind: SEEN[kind][0].format(x=WORD) for kind in KINDS}
    everything = rules({**texts, **{f"planted-{n}": text for n, text in enumerate(PLANTED)}})
    made = {
        name: judged(drawn, everything, model) for name, model in (("one", str(FEEDBACK)), ("two", second))
    }
    labels = {
        name: {row.labels[0].comparison_id: row.labels for row in found} for name, found in made.items()
    }
    of = {row.labels[0].comparison_id: pair[0].group for row, pair in zip(made["one"], drawn, strict=True)}
    known = {name: {kind: right(found, drawn, kind) for kind in KINDS} for name, found in made.items()}
    both = [kind for kind in KINDS if all(own[kind][0] >= READ * own[kind][1] for own in known.values())]
    yield {"right": known, "both read": both}
    texts = {kind: texts[kind] for kind in both}
    for n, text in enumerate(PLANTED):
        own = rules({**texts, f"planted-{n}": text})
        found = compared({name: read_labels(read, own) for name, read in labels.items()}, own, of)
        order = [row["id"] for row in found["principles"]]
        kappas = {row["id"]: row["kappa"]["value"] for row in found["principles"]}
        yield {"principle": text, "place": order.index(f"planted-{n}") + 1, "kappas": kappas}


def right(made: list[Judgement], drawn: list[Pair], kind: str) -> list[int]:
    """[verdicts on the right side, of those whose side the truth knows]."""
    sides = [
        (verdict_of(row.by_principle[kind]), better(pair, kind))
        for row, pair in zip(made, drawn, strict=True)
    ]
    return [
        sum(said == ("a" if side > 0 else "b") for said, side in sides if side),
        sum(map(abs, [s for _, s in sides])),
    ]


def over_seeds(seeds: int, part: Callable[[int], dict[str, Any]]) -> dict[str, int]:
    """The sums of a part's counts over seeds."""
    found = [part(seed) for seed in range(seeds)]
    return {name: sum(int(row[name]) for row in found) for name in found[0]}


def main() -> None:
    """Measure, print, and write with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", nargs="*", default=["coverage", "induce", "executors"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--second", help="another judge's folder")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    if "coverage" in asked.part:
        found["coverage"] = over_seeds(asked.seeds, coverage)
    if "induce" in asked.part:
        for name, by_judge in (("induce, truth plus noise", False), ("induce, shipped judge", True)):
            sums = over_seeds(asked.seeds, lambda seed, by_judge=by_judge: induce(seed, by_judge))
            found[name] = {
                **sums,
                "precision": sums["right"] / max(1, sums["right"] + sums["wrong"]),
                "recall": sums["right"] / (sums["right"] + sums["missed"]),
            }
        found["null"] = null()
    if "executors" in asked.part and asked.second:
        found["executors"] = [
            row for seed in range(asked.seeds) for row in executors(seed, asked.second, asked.pairs)
        ]
    print(json.dumps(found, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
