"""How often `compare` calls runs different that differ by their seed alone.

    python benchmarks/seed_pairs.py runs/seed0 runs/seed1 … --json pairs.json

Finished runs of one config with different seeds, compared by gold in four ways: every pair as it is; every
pair with an option changed that cannot affect results; every pair as if an option that can had been changed
(one seed each: how often two seeds look like two configs); and every split into two arms of equally many
seeds, as if so. Of the last two a sound 95 % interval that covers seeds calls at most 5 % different; the
third one's covers prompts alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from rlaif.config import Config, ModelConfig
from rlaif.report.arm_comparison import ArmComparison
from rlaif.report.arms import Arm, arms_of
from rlaif.report.matches import JudgeDesk, Match

NOBODY = ModelConfig(engine="scripted", model="no_such_module:judge")  # gold alone is looked at
Change = Callable[[Config], Config]


def with_ppo(config: Config, **changes: Any) -> Config:
    """The config with other options of its ppo stage."""
    stages = (stage.model_copy(update=changes) if stage.stage == "ppo" else stage for stage in config.stages)
    return config.model_copy(update={"stages": tuple(stages)})


def arm(letter: str, sides: Sequence[Any], change: Change | None = None) -> Arm:
    """Runs as one arm, under a changed config where one is given."""
    if change is not None:
        for side in sides:
            side.reader.run.config = change(side.reader.run.config)
    return Arm(letter, tuple(replace(side, letter=f"{letter}{n}") for n, side in enumerate(sides, 1)))


def different(runs: Sequence[Path], first: Sequence[Path], change: Change | None) -> dict[str, bool]:
    """Whether "all", and any principle, is called different between some runs and the others."""
    sides = {a.first.reader.path: a.first for a in arms_of(runs)}
    a = arm("A", [sides[path] for path in first])
    b = arm("B", [sides[path] for path in runs if path not in first], change)
    desk = JudgeDesk(list(a.sides), NOBODY)
    found = ArmComparison(Match(a, b, a.first.reader.run.constitution, desk)).data["gold"]["delta"]
    return {
        "all": found["all"]["different"],
        "any principle": any(d["different"] for n, d in found.items() if n != "all"),
    }


def counted(cases: Sequence[dict[str, bool]]) -> dict[str, int]:
    """How many comparisons there are, and how many are called different."""
    return {
        "comparisons": len(cases),
        **{name: sum(case[name] for case in cases) for name in ("all", "any principle")},
    }


def main() -> None:
    """Compare in all ways and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pairs = list(combinations(options.runs, 2))
    half = len(options.runs) // 2
    first, *_ = options.runs
    splits = [
        chosen
        for chosen in combinations(options.runs, half)
        if len(options.runs) != 2 * half or first in chosen
    ]
    unrelated: Change = lambda config: with_ppo(config, sample_every=7)  # noqa: E731
    related: Change = lambda config: with_ppo(config, warmup=11)  # noqa: E731
    results = {
        "as they are": counted([different(pair, pair[:1], None) for pair in pairs]),
        "with an option changed that cannot affect results": counted(
            [different(pair, pair[:1], unrelated) for pair in pairs]
        ),
        "as if an option that can had been changed": counted(
            [different(pair, pair[:1], related) for pair in pairs]
        ),
        f"arms of {half} and {len(options.runs) - half} seeds, as if so": counted(
            [different(options.runs, chosen, related) for chosen in splits]
        ),
    }
    print("| compared | comparisons | called different on all | on some principle |\n|---|---|---|---|")
    for name, row in results.items():
        print(f"| {name} | {row['comparisons']} | {row['all']} | {row['any principle']} |")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
