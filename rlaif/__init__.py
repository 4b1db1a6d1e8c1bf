"""rlaif: from a constitution file to an aligned language model, and the evidence that it worked.

In a notebook: `rlaif.run("configs/quickstart.yaml")`, `rlaif.load_run("runs/quickstart")`,
`rlaif.compare("runs/a", "runs/b")` and `rlaif.judge(pairs, constitution, model)`. What the user can mend is
raised as `rlaif.errors.UserError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from rlaif.feedback.judging import judge as judge
    from rlaif.runs.folder import Run

__version__ = "0.1.0"
# The name on the package index, where `rlaif` is another project; the module and the command are `rlaif`.
DISTRIBUTION = "rlaif-loop"
__all__ = ["compare", "judge", "load_run", "run"]


@overload
def run(
    config: Mapping[str, Any] | Path | str | None = None,
    out: Path | str | None = None,
    *,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    source: Path | str | None = None,
    at: str | None = None,
    until: str | None = None,
    dry_run: Literal[False] = False,
    progress: Any = None,
    tell: Callable[[str], None] | None = None,
) -> Run: ...


@overload
def run(
    config: Mapping[str, Any] | Path | str | None = None,
    out: Path | str | None = None,
    *,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    source: Path | str | None = None,
    at: str | None = None,
    until: str | None = None,
    dry_run: Literal[True],
    progress: Any = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]: ...


def run(
    config: Mapping[str, Any] | Path | str | None = None,
    out: Path | str | None = None,
    *,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    source: Path | str | None = None,
    at: str | None = None,
    until: str | None = None,
    dry_run: bool = False,
    progress: Any = None,
    tell: Callable[[str], None] | None = None,
) -> Run | dict[str, Any]:
    """Run the loop, or continue it, as `rlaif run` does.

    Args:
        config: a config file, or its content as a mapping. In a mapping `gold`, an annotator and a reward may
            be functions, and paths are looked up in the working directory and among the shipped files.
        out: the run folder; by default `runs/<name>`.
        overrides: options to change, as {"ppo.updates": 10} or as `-s` texts.
        source: a run to fork, as `--from`: what it shares with this config is not run again.
        at: with `source`, the first stage that is not shared.
        until: the last stage to run, e.g. "label", or "sample[1]" where a name occurs twice.
        dry_run: check everything and return what would run, as `rlaif run --dry-run --json` prints it.
        progress: a progress bar: called with (what, total, done), it gives a context manager whose value is
            called with the number of rows that were finished since the last call.
        tell: called with a line for each stage, e.g. `print`.

    Returns:
        The run, as `load_run` gives it, or with `dry_run` the plan: a dictionary that JSON can hold.

    Raises:
        rlaif.errors.UserError: whatever is the user's to fix; what was done stays.
        rlaif.errors.Paused: a UserError: `label` waits for people's labels; call again once they are there.
        rlaif.runs.spending.BudgetReached: the budget's cap is reached; what was done stays.
    """
    from rlaif import pipeline
    from rlaif.config import override_texts

    texts = override_texts(overrides)
    if dry_run:
        return pipeline.dry_run(config, texts, source, at, out, until)
    return pipeline.run(config, out, texts, until, progress, tell or (lambda line: None), source, at)


def __getattr__(name: str) -> Any:
    """`judge`, whose module is loaded only where it is used."""
    if name != "judge":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rlaif.feedback.judging import judge

    return judge


def load_run(path: Path | str) -> Run:
    """A run folder, opened to read: finished, paused or stopped.

    Args:
        path: the folder, e.g. "runs/quickstart".

    Returns:
        The run. `.dataset("labels")` gives rows of a kind as a `datasets.Dataset`, `.preferences()` what the
        trainers of trl take, `.policies` the model folders by name ("base", "sft", "ppo", …), `.stages` the
        stages.

    Raises:
        rlaif.errors.UserError: the folder is no run.
    """
    from rlaif.runs.folder import Run

    return Run.load(Path(path))


def compare(
    *runs: Path | str, out: Path | str | None = None, judge: str | None = None, trust: bool = False
) -> dict[str, Any]:
    """Compare runs on the same held-out prompts.

    Args:
        runs: two run folders or more; several seeds of one config are one arm.
        out: where to write the page (HTML); without it none is written.
        judge: a config, or a model's folder or hub id, that decides win rates: best one that trained none of
            the runs; without it a run's own feedback model.
        trust: allow the functions and endpoints that the runs' configs name.

    Returns:
        What `rlaif compare --json` prints. Rates are shares from 0 to 1, `ci` 95 % intervals, KL in nats,
        lengths in tokens, times in seconds; None where a figure cannot be told.

    Raises:
        rlaif.errors.UserError: a path is no run, the runs share nothing that could be compared, or a config
            names functions or endpoints and `trust` is not set.
    """
    from rlaif.preflight.opening import feedback_of
    from rlaif.report.compare import compare as compare_runs
    from rlaif.report.run_reader import require_trust

    paths = [Path(run) for run in runs]
    require_trust(paths, trust, "pass trust=True", judge is not None)
    model = feedback_of(judge) if judge is not None else None
    return compare_runs(paths, out=Path(out) if out else None, judge=model)
