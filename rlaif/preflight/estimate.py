"""What a run will ask of its models, counted from the config before anything runs: calls, tokens, seconds,
money.

Calls are exact or at most; tokens are rough, a quarter of the characters, every response as long as it may
be. Where an engine reads the shared part of a question once for all principles, those tokens stand apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.audit.audit import WRITTEN, WRITTEN_TOKENS, verdicts_at_most
from rlaif.audit.gate import num_varied
from rlaif.config import Config
from rlaif.constitution import Constitution
from rlaif.feedback import earlier_labels as earlier
from rlaif.options import LabelOptions, StageOptions
from rlaif.options.plan import CHARACTERS, Asked, Plan, round_up
from rlaif.prompting.templates import Templates
from rlaif.records import Comparison, Prompt, Response
from rlaif.runs.folder import HELDOUT, split_of
from rlaif.runs.rows import numbered_rows
from rlaif.runs.spending import COUNTED, amount_in_words, money


def amounts(asked: Asked) -> dict[str, int]:
    """Calls and tokens of one kind of question."""
    saved = asked.calls * asked.shared * (1 - 1 / asked.of) if asked.model.kind.shares_prefixes else 0.0
    numbers = (asked.calls, 0, asked.calls * (asked.shared + asked.own), saved, asked.calls * asked.written)
    return {key: round_up(n) for key, n in zip(COUNTED, numbers, strict=True) if key != "cached"}


def imported(
    folder: Path, config: Config, constitution: Constitution, groups: Mapping[str, str | None]
) -> tuple[int, int, tuple[float, float, float]]:
    """(prompts, comparisons outside the held-out ones, `Plan.pair` of these) of a folder of `rlaif data
    import`."""
    sums, train = Counter[str](), set[str]()
    for _, row in numbered_rows(folder / "prompts.jsonl", Prompt):
        own = row.model_copy(update={"group": groups.get(row.id, row.group)})
        train |= {row.id} if split_of(own, config) == "train" else set()
        rules, characters = (
            constitution.applicable(row.tags),
            sum(len(m.content) for m in row.messages),
        )
        sums += Counter(prompts=1, rules=len(rules), chats=characters)
    for _, response in numbered_rows(folder / "responses.jsonl", Response):
        sums += Counter(responses=1, texts=len(response.text))
    for _, pair in numbered_rows(folder / "comparisons.jsonl", Comparison):
        sums["pairs"] += pair.prompt_id in train
    prompts, responses = max(1, sums["prompts"]), max(1, sums["responses"])
    sizes = (
        sums["chats"] / prompts / CHARACTERS,
        sums["texts"] / responses / CHARACTERS,
        sums["rules"] / prompts,
    )
    return sums["prompts"], sums["pairs"], sizes


def plan_of(
    config: Config,
    constitution: Constitution,
    prompts: Sequence[Prompt],
    templates: Templates,
    characters: tuple[float, float] = (CHARACTERS, CHARACTERS),
    steady: float | None = None,
) -> Plan:
    """A config before its first stage; `characters` are in a token of prompts, and of questions. With
    `steady`, as in `verdicts_at_most`, the judge's card costs what is likely."""
    splits = Counter(split_of(p, config) for p in prompts)
    limits = config.judge_card

    def examined(question: float, each: float, comparisons: int) -> list[Asked]:
        """The small audit before labelling, where the config asks for one."""
        if limits is None:
            return []
        pairs, count = min(limits.num_pairs, comparisons), num_varied(limits.num_pairs)
        verdicts = round_up(verdicts_at_most(constitution, pairs, each, count, steady))
        examples = [e for p in constitution.principles for e in p.examples]
        own = plan.template() + plan.suffix()
        read = pairs * each * question + sum(own + plan.tokens(e.prompt, e.better, e.worse) for e in examples)
        mean = read / max(1.0, pairs * each + len(examples))
        return [
            Asked(config.feedback, verdicts, mean, written=plan.verdict_tokens(), examines=True),
            Asked(config.feedback, min(count, WRITTEN), mean, written=WRITTEN_TOKENS, examines=True),
        ]

    groups = {p.id: p.group for p in prompts}
    plan = Plan(
        config,
        constitution,
        templates,
        *(splits[split] for split in ("train", *HELDOUT)),
        groups=groups,
        prompt=sum(len(m.content) for p in prompts for m in p.messages) / characters[0] / len(prompts),
        principles=sum(len(constitution.applicable(p.tags)) for p in prompts) / len(prompts),
        examined=examined,
        imported=lambda folder: imported(folder, config, constitution, groups),
        characters=characters[1],
    )
    return plan


