"""Soft against hard labels for the reward model, under label noise, on the playground.

    python benchmarks/soft_labels.py --json soft_labels.json

Pairs of the playground policy's own responses, of which one keeps more principles by the gold scorer.
Annotators err on 10, 20 or 30 % of the pairs. Which ones is said by --errors: `close` are Bradley-Terry
annotators, who err the more the fewer principles lie between the responses; `even` ones err on a pair with a
probability of its own that has nothing to do with the responses, drawn evenly from a range around the noise
level, so that no reward model can tell it. Three labels of a pair: `hard` is one annotator's verdict, `share`
the share of very many annotators, `sure` the one verdict with the annotator's certainty, which is right about
how often it errs. All reward models start from the feedback model with one seed and see the same pairs,
`hard` and `sure` the same verdicts. On held-out prompts they are measured against the chance that an
annotator prefers a response (calibration: what a forecast of people should match) and against the truth
(accuracy). Differences are paired by seed; the intervals are over seeds (Student's t), and every seed is in
the JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

from facts import where_and_when
from ruamel.yaml import YAML

import rlaif
from rlaif.feedback.gold import load_gold
from rlaif.intervals import with_seed_variance
from rlaif.pipeline import run_stage
from rlaif.records import Annotator, Comparison, Label, Preference, Prompt, Response
from rlaif.runs.folder import Run, read_json, write_json
from rlaif.runs.rows import Rows
from rlaif.runs.seeds import derive_seed
from rlaif.stats import mean

ROOT = Path(__file__).parent.parent
WHO = Annotator(kind="simulated", id="noisy")
HELD = 0.25  # of the prompts are measured on, beside the reward stage's own held-out share
KINDS = ("hard", "share", "sure")
FIGURES = ("ece", "ece_truth", "accuracy")
Decided = list[tuple[Comparison, int]]  # a pair, and how many principles more a keeps than b: not 0


def sampled(options: argparse.Namespace) -> Run:
    """A run of the playground's policy that has sampled and paired, from which all trainings start."""
    data = YAML(typ="safe").load((ROOT / "configs" / "quickstart.yaml").read_text())
    reward = next(stage for stage in data["stages"] if stage["stage"] == "reward")
    sets = {name: str((options.out / "sets" / name).resolve()) for name in ("verdicts", "truth")}
    data |= {
        "name": "soft_labels",
        "stages": [
            {"stage": "sample", "num_prompts": options.prompts, "k": 4, "max_tokens": 48},
            {"stage": "pair", "per_prompt": 3},
            {"stage": "label", "human": {"annotator": "rlaif.playground.annotators:annotate"}, "ai": False},
            {**reward, "epochs": options.epochs, "heldout": 0.02, "heldout_sets": sets},
        ],
    }
    for path in sets.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    config = options.out / "soft_labels.yaml"
    YAML(typ="safe").dump(data, config)
    return rlaif.run(config, options.out / "base", until="pair")


def decided(run: Run) -> tuple[Decided, Decided]:
    """The pairs of which one response keeps more principles: (to train on, held out), apart by prompt."""
    gold = load_gold(run.config.gold, run.constitution)
    assert gold is not None
    stage = run.stages[2]
    texts, prompts = stage.responses(), stage.prompts_by_id()
    parts: tuple[Decided, Decided] = ([], [])
    for pair in stage.load("comparisons", Comparison):
        a, b = (sum(gold(prompts[pair.prompt_id], texts[i].text).values()) for i in (pair.a, pair.b))
        if a != b:
            held = derive_seed("soft labels", pair.prompt_id) / 2**31 < HELD
            parts[held].append((pair, round(a - b)))
    return parts


def error_rates(pairs: Decided, noise: float, errors: str, seed: int) -> dict[str, float]:
    """How often annotators err on each pair, by its id: `noise` on average."""
    if errors == "close":
        steep = steepness([abs(lead) for _, lead in pairs], noise)
        return {pair.id: 1 / (1 + math.exp(steep * abs(lead))) for pair, lead in pairs}
    # Even in a range around `noise` that ends at a coin's ½.
    low, high = max(0.0, 2 * noise - 0.5), min(0.5, 2 * noise)
    return {
        pair.id: random.Random(derive_seed(seed, "error", noise, pair.id)).uniform(low, high)
        for pair, _ in pairs
    }


def steepness(leads: list[int], noise: float) -> float:
    """The β at which σ(−β·lead) is `noise` on average, by bisection."""
    low, high = 0.0, 50.0
    for _ in range(50):
        middle = (low + high) / 2
        if mean([1 / (1 + math.exp(middle * lead)) for lead in leads]) > noise:
            low = middle
        else:
            high = middle
    return low


def labels(pair: Comparison, lead: int, error: float, noise: float, seed: int) -> dict[str, float]:
    """The pair's label of each kind."""
    better = float(lead > 0)
    right = random.Random(derive_seed(seed, "verdict", noise, pair.id)).random() >= error
    said = better if right else 1 - better

    def doubted(side: float) -> float:
        return side * (1 - error) + (1 - side) * error

    return {"hard": said, "share": doubted(better), "sure": doubted(said)}


