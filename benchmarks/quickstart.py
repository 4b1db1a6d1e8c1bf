"""What the quickstart reaches: seeds, a principle removed, human against AI feedback; with times and
intervals.

    python benchmarks/quickstart.py --seeds 0 1 2 --remove concise --json results.json --readme README.md

Runs under --out are continued, not repeated. With --readme, the table between the markers there is written
anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import rlaif
from rlaif.report.summary import summarise

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results: benchmarks/quickstart.py -->", "<!-- end of results -->"


def run(config: str, out: Path, *overrides: str) -> dict[str, Any]:
    """One run's summary, its seconds included."""
    rlaif.run(
        ROOT / "configs" / config, out, overrides=list(overrides), tell=lambda line: print(line, flush=True)
    )
    summary = summarise(out)
    summary["seconds"] = sum(stage["seconds"] for stage in summary["stages"])
    return summary


def without(principle: str, folder: Path) -> Path:
    """The playground's constitution without one principle."""
    yaml = YAML(typ="safe")
    data = yaml.load((ROOT / "constitutions" / "playground.yaml").read_text())
    kept = [p for p in data["principles"] if p["id"] != principle]
    if len(kept) == len(data["principles"]):
        raise SystemExit(f"no principle {principle}: {[p['id'] for p in kept]}")
    path = folder / f"without-{principle}.yaml"
    yaml.dump({**data, "principles": kept}, path)
    return path


def gold_of(run_folder: Path, constitution: Path) -> dict[str, dict[str, float]]:
    """Gold rates under a full constitution, for a run that was trained without one of its principles."""
    from rlaif.constitution import Constitution
    from rlaif.feedback.gold import load_gold, with_all
    from rlaif.records import Evaluation, Prompt, Response
    from rlaif.runs.folder import Run
    from rlaif.runs.rows import Rows
    from rlaif.stats import mean

    this = Run.load(run_folder)
    gold = load_gold(this.config.gold, Constitution.load(constitution))
    assert gold is not None
    stage = next(s for s in this.stages if s.name == "evaluate")
    prompts = {p.id: p for p in Rows(run_folder / "prompts.jsonl", Prompt)}
    texts = {r.id: r.text for r in stage.rows("responses", Response)}
    found: dict[str, list[dict[str, bool]]] = {}
    for row in (row for row in stage.rows("evaluation", Evaluation) if row.split == "heldout"):
        truth = with_all(gold(prompts[row.prompt_id], texts[row.response_id]))
        found.setdefault(row.policy, []).append(truth)
    return {
        name: {k: mean([t[k] for t in rows if k in t]) for k in dict.fromkeys(k for t in rows for k in t)}
        for name, rows in found.items()
    }


def table(results: dict[str, Any]) -> str:
    """The runs as Markdown, a row each."""
    runs = results["seeds"]
    last = list(next(iter(runs.values()))["policies"])[-1]
    lines = [
        "Full compliance (gold, all principles at once) on held-out questions and, apart, on held-out "
        "wordings of "
        f"training questions; {results['machine']}, {results['date']}.",
        "",
        f"| run | prompts | base | {last} [95 %] | wordings: base | wordings: {last} [95 %] | KL | "
        "judge–gold "
        "| reward model | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    named = {f"AI feedback, seed {seed}": s for seed, s in runs.items()}
    named |= {f"human feedback (simulated), seed {seed}": s for seed, s in results["human"].items()}
    for name, s in named.items():
        base, end = s["policies"]["base"], s["policies"][last]
        rates = " | ".join(
            f"{first['gold']['all']:.2f} | {{0:.2f}} [{{1:.2f}}, {{2:.2f}}]".format(
                then["gold"]["all"], *then["gold_ci"]["all"]
            )
            for first, then in ((base, end), (base["wordings"], end["wordings"]))
        )
        lines.append(
            f"| {name} | {end['n']} | {rates} "
            f"| {end['kl']:.1f} | {s['labels']['agreement_with_gold']:.3f} "
            f"| {s['reward_model']['heldout_accuracy']:.2f} | {s['seconds']:.0f} |"
        )
    return "\n".join(lines)


def principles_table(results: dict[str, Any]) -> str:
    """Gold by principle as Markdown: the base policy's, and the last policy's of every run."""
    runs = results["seeds"]
    base = next(iter(runs.values()))["policies"]["base"]["gold"]
    last = list(next(iter(runs.values()))["policies"])[-1]
    columns = [
        "principle",
        "base",
        *(f"{last}, seed {seed}" for seed in runs),
        *(f"without `{p}`" for p in results["removed"]),
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for key in base:
        cells = [base[key]]
        cells += [s["policies"][last]["gold"][key] for s in runs.values()]
        cells += [gold[last][key] for gold in results["removed"].values()]
        lines.append(f"| {key} | " + " | ".join(f"{c:.2f}" for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--remove", nargs="*", default=[], help="principles to leave out, one run each")
    parser.add_argument("--human", action="store_true", help="also quickstart_human, first seed")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--readme", type=Path, help="write the runs between the markers there")
    parser.add_argument("--page", type=Path, help="write runs and principles between the markers there")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = {s: run("quickstart.yaml", options.out / f"ai-{s}", f"seed={s}") for s in options.seeds}
    first = options.seeds[0]
    human = (
        {first: run("quickstart_human.yaml", options.out / f"human-{first}", f"seed={first}")}
        if options.human
        else {}
    )
    removed = {}
    for principle in options.remove:
        path, folder = without(principle, options.out), options.out / f"without-{principle}"
        run("quickstart.yaml", folder, f"seed={first}", f"constitution={path.resolve()}")
        removed[principle] = gold_of(folder, ROOT / "constitutions" / "playground.yaml")
    results = {
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), no GPU",
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": seeds,
        "human": human,
        "removed": removed,
    }
    whole = f"{table(results)}\n\n{principles_table(results)}"
    print(whole)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    for path, text in ((options.readme, table(results)), (options.page, whole)):
        if path:
            head, rest = path.read_text().split(BEGIN, 1)
            path.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    main()
