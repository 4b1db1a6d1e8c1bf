"""Failures of reinforcement learning from a reward model, seen in the metrics: pure functions of their
history.

Most compare the last few updates with the first ones, or with the best ones, by more than noise explains;
absolute limits are checked from the first update on. `learned_little` is asked once the training has ended.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import Formatter
from typing import Any

from rlaif.refusals import refuses

Rows = Sequence[dict[str, Any]]  # metrics.jsonl, one row an update

WINDOW = 5  # updates that are averaged
KL_TOKEN = 0.75  # nats a token from the reference
KL_STEP = 0.1  # nats a token from one update to the next
ENTROPY = 0.2  # of what it was
LONGER, SHORTER = 1.75, 0.4  # of what the length was
SAME, SAME_RISE = 0.6, 0.4  # share of the responses with the same words, and its rise
REFUSALS = 0.3  # rise of their share
CUT = 0.5  # share of responses cut at max_tokens
STILL = 0.01  # nats a response from the starting policy: nearer to it, a policy has not moved
SIGMAS, FALL = (
    4.0,
    0.02,
)  # a fall of the truth, in standard errors (the peak is the best of many) and at least


@dataclass(frozen=True)
class Alarm:
    """Something to look at: what was found, and `ways` to try, which name options of the stage in braces."""

    kind: str
    found: str
    ways: tuple[str, ...]

    def advice(self, stage: str, options: Collection[str]) -> str:
        """What to try in a stage that has these options; a way that needs another one is left out."""
        named = {option: f"{stage}.{option}" for option in options}
        open_to_it = [way.format_map(named) for way in self.ways if _asked(way) <= named.keys()]
        return ", or ".join(filter(None, (", ".join(open_to_it[:-1]), open_to_it[-1])))


def _asked(way: str) -> set[str]:
    """The options that a way names."""
    return {name for _, name, _, _ in Formatter().parse(way) if name}


def refusals(texts: Sequence[str]) -> float:
    """Share of the texts that refuse."""
    return sum(refuses(text) for text in texts) / len(texts)


def boilerplate(texts: Sequence[str], n: int = 4) -> float:
    """The largest share of the texts that have the same `n` words in a row."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = text.lower().split()
        counts.update({tuple(words[i : i + n]) for i in range(len(words) - n + 1)})
    return max(counts.values(), default=0) / len(texts)


def alarms(rows: Rows) -> list[Alarm]:
    """Every alarm that the last row of a history gives cause for."""
    checks = CHECKS if len(rows) > WINDOW else STATES
    return [alarm for check in checks for alarm in check(rows)]


