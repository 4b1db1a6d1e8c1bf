"""Commands that messages name, as they can be typed: to go on with a run, and to fork it."""

from __future__ import annotations

import shlex
from itertools import count
from pathlib import Path
from typing import Any

from rlaif.config import option_name, stage_name
from rlaif.runs.folder import Stage

HIGHEST_RATE = 1e-3  # the highest learning rate that is proposed


def resume_command(folder: Path) -> str:
    """The command that goes on with a run."""
    return f"rlaif resume {shlex.quote(str(folder))}"


def fork_command(folder: Path, at: str, words: str) -> str:
    """The command that forks a run at a stage into a free folder beside it; `words` are what differs, as
    typed."""
    new = next(path for n in count(2) if not (path := Path(f"{folder}-{n}")).exists())
    there, out = (shlex.quote(str(path)) for path in (folder, new))
    return " ".join(filter(None, ("rlaif run", words, f"--from {there} --at {shlex.quote(at)} --out {out}")))


def command_with_lower_rate(stage: Stage[Any]) -> str:
    """The command that forks the run at a stage whose training gave NaN or infinity, with a lower learning
    rate."""
    at = (stage.number - 1) % len(stage.config.stages)  # an option is that of every round
    rate = min(stage.options.learning_rate / 10, HIGHEST_RATE)
    option = shlex.quote(f"{option_name(stage.config, at)}.learning_rate={rate:g}")
    return fork_command(stage.run.path, stage_name(stage.config, at + 1), f"-s {option}")
