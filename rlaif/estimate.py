"""What a run will ask of its models, counted from the config before anything runs."""

from __future__ import annotations

from math import comb
from typing import Any

from rlaif.config import Config
from rlaif.constitution import Constitution
from rlaif.records import Prompt
from rlaif.runfolder import is_heldout


def estimate(config: Config, constitution: Constitution, prompts: list[Prompt]) -> dict[str, Any]:
    """Prompt counts and, for each stage, the rows it makes (at most) and the model calls they cost."""
    heldout = [p for p in prompts if is_heldout(p.id, config.heldout)]
    train = [p for p in prompts if not is_heldout(p.id, config.heldout)]
    principles = sum(len(constitution.applicable(p.tags)) for p in prompts) / len(prompts)
    stages: list[dict[str, Any]] = []
    responses = comparisons = originals = 0
    k = policies = 1
    for round, options in config.expanded:
        o: Any = options
        rows = calls = 0
        if o.stage == "sample":
            sampled = min(len(train), o.prompts or len(train))
            rows = calls = responses = sampled * o.k
            k = o.k
        elif o.stage == "critique":
            originals = responses
            rows, calls = responses * o.rounds, responses * o.rounds * 2
        elif o.stage == "pair":
            per_prompt = min(comb(k, 2), o.per_prompt or comb(k, 2)) if o.samples else 0
            rows = (responses // max(k, 1)) * per_prompt if o.samples else 0
            rows += originals if o.revisions else 0
            rows = comparisons = min(rows, o.limit or rows)
        elif o.stage == "label":
            each = principles if o.principles == "all" else 1
            share = o.human.share if o.human and o.human.weight is None else 0.0
            rows = calls = round_up(comparisons * each * 2 * (1 - share)) if o.ai else 0
            calls *= 2 if o.cot else 1
        elif o.stage == "ppo":
            rows = o.updates * o.batch_size
            judged = any(source.source == "judge" for source in o.rewards)
            calls = round_up(rows * principles) if judged else 0
        elif o.stage == "evaluate":
            rows = min(len(heldout), o.prompts or len(heldout)) * policies
            calls = rows + round_up(rows * principles) + round_up((rows - rows // policies) * principles * 2)
        policies += "policy" in options.makes
        stages.append({"stage": o.stage, "round": round, "rows": rows, "calls": calls})
    return {
        "prompts": {"train": len(train), "heldout": len(heldout)},
        "principles": len(constitution.principles),
        "stages": stages,
        "calls": sum(stage["calls"] for stage in stages),
    }


def round_up(x: float) -> int:
    """The next whole number."""
    return -int(-x // 1)