def ends(rows: Rows) -> tuple[Rows, Rows]:
    """The first and the last few of some rows: WINDOW each, fewer where they would overlap; a single row is
    both."""
    size = max(1, min(WINDOW, len(rows) // 2))
    return rows[:size], rows[-size:]


def _mean(rows: Rows, key: str) -> float:
    values = [row[key] for row in rows if row.get(key) is not None]
    return math.fsum(values) / len(values) if values else math.nan


def _ends(rows: Rows, key: str) -> tuple[float, float]:
    """Means over the first and the last updates."""
    first, last = ends(rows)
    return _mean(first, key), _mean(last, key)


def kl_blow_up(rows: Rows) -> Iterator[Alarm]:
    """The policy leaves the reference, or itself, faster than its scores remain meaningful."""
    last = rows[-WINDOW:]
    token, step = _mean(last, "exact_kl") / max(1.0, _mean(last, "length")), _mean(last, "approx_kl")
    if token > KL_TOKEN:
        yield Alarm(
            "kl",
            f"the policy is {token:.2f} nats a token from the reference",
            ("raise {kl_coef}", "set {kl_target}"),
        )
    elif step > KL_STEP:
        yield Alarm(
            "kl",
            f"an update moves the policy by {step:.2f} nats a token",
            ("lower {learning_rate} or {epochs}", "set {max_update_kl}"),
        )


def entropy_collapse(rows: Rows) -> Iterator[Alarm]:
    """The policy hardly varies any more what it writes."""
    first, last = _ends(rows, "entropy")
    if last < ENTROPY * first:
        yield Alarm(
            "entropy",
            f"entropy fell from {first:.2f} to {last:.2f} nats a token",
            ("raise {kl_coef}", "lower {learning_rate}", "stop earlier"),
        )


def length_drift(rows: Rows) -> Iterator[Alarm]:
    """The policy may be rewarded for length and not for content."""
    first, last = _ends(rows, "length")
    if not SHORTER * first <= last <= LONGER * first:
        yield Alarm(
            "length",
            f"responses went from {first:.0f} to {last:.0f} tokens",
            (
                "look whether the reward model prefers it (its length baseline)",
                "add a length source to {rewards}",
            ),
        )


ENDLESS = (  # what to try where responses do not end
    "see that the policy's training text ends in its EOS",
    "raise {max_tokens}",
    "raise {missing_eos_penalty}",
)


def cut_off(rows: Rows) -> Iterator[Alarm]:
    """Responses that never end are scored on what was cut off."""
    share = _mean(rows[-WINDOW:], "truncated")
    if share > CUT:
        yield Alarm(
            "truncated",
            f"{share:.0%} of the responses are cut off at the token limit",
            ENDLESS,
        )


def same_words(rows: Rows) -> Iterator[Alarm]:
    """One phrase that the reward model likes spreads to every response."""
    first, last = _ends(rows, "boilerplate")
    if last > SAME and last > first + SAME_RISE:
        yield Alarm(
            "boilerplate",
            f"{last:.0%} of the responses have the same four words in a row, at first {first:.0%}",
            ("read samples.jsonl", "raise {kl_coef}", "label pairs that differ in the phrase alone"),
        )


def refusal_drift(rows: Rows) -> Iterator[Alarm]:
    """Refusing is the easiest way to be harmless."""
    first, last = _ends(rows, "refusals")
    if last > first + REFUSALS:
        yield Alarm(
            "refusals",
            f"refusals went from {first:.0%} to {last:.0%}",
            ("weigh the helpful principles more", "add prompts that must not be refused"),
        )


def over_optimisation(rows: Rows) -> Iterator[Alarm]:
    """The score rises while the truth it stands for falls (arXiv 2210.10760)."""
    for key, window in (("gold", WINDOW), ("heldout_gold", 1), ("heldout_judge", 1)):
        seen = [row for row in rows if row.get(key) is not None]
        if len(seen) <= window or seen[-1] is not rows[-1]:
            continue
        spans = [seen[end - window : end] for end in range(window, len(seen) + 1)]
        truth, last = [_mean(span, key) for span in spans], spans[-1]
        best = max(range(len(spans)), key=truth.__getitem__)
        fall = truth[best] - truth[-1]
        error = _error(rows, key, spans[best], last)
        rise = _mean(last, "score") - _mean(spans[best], "score")
        if fall > max(FALL, SIGMAS * error) and rise > _noise(rows, "score") * math.sqrt(2 / window):
            name = {"gold": "the gold score", "heldout_gold": "the gold score of held-out prompts"}.get(
                key, "the judge's score of held-out responses"
            )
            yield Alarm(
                "over-optimisation",
                f"the score still rises, but {name} fell from {truth[best]:.2f} "
                f"(update {spans[best][-1]['update']}) to {truth[-1]:.2f}",
                (
                    "stop near that update",
                    "raise {kl_coef}",
                    "train the reward model on more or cleaner labels",
                ),
            )
            return


def learned_little(options: Any, metrics: Mapping[str, Any]) -> Iterator[Alarm]:
    """What kept a finished training, of a stage with these options and metrics, from learning much."""
    learning = options.updates - getattr(options, "critic_warmup", 0)
    if options.warmup > learning:
        yield Alarm(
            "warmup",
            f"the learning rate was still rising when training ended: warmup {options.warmup}, but "
            f"{learning} updates of the policy; it reached {learning / options.warmup:.0%} of learning_rate",
            ("lower {warmup}", "raise {updates}"),
        )
    kl = metrics.get("kl")
    if metrics.get("updates", 0) > 1 and kl is not None and kl < STILL:
        yield Alarm(
            "still",
            f"the policy did not move: at the end its responses are {kl:.4f} nats from the starting policy",
            ("raise {learning_rate}", "raise {updates}"),
        )


def _noise(rows: Rows, key: str) -> float:
    """Spread of a metric around its trend: half the variance of its steps is noise."""
    steps = [b[key] - a[key] for a, b in pairwise(rows)]
    return math.sqrt(math.fsum(step * step for step in steps) / len(steps) / 2)


def _error(rows: Rows, key: str, best: Rows, last: Rows) -> float:
    """Standard error of the difference between two spans of `key`: of shares by their sizes, of scores as
    they spread."""
    if key == "heldout_judge":
        return math.hypot(best[-1]["heldout_judge_error"], last[-1]["heldout_judge_error"])
    p = (_mean(best, key) + _mean(last, key)) / 2
    answers = (
        rows[-1]["heldout"]
        if key == "heldout_gold"
        else min((b["episodes"] - a["episodes"] for a, b in pairwise(rows)), default=1)
    )
    return math.sqrt(2 * p * (1 - p) / (len(last) * answers))


Check = Callable[[Rows], Iterator[Alarm]]
STATES: tuple[Check, ...] = (kl_blow_up, cut_off)  # wrong as they are, from the first update on
CHECKS: tuple[Check, ...] = (
    *STATES,
    entropy_collapse,
    length_drift,
    same_words,
    refusal_drift,
    over_optimisation,
)
