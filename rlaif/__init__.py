"""rlaif: from a constitution file to an aligned language model, and the evidence that it worked.

In a notebook: `rlaif.run("configs/quickstart.yaml")`, `rlaif.load_run("runs/quickstart")`, `rlaif.compare(a,
b)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlaif.runs.folder import Run

__version__ = "0.1.0"
# The name on the package index, where `rlaif` is another project; the module and the command are `rlaif`.
DISTRIBUTION = "rlaif-loop"


def run(config: Path | str, out: Path | str | None = None, **options: Any) -> Run:
    """Run the loop or continue it, as `rlaif run` does; returns the run."""
    from rlaif.pipeline import run as run_pipeline

    return run_pipeline(config, out, **options)


def load_run(path: Path | str) -> Run:
    """A run folder: `.dataset("labels")` gives rows as a `datasets.Dataset`, `.policies` folders by name."""
    from rlaif.runs.folder import Run

    return Run.load(Path(path))


def compare(*runs: Path | str, out: Path | str | None = None, trust: bool = False) -> dict[str, Any]:
    """Runs side by side, as `rlaif compare --json` prints them; `out` writes the page too.

    `trust` allows the functions and endpoints that the runs' configs name; without it they raise UserError.
    """
    from rlaif.report.compare import compare as compare_runs
    from rlaif.report.run_reader import require_trust

    paths = [Path(run) for run in runs]
    require_trust(paths, trust, "pass trust=True")
    return compare_runs(paths, out=Path(out) if out else None)
