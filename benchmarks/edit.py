"""What `rlaif constitution diff --ask` predicts of an edit against labelling all pairs anew.

    python benchmarks/edit.py RUN NEW_FILE --out FOLDER [--json FILE]

The stale labels alone are asked for and kept in RUN/asked; FOLDER becomes a fork of RUN at label without
any label taken over and without a cache. A verdict mismatches where both orders put together are another one
of a, tie and b; a preference where it is there on one side alone, is another one of a, tie and b, lies on the
other side of one half, or is decided by another principle.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from rlaif import pipeline
from rlaif.feedback.preferences import combine_orders
from rlaif.records import Label, Preference, verdict_of
from rlaif.runs.folder import Run
from rlaif.runs.rows import RowFile
from rlaif.stages.label import preference
from rlaif.workbench.diff import diff
from rlaif.workbench.relabelling import Relabelling, label_stages


def shown(row: Preference | None) -> Any:
    """What of a preference is compared."""
    return row and (verdict_of(row.p_a), row.p_a > 0.5, row.deciding_principle)


def compared(run: Run, fork: Run) -> dict[str, Any]:
    """Counts of what the prediction has otherwise than the fork, and the largest difference of a
    probability."""
    stage = label_stages(run)[0]
    part, anew = Relabelling(stage, fork.constitution), fork.stages[stage.number - 1]
    made = {row.comparison_id: row for row in anew.rows("preferences", Preference)}
    labels: dict[str, list[Label]] = defaultdict(list)
    for row in RowFile(anew.dir / "labels.jsonl", Label):
        labels[row.comparison_id].append(row)
    found = dict.fromkeys(("pairs", "verdicts", "verdict_mismatches", "preference_mismatches"), 0)
    furthest = 0.0
    for pair in part.pairs():
        name = pair.question.comparison.id
        mine, theirs = combine_orders(pair.after), combine_orders(labels[name])
        predicted, there = preference(part.after, pair.question, pair.after), made.get(name)
        found["pairs"] += 1
        found["verdicts"] += len(theirs)
        found["verdict_mismatches"] += sum(
            key not in mine or verdict_of(mine[key]) != verdict_of(p) for key, p in theirs.items()
        ) + len(mine.keys() - theirs.keys())
        found["preference_mismatches"] += shown(predicted) != shown(there)
        furthest = max([furthest, *(abs(mine[key] - p) for key, p in theirs.items() if key in mine)])
        furthest = max(furthest, abs(predicted.p_a - there.p_a) if predicted and there else 0.0)
    return {**found, "furthest_probability": furthest}


def main() -> None:
    """Ask, label anew, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    data = diff(args.run, args.new, ask=True, trust=True, tell=tell)
    run = Run.load(args.run)
    overrides = [f"constitution={args.new.resolve()}", "cache=false"]
    overrides += ["judge_card.enforce=false"] if run.config.judge_card else []
    fork = pipeline.run(None, args.out, overrides, "label", None, tell, args.run, "label")
    found = compared(run, fork) | {key: data["preferences"][key] for key in ("changed", "lost", "gained")}
    print("\n".join(f"{key}: {value}" for key, value in found.items()))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
