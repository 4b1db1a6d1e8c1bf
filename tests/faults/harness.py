"""A tiny run of every kind of stage, and trials that harm it at a seeded moment and let it go on."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlaif.config import load_config
from rlaif.runs.storage import read_json
from tests.tiny_models import tiny_policy

HERE = Path(__file__).parent
COUNT, KILL, HALF, FULL = range(4)
CONFIG = """name: faults
constitution: constitution.yaml
prompts: prompts.jsonl
heldout: 0.25
templates: brief
threads: 1
policy: {{model: {model}, device: cpu}}
feedback: {{engine: scripted, model: "tests.scripts:feedback"}}
stages:
  - {{stage: sample, num_prompts: 8, max_tokens: 8}}
  - {{stage: critique}}
  - {{stage: sft, epochs: 2, batch_size: 4, learning_rate: 1.0e-3}}
  - {{stage: sample, num_prompts: 8, k: 2, max_tokens: 8}}
  - {{stage: pair}}
  - {{stage: label}}
  - {{stage: reward, epochs: 2, batch_size: 4, learning_rate: 1.0e-3}}
  - {{stage: ppo, updates: 4, batch_size: 4, max_tokens: 8, sample_every: 1, checkpoint_every: 1}}
  - {{stage: evaluate, max_tokens: 8}}
"""
CONSTITUTION = """name: words
principles:
  - {id: no-rude, text: Never say rude.}
  - {id: no-rain, text: Never say rain., weight: 2.0}
"""
PASSING = ("seconds", "seconds_per_update", "usage")  # what no two runs have in common


def build(tmp: Path) -> Path:
    """The shim, compiled."""
    shim = tmp / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-w", "-o", shim, HERE / "shim.c", "-ldl"], check=True)
    return shim


@dataclass
class Trial:
    """What was done and how it ended."""

    harm: str
    stage: str
    codes: list[int]
    wrong: str = ""
    said: str = ""


@dataclass
class Harness:
    """The project in a folder, a server that runs commands on it, and the run as it was after every stage."""

    tmp: Path
    harmless: list[Path] = field(default_factory=list)  # after 0, 1, 2 … stages
    calls: list[int] = field(default_factory=list)  # that the shim sees in each of them

    def __post_init__(self) -> None:
        project = self.project = self.tmp / "project"
        project.mkdir()
        (project / "constitution.yaml").write_text(CONSTITUTION)
        words = ["tell", "me", "about", "the", "weather", "today", "please", "now", "number"]
        rows = [
            {"messages": [{"role": "user", "content": f"{words[n % 9]} {words[n // 9]} {n}"}]}
            for n in range(16)
        ]
        (project / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        model = tiny_policy(self.tmp / "model")
        (project / "config.yaml").write_text(CONFIG.format(model=model))
        self.stages = [options.stage for options in load_config(project / "config.yaml").stages]
        env = {
            **os.environ,
            "LD_PRELOAD": str(build(self.tmp)),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": str(HERE.parent.parent),
        }
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            env=env,
            text=True,
            cwd=HERE.parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.errors = self.tmp / "errors.txt"
        self.harmless.append(self.tmp / "after_0")
        for number in range(1, len(self.stages) + 1):
            folder = self.tmp / f"after_{number}"
            if self.harmless[-1].exists():
                shutil.copytree(self.harmless[-1], folder)
            answer = self.run(folder, number)
            assert answer["code"] == 0, self.errors.read_text()
            self.calls.append(answer["calls"])
            self.harmless.append(folder)

    def close(self) -> None:
        """Let the server end."""
        self.server.stdin.close()  # type: ignore[union-attr]
        self.server.wait()

    def run(self, folder: Path, number: int, mode: int = COUNT, at: int = 0) -> dict[str, Any]:
        """`rlaif run` up to the `number`-th stage."""
        name = self.stages[number - 1]
        until = f"{name}[{self.stages[: number - 1].count(name)}]"
        words = ["run", str(self.project / "config.yaml"), "--out", str(folder), "--until", until]
        return self.command(words, folder, mode, at)

    def command(self, words: list[str], folder: Path, mode: int = COUNT, at: int = 0) -> dict[str, Any]:
        """Any command of `rlaif`, harmed at the `at`-th call that changes `folder`."""
        task = {"words": words, "root": str(folder), "mode": mode, "at": at, "errors": str(self.errors)}
        self.server.stdin.write(json.dumps(task) + "\n")  # type: ignore[union-attr]
        self.server.stdin.flush()  # type: ignore[union-attr]
        return json.loads(self.server.stdout.readline())  # type: ignore[union-attr]

    def trial(self, seed: int) -> Trial:
        """Harm one stage in one way, continue, and compare with the run that was not harmed."""
        rng = random.Random(seed)
        number = rng.randrange(1, len(self.stages) + 1)
        harm = rng.choice(["kill", "kill", "half", "full", "power", "damage", "damage after a kill"])
        folder = self.tmp / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        if self.harmless[number - 1].exists():
            shutil.copytree(self.harmless[number - 1], folder)
        done = Trial(harm, self.stages[number - 1], [])
        if harm == "damage":
            damage(folder, rng, done)
        else:
            mode = {"half": HALF, "full": FULL}.get(harm, KILL)
            for _ in range(rng.choice([1, 1, 2])):
                before = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*")}
                answer = self.run(folder, number, mode, rng.randrange(self.calls[number - 1]))
                done.codes.append(answer["code"])
                self._check(answer["code"], (-9, 2) if harm == "full" else (-9,), done)
                if harm == "power":
                    cut(folder, answer["unsynced"], before)
            if harm == "damage after a kill":
                damage(folder, rng, done)
        answer = self.run(folder, number)
        done.codes.append(answer["code"])
        self._check(answer["code"], (0, 2) if harm.startswith("damage") else (0,), done)
        if answer["code"] == 0 and not done.wrong:
            done.wrong = difference(self.harmless[number], folder)
        return done

    def _check(self, code: int, allowed: tuple[int, ...], done: Trial) -> None:
        text = self.errors.read_text(errors="replace")
        done.said = text[-3000:]
        # A killed run may have been over before its moment came: the same calls are not made in the same
        # number.
        if code not in (*allowed, 0) or "Traceback" in text:
            done.wrong = done.wrong or f"exit code {code}: {text[-3000:]}"


def cut(folder: Path, unsynced: list[int], before: dict[int, int]) -> None:
    """A power cut: what was written and not forced to disk is gone."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_ino in unsynced:
            os.truncate(path, min(path.stat().st_size, before.get(path.stat().st_ino, 0)))


