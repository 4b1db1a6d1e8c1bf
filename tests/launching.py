"""Two processes as torchrun starts them, for tests whose module has a `main` of its own."""

import os
import subprocess
import sys
from pathlib import Path

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
