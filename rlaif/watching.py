"""What is seen of PPO as it runs: texts, the truth where there is one, held-out prompts, and the alarms they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlaif.gold import load_gold, with_all
from rlaif.judge import Judge
from rlaif.rewards import pointwise
from rlaif.runfolder import Stage
from rlaif.stats import mean

if TYPE_CHECKING:
    from rlaif.rl.ppo import PPO, Experience, PromptTokens

SHOWN = 4  # responses of an update kept in samples.jsonl


class Watch:
    """The eyes on a run of PPO; `rows` are the metrics of the updates before."""

    def __init__(
        self, stage: Stage, ppo: PPO, tokenizer: Any, heldout: Sequence[PromptTokens], judge: Judge | None,
        rows: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        self.ppo, self.tokenizer, self.rows, self.tell = ppo, tokenizer, rows, stage.run.tell
        self.name, self.gold = stage.dir.name, load_gold(stage.config.gold, stage.constitution)
        self.judge = pointwise(judge, stage.constitution) if judge and stage.options.watch_judge else None
        self.heldout = heldout if self.gold or self.judge else []

    def measured(
        self, row: dict[str, Any], experience: Experience, batch: Sequence[PromptTokens], looks: bool
    ) -> dict[str, Any]:
        """An update's row with what its texts say, at a look also those of held-out prompts, and with new alarms."""
        from rlaif.rl.alarms import alarms, boilerplate, refusals
        from rlaif.rl.texts import texts_of

        texts = texts_of(self.tokenizer, experience.episodes)
        row = {**row, "refusals": refusals(texts), "boilerplate": boilerplate(texts)}
        row |= self._truth("gold", batch, texts)
        if looks and self.heldout:
            row |= self._heldout()
        self.rows.append(row)
        rung = {alarm["kind"] for old in self.rows for alarm in old.get("alarms", ())}
        fresh = [alarm for alarm in alarms(self.rows) if alarm.kind not in rung]
        for alarm in fresh:
            self.tell(f"{self.name}: update {row['update']}: {alarm.found} — {alarm.advice}")
        if fresh:
            row["alarms"] = [asdict(alarm) for alarm in fresh]
        return row

    def _truth(self, key: str, batch: Sequence[PromptTokens], texts: Sequence[str]) -> dict[str, float]:
        """Share of responses that keep every principle by the gold scorer: watched, never trained on."""
        if self.gold is None:
            return {}
        kept = [with_all(self.gold(p.source, text)) for p, text in zip(batch, texts, strict=True)]
        known = [truth["all"] for truth in kept if truth]
        return {key: mean(known)} if known else {}

    def _heldout(self) -> dict[str, float]:
        """The policy's answers to held-out prompts, drawn with the same random numbers at every look."""
        from rlaif.rl.texts import texts_of

        size = self.ppo.options.batch_size
        parts = [self.heldout[at : at + size] for at in range(0, len(self.heldout), size)]
        texts = [
            t
            for n, part in enumerate(parts)
            for t in texts_of(self.tokenizer, self.ppo.sample(part, "watch", n))
        ]
        row = {"heldout": len(texts), **self._truth("heldout_gold", self.heldout, texts)}
        if self.judge:
            read = [
                score for score in self.judge([p.source for p in self.heldout], texts) if score is not None
            ]
            row |= {"heldout_judge": mean(read)} if read else {}
        return row

    def samples(
        self, number: int, experience: Experience, batch: Sequence[PromptTokens]
    ) -> Iterator[dict[str, Any]]:
        """The first few responses with their numbers, for samples.jsonl."""
        from rlaif.rl.texts import texts_of

        kl_B = (experience.log_prob - experience.reference).sum(1)
        log_prob_B = experience.log_prob.sum(1)
        for i, text in enumerate(texts_of(self.tokenizer, experience.episodes)[:SHOWN]):
            yield {
                "update": number, "policy_version": experience.version, "prompt_id": batch[i].source.id,
                "prompt": batch[i].source.messages[-1].content, "response": text,
                "score": float(experience.score_B[i]), "log_prob": float(log_prob_B[i]), "kl": float(kl_B[i]),
                "tokens": int(experience.episodes.response_B[i]), "ended": bool(experience.episodes.ended_B[i]),
            }  # fmt: skip