def damage(folder: Path, rng: random.Random, done: Trial) -> None:
    """Truncate, empty, remove or change a file, or repeat or drop a row."""
    files = (
        sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        if folder.exists()
        else []
    )
    if not files:
        return
    path = rng.choice(files)
    data, how = path.read_bytes(), rng.choice(["cut", "empty", "gone", "flip", "double", "drop"])
    done.harm += f": {how} {path.relative_to(folder)}"
    lines = data.splitlines(keepends=True)
    if how == "gone":
        path.unlink()
    elif how in ("double", "drop") and lines and path.suffix == ".jsonl":
        at = rng.randrange(len(lines))
        path.write_bytes(
            b"".join([*lines[:at], *([lines[at]] * (2 if how == "double" else 0)), *lines[at + 1 :]])
        )
    elif how in ("flip", "double", "drop") and data:
        at = rng.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :])
    else:
        path.write_bytes(data[: rng.randrange(max(1, len(data)))] if how == "cut" else b"")


def difference(whole: Path, other: Path) -> str:
    """The first thing that a continued run has otherwise than one that was never harmed; empty where there is
    none."""
    for path in sorted(whole.rglob("*")):
        name = path.relative_to(whole)
        if name.parts[:2][-1] == "checkpoints" or (len(name.parts) > 1 and name.parts[1] == "checkpoints"):
            continue
        if path.suffix == ".jsonl" and name.name != "spending.jsonl":
            mine, theirs = (rows(folder / name) for folder in (other, whole))
            if mine != theirs:
                return (
                    f"{name}: {sum((theirs - mine).values())} rows missing, "
                    f"{sum((mine - theirs).values())} too many"
                )
        elif path.suffix == ".safetensors" and path.read_bytes() != (other / name).read_bytes():
            return f"{name}: other weights"
        elif path.name == "stage.json":
            mine, theirs = (read_json(folder / name) for folder in (other, whole))
            for key in ("status", "in", "kept", "dropped", "metrics"):
                if lasting(mine.get(key)) != lasting(theirs.get(key)):
                    return f"{name}: {key}: {mine.get(key)} for {theirs.get(key)}"
    return ""


def lasting(value: Any) -> Any:
    """Without what no two runs have in common."""
    return {k: lasting(v) for k, v in value.items() if k not in PASSING} if isinstance(value, dict) else value


def rows(path: Path) -> Counter[str]:
    """The rows of a file, in whatever order."""
    if not path.exists():
        return Counter()
    return Counter(
        json.dumps(lasting(json.loads(line)), sort_keys=True) for line in path.read_bytes().splitlines()
    )
