"""What a run will ask of its models, counted from the config before anything runs: calls, tokens, seconds, money.

Calls are exact or at most; tokens are rough, a quarter of the characters, every reply as long as it may be. Where an
engine reads the shared part of a question once for all principles, those tokens stand apart.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from rlaif import earlier
from rlaif.auditing.audit import WRITTEN, WRITTEN_TOKENS, verdicts_at_most
from rlaif.auditing.gate import varied
from rlaif.config import Config, ModelConfig
from rlaif.constitution import Constitution
from rlaif.lookup import json_rows
from rlaif.prompts import Templates, user
from rlaif.records import Prompt
from rlaif.runfolder import HELDOUT, numbered_rows, split_of
from rlaif.spending import COUNTED, money

CHARACTERS = 4  # in a token
SHARING = ("transformers", "vllm")  # engines that read a shared prefix once


@dataclass(frozen=True)
class Asked:
    """What one kind of question costs: how many, and tokens of each."""

    model: ModelConfig
    calls: float
    shared: float  # prompt tokens that `of` questions have in common
    own: float = 0.0
    written: float = 0.0
    of: float = 1.0

    def amounts(self) -> dict[str, int]:
        """Calls and tokens."""
        saved = self.calls * self.shared * (1 - 1 / self.of) if self.model.engine in SHARING else 0.0
        numbers = (self.calls, 0, self.calls * (self.shared + self.own), saved, self.calls * self.written)
        return {key: round_up(n) for key, n in zip(COUNTED, numbers, strict=True) if key != "cached"}


class Estimate:
    """The stages of a config, gone through in order; each leaves behind what the next ones count on."""

    def __init__(
        self, config: Config, constitution: Constitution, prompts: list[Prompt], templates: Templates
    ) -> None:
        self.config, self.constitution, self.templates = config, constitution, templates
        splits = Counter(split_of(p, config) for p in prompts)
        self.train, self.heldout, self.wordings = (splits[s] for s in ("train", *HELDOUT))
        self.groups = {p.id: p.group for p in prompts}
        self.prompt = tokens(*(m.content for p in prompts for m in p.messages)) / len(prompts)
        self.principles = sum(len(constitution.applicable(p.tags)) for p in prompts) / len(prompts)
        self.responses = self.comparisons = self.originals = self.paired = 0
        self.k = self.policies = 1
        self.reply = 0.0
        # Of a comparison: tokens of the conversation, of a reply; principles that apply.
        self.pair = (0.0, 0.0, 0.0)

    def stage(self, o: Any, round: int) -> dict[str, Any]:
        """Rows (at most), calls, tokens, seconds and money of one stage."""
        count = getattr(self, f"_{o.stage}", self._training)
        rows, asked = count(o)
        self.policies += "policy" in o.makes
        found = {"stage": o.stage, "round": round, "rows": rows, **dict.fromkeys(COUNTED, 0)}
        del found["cached"]
        for question in asked:
            for key, n in question.amounts().items():
                found[key] += n
        prices = [(question.amounts(), self.config.prices.get(question.model.model)) for question in asked]
        if o.stage == "label" and o.labels_from:
            found["labels_from"] = earlier.beforehand(self.config, self.constitution, self.templates, o)
        return found | {
            "seconds": _seconds(prices),
            "money": sum(money(used, price) for used, price in prices) if self.config.prices else None,
        }

    def _training(self, o: Any) -> tuple[int, list[Asked]]:
        return 0, []

    def _sample(self, o: Any) -> tuple[int, list[Asked]]:
        self.k, self.reply = o.k, o.max_tokens
        self.responses = min(self.train, o.prompts or self.train) * o.k
        return self.responses, [Asked(self.config.policy, self.responses, self.prompt, written=o.max_tokens)]

    def _critique(self, o: Any) -> tuple[int, list[Asked]]:
        self.originals, rows = self.responses, self.responses * o.rounds
        chat, rule = [user("")], self.constitution.principles[0]
        extra = [tokens(t[-1]["content"]) for t in (self.templates.critique(chat, "", rule),
                                                    self.templates.revision(chat, "", rule, ""))]  # fmt: skip
        both = self.prompt + self.reply
        shots = 1 + o.few_shot
        return rows, [
            Asked(
                self.config.feedback,
                rows if o.critique else 0,
                (both + extra[0]) * shots,
                written=o.max_tokens,
            ),
            Asked(self.config.feedback, rows, (both + o.max_tokens + extra[1]) * shots, written=o.max_tokens),
        ]

    def _pair(self, o: Any) -> tuple[int, list[Asked]]:
        per_prompt = min(comb(self.k, 2), o.per_prompt or comb(self.k, 2)) if o.samples else 0
        made = (self.responses // max(self.k, 1)) * per_prompt + (self.originals if o.revisions else 0)
        self.pair = (self.prompt, self.reply, self.principles)
        imported = prompts = 0
        if o.imported:
            prompts, imported, *sizes = self._folder(Path(o.imported))
            whole = max(1, made + imported)
            old = (self.prompt, self.reply, self.principles)
            mixed = [(made * a + imported * b) / whole for a, b in zip(old, sizes, strict=True)]
            self.pair = (mixed[0], mixed[1], mixed[2])
        rows = made + imported
        self.comparisons = min(rows, o.limit or rows)
        own = self.responses // max(self.k, 1) if made else 0
        self.paired = min(self.comparisons, own + prompts)
        return self.comparisons, []

    def _folder(self, folder: Path) -> tuple[int, int, float, float, float]:
        """(prompts, comparisons outside the held-out ones, mean tokens of conversation and reply, mean principles)."""
        sums, train = Counter[str](), set[str]()
        for _, row in numbered_rows(folder / "prompts.jsonl", Prompt):
            own = row.model_copy(update={"group": self.groups.get(row.id, row.group)})
            train |= {row.id} if split_of(own, self.config) == "train" else set()
            sums += Counter(prompts=1, rules=len(self.constitution.applicable(row.tags)),
                            chats=sum(len(m.content) for m in row.messages))  # fmt: skip
        for row in json_rows(folder / "responses.jsonl"):
            sums += Counter(replies=1, texts=len(str(row.get("text", ""))))
        for row in json_rows(folder / "comparisons.jsonl"):
            sums["pairs"] += row.get("prompt_id") in train
        prompts, replies = max(1, sums["prompts"]), max(1, sums["replies"]) * CHARACTERS
        return (
            sums["prompts"],
            sums["pairs"],
            sums["chats"] / prompts / CHARACTERS,
            sums["texts"] / replies,
            sums["rules"] / prompts,
        )

    def _label(self, o: Any) -> tuple[int, list[Asked]]:
        prompt, reply, each = self.pair
        each = self._share(o, each)
        share = o.human.share if o.human and o.human.weight is None else 0.0
        rows = round_up(self.comparisons * each * 2 * (1 - share)) if o.ai else 0
        model, own = self.config.feedback, self._suffix()
        shared = self._template() + prompt + 2 * reply
        card = self._gate(shared + own, each) if o.ai else []
        if o.mode != "pairwise":
            questions = 2 if o.mode == "best and worst" else 1
            calls = round_up(self.paired * each * 2 * questions) if o.ai else 0
            return rows * questions, [
                Asked(model, calls, shared + (self.k - 2) * reply, own, of=max(1, each)),
                *card,
            ]
        shared += o.few_shot * (self._template() + own + prompt + 2 * reply)
        if not o.cot:
            return rows, [Asked(model, rows, shared, own, self._answer(), max(1, each)), *card]
        return rows, [
            Asked(model, rows, shared + own, written=o.max_tokens),
            Asked(model, rows, shared + own + o.max_tokens, written=self._answer()),
            *card,
        ]

    def _gate(self, question: float, each: float) -> list[Asked]:
        """The small audit before labelling, where the config asks for one."""
        if not (limits := self.config.judge_card):
            return []
        pairs, count = min(limits.pairs, self.comparisons), varied(limits.pairs)
        verdicts = round_up(verdicts_at_most(self.constitution, pairs, each, count))
        return [
            Asked(self.config.feedback, verdicts, question, written=self._answer()),
            Asked(self.config.feedback, min(count, WRITTEN), question, written=WRITTEN_TOKENS),
        ]

    def _share(self, o: Any, each: float) -> float:
        """Principles a pair is judged by, of those that apply on average."""
        if o.principles == "drawn":
            return min(1.0, each)
        if o.principles == "all":
            return each
        return each * len(self.constitution.subset(o.principles)) / len(self.constitution.principles)

    def _template(self) -> float:
        return tokens(self.templates.comparison([user("")], "", "")[0]["content"])

    def _suffix(self) -> float:
        rules = self.constitution.principles
        return tokens(*map(self.templates.comparison_suffix, rules)) / len(rules)

    def _answer(self) -> int:
        """Tokens written for a verdict: endpoints write at least one."""
        return 1 if self.config.feedback.engine == "openai" else 0

    def _ppo(self, o: Any) -> tuple[int, list[Asked]]:
        rows = o.updates * o.batch_size
        looks = sum(map(o.looks, range(1, o.updates + 1))) if o.watch_judge else 0
        return rows, [*self._graded(o, rows), *self._pointwise(o, looks * min(o.watch, self.heldout))]

    _rloo = _grpo = _ppo

    def _rejection(self, o: Any) -> tuple[int, list[Asked]]:
        kept = min(self.responses, (self.responses // max(self.k, 1)) * o.keep)
        return kept, self._graded(o, self.responses)

    def _best_of_n(self, o: Any) -> tuple[int, list[Asked]]:
        rows = self._evaluated(o.prompts) * o.n
        self.policies += 1
        return rows, [
            Asked(self.config.policy, rows, self.prompt, written=o.max_tokens),
            *self._graded(o, rows),
        ]

    def _graded(self, o: Any, responses: int) -> list[Asked]:
        """The judge where it is a source of the stage's reward."""
        return self._pointwise(o, responses * any(source.source == "judge" for source in o.rewards))

    def _pointwise(self, o: Any, responses: int) -> list[Asked]:
        """The judge's opinion of single responses."""
        shared = self._template() + self.prompt + getattr(o, "max_tokens", self.reply)
        calls = round_up(responses * self.principles)
        if not calls:
            return []
        group = max(1, self.principles)
        return [Asked(self.config.feedback, calls, shared, self._suffix(), self._answer(), group)]

    def _evaluated(self, limit: int | None) -> int:
        """Prompts that policies are evaluated on: of each held-out split at most `limit`."""
        return sum(n if limit is None else min(n, limit) for n in (self.heldout, self.wordings))

    def _evaluate(self, o: Any) -> tuple[int, list[Asked]]:
        prompts = self._evaluated(o.prompts)
        judged = min(prompts, prompts if o.judge is None else self._evaluated(o.judge))
        rows, each = prompts * self.policies, self.principles
        single = self._template() + self.prompt + o.max_tokens
        model, own = self.config.feedback, self._suffix()
        return rows, [
            Asked(self.config.policy, rows, self.prompt, written=o.max_tokens),
            Asked(model, round_up(judged * self.policies * each), single, own, self._answer(), max(1, each)),
            Asked(model, round_up(judged * (self.policies - 1) * each * 2), single + o.max_tokens, own,
                  self._answer(), max(1, each)),
        ]  # fmt: skip


