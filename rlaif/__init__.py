"""rlaif: from a constitution file to an aligned language model, and the evidence that it worked.

In a notebook: `rlaif.run("configs/quickstart.yaml")`, `rlaif.load_run("runs/quickstart")`, `rlaif.compare(a,
b)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlaif.config import ModelConfig
    from rlaif.constitution import Constitution
    from rlaif.engines import Engine
    from rlaif.feedback.judging import Judgement
    from rlaif.runs.folder import Run

__version__ = "0.1.0"
# The name on the package index, where `rlaif` is another project; the module and the command are `rlaif`.
DISTRIBUTION = "rlaif-loop"


def run(config: Path | str, out: Path | str | None = None, **options: Any) -> Run:
    """Run the loop or continue it, as `rlaif run` does; returns the run."""
    from rlaif.pipeline import run as run_pipeline

    return run_pipeline(config, out, **options)


def judge(
    pairs: Iterable[Any],
    constitution: Constitution | Mapping[str, Any] | Path | str,
    model: Engine | ModelConfig | Mapping[str, Any] | Path | str,
    *,
    templates: str = "default",
    few_shot: int = 0,
    reasoning_tokens: int = 0,
    progress: Any = None,
) -> list[Judgement]:
    """Judge pairs of responses under every principle that applies, in both orders.

    Args:
        pairs: (prompt, a, b) tuples or mappings with "prompt" and "a", "b" or "chosen", "rejected"; each a
            text, or messages as chat templates take them. "tags" of a mapping are matched with `applies_to`.
        constitution: a constitution file, its content as a mapping, or a `Constitution`.
        model: the judge: a model's folder or hub id, the keys of a config's `feedback`, or an engine.
        templates: the template set.
        few_shot: how many of the principles' examples are shown before each question.
        reasoning_tokens: the most tokens of reasons before a verdict; 0 reads the verdict at once.
        progress: a progress bar as `Stage.progress` takes it, called with (what, total).

    Returns:
        One `Judgement` a pair, in the order of the pairs.

    Raises:
        UserError: what is no pair, no constitution or no model.
    """
    from rlaif.feedback.judging import judge_pairs

    return judge_pairs(
        pairs,
        constitution,
        model,
        templates=templates,
        few_shot=few_shot,
        reasoning_tokens=reasoning_tokens,
        progress=progress,
    )


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
