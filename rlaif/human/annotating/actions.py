"""What people did on the page: an append-only log, a row for each action, on disk before the page goes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from rlaif.errors import UserError
from rlaif.records import Record
from rlaif.runs.lookup import complete_lines, damaged_line, fault_of
from rlaif.runs.rows import RowFile
from rlaif.runs.storage import sync

Kind = Literal["choice", "final", "skip", "undo"]
Showing = tuple[str, bool]  # an item, and whether it is its second showing


class Action(Record):
    """One thing that an annotator did. Nothing is ever removed: an undo is a row, too."""

    annotator: str
    """Name of the person."""
    step: int
    """How many actions the annotator had made before."""
    kind: Kind
    """`choice`; `final`, once the AI's opinion has been seen; `skip`; `undo`, of an earlier action."""
    task: str
    """Id of what the page showed; empty of an undo."""
    item: str
    """`id` of the comparison, or of the prompt whose responses are ranked."""
    response_ids: tuple[str, ...]
    """`id`s of its responses, as they are stored."""
    principle_id: str | None = None
    """`id` of the principle that was asked about; missing where the whole was."""
    order: tuple[int, ...] = ()
    """Places of the responses in `response_ids`, in the order in which they were shown."""
    ranks: tuple[int, ...] = ()
    """Rank of each of `response_ids`, 1 is best, equal ranks are ties; empty where nothing was chosen."""
    repeat: bool = False
    """Whether the item was shown to the annotator for the second time."""
    opinion_shown: bool = False
    """Whether the AI's opinion was shown after it."""
    anchored: bool = False
    """Whether the annotator had seen the AI's opinion before."""
    queue: str = ""
    """Which queue the item came from."""
    seconds: float | None = None
    """Seconds that the page was looked at before it."""
    note: str | None = None
    """Reason or note; missing where there is none."""
    undoes: str | None = None
    """`id` of the action that is taken back."""
    at: str = ""
    """When, in UTC."""

    def identity(self) -> tuple[Any, ...]:
        return (self.annotator, self.step, self.kind, self.task, self.ranks, self.undoes)

    @property
    def showing(self) -> Showing:
        """Which showing of which item it was made on."""
        return self.item, self.repeat


@dataclass
class History:
    """One annotator's actions: all of them, and those that were not taken back."""

    name: str
    actions: list[Action] = field(default_factory=list)
    live: list[Action] = field(default_factory=list)

    def add(self, action: Action) -> None:
        """Take in the annotator's next action."""
        self.actions.append(action)
        if action.kind == "undo":
            self.live = [each for each in self.live if each.id != action.undoes]
        else:
            self.live.append(action)

    def has_seen_opinion(self, item: str) -> bool:
        """Whether the AI's opinion on an item was ever shown to the annotator, taken back or not."""
        return any(each.opinion_shown and each.item == item for each in self.actions)


class ActionLog:
    """The log of all annotators of a folder; one process writes it."""

    def __init__(self, path: Path) -> None:
        self.file = RowFile(path, Action)
        self.histories: dict[str, History] = {}
        for number, line in enumerate(complete_lines(path), 1):
            try:
                self._add(Action.model_validate_json(line))
            except ValidationError as error:
                raise damaged_line(path, number, fault_of(Action, error)) from None
        self.new = not path.exists()

    def _add(self, action: Action) -> None:
        history = self.history(action.annotator)
        if action.step != len(history.actions):
            raise UserError(
                f"{self.file.path}: step {action.step} of {action.annotator} follows step "
                f"{len(history.actions) - 1}.",
                "rows as they were written",
                "restore it from a copy",
            )
        history.add(action)

    def history(self, name: str) -> History:
        """The annotator's actions so far."""
        return self.histories.setdefault(name, History(name))

    def append(self, action: Action) -> None:
        """Write an action, force it to disk, and take it in."""
        self.file.write([action])
        sync(self.file.path.parent if self.new else self.file.path)
        self.new = False
        self._add(action)

    def live(self) -> Iterable[Action]:
        """Every action that was not taken back."""
        return (action for history in self.histories.values() for action in history.live)