def estimate(
    config: Config, constitution: Constitution, prompts: list[Prompt], templates: Templates
) -> dict[str, Any]:
    """Prompt counts and, for each stage, the rows it makes (at most) and what they cost; sums over all stages."""
    plan = Estimate(config, constitution, prompts, templates)
    stages = [plan.stage(options, round) for round, options in config.expanded]
    sums = ("calls", "prompt_tokens", "shared_tokens", "tokens")
    total = {key: sum(stage[key] for stage in stages) for key in sums}
    known = {key: [stage[key] for stage in stages if stage["calls"]] for key in ("seconds", "money")}
    return {
        "prompts": {"train": plan.train, "heldout": plan.heldout, "wordings": plan.wordings},
        "principles": len(constitution.principles),
        "stages": stages,
        **total,
        **{key: None if None in values else sum(values) for key, values in known.items()},
        "budget": config.budget.model_dump(exclude_none=True) if config.budget else None,
    }


def in_words(plan: dict[str, Any]) -> list[str]:
    """The estimate in a line a stage that asks models, and one for all of them."""
    lines = [f"  {stage['stage']}: {_line(stage)}" for stage in plan["stages"] if stage["calls"]]
    taken = [stage["labels_from"] for stage in plan["stages"] if "labels_from" in stage]
    told = [f"  {line}" for said in taken for line in earlier.in_words(said)]
    return ["estimate, at most:", *lines, f"  all: {_line(plan)}", *told, *_warnings(plan)] if lines else []


