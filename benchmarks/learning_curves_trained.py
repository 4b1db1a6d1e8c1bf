"""Learning curves of the reward stage and of PPO themselves, for a few arms of learning_curves.py.

    python benchmarks/learning_curves_trained.py RUN RUN … --out FOLDER [--seeds 3] [--json FILE]

Pairs, votes, spoiled judge and queues of a seed are those of learning_curves.py. Each arm's preferences stand
in for those of a fork of the run at its reward stage, which then trains a reward model (all weights) and PPO
from the run's sft policy and evaluates, with the run's own options but for the seed and --updates. Accuracy
is the reward model's on the held-out pairs that the truth decides, compliance the trained policy's share of
held-out questions' responses that keep every principle. A finished cell in FOLDER is read, not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from facts import where_and_when
from learning_curves import Arm, Draw, Laboratory, arms, figures, parser, table

import rlaif
from rlaif.records import Preference
from rlaif.report.report import summarise
from rlaif.runs.folder import Run
from rlaif.runs.storage import digest, read_json, write_json

TRAINED = ("people 150", "people 1500", "judge all", "both: 500 random", "both: 500 reward")


def write_truth(laboratory: Laboratory, path: Path) -> Path:
    """The held-out pairs that the truth decides, the better response as the chosen one."""
    rows = []
    for pair in laboratory.test:
        truth = laboratory.truth(pair)
        if truth != 0.5:
            better, worse = (pair.a, pair.b) if truth == 1 else (pair.b, pair.a)
            chosen, rejected = (
                [{"role": "assistant", "content": laboratory.texts[id].text}] for id in (better, worse)
            )
            prompt = laboratory.prompts[pair.prompt_id].chat
            rows.append(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def replace_preferences(run: Run, rows: Sequence[dict[str, Any]]) -> None:
    """Put an arm's preferences in the place of those of a fork's label stage, and seal it anew."""
    stage = next(s for s in run.stages if s.name == "label")
    path = stage.dir / "preferences.jsonl"
    path.unlink()  # the parent's file has another link
    made = [
        Preference(comparison_id=r["pair"].id, p_a=r["p_a"], sources=r["sources"], weight=r["weight"])
        for r in rows
    ]
    path.write_text("".join(row.model_dump_json(exclude_none=True) + "\n" for row in made))
    record = read_json(stage.dir / "stage.json")
    record["files"]["preferences.jsonl"] = digest(path)
    write_json(stage.dir / "stage.json", record | {"kept": len(made)})


def trained(draw: Draw, arm: Arm, folder: Path, updates: int) -> dict[str, Any]:
    """The figures of one arm of one seed, from the reward stage and PPO."""
    laboratory, rows = draw.laboratory, draw.preferences(arm)
    truth = write_truth(laboratory, folder.parent / f"truth_{laboratory.run.id}.jsonl")
    fork: dict[str, Any] = {
        "out": folder,
        "source": laboratory.run.path,
        "at": "reward",
        "overrides": {
            "seed": draw.seed,
            "threads": 1,
            "reward.heldout_sets": {"truth": str(truth)},
            "ppo.updates": updates,
            "evaluate.num_judged_prompts": 0,
        },
    }
    if not (folder / "report.html").exists():
        made = rlaif.run(**fork, until="label")
        replace_preferences(made, rows)
        rlaif.run(**fork)
    found = summarise(folder)
    reward = next(s for s in rlaif.load_run(folder).stages if s.name == "reward").summary["metrics"]
    policies = {name: figure["gold"]["all"] for name, figure in found["policies"].items()}
    return {
        "accuracy": reward["heldout_sets"]["truth"]["heldout_accuracy"],
        "heldout_pairs": reward["heldout_sets"]["truth"]["n"],
        "compliance": policies["ppo"],
        "base": policies["base"],
        "sft": policies["sft"],
        "preferences": len(rows),
        "right": draw.right(rows),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every arm's figures, seed by seed, written after each."""
    wanted = [arm for arm in arms(options) if arm.name in options.arms]
    laboratories = [Laboratory(path, options) for path in options.runs]
    found: dict[str, Any] = {**where_and_when(), "options": {k: str(v) for k, v in vars(options).items()}}
    found["cells"] = {arm.name: [] for arm in wanted}
    for seed in range(options.seeds):
        draw = Draw(laboratories[seed % len(laboratories)], seed)
        for at, arm in enumerate(wanted):
            cell = trained(draw, arm, options.out / f"seed{seed}_arm{at}", options.updates)
            found["cells"][arm.name].append(cell)
            print(seed, arm.name, json.dumps(cell), file=sys.stderr, flush=True)
        found["figures"] = figures(found["cells"], wanted)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))
    return found


def main() -> None:
    """Measure the arms and print the table."""
    words = parser(__doc__)
    words.set_defaults(seeds=3)
    words.add_argument("--out", type=Path, required=True, help="folder of the forks")
    words.add_argument("--arms", nargs="+", default=list(TRAINED))
    words.add_argument("--updates", type=int, default=30, help="of PPO")
    print(table(measure(words.parse_args())))


if __name__ == "__main__":
    main()
