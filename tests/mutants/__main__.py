"""Put each mutant into a copy of the tree and run its tests: which survive?

Exit code 1 where more than 5 % do, or where one is no mutant.

    python -m tests.mutants [WORD ...]      with words, only the mutants that hold one of them

Models' libraries are loaded once; every run is a fork, so that a mutant costs its tests and no more. The
tests are run without a mutant first: a red test would catch everything.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.mutants.table import MUTANTS, ROOT, Mutant

ALLOWED = 0.05  # share of mutants that may survive
SECONDS = 600  # by the clock, for the tests of one mutant
KEPT = (
    "rlaif",
    "tests",
    "benchmarks",
    "configs",
    "constitutions",
    "prompts",
    "docs",
)  # what tests read of a checkout


def preload() -> None:
    """What is slow to import and none of ours."""
    import datasets  # noqa: F401
    import hypothesis  # noqa: F401
    import torch
    import trl.trainer.dpo_trainer
    import trl.trainer.reward_trainer
    import trl.trainer.sft_trainer  # noqa: F401
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401
    from transformers.trainer import Trainer  # noqa: F401

    torch.set_num_threads(1)


def copy(tree: Path) -> None:
    """A checkout's files at `tree`, without what was built or run there."""
    tree.mkdir()
    for path in ROOT.iterdir():
        if path.is_dir() and path.name in KEPT:
            shutil.copytree(path, tree / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy(path, tree)


def outcome(tree: Path, tests: Iterable[str], only: str = "") -> int:
    """pytest's exit code for some test files, in a process of its own; −1 where it takes too long."""
    child = os.fork()
    if not child:
        try:
            os._exit(_tested(tree, tests, only))
        finally:
            os._exit(70)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def _tested(tree: Path, tests: Iterable[str], only: str) -> int:
    import pytest

    os.chdir(tree)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "rlaif")]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(path for path in sys.path if path not in ("", str(ROOT)))]
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    log = os.open(tree / "mutant.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    chosen = ["-k", only] if only else []
    files = [f"tests/{name}.py" for name in tests]
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=short", *chosen, *files]))


def main(words: list[str]) -> int:
    """Run the mutants, and print what became of each; → the exit code."""
    chosen = [m for m in MUTANTS if not words or any(word in f"{m.old} {m.only} {m.tests}" for word in words)]
    preload()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        copy(tree)
        if red := _red(tree, chosen):
            print("these fail without a mutant:", *red, sep="\n  ")
            return 1
        survived, broken = [], []
        for number, mutant in enumerate(chosen, 1):
            start = time.monotonic()
            code = mutated(tree, mutant)
            state = {1: "caught", -1: "caught (it took too long)", 0: "SURVIVED"}.get(
                code, f"NO MUTANT (pytest's code {code})"
            )
            survived += [mutant] if code == 0 else []
            broken += [mutant] if code not in (0, 1, -1) else []
            print(
                f"{number:3} {state} in {time.monotonic() - start:.1f} s: {mutant.old} → {mutant.new}",
                flush=True,
            )
    share = len(survived) / len(chosen) if chosen else 0.0
    print(
        f"{len(chosen)} mutants, {len(survived)} survive: {share:.1%}",
        *(f"  {m.old} → {m.new}" for m in survived),
        sep="\n",
    )
    return int(share > ALLOWED or bool(broken))


def mutated(tree: Path, mutant: Mutant) -> int:
    """The tests' exit code with the mutant in its place, which it leaves again."""
    path = mutant.place(tree)
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        return outcome(tree, mutant.tests.split(), mutant.only)
    finally:
        path.write_text(before, encoding="utf-8")


def _red(tree: Path, chosen: list[Mutant]) -> list[str]:
    """The targets that fail as things are."""
    targets: dict[str, set[str]] = {}
    for mutant in chosen:
        targets.setdefault(mutant.tests, set()).add(mutant.only)
    joined = {tests: "" if "" in words else " or ".join(sorted(words)) for tests, words in targets.items()}
    return [
        f"{tests} -k '{only}'" for tests, only in joined.items() if outcome(tree, tests.split(), only) != 0
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
