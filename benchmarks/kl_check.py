"""Whether a run's KL to the base policy is that of fresh samples: each trained policy sampled again with
other seeds.

    python benchmarks/kl_check.py runs/quickstart --seeds 1 2 3

KL is taken at the sampled tokens; ± is a standard error, and "off" how far the run's figure lies from the
mean of the fresh ones. A few rows of several nats carry much of a small mean, so that it may well differ by
chance from seed to seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from rlaif.engines import GenerateRequest
from rlaif.engines.transformers import TransformersEngine
from rlaif.records import Evaluation, Prompt, Response
from rlaif.runs.folder import Run, Stage
from rlaif.runs.seeds import derive_seed
from rlaif.stages.evaluate import Tools, kl_temperature
from rlaif.stats import mean, std


def fresh(stage: Stage, tools: Tools, folder: Path, prompts: list[Prompt], seed: int) -> list[float]:
    """The KL of a new response to each prompt, those that do not fit left out."""
    options = stage.options
    engine = TransformersEngine(stage.config.policy.model_copy(update={"model": str(folder)}))
    requests = [
        GenerateRequest(
            p.chat, options.max_tokens, options.temperature, seed=derive_seed("kl check", seed, p.id)
        )
        for p in prompts
    ]
    rows = {
        at: Response(
            prompt_id=prompts[at].id, text=g.text, finish_reason=g.finish_reason, token_ids=g.token_ids
        )
        for at, g in engine.generate(requests)
        if g.finish_reason != "too_long"
    }
    asked = [prompts[at] for at in rows]
    found = tools.divergence(folder, asked, list(rows.values()), kl_temperature(stage))
    return [kl for kl in found if kl is not None]


def error(values: list[float]) -> float:
    """The standard error of their mean."""
    return std(values) / len(values) ** 0.5


def main() -> None:
    """Print a line for each trained policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = Run.load(options.run)
    stage = next(s for s in reversed(run.stages) if s.name == "evaluate")
    rows, prompts = (
        list(stage.rows("evaluation", Evaluation)),
        {p.id: p for p in stage.prompts_by_id().values()},
    )
    policies = {n: f for n, f in stage.policies().items() if n != "base" and f.suffix != ".jsonl"}
    tools = Tools(None, stage.config.policy, str(stage.policies()["base"]), {})  # type: ignore[arg-type]
    for name, folder in policies.items():
        own = {row.prompt_id: row.kl for row in rows if row.policy == name}
        known = [kl for kl in own.values() if kl is not None]
        samples = [fresh(stage, tools, folder, [prompts[i] for i in own], seed) for seed in options.seeds]
        means = [mean(sample) for sample in samples]
        told = ", ".join(f"{m:.4f} ± {error(sample):.4f}" for m, sample in zip(means, samples, strict=True))
        print(
            f"{name}: run {mean(known):.4f} ± {error(known):.4f} (n {len(known)}, left out "
            f"{len(own) - len(known)}); "
            f"fresh {told}, mean {mean(means):.4f}; off {mean(known) / mean(means) - 1:+.1%}"
        )


if __name__ == "__main__":
    main()
