"""Over-optimisation on the playground: a small reward model, trained on noisy labels, is driven past the
gold's peak.

    python benchmarks/overoptimisation.py --json overoptimisation.json

`noisy`: pairs of the policy's own responses, of which a simulated annotator gets 25 % wrong, a reward model
of one layer that starts from random weights, and PPO without a KL penalty. `healthy`: the same annotator
without errors, a reward model that starts from the feedback model, and the quickstart's KL penalty. All else
is alike. Gold is the share of a batch's responses that keep every principle, proxy the reward model's mean
score in its own standard deviations; both are means over five updates. Shown for every seed: gold at the
start, at its peak and at the end, the proxy there, and when the over-optimisation alarm was raised, which has
to be within ten updates of the peak. Runs under --out are continued.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from facts import where_and_when
from ruamel.yaml import YAML

import rlaif
from rlaif.playground import FEEDBACK, annotators
from rlaif.runs.folder import Run
from rlaif.runs.seeds import derive_seed
from rlaif.stats import mean

ROOT = Path(__file__).parent.parent
WINDOW = 5  # updates that are averaged, as the alarm does
PROMPT = 10  # updates from the peak within which the alarm has to ring
PPO = {
    "stage": "ppo",
    "batch_size": 256,
    "micro_batch": 128,
    "epochs": 2,
    "minibatches": 2,
    "learning_rate": 2.0e-4,
    "max_tokens": 48,
    "num_watched_prompts": 0,
}


def annotate(
    messages: Any, responses: list[str], principles: Any, seed: int = 0, wrong: float = 0.0
) -> list[int]:
    """A ranking by the number of principles kept, reversed in a share `wrong` of the cases."""
    ranks = annotators.annotate(messages, responses, principles, seed, noise=0.0, bias_spread=0.0, tie=0.5)
    errs = random.Random(derive_seed(seed, "errs", *responses)).random() < wrong
    return [max(ranks) - rank for rank in ranks] if errs else ranks


def small_model(folder: Path) -> Path:
    """A random model of one layer with the playground's tokenizer."""
    import torch
    from transformers import AutoTokenizer

    from rlaif.playground.builder import save
    from rlaif.training.raw_text import new_model

    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        tokenizer: Any = AutoTokenizer.from_pretrained(FEEDBACK)
        save(new_model(tokenizer, layers=1, width=32, inner=64), tokenizer, folder)
    return folder


def config(kind: str, seed: int, options: argparse.Namespace) -> Path:
    """The config of one run."""
    noisy = kind == "noisy"
    data = YAML(typ="safe").load((ROOT / "configs" / "quickstart.yaml").read_text())
    (reward,) = (stage for stage in data["stages"] if stage["stage"] == "reward")
    (ppo,) = (stage for stage in data["stages"] if stage["stage"] == "ppo")
    model = small_model(options.out / "small") if noisy else FEEDBACK
    data |= {
        "name": kind,
        "seed": seed,
        "threads": options.threads,
        "stages": [
            {"stage": "sample", "num_prompts": options.prompts, "k": 4, "max_tokens": 48},
            {"stage": "pair", "per_prompt": 3},
            {
                "stage": "label",
                "ai": False,
                "human": {
                    "annotator": "overoptimisation:annotate",
                    "options": {"wrong": options.wrong if noisy else 0.0},
                },
            },
            {**reward, "model": str(Path(model).resolve())},
            {**PPO, "updates": options.updates, "kl_coef": 0.0 if noisy else ppo["kl_coef"]},
        ],
    }
    path = options.out / f"{kind}-{seed}.yaml"
    YAML(typ="safe").dump(data, path)
    return path


def smooth(rows: list[dict[str, Any]], key: str) -> list[float]:
    """Means over the WINDOW updates up to each; fewer at the start."""
    return [mean([row[key] for row in rows[max(0, end - WINDOW) : end]]) for end in range(1, len(rows) + 1)]


def figures(run: Run) -> dict[str, Any]:
    """What became of proxy and gold in one run, and what the alarms said."""
    ppo = run.stages[-1]
    rows = [json.loads(line) for line in (ppo.dir / "metrics.jsonl").read_text().splitlines()]
    gold, proxy = smooth(rows, "gold")[WINDOW - 1 :], smooth(rows, "score")[WINDOW - 1 :]
    peak = max(range(len(gold)), key=gold.__getitem__)
    rang = {alarm["kind"]: row["update"] for row in rows for alarm in row.get("alarms", ())}
    raised = rang.get("over-optimisation")
    at = rows[peak + WINDOW - 1]["update"]
    return {
        "gold": [gold[0], gold[peak], gold[-1]],
        "proxy": [proxy[0], proxy[peak], proxy[-1]],
        "peak": at,
        "alarm": raised,
        "updates_from_peak": None if raised is None else raised - at,
        "alarms": rang,
        "reward_accuracy": run.stages[-2].summary["metrics"]["heldout_accuracy"],
        "curve": [{k: row[k] for k in ("update", "gold", "score", "exact_kl")} for row in rows],
    }


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"{results['updates']} updates; {results['machine']}, {results['date']}.",
        "",
        "| run | seed | reward model | gold: start, peak, end | proxy: start, at the peak, end | peak at "
        "| alarm at | others |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in ("noisy", "healthy"):
        for seed, row in zip(results["seeds"], results[kind], strict=True):
            gold, proxy = (", ".join(f"{x:.2f}" for x in row[key]) for key in ("gold", "proxy"))
            others = ", ".join(f"{k} {at}" for k, at in row["alarms"].items() if k != "over-optimisation")
            lines.append(
                f"| {kind} | {seed} | {row['reward_accuracy']:.2f} | {gold} | {proxy} | {row['peak']} "
                f"| {row['alarm'] or 'silent'} | {others or '—'} |"
            )
    return "\n".join(lines)


def summary(results: dict[str, Any]) -> str:
    """How many seeds show what was to be shown."""
    noisy = results["noisy"]
    fell = sum(row["gold"][2] < row["gold"][1] and row["proxy"][2] > row["proxy"][1] for row in noisy)
    soon = sum(row["alarm"] is not None and abs(row["updates_from_peak"]) <= PROMPT for row in noisy)
    false = sum(row["alarm"] is not None for row in results["healthy"])
    n = len(noisy)
    return (
        f"noisy: proxy up and gold down from its peak in {fell} of {n} seeds, alarm within {PROMPT} "
        "updates of the "
        f"peak in {soon} of {n}; healthy: alarm in {false} of {n}"
    )


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=768, help="prompts sampled, four responses each")
    parser.add_argument("--wrong", type=float, default=0.25, help="share of the noisy annotator's verdicts")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/overoptimisation"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        **where_and_when(),
        "updates": options.updates,
        "seeds": options.seeds,
        "noisy": [],
        "healthy": [],
    }
    for kind in ("noisy", "healthy"):
        for seed in options.seeds:
            run = rlaif.run(
                config(kind, seed, options),
                options.out / f"{kind}-{seed}",
                tell=lambda line: print(line, file=sys.stderr, flush=True),
            )
            results[kind].append(figures(run))
    print(table(results))
    print(summary(results))
    if options.json:
        options.json.write_text(json.dumps({**results, "summary": summary(results)}, indent=1))


if __name__ == "__main__":
    main()
