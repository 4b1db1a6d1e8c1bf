"""How many labels a reward needs, by people, by a judge and by both, and which pairs people should get.

    python benchmarks/learning_curves.py RUN RUN … [--seeds 10] [--json FILE]

RUNs are finished runs of configs/quickstart.yaml: their samples, comparisons and the judge's labels are used
again, and nothing is written there. Pairs of a quarter of the questions are measured on, of the others
--pairs are trained on. A simulated person votes, with so much noise that a share --errors of the votes on
pairs that the truth decides is wrong (a tie counts half). The judge is spoiled: the logits of its verdicts
are divided by --temperature, get noise of its own for each pair and principle and for each order, and of
--blind principles nothing but the noise is left. A vote stands in for the judge's labels (`ai: rest`) unless
the arm says otherwise; which pairs people get is said by the queues of `rlaif annotate`, on the spoiled
judge's labels.

The reward is a linear head on the frozen feedback model (the mean of the middle layer's states over all
tokens, standardised), fitted to the preferences as the reward stage is, by cross-entropy against soft labels,
with an L2 penalty of --penalty: the same labels go in, and a fit costs milliseconds. Accuracy is that on
held-out pairs that the truth decides. The policy is best of four: of the four samples for each prompt of a
held-out question the one with the highest reward, by the share that keeps every principle. All arms of a seed
have the same pairs, votes and judge; seeds take the RUNs in turn. Intervals are Student's t over seeds,
differences are paired by seed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from facts import where_and_when
from scipy.optimize import minimize
from scipy.special import expit

from rlaif.feedback.gold import load_gold
from rlaif.feedback.preferences import aggregate, logit, sigmoid
from rlaif.human.annotating.queues import QUEUES, Evidence, ordered
from rlaif.intervals import with_seed_variance
from rlaif.options import RewardOptions
from rlaif.playground.annotators import annotate
from rlaif.records import Annotator, Comparison, Label, verdict_of
from rlaif.runs.folder import Run
from rlaif.runs.rows import RowFile
from rlaif.runs.seeds import derive_seed
from rlaif.stats import mean
from rlaif.training.pairs import encoder, weighed

HELD = 0.25  # of the questions are measured on
BATCH = 64
PERSON, SPOILED = Annotator(kind="simulated", id="person"), Annotator(kind="ai", id="spoiled")
Vectors = Mapping[str, np.ndarray]  # response id → [D]


@dataclass(frozen=True)
class Arm:
    """Who labels how many pairs: `people` of them by the queue, each person weighing `weight` (infinite: in
    the judge's stead), the judge `judged` pairs (None = all); `ratio` as `human_ratio` of the reward stage;
    with `whole` the judge as it is, unspoiled."""

    name: str
    people: int = 0
    judged: int | None = None
    queue: str = "random"
    weight: float = math.inf
    ratio: float | None = None
    whole: bool = False


def arms(options: argparse.Namespace) -> list[Arm]:
    """The curves of people and judge alone, the queues, and the ways of mixing."""
    few, many = options.routed
    return [
        *(Arm(f"people {n}", n, judged=0) for n in options.people),
        *(Arm(f"judge {n}", judged=n) for n in options.judged),
        Arm("judge all"),
        *(Arm(f"both: {n} {queue}", n, queue=queue) for n in (few, many) for queue in options.queues),
        *(
            Arm(f"both: {many} {queue}, weight 1", many, queue=queue, weight=1.0)
            for queue in options.queues[:2]
        ),
        *(Arm(f"both: {n} random, ratio 0.5", n, ratio=0.5) for n in (few, many)),
        Arm("judge all, unspoiled", whole=True),
    ]


class Laboratory:
    """One finished run: its pairs, apart by question, the truth on them, the judge's labels, and vectors of
    the responses."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        self.run, self.options = Run.load(path), options
        self.label, self.reward = (
            next(s for s in self.run.stages if s.name == n) for n in ("label", "reward")
        )
        self.texts, self.prompts = self.label.responses(), self.label.prompts_by_id()
        self.weights = {p.id: p.weight for p in self.run.constitution.principles}
        self.principles = [{"id": p.id, "text": p.text} for p in self.run.constitution.principles]
        self.labels: dict[str, list[Label]] = defaultdict(list)
        for row in RowFile(self.label.dir / "labels.jsonl", Label):
            self.labels[row.comparison_id].append(row)
        self.train: list[Comparison] = []
        self.test: list[Comparison] = []
        for pair in self.label.load("comparisons", Comparison):
            (self.test if self._held(pair.prompt_id) else self.train).append(pair)
        samples: defaultdict[str, list[str]] = defaultdict(list)
        for response in self.label.load("responses", type(next(iter(self.texts.values())))):
            if self._held(response.prompt_id):
                samples[response.prompt_id].append(response.id)
        self.samples = {prompt: ids for prompt, ids in samples.items() if len(ids) == 4}

    def _held(self, prompt_id: str) -> bool:
        return derive_seed("learning curves", self.prompts[prompt_id].cluster) / 2**31 < HELD

    @cached_property
    def kept(self) -> dict[str, tuple[bool, ...]]:
        """Which principles a response keeps, by its id."""
        gold = load_gold(self.run.config.gold, self.run.constitution)
        assert gold is not None
        return {
            i: tuple(gold(self.prompts[self.texts[i].prompt_id], self.texts[i].text).values())
            for i in self.ids
        }

    @cached_property
    def ids(self) -> list[str]:
        """The responses that are compared, and those that the policy chooses from."""
        compared = (id for pair in (*self.train, *self.test) for id in (pair.a, pair.b))
        return list(dict.fromkeys([*compared, *(id for ids in self.samples.values() for id in ids)]))

    def truth(self, pair: Comparison) -> float:
        """1 where a keeps more principles, 0 where b does, else ½."""
        a, b = sum(self.kept[pair.a]), sum(self.kept[pair.b])
        return 0.5 + 0.5 * ((a > b) - (a < b))

    def vote(self, pair: Comparison, noise: float, seed: int) -> float:
        """A person's vote, 1 for a, ½ for a tie."""
        chat, texts = self.prompts[pair.prompt_id].chat, [self.texts[i].text for i in (pair.a, pair.b)]
        a, b = annotate(chat, texts, self.principles, seed, "person", noise)
        return 0.5 + 0.5 * ((a < b) - (a > b))

    @cached_property
    def noise(self) -> float:
        """The noise at which the stated share of votes on decided pairs is wrong, by bisection."""
        decided = [pair for pair in self.train if self.truth(pair) != 0.5][:500]
        low, high = 0.0, 8.0
        for _ in range(9):
            middle = (low + high) / 2
            wrong = mean([abs(self.truth(pair) - self.vote(pair, middle, 0)) for pair in decided])
            low, high = (middle, high) if wrong < self.options.errors else (low, middle)
        return (low + high) / 2

    @cached_property
    def vectors(self) -> Vectors:
        """The mean of the middle layer's states of the frozen start model over all tokens, standardised."""
        import torch

        from rlaif.engines.loading import load_reward_model, load_tokenizer

        start = cast(RewardOptions, self.reward.options).model or self.run.config.policy.model
        model = load_reward_model(start, "cpu", dtype="float32", new_head=True).eval()
        encode = encoder(load_tokenizer(start), self.prompts)
        tokens = {id: encode(self.texts[id])[0] for id in self.ids}
        order = sorted(tokens, key=lambda id: len(tokens[id]))
        found: dict[str, np.ndarray] = {}
        for at in range(0, len(order), BATCH):
            part = order[at : at + BATCH]
            ids = torch.zeros(len(part), max(len(tokens[id]) for id in part), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, id in enumerate(part):
                ids[row, : len(tokens[id])] = torch.tensor(tokens[id])
                mask[row, : len(tokens[id])] = 1
            with torch.no_grad():
                states = model.model(
                    input_ids=ids, attention_mask=mask, output_hidden_states=True
                ).hidden_states
            middle = states[len(states) // 2] * mask[:, :, None]
            found |= dict(zip(part, (middle.sum(1) / mask.sum(1, keepdim=True)).numpy(), strict=True))
        every = np.stack(list(found.values()))
        return {id: (vector - every.mean(0)) / every.std(0) for id, vector in found.items()}

    def apart(self, pairs: Sequence[Comparison]) -> np.ndarray:
        """The vectors of a less those of b [N, D]."""
        return np.stack([self.vectors[pair.a] - self.vectors[pair.b] for pair in pairs])

    def fit(self, pairs: Sequence[Comparison], p_a: Sequence[float], weights: Sequence[float]) -> np.ndarray:
        """The head [D] whose margins are likeliest under soft labels [N], under the L2 penalty."""
        x, y, w = self.apart(pairs), np.array(p_a), np.array(weights) / mean(list(weights))

        def loss(head: np.ndarray) -> tuple[float, np.ndarray]:
            z, penalty = x @ head, self.options.penalty
            value = w @ (np.logaddexp(0, z) - y * z) + penalty / 2 * head @ head
            return float(value), x.T @ (w * (expit(z) - y)) + penalty * head

        return minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x

    def measured(self, head: np.ndarray) -> dict[str, float]:
        """Accuracy on held-out pairs, and full compliance of the best of four."""
        pairs = [pair for pair in self.test if self.truth(pair) != 0.5]
        right = (self.apart(pairs) @ head > 0) == np.array([self.truth(pair) == 1 for pair in pairs])
        best = [max(ids, key=lambda id: float(self.vectors[id] @ head)) for ids in self.samples.values()]
        return {"accuracy": float(right.mean()), "compliance": mean([all(self.kept[id]) for id in best])}

    def limits(self) -> dict[str, float]:
        """What the arms lie between: any of the four samples, and the best of them by the truth."""
        each = [[all(self.kept[id]) for id in ids] for ids in self.samples.values()]
        decided = [pair for pair in self.test if self.truth(pair) != 0.5]
        return {
            "prompts": len(each),
            "questions": len({self.prompts[prompt].cluster for prompt in self.samples}),
            "training_pairs": len(self.train),
            "heldout_pairs": len(decided),
            "any_of_four": mean([mean(own) for own in each]),
            "truth_of_four": mean([any(own) for own in each]),
            "noise": self.noise,
        }


class Draw:
    """One seed: the pairs trained on, what a person and the spoiled judge say of them, and the queues."""

    def __init__(self, laboratory: Laboratory, seed: int) -> None:
        self.laboratory, self.seed, self.options = laboratory, seed, laboratory.options
        count = min(self.options.pairs, len(laboratory.train))
        self.pairs = random.Random(derive_seed(seed, "pairs")).sample(laboratory.train, count)
        self.said = {pair.id: self._spoiled(pair) for pair in self.pairs}
        self.votes = {pair.id: laboratory.vote(pair, laboratory.noise, seed) for pair in self.pairs}
        self.orders: dict[str, list[Comparison]] = {}

    def _spoiled(self, pair: Comparison) -> list[Label]:
        """The judge's labels on a pair as a worse judge would give them."""
        blind, noise = sorted(self.laboratory.weights)[: self.options.blind], self.options.noise
        shared: dict[str, float] = {}
        rng, found = random.Random(derive_seed(self.seed, "judge", pair.id)), []
        for row in sorted(
            self.laboratory.labels[pair.id], key=lambda row: (row.principle_id or "", row.order)
        ):
            if row.p_a is not None and row.principle_id is not None:
                both = shared.setdefault(row.principle_id, rng.gauss(0.0, noise))
                kept = 0.0 if row.principle_id in blind else logit(row.p_a) / self.options.temperature
                p = sigmoid(kept + both + rng.gauss(0.0, noise / 2))
                update = {"annotator": SPOILED, "p_a": p, "verdict": verdict_of(p)}
                found.append(row.model_copy(update=update))
        return found

    @cached_property
    def judged(self) -> dict[str, float]:
        """What the spoiled judge's labels say of each pair."""
        found = {id: aggregate(labels, self.laboratory.run.constitution) for id, labels in self.said.items()}
        return {id: made[0] for id, made in found.items() if made}

    @cached_property
    def rewards(self) -> dict[str, float]:
        """What a reward fitted to the judge's labels alone gives each response."""
        pairs = [pair for pair in self.pairs if pair.id in self.judged]
        head = self.laboratory.fit(pairs, [self.judged[pair.id] for pair in pairs], [1.0] * len(pairs))
        return {id: float(vector @ head) for id, vector in self.laboratory.vectors.items()}

    def evidence(self, pair: Comparison) -> list[Evidence]:
        """What a queue knows of a pair."""
        rewards = self.rewards[pair.a], self.rewards[pair.b]
        return [Evidence(self.said[pair.id], self.laboratory.weights, rewards)]

    def asked(self, queue: str) -> list[Comparison]:
        """The pairs in the order in which people get them."""
        if queue not in self.orders:
            seed = derive_seed(self.seed, "queue")
            self.orders[queue] = ordered(QUEUES[queue], self.pairs, self.evidence, seed)
        return self.orders[queue]

    def opinion(self, pair: Comparison, arm: Arm, by_person: bool, by_judge: bool) -> float | None:
        """What the labels of an arm say of a pair."""
        if by_judge and not by_person and not arm.whole:
            return self.judged.get(pair.id)
        labels = (self.laboratory.labels if arm.whole else self.said)[pair.id] if by_judge else []
        if by_person and math.isinf(arm.weight):
            labels = []  # the judge's do not count
        if by_person:
            vote = self.votes[pair.id]
            row = Label(comparison_id=pair.id, annotator=PERSON, p_a=vote, verdict=verdict_of(vote))
            labels = [*labels, row]
        found = aggregate(labels, self.laboratory.run.constitution, arm.weight)
        return found[0] if found else None

    def preferences(self, arm: Arm) -> list[dict[str, Any]]:
        """What an arm learns from."""
        people = {pair.id for pair in self.asked(arm.queue)[: arm.people]}
        judged = {pair.id for pair in self.asked("random")[: arm.judged]}
        made = []
        for pair in self.pairs:
            p_a = self.opinion(pair, arm, pair.id in people, pair.id in judged)
            if p_a is not None:
                kinds = ("simulated",) if pair.id in people else ("ai",)
                made.append({"pair": pair, "p_a": p_a, "sources": kinds, "weight": 1.0})
        return weighed(made, arm.ratio, arm.name) if arm.ratio else made

    def cell(self, arm: Arm) -> dict[str, Any]:
        """The figures of one arm, and how often the two kinds of labels are right."""
        rows = self.preferences(arm)
        head = self.laboratory.fit(*([row[key] for row in rows] for key in ("pair", "p_a", "weight")))
        return {**self.laboratory.measured(head), "preferences": len(rows), "right": self.right(rows)}

    def right(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
        """By who gave them, the share of preferences on the side of the truth where it decides."""
        truths = [self.laboratory.truth(row["pair"]) for row in rows]
        decided = [(row, truth) for row, truth in zip(rows, truths, strict=True) if truth != 0.5]
        right = {
            kind: [
                1 - abs(truth - (0.5 + 0.5 * ((row["p_a"] > 0.5) - (row["p_a"] < 0.5))))
                for row, truth in decided
                if row["sources"] == (kind,)
            ]
            for kind in ("simulated", "ai")
        }
        return {kind: mean(own) if own else None for kind, own in right.items()}


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """A mean over seeds with its interval."""
    value = mean(list(values))
    return {"value": value, "ci": with_seed_variance(value, (value, value), values)}


def by_chance(arm: Arm) -> str:
    """The arm in which people get as many pairs by chance, mixed in the same way."""
    return arm.name.replace(arm.queue, "random") if arm.queue != "random" else ""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every arm's figures, seed by seed, written after each."""
    laboratories = [Laboratory(path, options) for path in options.runs]
    found: dict[str, Any] = {
        **where_and_when(),
        "options": {key: str(value) for key, value in vars(options).items()},
        "limits": [one.limits() for one in laboratories],
        "cells": {arm.name: [] for arm in arms(options)},
    }
    for seed in range(options.seeds):
        draw = Draw(laboratories[seed % len(laboratories)], seed)
        for arm in arms(options):
            found["cells"][arm.name].append(draw.cell(arm))
        print(f"seed {seed}: {found['cells']['judge all'][-1]}", flush=True)
        if options.json:
            whole = found | {"figures": figures(found["cells"], arms(options))}
            options.json.write_text(json.dumps(whole, indent=1))
    return found | {"figures": figures(found["cells"], arms(options))}


def figures(cells: Mapping[str, Sequence[Mapping[str, Any]]], wanted: Sequence[Arm]) -> dict[str, Any]:
    """Means over seeds, and differences from the judge alone and from pairs drawn by chance."""
    found: dict[str, Any] = {}
    for arm in wanted:
        own = found[arm.name] = {}
        for key in ("accuracy", "compliance"):
            values = [cell[key] for cell in cells[arm.name]]
            own[key] = over_seeds(values)
            for other, called in (("judge all", "less_judge"), (by_chance(arm), "less_random")):
                if other and other != arm.name:
                    gaps = [a - cell[key] for a, cell in zip(values, cells[other], strict=True)]
                    own[key][called] = over_seeds(gaps)
    return found


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "| labels | right: people's pairs | right: judge's pairs | accuracy [95 %] | less judge all "
        "| less random | full compliance [95 %] | less judge all | less random |",
        "|" + "---|" * 9,
    ]
    for name, row in found["figures"].items():
        shares = []
        for kind in ("simulated", "ai"):
            known = [p for cell in found["cells"][name] if (p := cell["right"][kind]) is not None]
            shares.append(f"{mean(known):.2f}" if known else "—")
        both = [
            shown(figure, sign)
            for key in ("accuracy", "compliance")
            for figure, sign in (
                (row[key], ""),
                (row[key].get("less_judge"), "+"),
                (row[key].get("less_random"), "+"),
            )
        ]
        lines.append(f"| {' | '.join([name, *shares, *both])} |")
    return "\n".join(lines)


def shown(figure: dict[str, Any] | None, sign: str) -> str:
    """A mean with its interval."""
    if figure is None:
        return "—"
    low, high = figure["ci"]
    return f"{figure['value']:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def parser(description: str | None) -> argparse.ArgumentParser:
    """What both benchmarks of learning curves are told."""
    words = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("runs", type=Path, nargs="+")
    words.add_argument("--seeds", type=int, default=10)
    words.add_argument("--pairs", type=int, default=1500, help="trained on in all")
    words.add_argument("--errors", type=float, default=0.2, help="share of people's votes that are wrong")
    words.add_argument("--temperature", type=float, default=3.0)
    words.add_argument("--noise", type=float, default=1.0, help="of the judge's logits, a standard deviation")
    words.add_argument("--blind", type=int, default=2, help="principles that the judge knows nothing of")
    words.add_argument("--people", type=int, nargs="+", default=[50, 150, 500, 1500])
    words.add_argument("--judged", type=int, nargs="+", default=[50, 150, 500])
    words.add_argument("--routed", type=int, nargs=2, default=[150, 500])
    words.add_argument("--queues", nargs="+", default=["random", "unsure", "orders", "principles", "reward"])
    words.add_argument("--penalty", type=float, default=30.0)
    words.add_argument("--json", type=Path)
    return words


def main() -> None:
    """Measure everything and print the table."""
    found = measure(parser(__doc__).parse_args())
    print(json.dumps(found["limits"]))
    print(table(found))


if __name__ == "__main__":
    main()
