"""Seconds of each stage on two checkouts of rlaif, side by side: is a change slower?

    git worktree add ../before COMMIT
    python benchmarks/versions.py ../before . --config configs/quickstart.yaml --rounds 4 -s ppo.updates=20

Both run the same config at the same time, one thread and one core each, and change cores after every round
(Linux). With --from RUN --at STAGE each round begins with copies of that run's finished stages before STAGE,
so that both read the same rows; its options must be those given here. The ratio is the second checkout's
seconds over the first's; the mean is geometric.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from facts import where_and_when


def start(checkout: Path, core: int, out: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """A run by one checkout's code, on one core."""
    if options.source:
        later = [path.name for path in options.source.glob("[0-9][0-9]_*") if path.name >= options.at]
        shutil.copytree(options.source, out, ignore=shutil.ignore_patterns(*later, "cache*", "report*"))
    command = [sys.executable, "-m", "rlaif.cli", "run", str(options.config.resolve()), "--out", str(out)]
    command += ["-s", "threads=1", *(word for text in options.set for word in ("-s", text))]
    command += ["--until", options.until] if options.until else []
    return subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def seconds_of(run: Path) -> dict[str, float]:
    """What each stage's own clock says."""
    return {path.parent.name: json.loads(path.read_text())["seconds"] for path in run.glob("*/stage.json")}


def main() -> None:
    """Run all rounds and print a line a stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", type=Path, nargs=2, help="the earlier and the later one")
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("-s", dest="set", action="append", default=[], help="an option, as of rlaif run")
    parser.add_argument("--from", dest="source", type=Path, help="a run whose stages are copied")
    parser.add_argument("--at", default="", help="the first stage folder that is not, such as 07_reward")
    parser.add_argument("--until", help="the last stage, such as ppo")
    options = parser.parse_args()
    ratios = defaultdict[str, list[float]](list)
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            outs = [Path(folder) / name for name in ("before", "after")]
            started = [
                start(checkout, (number + at) % 2, out, options)
                for at, (checkout, out) in enumerate(zip(options.checkouts, outs, strict=True))
            ]
            if any(process.wait() for process in started):
                sys.exit("a run failed: start it by hand to see why")
            before, after = map(seconds_of, outs)
        for stage in sorted(before):
            if stage >= options.at and before[stage] > 0.5:
                ratios[stage].append(after[stage] / before[stage])
                print(f"round {number}, {stage}: {before[stage]:.1f} s, {after[stage]:.1f} s", flush=True)
    print(json.dumps(where_and_when()))
    for stage, found in ratios.items():
        mean = statistics.geometric_mean(found)
        print(f"{stage}: {mean:.3f} ({', '.join(f'{ratio:.3f}' for ratio in found)})")


if __name__ == "__main__":
    main()