def write_sets(run: Run, heldout: Decided, rates: dict[str, float], folder: Path) -> None:
    """The held-out pairs with the chance of each verdict and with the truth, as folders of labelled pairs."""
    texts, prompts = run.stages[2].responses(), run.stages[2].prompts_by_id()
    for name in ("verdicts", "truth"):
        path = folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        for pair, lead in heldout:
            error = 0.0 if name == "truth" else rates[pair.id]
            p = 1 - error if lead > 0 else error
            label = Label(comparison_id=pair.id, annotator=WHO, p_a=p, verdict="a" if p > 0.5 else "b")
            Rows(path / "labels.jsonl", Label).append([label])
        Rows(path / "comparisons.jsonl", Comparison).append([pair for pair, _ in heldout])
        Rows(path / "responses.jsonl", Response).append(
            [texts[i] for pair, _ in heldout for i in (pair.a, pair.b)]
        )
        Rows(path / "prompts.jsonl", Prompt).append([prompts[pair.prompt_id] for pair, _ in heldout])


def train(base: Run, said: list[tuple[Comparison, float]], seed: int, out: Path) -> dict[str, Any]:
    """The reward stage's figures on the held-out sets, trained on pairs with these chances of a being
    preferred."""
    if not (out / "04_reward" / "reward_model" / "calibration.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(base.path, out, ignore=shutil.ignore_patterns("*.html", "cache.sqlite"))
        write_json(out / "config.json", {**read_json(out / "config.json"), "seed": seed})
        run = Run.load(out)
        label, reward = run.stages[2:4]
        label.begin()
        Rows(label.dir / "preferences.jsonl", Preference).append(
            Preference(comparison_id=pair.id, p_a=p, sources=("simulated",)) for pair, p in said
        )
        label.save("done")
        run_stage(reward)
    sets = read_json(out / "04_reward" / "reward_model" / "calibration.json")["heldout_sets"]
    return {
        "ece": sets["verdicts"]["ece"],
        "ece_truth": sets["truth"]["ece"],
        "accuracy": sets["truth"]["heldout_accuracy"],
        "longer": sets["truth"]["baselines"]["longer"],
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every noise level's figures, seed by seed."""
    base = sampled(options)
    pairs, heldout = decided(base)
    chosen = base.stages[2].shuffled(pairs, "chosen")[: options.pairs]
    levels: dict[str, Any] = {}
    for noise in options.noise:
        rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        for seed in options.seeds:
            rates = error_rates(pairs + heldout, noise, options.errors, seed)
            write_sets(base, heldout, rates, options.out / "sets")
            said = {pair.id: labels(pair, lead, rates[pair.id], noise, seed) for pair, lead in chosen}
            for kind in KINDS:
                out = options.out / f"{kind}-{options.errors}-{noise}-{seed}"
                rows[kind].append(train(base, [(pair, said[pair.id][kind]) for pair, _ in chosen], seed, out))
        levels[str(noise)] = {
            **rows,
            "less_hard": {kind: less(rows[kind], rows["hard"]) for kind in KINDS if kind != "hard"},
        }
    return {
        **where_and_when(),
        "errors": options.errors,
        "seeds": options.seeds,
        "epochs": options.epochs,
        "pairs": len(chosen),
        "heldout_pairs": len(heldout),
        "noise": levels,
    }


def less(rows: list[dict[str, Any]], hard: list[dict[str, Any]]) -> dict[str, Any]:
    """Each figure less that of hard labels, seed by seed, with its interval."""
    gaps = {key: [row[key] - h[key] for row, h in zip(rows, hard, strict=True)] for key in FIGURES}
    return {
        key: {"value": mean(gap), "ci": with_seed_variance(mean(gap), (mean(gap), mean(gap)), gap)}
        for key, gap in gaps.items()
    }


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"{results['pairs']} pairs, {results['errors']} errors, {results['epochs']:g} epochs, "
        f"{len(results['seeds'])} seeds, measured on {results['heldout_pairs']} pairs of other prompts; "
        f"{results['machine']}, {results['date']}.",
        "",
        "| noise | labels | ECE | less hard [95 %] | ECE, truth | accuracy | less hard [95 %] |",
        "|---|---|---|---|---|---|---|",
    ]
    for noise, row in results["noise"].items():
        for kind in KINDS:
            ece, truth, right = (f"{mean([r[key] for r in row[kind]]):.3f}" for key in FIGURES)
            gaps = row["less_hard"].get(kind)
            apart = (
                [
                    f"{g['value']:+.3f} [{g['ci'][0]:+.3f}, {g['ci'][1]:+.3f}]"
                    for g in map(gaps.get, ("ece", "accuracy"))
                ]
                if gaps
                else ["—", "—"]
            )
            lines.append(
                f"| {float(noise):.0%} | {kind} | {ece} | {apart[0]} | {truth} | {right} | {apart[1]} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Train everything and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.2, 0.3])
    parser.add_argument("--errors", choices=("close", "even"), default="close", help="what annotators err on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--prompts", type=int, default=768, help="prompts sampled, four responses each")
    parser.add_argument("--pairs", type=int, default=1000, help="pairs trained on")
    parser.add_argument("--epochs", type=float, default=2, help="of the reward models")
    parser.add_argument("--out", type=Path, default=Path("runs/soft_labels"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = measure(options)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
