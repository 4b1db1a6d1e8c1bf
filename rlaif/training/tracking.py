"""metrics.jsonl, sent to the tracker of the user's choice; each is imported only where it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rlaif import DISTRIBUTION
from rlaif.errors import UserError
from rlaif.runs.folder import Stage

Track = Callable[[dict[str, Any]], None]


@contextmanager
def open_tracker(stage: Stage) -> Iterator[Track]:
    """What sends an update's row to the stage's `tracker`, and nowhere where there is none.

    A continued run sends again the updates after its last checkpoint: trackers append, metrics.jsonl is
    exact.
    """
    name, option = stage.options.tracker, f"{stage.name}.tracker"
    try:
        with _TRACKERS[name](stage) as track:
            yield track
    except ImportError as error:
        if error.name not in (name, "torch.utils.tensorboard", None):
            raise
        raise UserError(
            f"{option}: {name} is not installed.",
            f"the extra `{name}`",
            f"pip install '{DISTRIBUTION}[{name}]', or leave {option} out: metrics.jsonl is written always",
        ) from None


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, (int, float))}


@contextmanager
def _none(stage: Stage) -> Iterator[Track]:
    yield lambda row: None


@contextmanager
def _tensorboard(stage: Stage) -> Iterator[Track]:
    from torch.utils.tensorboard.writer import SummaryWriter

    with SummaryWriter(str(stage.dir / "tensorboard")) as writer:

        def track(row: dict[str, Any]) -> None:
            for key, value in _numbers(row).items():
                writer.add_scalar(key, value, row["update"])

        yield track


@contextmanager
def _logged(stage: Stage, library: Any) -> Iterator[Track]:
    """wandb, and trackio, which has its interface."""
    library.init(
        project="rlaif", name=f"{stage.run.path.name}/{stage.dir.name}", config=stage.options.model_dump()
    )
    try:
        yield lambda row: library.log(_numbers(row), step=row["update"])
    finally:
        library.finish()


def _wandb(stage: Stage) -> Any:
    import wandb  # pyright: ignore[reportMissingImports]

    return _logged(stage, wandb)


def _trackio(stage: Stage) -> Any:
    import trackio  # pyright: ignore[reportMissingImports]

    return _logged(stage, trackio)


_TRACKERS = {None: _none, "tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
