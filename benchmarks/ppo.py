"""One PPO update: ours against TRL 1.12.0, the last TRL that has PPO. Each side in a process of its own, turn
about.

    python benchmarks/ppo.py --json ppo.json

Same weights, batch, lengths, epochs, minibatches (one) and threads; no token ends a text, so both sides write
and read every token. TRL's wheel is fetched once into --cache and put on the PYTHONPATH of its process alone.
Columns: `trl` as it is, `trl no gc` with its gc.collect and empty_cache switched off, `fp32` and `bf16` ours.
TRL's own bf16 changes nothing on a CPU, so there both of ours are held against its fp32; on a GPU against its
bf16:

    python benchmarks/ppo.py --models 0.5B --batch 256 --prompt 256 --response 256

FLOPs are those that a side's update computes: a layer's parameters at each of T tokens, the head's at the R
response tokens, 2 FLOPs each in a forward pass and 6 with its backward pass; attention's products are left
out. Rollout and old log-probabilities are a forward pass of the policy each, then the reference, value and
reward model, and an epoch learns policy and value model. With one minibatch ours spares two passes: the
second one's final states are the first one's, and the old values those of the first epoch; and in the last
layer ours computes keys and values for all tokens, the rest for the states it reads: the response's, the
reward model's last, in the sampler's prompt the last. The limit is a 1024³ matrix product in the same dtype
on the same threads, the fastest of those before and after. Memory is the greatest resident memory of the
process during an update.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from measuring import llama, machine, matmul_limit, paired_ratio, spread
from transformers import LlamaForCausalLM

TRL = "trl==1.12.0"
HERE = Path(__file__).parent
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
PHASES = ("rollout", "scoring", "update", "rest")
Reading = dict[str, Any]


class Side:
    """A process of benchmarks/ppo_side.py."""

    def __init__(self, options: dict[str, Any], path: str) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": str(options["threads"]),
            "HF_HUB_OFFLINE": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }
        self.log = Path(options["folder"]) / f"{options['side']}-{options['dtype']}.log"
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "ppo_side.py"), json.dumps(options)],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
        )
        self._read()

    def update(self, order: str = "go") -> Reading:
        """One update and its figures."""
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Reading:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("#"):
                return json.loads(line[1:])
        raise SystemExit(f"{self.log.name} ended early:\n{self.log.read_text()[-3000:]}")

    def close(self) -> None:
        """Let the process end."""
        self.process.communicate()


def fetched(cache: Path) -> Path:
    """TRL's wheel, unzipped in the cache; never installed, since it is not the TRL this project runs with."""
    if not (cache / "trl").is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(cache), TRL]
        subprocess.run(command, check=True, stdout=sys.stderr)
        with zipfile.ZipFile(next(cache.glob("trl-*.whl"))) as wheel:
            wheel.extractall(cache)
    return cache


def measure(size: str, epochs: int, options: argparse.Namespace) -> dict[str, list[Reading]]:
    """Readings of every column, one a repetition after a warm-up of each side."""
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "size": size,
            "epochs": epochs,
            "batch": options.batch,
            "prompt": options.prompt,
            "response": options.response,
            "threads": options.threads,
            "micro_batch": options.micro_batch,
            "folder": folder,
        }
        sides = {
            name: Side({**common, "side": "ours", "dtype": DTYPES[name]}, str(HERE.parent))
            for name in options.ours
        }
        peer = Side(
            {**common, "side": "trl", "dtype": "bfloat16" if torch.cuda.is_available() else "float32"},
            str(fetched(options.cache)),
        )
        columns = {
            "trl": (peer, "go"),
            "trl no gc": (peer, "nogc"),
            **{name: (side, "go") for name, side in sides.items()},
        }
        readings: dict[str, list[Reading]] = {name: [] for name in columns}
        for turn in range(-1, options.repetitions):
            for name, (side, order) in columns.items():
                reading = side.update(order)
                if turn >= 0:
                    readings[name].append(reading)
        for side in (peer, *sides.values()):
            side.close()
    return readings


def row(
    name: str, readings: dict[str, list[Reading]], flops: float, limit: float, options: argparse.Namespace
) -> Reading:
    """One column's figures: samples a second, ratios to TRL, memory, phases, the share of the FLOP limit."""
    clock = "seconds" if options.clock == "wall" else "cpu_seconds"
    seconds = {key: [r[clock] for r in values] for key, values in readings.items()}
    memory = {key: spread([r["peak_bytes"] for r in values])["median"] for key, values in readings.items()}
    rate = spread([options.batch / s for s in seconds[name]])
    ratios = {
        key: paired_ratio(seconds[peer], seconds[name])
        for key, peer in (("ratio_vs_trl", "trl"), ("ratio_vs_trl_no_gc", "trl no gc"))
    }
    phases = {p: spread([r["phases"].get(p, 0.0) for r in readings[name]])["median"] for p in PHASES}
    return {
        "side": name,
        "samples_per_second": rate,
        "seconds": spread(seconds[name]),
        **{key: value["median"] for key, value in ratios.items()},
        "ratio_spread": {key: [value["min"], value["max"]] for key, value in ratios.items()},
        "peak_bytes": memory[name],
        "peak_memory_ratio": memory[name] / memory["trl"],
        "phase_seconds": phases,
        "share_of_flop_limit": rate["median"] * flops / limit,
        "gflops": rate["median"] * flops / 1e9,
    }


