"""Simulated people who rank responses: noisy, with a bias for or against long responses, and with individual
weights of their own."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from rlaif.playground.world import Messages, score


@dataclass(frozen=True)
class SimulatedAnnotator:
    """One simulated person.

    `noise` is the standard deviation of the error on a response's utility, in units of one kept principle;
    `length_bias` the utility of ten more words; `bias_spread` the spread of the personal weights of the
    principles (0 = everybody weighs them as 1); responses closer than `tie` in utility are ranked equal.
    """

    id: str
    noise: float = 0.25
    length_bias: float = 0.0
    bias_spread: float = 0.3
    tie: float = 0.3

    def weights(self, ids: list[str], seed: int) -> dict[str, float]:
        """This person's own weight of every principle, log-normal around 1."""
        return {i: Random(f"weight|{seed}|{self.id}|{i}").lognormvariate(0.0, self.bias_spread) for i in ids}

    def utility(
        self, messages: Messages, response: str, principles: list[dict[str, str]], seed: int
    ) -> float:
        """What this person feels about one response."""
        kept = score(messages, response, principles)
        weights = self.weights(list(kept), seed)
        asked = "|".join(m["content"] for m in messages)
        error = Random(f"noise|{seed}|{self.id}|{asked}|{response}").gauss(0.0, self.noise)
        length = self.length_bias * len(response.split()) / 10
        return sum(weights[i] for i, ok in kept.items() if ok) + length + error


def rank(utilities: list[float], tie: float) -> list[int]:
    """Ranks from 0, lower is better; a response within `tie` of the best of a group shares its rank."""
    order = sorted(range(len(utilities)), key=lambda i: -utilities[i])
    ranks, best = [0] * len(utilities), float("inf")
    current = -1
    for place, i in enumerate(order):
        if best - utilities[i] > tie:
            current, best = place, utilities[i]
        ranks[i] = current
    return ranks


def annotate(
    messages: Messages,
    responses: list[str],
    principles: list[dict[str, str]],
    seed: int = 0,
    annotator_id: str = "simulated-0",
    noise: float = 0.25,
    length_bias: float = 0.0,
    bias_spread: float = 0.3,
    tie: float = 0.3,
) -> list[int]:
    """One simulated person's ranking of K responses: a rank each, lower is better, equal ranks are ties.

    The same seed, annotator, prompt and responses always give the same ranking, in whatever order responses
    come.
    """
    person = SimulatedAnnotator(annotator_id, noise, length_bias, bias_spread, tie)
    return rank([person.utility(messages, response, principles, seed) for response in responses], tie)