def _line(row: dict[str, Any]) -> str:
    shared = f", {row['shared_tokens']:,} of them shared" if row["shared_tokens"] else ""
    parts = [f"{row['calls']:,} calls", f"{row['prompt_tokens']:,} prompt tokens{shared}",
             f"{row['tokens']:,} written"]  # fmt: skip
    parts += [f"{row['seconds']:,.0f} s"] if row["seconds"] is not None else []
    parts += [f"{row['money']:,.2f} money"] if row["money"] is not None else []
    return ", ".join(parts)


def _warnings(plan: dict[str, Any]) -> list[str]:
    needs = {**plan, "tokens": plan["tokens"] + plan["prompt_tokens"]}
    caps = plan["budget"] or {}
    over = [f"{cap:,.10g} {key}" for key, cap in caps.items() if (needs[key] or 0) > cap]
    return [f"  this may exceed the budget of {', '.join(over)}: the run then stops there"] if over else []


def _seconds(prices: list[Any]) -> float | None:
    """Time by the price table; None where it does not say."""
    total = 0.0
    for used, price in prices:
        if used["calls"] and (price is None or price.seconds is None):
            return None
        fresh = used["prompt_tokens"] - used["shared_tokens"] + used["tokens"]
        total += fresh / 1000 * price.seconds if used["calls"] else 0.0
    return total


def tokens(*texts: str) -> float:
    """Roughly how many tokens texts have."""
    return sum(map(len, texts)) / CHARACTERS


def round_up(x: float) -> int:
    """The next whole number."""
    return -int(-x // 1)
