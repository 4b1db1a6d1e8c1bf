"""Runs side by side on the same held-out prompts: what differs, by how much, and whether that can be chance.

Runs that repeat one experiment with other seeds are one arm (see `arms`); every arm is set against the first,
and of three or more each against each (see `overall`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rlaif.config import ModelConfig
from rlaif.errors import UserError
from rlaif.metrics import METRICS
from rlaif.pages.page import write_page
from rlaif.report.arm_comparison import ArmComparison
from rlaif.report.arms import LETTERS, ComparedRun, arms_of
from rlaif.report.compared_pictures import colours, pictures
from rlaif.report.cost import cost
from rlaif.report.matches import JudgeDesk, Match
from rlaif.report.overall import overall, strength_chart
from rlaif.report.run_reader import names_damage, plain
from rlaif.report.warnings import run_warnings
from rlaif.report.win_rates import all_principles
from rlaif.runs.folder import silent_progress
from rlaif.stats import mean


@names_damage
def compare(
    paths: Sequence[Path],
    out: Path | None = None,
    judge: ModelConfig | None = None,
    progress: Any = silent_progress,
) -> dict[str, Any]:
    """The second and every further arm against the first, JSON-able; `out` also gets it as a page.

    Runs that repeat one experiment with other seeds are one arm, unless all runs do. `judge` decides the win
    rate; by default a run's feedback model that taught none of the runs, else the first run's. Raises
    UserError where a path is no run, a run has neither an evaluated policy nor labels, or two arms share
    neither held-out prompts nor labelled comparisons.
    """
    if not 2 <= len(paths) <= len(LETTERS):
        raise UserError(
            f"compare: runs given: {len(paths)}.", f"2 to {len(LETTERS)} run folders", "rlaif compare RUN RUN"
        )
    arms = arms_of(paths)
    sides = [side for arm in arms for side in arm.sides]
    constitution = all_principles([side.reader.run.constitution for side in sides])
    given = sorted(sides, key=lambda side: paths.index(side.reader.path))
    desk = JudgeDesk(given, judge, progress)
    matches = {
        (i, j): Match(arms[i], arms[j], constitution, desk) for i, j in combinations(range(len(arms)), 2)
    }
    if desk.given and any(match.prompts for match in matches.values()):
        _ = desk.judge  # one that was named and cannot be opened is a mistake; a run's own is a note
    pairs = [ArmComparison(matches[0, at]) for at in range(1, len(arms))]
    answered = {at: match for at, match in matches.items() if match.prompts}
    whole = overall(arms, matches) if len(arms) > 2 and answered == matches else {}
    data = plain(
        {
            "runs": {side.letter: _facts(side) for side in sides},
            "arms": {
                arm.letter: {"name": arm.name, "runs": [side.letter for side in arm.sides]} for arm in arms
            },
            **({"overall": whole} if whole else {}),
            **pairs[0].data,
            "others": [pair.data for pair in pairs[1:]],
        }
    )
    if out is not None:
        views = [{**plain(pair.data), "chart": pair.chart(), "cases": pair.cases()} for pair in pairs]
        known = [m for m in METRICS if any(run[m.key] is not None for run in data["runs"].values())]
        write_page(
            out,
            "compare.html.j2",
            runs=data["runs"],
            arms=data["arms"],
            overall=data.get("overall", {}),
            strengths=strength_chart(data["overall"], {a.letter: a.name for a in arms}) if whole else None,
            pictures=pictures(arms),
            colours=colours(arms),
            unfair=list(dict.fromkeys(said for pair in pairs for said in pair.data["unfair"])),
            pairs=views,
            warnings=_run_warnings(sides),
            metrics=known,
        )
    return data


def _facts(side: ComparedRun) -> dict[str, Any]:
    labels, reward = side.reader.metrics("label"), side.reader.metrics("reward")
    rows = list(side.rows.values())
    return {
        "path": str(side.reader.path),
        "name": side.name,
        "policy": side.policy,
        "prompts": len(rows),
        "feedback": side.feedback,
        "comparisons": labels.get("comparisons"),
        "sources": labels.get("sources"),
        "label_agreement_with_gold": labels.get("agreement_with_gold"),
        "label_agreement_with_gold_ci": labels.get("agreement_with_gold_ci"),
        "order_flip_rate": labels.get("order_flip_rate"),
        "order_flip_rate_ci": labels.get("order_flip_rate_ci"),
        "reward_model_accuracy": reward.get("heldout_accuracy"),
        "reward_model_accuracy_ci": reward.get("heldout_accuracy_ci"),
        **{
            m.key: mean(list(m.values(side.rows, side.reader.responses, side.reader.prompts).values()))
            for m in METRICS
        },
        "kl_left_out": sum(row.kl is None for row in rows),
        "cost": cost(side.reader),
        "seed": side.reader.run.config.seed,
        "constitution": side.reader.run.constitution.hash,
    }


def _run_warnings(sides: Sequence[ComparedRun]) -> list[str]:
    return [f"{side.name}: {warned.found}" for side in sides for warned in run_warnings(side.reader)]
