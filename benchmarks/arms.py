"""What the arms learn from one start: PPO, RLOO, GRPO and TRL 1.12's PPO on one policy and one reward model.

    rlaif run configs/quickstart.yaml --out runs/quickstart
    pip download trl==1.12.0 --no-deps --dest TRL && python -m zipfile -e TRL/*.whl TRL
    python benchmarks/arms.py --run runs/quickstart --trl TRL --json arms.json

Every arm samples the same number of responses, on the same scale of reward, with the quickstart's options but
for the learning rate: each arm gets the one of `--rates` that brings its own responses furthest by the gold
score, on a seed that is used for nothing else. `--trl` names the folder of TRL's unzipped wheel, which is put
on the path of a process of its own (left out, so is the arm). Then each policy responds to the held-out
prompts with the same random numbers. Full compliance by the gold scorer is set against our PPO's, seed by
seed and prompt by prompt: the intervals are over both. All seeds are shown. Each arm's gold on its own
training responses against √KL has Gao's form fitted, d(α − β·log d), best-of-n's d(α − βd). Runs under --out
are continued, not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from facts import where_and_when
from ruamel.yaml import YAML

import rlaif
from rlaif.engines import GenerateRequest, open_engine
from rlaif.feedback.gold import load_gold, with_all
from rlaif.intervals import GAP, mean_interval, seed_chance, with_seed_variance
from rlaif.records import Response
from rlaif.runs.folder import Run, read_json, write_json
from rlaif.runs.seeds import derive_seed
from rlaif.stages.evaluate import Tools
from rlaif.stats import fit_overoptimisation, mean

HERE = Path(__file__).parent
OURS = ("ppo", "rloo", "grpo")
TUNING_SEED = 100
COMMON = {
    "epochs": 2,
    "minibatches": 2,
    "kl_coef": 0.1,
    "max_tokens": 48,
    "warmup": 10,
}
OWN: dict[str, dict[str, Any]] = {"ppo": {}, "rloo": {"group_size": 8}, "grpo": {"group_size": 8}}


class Start:
    """The finished run that all arms start from: its fine-tuned policy, its reward model, its prompts."""

    def __init__(self, path: Path) -> None:
        self.run = Run.load(path)
        self.policy = self.run.policies["sft"].resolve()
        made = [stage for stage in self.run.stages if stage.name == "reward"]
        self.reward = (made[-1].dir / "reward_model").resolve()
        if not (self.policy.is_dir() and self.reward.is_dir()):
            raise SystemExit(f"{path}: no fine-tuned policy or no reward model in it")

    def config(self, name: str, seed: int, stage: dict[str, Any], folder: Path) -> Path:
        """A config of one stage on the run's policy, rewarded by its reward model."""
        kept = self.run.config.model_dump(mode="json")
        data = {
            key: kept[key]
            for key in (
                "constitution",
                "prompts",
                "heldout",
                "heldout_wordings",
                "templates",
                "gold",
                "feedback",
            )
        }
        source = {"source": str(self.reward)}
        data |= {
            "name": name,
            "seed": seed,
            "policy": {"model": str(self.policy)},
            "threads": kept["threads"],
            "stages": [{**stage, "rewards": [source]}],
        }
        path = folder / f"{name}.yaml"
        YAML(typ="safe").dump(data, path)
        return path


def train(start: Start, arm: str, seed: int, rate: float, options: argparse.Namespace) -> Path:
    """One arm's run folder, trained where it is not yet."""
    name = f"{arm}-{seed}-{rate:g}"
    size = {"updates": options.updates, "batch_size": options.batch, "micro_batch": options.batch // 2}
    stage = {"stage": arm, **COMMON, **OWN.get(arm, {}), **size, "learning_rate": rate}
    out = options.out / name
    if arm in OURS:
        rlaif.run(start.config(name, seed, stage, options.out), out, tell=say)
    elif not (out / "policy").is_dir():
        ppo = next(options.out.glob(f"ppo-{seed}-*/01_ppo"))  # the same scale of reward as ours
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        write_json(
            out / "options.json",
            {
                **stage,
                "seed": seed,
                "start": str(start.run.path.resolve()),
                "policy": str(start.policy),
                "reward": str(start.reward),
                "scale": next(iter(read_json(ppo / "reward_scale.json").values())),
            },
        )
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(options.trl.resolve()), str(HERE.parent)]),
        }
        subprocess.run([sys.executable, str(HERE / "arms_trl.py"), str(out)], env=environment, check=True)
    return out / (f"01_{arm}" if arm in OURS else "")