def flops_per_sample(size: str, epochs: int, prompt: int, response: int, ours: bool) -> float:
    """What an update computes for one episode, on the peer's side or on ours: see the top."""
    with torch.device("meta"):
        model = LlamaForCausalLM(llama(size))
    head = cast(torch.Tensor, model.lm_head.weight).numel()
    body = (model.num_parameters() - head) * (prompt + response)
    policy, value = body + head * response, body  # the value model's head is next to none
    spared, unread, unlearned = 0, 0, 0
    if ours:
        last = cast(Any, model.model.layers[-1])
        kept = last.self_attn.k_proj.weight.numel() + last.self_attn.v_proj.weight.numel()
        rest = sum(weight.numel() for weight in last.parameters()) - kept
        # The policy's head is computed all the same where its body is spared.
        spared, unlearned = 2 * body, 2 * prompt * rest
        unread = (prompt - 1 + prompt + prompt + response - 1) * rest  # sampler, reference, reward model
    return 2 * (3 * policy + 2 * value - spared - unread) + 6 * epochs * (policy + value - unlearned)


def table(rows: list[Reading]) -> str:
    """The figures as Markdown."""
    head = (
        "model",
        "epochs",
        "side",
        "samples/s [min, max]",
        "× trl",
        "× trl no gc [min, max]",
        "peak GB",
        "× trl's",
        "rollout s",
        "scoring s",
        "update s",
        "GFLOP/s",
        "of limit",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in rows:
        rate, (low, high) = r["samples_per_second"], r["ratio_spread"]["ratio_vs_trl_no_gc"]
        phases = " | ".join(f"{r['phase_seconds'][p]:.1f}" for p in PHASES[:3])
        lines.append(
            f"| {r['model']} | {r['epochs']} | {r['side']} | {rate['median']:.2f} [{rate['min']:.2f}, "
            f"{rate['max']:.2f}] "
            f"| {r['ratio_vs_trl']:.2f} | {r['ratio_vs_trl_no_gc']:.2f} [{low:.2f}, {high:.2f}] "
            f"| {r['peak_bytes'] / 1e9:.2f} | {r['peak_memory_ratio']:.2f} | {phases} | {r['gflops']:.0f} "
            f"| {r['share_of_flop_limit']:.0%} |"
        )
    return "\n".join(lines)


def summary(rows: list[Reading], options: argparse.Namespace) -> Reading:
    """fp32 and the best dtype at 36M (the worse of the epochs measured, ratio by ratio), and the full
    table."""
    chosen = [r for r in rows if r["model"] == "36M"] or rows
    keys = {
        "ratio_vs_trl": min,
        "ratio_vs_trl_no_gc": min,
        "peak_memory_ratio": max,
        "share_of_flop_limit": min,
    }

    def worst(side: str) -> Reading:
        mine = [r for r in chosen if r["side"] == side]
        return {key: pick(r[key] for r in mine) for key, pick in keys.items()}

    sides = {side: worst(side) for side in options.ours}
    best = max(sides, key=lambda side: cast(float, sides[side]["ratio_vs_trl_no_gc"]))
    settings = {k: v if isinstance(v, int | list | str) else str(v) for k, v in vars(options).items()}
    found = {"fp32": sides["fp32"]} if "fp32" in sides else {}
    where = machine("cuda" if torch.cuda.is_available() else "cpu")
    return {
        **found,
        "best": {"dtype": best, **sides[best]},
        "table": rows,
        "settings": settings,
        "machine": where,
    }


def main() -> None:
    """Measure every model at every number of epochs, print the table, write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["7M", "36M"])
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--ours", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--response", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=16, help="sequences in one forward of ours")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine shared with others"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "rlaif-benchmarks" / "trl-1.12.0"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    limits = dict.fromkeys(DTYPES, 0.0)

    def try_limits() -> None:  # the greatest of several tries: a machine shared with others has slow moments
        for name, dtype in DTYPES.items():
            limits[name] = max(limits[name], matmul_limit(device, getattr(torch, dtype), options.clock))

    try_limits()
    rows = []
    for size in options.models:
        for epochs in options.epochs:
            readings = measure(size, epochs, options)
            try_limits()
            size_of = (size, epochs, options.prompt, options.response)
            flops = {name: flops_per_sample(*size_of, name in DTYPES) for name in readings}
            rows += [
                {
                    "model": size,
                    "epochs": epochs,
                    **row(name, readings, flops[name], limits.get(name, limits["fp32"]), options),
                }
                for name in readings
            ]
            print(table(rows[-len(readings) :]), flush=True)
    print("\n" + table(rows))
    if options.json:
        options.json.write_text(json.dumps({**summary(rows, options), "limits": limits}, indent=1))


if __name__ == "__main__":
    main()