def stage_estimate(plan: Plan, options: StageOptions, round: int) -> dict[str, Any]:
    """Rows (at most), calls, tokens, seconds and money of one stage."""
    rows, asked = options.estimate(plan)
    plan.policies += "policy" in options.makes
    found: dict[str, Any] = {"stage": options.stage, "round": round, "rows": rows, **_cost(plan, asked)}
    if card := [question for question in asked if question.examines]:
        found["judge_card"] = _cost(plan, card)
    if isinstance(options, LabelOptions) and options.labels_from and Path(options.labels_from).exists():
        found["labels_from"] = earlier.estimate_taken_over(
            plan.config, plan.constitution, plan.templates, options
        )
    return found


def _cost(plan: Plan, asked: Sequence[Asked]) -> dict[str, Any]:
    """Calls and tokens of several kinds of questions, and their seconds and money by the price table."""
    used = [amounts(question) for question in asked]
    table = plan.config.prices
    prices = [(used, table.get(question.model.model)) for used, question in zip(used, asked, strict=True)]
    return {
        **{key: sum(own[key] for own in used) for key in COUNTED if key != "cached"},
        "seconds": _seconds(prices),
        "money": sum(money(used, price) for used, price in prices) if table else None,
    }


def estimate(
    config: Config,
    constitution: Constitution,
    prompts: list[Prompt],
    templates: Templates,
    characters: tuple[float, float] = (CHARACTERS, CHARACTERS),
) -> dict[str, Any]:
    """Prompt counts and, for each stage, the rows it makes (at most) and what they cost; sums over all
    stages. `characters` are those of `plan_of`."""
    plan = plan_of(config, constitution, prompts, templates, characters)
    return {
        "prompts": {"train": plan.train, "heldout": plan.heldout, "wordings": plan.wordings},
        "principles": len(constitution.principles),
        **totals([stage_estimate(plan, options, round) for round, options in config.expanded]),
        "budget": config.budget.model_dump(exclude_none=True) if config.budget else None,
    }


def totals(stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Stages and the sums over them; of seconds and money none where a stage's are not known."""
    sums = {key: sum(stage[key] for stage in stages) for key in COUNTED if key != "cached"}
    asking = [stage for stage in stages if stage["calls"] or stage.get("memory")] or stages
    known = {key: [stage[key] for stage in asking] for key in ("seconds", "money")}
    return {
        "stages": stages,
        **sums,
        **{key: None if None in values else sum(values) for key, values in known.items()},
    }


def in_words(plan: dict[str, Any]) -> list[str]:
    """The estimate in a line a stage that asks models, and one for all of them."""
    rows = [row for row in estimated_rows(plan) if row[1]["calls"]]
    lines = [f"  {name}: {_line(row)}" for name, row in rows]
    told = [f"  {line}" for line in taken_over_in_words(plan)]
    return (
        ["estimate, at most:", *lines, f"  all: {_line(plan)}", *told, *budget_warnings(plan)]
        if lines or told
        else []
    )


def estimated_rows(plan: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, amounts) of each stage, followed by the part of it that examines the judge, where it does."""
    found = list[tuple[str, dict[str, Any]]]()
    for stage in plan["stages"]:
        found.append((stage["stage"], stage))
        if "judge_card" in stage:
            found.append(("  of which the judge card", stage["judge_card"]))
    return found


def taken_over_in_words(plan: dict[str, Any]) -> list[str]:
    """Which labels are taken over from which run (`labels_from`), as far as that is known before."""
    taken = [stage["labels_from"] for stage in plan["stages"] if "labels_from" in stage]
    return [line for said in taken for line in earlier.in_words(said)]


def _line(row: dict[str, Any]) -> str:
    shared = f", {row['shared_tokens']:,} of them shared" if row["shared_tokens"] else ""
    parts = [
        f"{row['calls']:,} calls",
        f"{row['prompt_tokens']:,} prompt tokens{shared}",
        f"{row['tokens']:,} written",
    ]
    parts += [f"{row['seconds']:,.0f} s"] if row["seconds"] is not None else []
    parts += [amount_in_words("money", row["money"], ",.2f")] if row["money"] is not None else []
    return ", ".join(parts)


def budget_warnings(plan: dict[str, Any]) -> list[str]:
    """That a run may reach its budget."""
    needs = {**plan, "tokens": plan["tokens"] + plan["prompt_tokens"]}
    caps = plan["budget"] or {}
    over = [amount_in_words(key, cap) for key, cap in caps.items() if (needs[key] or 0) > cap]
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