def best_rate(start: Start, arm: str, options: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """The learning rate that serves an arm best, and what its last updates' responses were worth at each."""
    reached = {
        rate: mean([row["gold"] for row in rows_of(train(start, arm, TUNING_SEED, rate, options))[-10:]])
        for rate in options.rates
    }
    return max(reached, key=reached.__getitem__), {f"{rate:g}": gold for rate, gold in reached.items()}


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def measure(start: Start, policy: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Gold and exact KL of a policy's responses to the held-out prompts; the same random numbers for every
    policy."""
    config = start.run.config
    prompts = sorted(start.run.prompts("heldout"), key=lambda p: p.id)[: options.prompts]
    engine = open_engine(config.policy.model_copy(update={"model": str(policy)}))
    seeds = [derive_seed("evaluate", prompt.id) for prompt in prompts]
    requests = [
        GenerateRequest(p.chat, COMMON["max_tokens"], seed=s) for p, s in zip(prompts, seeds, strict=True)
    ]
    made = dict(engine.generate(requests))
    responses = [
        Response(
            prompt_id=p.id,
            text=made[i].text,
            finish_reason=made[i].finish_reason,
            token_ids=made[i].token_ids,
        )
        for i, p in enumerate(prompts)
    ]
    score = load_gold(config.gold, start.run.constitution)
    assert score is not None, "the run names no gold scorer"
    truths = [with_all(score(p, a.text))["all"] for p, a in zip(prompts, responses, strict=True)]
    tools = Tools(None, config.policy, str(start.policy), {})  # type: ignore[arg-type]
    kl = tools.divergence(policy, prompts, responses, temperature=1.0)
    return {"gold": [float(t) for t in truths], "kl": [nats for nats in kl if nats is not None]}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """A training's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def points(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """(√KL, gold less that of the first updates) of every update; gold is a mean over its batch."""
    first = mean([row["gold"] for row in rows[:3]])
    kl = [row.get("exact_kl", row["kl"]) for row in rows]
    return [(math.sqrt(max(0.0, k)), row["gold"] - first) for k, row in zip(kl, rows, strict=True)]


def difference(a: list[list[float]], b: list[list[float]]) -> dict[str, Any]:
    """Mean of a − b over [seeds][prompts] of rates, with its 95 % interval over prompts and seeds."""
    gaps = np.asarray(a) - np.asarray(b)
    value = float(gaps.mean())
    over_prompts = mean_interval(gaps.mean(0), GAP)
    ci = with_seed_variance(value, over_prompts, gaps.mean(1).tolist(), chance=seed_chance(gaps))
    return {"value": value, "ci": list(ci)}


def best_of_n(start: Start, options: argparse.Namespace) -> dict[str, Any]:
    """The stage's curve for the policy that all arms start from."""
    stage = {
        "stage": "best_of_n",
        "n": options.n,
        "max_tokens": COMMON["max_tokens"],
        "prompts": options.prompts,
    }
    run = rlaif.run(start.config("best_of_n", 0, stage, options.out), options.out / "best_of_n", tell=say)
    return run.stages[0].summary["metrics"]


def compare(start: Start, options: argparse.Namespace) -> dict[str, Any]:
    """Every arm's figures."""
    arms = [*OURS, *(["trl_ppo"] if options.trl else [])]
    at_start = measure(start, start.policy, options)
    found: dict[str, Any] = {}
    for arm in arms:
        rate, tried = best_rate(start, arm, options)
        folders = [train(start, arm, seed, rate, options) for seed in options.seeds]
        measured = [measure(start, folder / "policy", options) for folder in folders]
        curve = [point for folder in folders for point in points(rows_of(folder))]
        found[arm] = {
            "rate": rate,
            "rates_tried": tried,
            "gold": [mean(m["gold"]) for m in measured],
            "kl": [mean(m["kl"]) for m in measured],
            "each": [m["gold"] for m in measured],
            "curve": curve,
            "gao": fit_overoptimisation([d for d, _ in curve], [gain for _, gain in curve], "rl"),
            "seconds": [
                sum(row["seconds"] for row in rows_of(f) if "seconds" in row) or None for f in folders
            ],
        }
    for arm in arms[1:]:
        found[arm]["ppo_less_this"] = difference(found["ppo"]["each"], found[arm]["each"])
    for arm in arms:
        del found[arm]["each"]
    return {
        **where_and_when(),
        "seeds": options.seeds,
        "responses": options.updates * options.batch,
        "prompts": len(at_start["gold"]),
        "start": mean(at_start["gold"]),
        "arms": found,
        "best_of_n": best_of_n(start, options),
    }


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"Full compliance (gold) on {results['prompts']} held-out prompts after {results['responses']} "
        "sampled responses, from "
        f"{results['start']:.3f}; {results['machine']}, {results['date']}.",
        "",
        "| arm | rate | gold, mean | each seed | KL | our PPO less this [95 %] | α | β | peak at √KL |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for arm, row in results["arms"].items():
        gap = row.get("ppo_less_this")
        apart = f"{gap['value']:+.3f} [{gap['ci'][0]:+.3f}, {gap['ci'][1]:+.3f}]" if gap else "—"
        each = " ".join(f"{g:.2f}" for g in row["gold"])
        lines.append(
            f"| {arm} | {row['rate']:g} | {mean(row['gold']):.3f} | {each} | {mean(row['kl']):.2f} | "
            f"{apart} | {_fit(row['gao'])} |"
        )
    bon = results["best_of_n"]
    top = bon["curve"][-1]
    lines.append(
        f"| best of {top['n']} | — | {top['gold']:.3f} | — | {top['kl']:.2f} | — | {_fit(bon['gao'])} |"
    )
    return "\n".join(lines)


def _fit(gao: dict[str, Any]) -> str:
    peak = f"{gao['peak']:.2f}" if gao["peak"] is not None and gao["peak"] < 100 else "none in sight"
    return f"{gao['alpha']:.3f} | {gao['beta']:.3f} | {peak}"


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a finished quickstart")
    parser.add_argument("--trl", type=Path, help="the unzipped wheel of trl 1.12.0")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 2e-4, 4e-4, 8e-4])
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--batch", type=int, default=128, help="responses an update")
    parser.add_argument("--prompts", type=int, help="held-out prompts; omitted = all")
    parser.add_argument("--n", type=int, default=64, help="of best-of-n")
    parser.add_argument("--out", type=Path, default=Path("runs/arms"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = compare(Start(options.run), options)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
