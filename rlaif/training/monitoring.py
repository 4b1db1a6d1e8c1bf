"""Monitoring of a policy while it learns: samples, gold where there is one, held-out prompts, and alarms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlaif.feedback.gold import load_gold, with_all
from rlaif.feedback.judge import Judge
from rlaif.records import Prompt
from rlaif.runs.folder import Stage
from rlaif.stats import mean, std
from rlaif.training.rewards import pointwise

if TYPE_CHECKING:
    from rlaif.rl.episodes import PromptTokens

UNREAD = 0.05  # share of a source's opinions that are missing, from which on it is to be doubted
SHOWN = 4  # responses of an update kept in samples.jsonl
Respond = Callable[
    [Sequence["PromptTokens"], int], list[str]
]  # the policy's responses to the n-th part of the held-out prompts


@dataclass(frozen=True)
class Sampled:
    """A response that was learnt from; `numbers` are its columns in samples.jsonl."""

    prompt: Prompt
    text: str
    numbers: dict[str, Any]


class SampleMonitor:
    """The eyes on a stage that learns from its own samples; `rows` are the metrics of the updates before."""

    def __init__(
        self,
        stage: Stage,
        respond: Respond,
        heldout: Sequence[PromptTokens],
        judge: Judge | None,
        rows: list[dict[str, Any]],
    ) -> None:
        self.stage, self.respond, self.rows = stage, respond, rows
        self.gold = load_gold(stage.config.gold, stage.constitution)
        self.judge = (
            pointwise(judge, stage.constitution) if judge and stage.options.judge_watched_prompts else None
        )
        self.heldout = heldout if self.gold or self.judge else []

    def measured(self, row: dict[str, Any], sampled: Sequence[Sampled], looks: bool) -> dict[str, Any]:
        """An update's row with what its texts say, at a look also those of held-out prompts, and with new
        alarms."""
        from rlaif.rl.alarms import boilerplate, refusals

        texts = [s.text for s in sampled]
        row = {**row, "refusals": refusals(texts), "boilerplate": boilerplate(texts)}
        row |= self._truth("gold", [s.prompt for s in sampled], texts)
        if looks and self.heldout:
            row |= self._heldout()
        self.rows.append(row)
        fresh = self._alarms()
        for alarm in fresh:
            self.stage.run.tell(
                f"{self.stage.dir.name}: update {row['update']}: {alarm['found']} — {alarm['advice']}"
            )
        if fresh:
            row["alarms"] = fresh
        return row

    def headline(self) -> str:
        """What the progress bar says of the last update, and which alarms there have been."""
        raised = [alarm["kind"] for alarm in raised_alarms(self.rows)]
        return headline(self.rows[-1]) + (f", alarms: {', '.join(raised)}" if raised else "")

    def _alarms(self) -> list[dict[str, str]]:
        """Those of the last row that were not raised before, with what to try in this stage."""
        from rlaif.rl.alarms import alarms

        before = {alarm["kind"] for alarm in raised_alarms(self.rows)}
        name, options = self.stage.name, type(self.stage.options).model_fields
        return [
            {"kind": alarm.kind, "found": alarm.found, "advice": alarm.advice(name, options)}
            for alarm in alarms(self.rows)
            if alarm.kind not in before
        ]

    def _truth(self, key: str, prompts: Sequence[Prompt], texts: Sequence[str]) -> dict[str, float]:
        """Share of responses that keep every principle by the gold scorer: watched, never trained on."""
        if self.gold is None:
            return {}
        kept = [with_all(self.gold(prompt, text)) for prompt, text in zip(prompts, texts, strict=True)]
        known = [truth["all"] for truth in kept if truth]
        return {key: mean(known)} if known else {}

    def _heldout(self) -> dict[str, float]:
        """Responses of the policy to held-out prompts, drawn with the same random numbers at every look.

        Of several processes the first alone asks the judge: what the others write is thrown away.
        """
        from rlaif.rl.ranks import Ranks

        size = self.stage.options.batch_size
        parts = [self.heldout[at : at + size] for at in range(0, len(self.heldout), size)]
        texts = [text for n, part in enumerate(parts) for text in self.respond(part, n)]
        prompts = [p.source for p in self.heldout]
        row = {"heldout": len(texts), **self._truth("heldout_gold", prompts, texts)}
        if self.judge and Ranks.current().rank == 0:
            read = [score for score in self.judge(prompts, texts) if score is not None]
            if read:
                row |= {
                    "heldout_judge": mean(read),
                    "heldout_judge_error": std(read) / math.sqrt(len(read)),
                }
        return row

    def samples(self, number: int, sampled: Sequence[Sampled]) -> Iterator[dict[str, Any]]:
        """A few of an update's responses, evenly drawn from it, with their numbers, for samples.jsonl."""
        for s in sampled[:: -(-len(sampled) // SHOWN)]:
            yield {
                "update": number,
                "policy_version": number - 1,
                "prompt_id": s.prompt.id,
                "prompt": s.prompt.messages[-1].content,
                "response": s.text,
                **s.numbers,
            }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A stage's metrics from its rows: "start" and "end" are means over the first and last few updates, none
    in both."""
    from rlaif.rl.alarms import ends

    def over(part: Sequence[dict[str, Any]], key: str) -> float | None:
        values = [row[key] for row in part if key in row and math.isfinite(row[key])]
        return mean(values) if values else None

    first, last = ends(rows)
    return {
        "updates": len(rows),
        "episodes": rows[-1]["episodes"],
        "kl": over(last, "exact_kl"),
        "reward_start": over(first, "reward"),
        "reward_end": over(last, "reward"),
        "score_start": over(first, "score"),
        "score_end": over(last, "score"),
        **{key: over(last, key) for key in ("length", "truncated", "entropy")},
        "unread": unread(rows),
        "alarms": raised_alarms(rows),
    }


def headline(row: Mapping[str, Any]) -> str:
    """What a progress bar says of a row of metrics.jsonl: reward, KL and length, or else the losses."""
    kl = "exact_kl" if "exact_kl" in row else "kl"
    shown = (("reward", "reward", 3), (kl, "KL", 3), ("length", "tokens", 1))
    if "reward" not in row:
        shown = (("loss", "loss", 3), ("heldout_loss", "held-out loss", 3))
    return ", ".join(f"{name} {row[key]:.{digits}f}" for key, name, digits in shown if key in row)


def raised_alarms(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every alarm in a history, with its update."""
    return [{"update": row["update"], **alarm} for row in rows for alarm in row.get("alarms", ())]


def unread(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of each source of reward the share of responses that it could not read, or had no opinion of.

    Without an interval: it is a count over every response of this training and no sample of others, because
    the policy that wrote them changed with every update.
    """
    names = sorted({key for row in rows for key in row if key.startswith("unread/")})
    return {key.removeprefix("unread/"): mean([row.get(key, 0.0) for row in rows]) for key in names}


def note_warnings(stage: Stage) -> None:
    """Say in the stage's notes what its metrics warn of: too little learning, missing rewards,
    alarms."""
    from rlaif.rl.alarms import learned_little

    metrics, named = stage.metrics, type(stage.options).model_fields
    for alarm in learned_little(stage.options, metrics):
        stage.notes.append(f"{alarm.found}; to try: {alarm.advice(stage.options.stage, named)}")
    for name, share in metrics["unread"].items():
        if share > UNREAD:
            stage.notes.append(
                f"the reward {name} could not read {share:.0%} of the responses, or not to their end: "
                "these got "
                "the mean of the others, or a score of their beginning"
            )
    rang = [f"{alarm['kind']} at update {alarm['update']}" for alarm in metrics["alarms"]]
    if rang:
        stage.notes.append(f"alarms raised: {', '.join(rang)}; the report says what to try")
