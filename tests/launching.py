"""Commands as a user gives them: parsed alone, or on two processes as torchrun starts them, for tests whose
module has a `main` of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

ROOT = Path(__file__).parent.parent
SCRIPT = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom {{module}} import main\nmain(*sys.argv[1:])\n"


def on_two(folder: Path, module: str, *arguments: str, sharded: bool = False) -> subprocess.CompletedProcess:
    """`main(*arguments)` of a module on two gloo processes of one thread each, the script standing in
    `folder`."""
    script = folder / "rank.py"
    script.write_text(SCRIPT.format(module=module))
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        str(script),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_FSDP": str(sharded).lower()}
    return subprocess.run(
        [*launch, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def parse_command(words: Sequence[str]) -> None:
    """Fail where the program has no such command, argument or option; what they name need not be there."""
    from rlaif.cli import app

    group = typer.main.get_command(app)
    context = group.make_context("rlaif", list(words))
    name, sub, rest = group.resolve_command(context, list(words))
    while hasattr(sub, "resolve_command"):
        context = sub.make_context(name, rest, parent=context)
        name, sub, rest = sub.resolve_command(context, rest)
    sub.make_context(name, rest, parent=context)
